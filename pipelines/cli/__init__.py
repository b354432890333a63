"""The command `m3`: one file per command group; joins ingest and query, which do not know each other."""
