"""The state folder of one collection: what the ingest side writes and both sides read."""
