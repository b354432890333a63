"""`m3 encode` without its command line: texts in from anywhere, vectors out as JSON lines, Parquet or npz."""
