"""Runs beyond this process: the same graph on an engine whose workers share nothing with the launcher but folders."""
