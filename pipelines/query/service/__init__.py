"""The router over HTTP: API, keys, limits, audit, metrics and the search page. Needs the extra `serve`."""
