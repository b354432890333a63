"""Where things of this repository are."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"
CHART = INFRA / "helm" / "threefold"
