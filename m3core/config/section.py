"""What every table of the configuration file has in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict
from pydantic_core import PydanticCustomError


class Section(BaseModel):
    """A table of the configuration file: frozen, and unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def broken_rule(at: str, rule: str, remedy: str) -> PydanticCustomError:
    """A rule between keys that does not hold; `at` is the dotted key to change."""
    return PydanticCustomError("broken_rule", "{at}: {rule}", {"at": at, "rule": rule, "remedy": remedy})
