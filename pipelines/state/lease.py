"""`lease.json`: at most one writer per collection.

The file is a checksummed JSON cell (`cell.py`), kind `threefold.lease`, format 1:

    held      false after a release; the rest then says who had it last
    host, machine, pid, started   the process (`process.py`)
    token     32 random hex digits, new with every taking
    acquired, renewed, expires    stamps (`clock.py`), wall clock of the writer

Whoever finds it free, expired, or held by a process that is dead on the same machine, replaces it by compare-and-swap;
of several that try, one wins. The holder renews it in the background, four times per ttl.

Clocks: others judge by `expires`, that is by the wall clock, so machines that share the folder need clocks that agree
to within a few seconds. The holder also watches a clock that never jumps and that counts time asleep: it trusts its
lease only while both say that it runs, and otherwise asks the file, so neither a paused process nor a clock that was
set back writes on.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from dataclasses import asdict, dataclass, replace
from types import TracebackType

from m3core.errors import LockedError
from pipelines.state.cell import Cell, CellConflictError, cell_at
from pipelines.state.clock import seconds_of, stamp
from pipelines.state.files import damaged, decode_json, encode_json
from pipelines.state.mirror import pull
from pipelines.state.paths import StatePaths
from pipelines.state.process import ProcessId, this_process

KIND = "threefold.lease"
FORMAT = 1
DEFAULT_TTL = 120.0
_RETRY = 0.2
_log = logging.getLogger(__name__)
# Linux counts time asleep in CLOCK_BOOTTIME; elsewhere the monotonic clock has to do.
_STEADY_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


@dataclass(frozen=True)
class LeaseRecord:
    """What the file says."""

    held: bool
    owner: ProcessId
    token: str
    acquired: str
    renewed: str
    expires: str

    def is_free(self, now: float) -> bool:
        """May be taken: released, expired at `now`, or its owner is dead."""
        return not self.held or now >= seconds_of(self.expires) or self.owner.is_dead()


class Lease:
    """The right to write one collection, held by this process until `release`. Threads may share it."""

    def __init__(self, paths: StatePaths, cell: Cell, record: LeaseRecord, version: str, ttl: float) -> None:
        self._paths = paths
        self._cell = cell
        self._record = record
        self._version = version
        self._ttl = ttl
        self._deadline = _steady() + ttl
        self._lost: LockedError | None = None
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()

    @property
    def record(self) -> LeaseRecord:
        """What the file said when it was last renewed."""
        return self._record

    def check(self) -> None:
        """LockedError if the lease is lost. Microseconds while it runs: call it before every request and commit."""
        if self._lost is not None:
            raise self._lost
        if not (_steady() < self._deadline and time.time() < seconds_of(self._record.expires)):
            self.renew()

    def renew(self) -> None:
        """Extend by the ttl; LockedError if another writer took over or the lease was released."""
        with self._lock:
            if self._lost is not None:
                raise self._lost
            before = _steady()
            now = time.time()
            record = replace(self._record, renewed=stamp(now), expires=stamp(now + self._ttl))
            try:
                self._version = self._replace(_encode(record))
            except CellConflictError:
                self._lost = self._lost_to_another()
                raise self._lost from None
            self._record = record
            self._deadline = before + self._ttl

    def release(self) -> None:
        """Give it back; idempotent, and no error if it was lost meanwhile."""
        self._stop.set()
        if threading.current_thread() is not self._thread:
            self._thread.join()
        with self._lock:
            if self._lost is not None:
                return
            self._lost = LockedError(f"the lease of collection {self._paths.collection} was released")
            try:
                self._cell.replace(_encode(replace(self._record, held=False)), self._version)
            except CellConflictError:
                _log.warning("the lease of collection %s was taken over before its release", self._paths.collection)

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _keep(self) -> None:
        while not self._stop.wait(self._ttl / 4):
            try:
                self.renew()
            except LockedError as error:
                _log.error("%s", error)
                return
            except Exception as error:  # noqa: BLE001 - a full disk may have room again before the lease ends
                _log.warning("the lease could not be renewed, trying again: %s", error)

    def _replace(self, value: bytes) -> str:
        """Write over the version that is known, or over one of our own whose answer was lost. CellConflictError."""
        try:
            return self._cell.replace(value, self._version)
        except CellConflictError:
            current = self._cell.read()
            if current is None or _decode(current[0], self._paths).token != self._record.token:
                raise
            return self._cell.replace(value, current[1])

    def _lost_to_another(self) -> LockedError:
        current = self._cell.read()
        who = "somebody who removed the file"
        if current is not None:
            owner = _decode(current[0], self._paths).owner
            who = f"pid {owner.pid} on {owner.host}"
        return LockedError(
            f"the lease of collection {self._paths.collection} was lost to {who}: this run stopped before it wrote on",
            "run it again; nothing committed is lost",
        )


class HeldError(LockedError):
    """Another run holds the lease: there is nothing to mend, only to wait for."""


def acquire_lease(paths: StatePaths, *, ttl: float = DEFAULT_TTL, wait: float = 0.0) -> Lease:
    """Take the lease of the collection, trying for `wait` seconds.

    `ttl` in seconds must be longer than any single request of the run. HeldError names host, pid, since and expiry.
    """
    cell = cell_at(paths.lease_file)
    deadline = _steady() + wait
    token = ""
    while True:
        current = cell.read()
        holder = _decode(current[0], paths) if current else None
        now = time.time()
        if current and holder and holder.token == token:  # written, but the answer was lost
            return _up_to_date(paths, Lease(paths, cell, holder, current[1], ttl))
        if holder is None or holder.is_free(now):
            record = _new_record(now, ttl)
            token = record.token
            try:
                version = cell.replace(_encode(record), current[1] if current else None)
            except CellConflictError:
                continue  # somebody was faster: look who
            return _up_to_date(paths, Lease(paths, cell, record, version, ttl))
        if _steady() >= deadline:
            raise _locked(paths, holder)
        time.sleep(min(_RETRY, max(0.0, deadline - _steady())))


def _up_to_date(paths: StatePaths, lease: Lease) -> Lease:
    """The lease, after a copy of a bucket has what the last writer left; released if that fails."""
    try:
        pull(paths.root)
    except BaseException:
        lease.release()
        raise
    return lease


def read_lease(paths: StatePaths) -> LeaseRecord | None:
    """Who holds or last held the lease; None if nobody ever did. Takes nothing. DamagedError if the file is damaged."""
    current = cell_at(paths.lease_file).read()
    return None if current is None else _decode(current[0], paths)


def _new_record(now: float, ttl: float) -> LeaseRecord:
    return LeaseRecord(True, this_process(), secrets.token_hex(16), stamp(now), stamp(now), stamp(now + ttl))


def _locked(paths: StatePaths, holder: LeaseRecord) -> HeldError:
    owner = holder.owner
    return HeldError(
        f"collection {paths.collection} is being written by pid {owner.pid} on {owner.host} since {holder.acquired}; "
        f"its lease runs until {holder.expires}",
        "wait for that run or stop it; a lease that is no longer renewed is taken over when it ends",
    )


def _encode(record: LeaseRecord) -> bytes:
    body = asdict(record)
    return encode_json(KIND, FORMAT, {**body.pop("owner"), **body})


def _decode(data: bytes, paths: StatePaths) -> LeaseRecord:
    path = paths.lease_file
    body = decode_json(data, KIND, FORMAT, path)
    try:
        owner = ProcessId(*(body.pop(name) for name in ("host", "machine", "pid", "started")))
        record = LeaseRecord(owner=owner, **body)
        seconds_of(record.expires)
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(path, "fields are missing or wrong") from error
    return record


def _steady() -> float:
    return time.clock_gettime(_STEADY_CLOCK)
