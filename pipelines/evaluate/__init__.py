"""Files, reports and pictures of an evaluation; the mathematics is m3core.evaluate's."""
