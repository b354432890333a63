"""Measures of a ranking against known right documents."""
