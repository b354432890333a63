"""Where models and the demo live: `$M3_HOME`, else the user's cache folder."""

from __future__ import annotations

import os
from pathlib import Path


def m3_home() -> Path:
    """The folder for models and the demo, created with mode 0700 if absent."""
    configured = os.environ.get("M3_HOME")
    if configured:
        home = Path(configured).expanduser()
    else:
        from platformdirs import user_cache_path

        home = user_cache_path("threefold", appauthor=False)
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    return home
