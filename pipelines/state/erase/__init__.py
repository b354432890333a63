"""Taking documents out of a collection for good: out of stores, manifest, lake, chunk files, letters and reports."""
