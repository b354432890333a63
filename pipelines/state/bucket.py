"""A prefix of a bucket, `s3://bucket/prefix` or `gs://bucket/prefix`, through obstore: of the state, or of a source.

Credentials and addresses are the environment's, as for every other program (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL,
GOOGLE_APPLICATION_CREDENTIALS, ...); nothing secret is in a configuration. A request and its retries take at most a
minute: less than a lease runs (`lease.py`), so that a writer that was paused lands one late request at most.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m3core.errors import ConfigError, ExitCode, MissingExtraError, StateError

if TYPE_CHECKING:
    from obstore.store import ObjectStore

SCHEMES = ("s3://", "gs://")
_REQUEST_SECONDS = 20
_RETRY_SECONDS = 30


class BucketError(StateError):
    """The bucket that keeps the state cannot be reached, or refuses."""

    code = "storage"
    exit_code = ExitCode.UNREACHABLE


class ForbiddenError(BucketError):
    """One object may not be read; others may be."""


class ChangedError(Exception):
    """An object is not in the version that the writer expected. Never reaches a user as it is."""


@dataclass(frozen=True)
class Version:
    """What tells two writings of one object apart."""

    e_tag: str
    number: str | None = None

    def __str__(self) -> str:
        return f"{self.e_tag} {self.number or ''}".strip()

    @classmethod
    def of(cls, meta: Any) -> Version:
        """From what a request answers."""
        return cls(str(meta["e_tag"]), meta["version"])

    @classmethod
    def parse(cls, text: str) -> Version:
        """From `str`."""
        e_tag, _, number = text.partition(" ")
        return cls(e_tag, number or None)


@dataclass(frozen=True)
class Bucket:
    """Objects below one prefix, by key."""

    url: str
    store: ObjectStore

    @classmethod
    def open(cls, url: str, key: str = "storage.url") -> Bucket:
        """Nothing is asked yet; `key` is the configuration's for it. ConfigError, MissingExtraError."""
        if not url.startswith(SCHEMES):
            raise ConfigError(f"{key} = {url[:80]!r}: an address begins with s3:// or gs://", "correct it")
        try:
            from obstore.exceptions import BaseError
            from obstore.store import from_url
        except ImportError as error:
            raise MissingExtraError(
                f"{key}: a bucket needs obstore", f"pip install 'threefold[bucket]', or leave {key} out"
            ) from error
        retry: Any = {"max_retries": 4, "retry_timeout": timedelta(seconds=_RETRY_SECONDS)}
        client: Any = {"timeout": timedelta(seconds=_REQUEST_SECONDS), "allow_http": True}
        try:
            return cls(url, from_url(url, client_options=client, retry_config=retry))
        except (BaseError, ValueError) as error:
            raise ConfigError(f"{key} = {url[:80]!r}: {_first_line(error)}", "correct it") from error

    def get(self, key: str) -> tuple[bytes, Version] | None:
        """An object and its version; None if there is none."""
        import obstore

        try:
            with self._asking(key):
                found = obstore.get(self.store, key)
                return bytes(found.bytes()), Version.of(found.meta)
        except FileNotFoundError:
            return None

    def look(self, key: str) -> tuple[int, Version] | None:
        """Size and version of an object; None if there is none. The key "" is the address itself."""
        import obstore

        try:
            with self._asking(key):
                meta = obstore.head(self.store, key)
                return int(meta["size"]), Version.of(meta)
        except FileNotFoundError:
            return None

    def read(self, key: str, first: int, last: int, e_tag: str) -> bytes:
        """Bytes `first` to `last` (not in it) of an object that is still in this version.

        ChangedError if it is not, FileNotFoundError if it is gone, ForbiddenError if it is closed to this reader.
        """
        import obstore
        from obstore.exceptions import PermissionDeniedError, PreconditionError

        try:
            with self._asking(key):
                found = obstore.get(self.store, key, options={"range": (first, last), "if_match": e_tag})
                return found.bytes().to_bytes()
        except PreconditionError as error:
            raise ChangedError(key) from error
        except BucketError as error:
            if isinstance(error.__cause__, PermissionDeniedError):
                raise ForbiddenError(error.message, error.remedy) from error
            raise

    def put(self, key: str, data: bytes | Path) -> Version:
        """Write an object, whatever was there."""
        import obstore

        with self._asking(key):
            return Version.of(obstore.put(self.store, key, data))

    def replace(self, key: str, data: bytes | Path, expected: Version | None) -> Version:
        """Write an object that is still in this version (None: that is not there yet). ChangedError if it is not."""
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        mode: Any = "create" if expected is None else {"e_tag": expected.e_tag}
        if expected is not None and expected.number is not None:
            mode["version"] = expected.number
        try:
            with self._asking(key):
                return Version.of(obstore.put(self.store, key, data, mode=mode, use_multipart=False))
        except FileNotFoundError as error:
            if expected is None:  # the bucket itself
                raise _failed(self.url, key, error) from error
            raise ChangedError(key) from error
        except (AlreadyExistsError, PreconditionError) as error:
            raise ChangedError(key) from error

    def delete(self, keys: list[str]) -> None:
        """Remove objects as far as they are there."""
        import obstore

        for key in keys:
            try:
                with self._asking(key):
                    obstore.delete(self.store, key)
            except FileNotFoundError:
                continue

    def list(self, prefix: str) -> Iterator[tuple[str, int, Version]]:
        """Key, size and version of every object below a prefix."""
        import obstore

        with self._asking(prefix):
            for batch in obstore.list(self.store, prefix):
                yield from ((str(meta["path"]), int(meta["size"]), Version.of(meta)) for meta in batch)

    def children(self, folder: str) -> Iterator[tuple[str, Version]]:
        """Key and version of the objects directly below a folder."""
        import obstore

        with self._asking(folder):
            for meta in obstore.list_with_delimiter(self.store, folder)["objects"]:
                yield str(meta["path"]), Version.of(meta)

    @contextmanager
    def _asking(self, key: str) -> Iterator[None]:
        from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError

        try:
            yield
        except (AlreadyExistsError, PreconditionError, FileNotFoundError):
            raise
        except BaseError as error:
            raise _failed(self.url, key, error) from error


def _failed(url: str, key: str, error: BaseException) -> BucketError:
    return BucketError(
        f"{url.rstrip('/')}/{key}".rstrip("/") + f": {_first_line(error)}",
        "see whether the bucket is there and may be read and written, then run it again",
    )


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
