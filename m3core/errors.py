"""The one error tree. Every text states value, rule and remedy on one line, and never document text or a secret."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from m3core.types import Encoded


class ExitCode(IntEnum):
    """Exit codes of the command `m3`; others script against them."""

    OK = 0
    INTERNAL = 1
    USAGE = 2
    DEAD_LETTERS = 3
    PENDING = 4
    REFUSED = 5
    LOCKED = 6
    UNREACHABLE = 7
    DRIFT = 8
    TERMINATED = 143


class M3Error(Exception):
    """Base of every error that a user may see.

    `message` names the value and the rule, `remedy` says what to do. `code` is stable across releases, `exit_code` is
    what the command ends with.
    """

    code = "internal"
    exit_code = ExitCode.INTERNAL

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}. Remedy: {self.remedy}" if self.remedy else self.message

    def __reduce__(self) -> tuple[object, ...]:
        # Errors cross process boundaries (Beam workers, store processes); keep both parts.
        return type(self), (self.message, self.remedy)


class UsageError(M3Error):
    """A command was called in a way that it does not offer."""

    code = "usage"
    exit_code = ExitCode.USAGE


class ConfigError(M3Error):
    """A configuration value breaks a rule."""

    code = "config"
    exit_code = ExitCode.USAGE


class MissingExtraError(M3Error):
    """An optional dependency is not installed; the remedy is the install command."""

    code = "missing-extra"
    exit_code = ExitCode.USAGE


class ModelError(M3Error):
    """A model folder cannot be used: a file is missing, malformed or unsafe."""

    code = "model"
    exit_code = ExitCode.USAGE


class TrainingError(M3Error):
    """A training run cannot go on, or its data cannot be used."""

    code = "training"
    exit_code = ExitCode.USAGE


class EncodeMemoryError(M3Error):
    """Texts that do not fit in the device's memory even alone.

    `indices` are their places; `encoded` holds the results of all others, with empty rows (dense zero) for these.
    """

    code = "encode-memory"
    exit_code = ExitCode.INTERNAL

    indices: tuple[int, ...] = ()
    encoded: Encoded | None = None

    @classmethod
    def of(cls, indices: Sequence[int], tokens: Sequence[int], encoded: Encoded) -> EncodeMemoryError:
        """The error for texts of so many `tokens` each."""
        first = f"text {indices[0]} ({tokens[0]:,} tokens)"
        rest = f" and {len(indices) - 1} more" if len(indices) > 1 else ""
        error = cls(
            f"{first}{rest}: one text alone does not fit in the device's memory",
            "lower chunking.max_tokens, or use a device with more memory",
        )
        error.indices, error.encoded = tuple(indices), encoded
        return error


class DocumentError(M3Error):
    """One document cannot be ingested; the others go on. It becomes a dead letter."""

    code = "document"
    exit_code = ExitCode.DEAD_LETTERS


class SourceError(M3Error):
    """A source cannot be listed or read at all."""

    code = "source"
    exit_code = ExitCode.UNREACHABLE


class StoreError(M3Error):
    """A store refused or did not answer."""

    code = "store"
    exit_code = ExitCode.UNREACHABLE


class FilterError(M3Error):
    """A filter is malformed or asks for what a store cannot express."""

    code = "filter"
    exit_code = ExitCode.USAGE


class StateError(M3Error):
    """The state folder is damaged or of a format that this version does not read."""

    code = "state"
    exit_code = ExitCode.INTERNAL


class DiskFullError(M3Error):
    """There is not enough free space to go on; nothing that was committed is lost."""

    code = "disk-full"
    exit_code = ExitCode.UNREACHABLE


class LockedError(M3Error):
    """Another writer holds the lease of this collection."""

    code = "locked"
    exit_code = ExitCode.LOCKED


class RefusedError(M3Error):
    """A safety rule stopped the run before it changed anything."""

    code = "refused"
    exit_code = ExitCode.REFUSED
