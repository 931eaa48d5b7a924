"""The only writer's lock in an object store: numbered objects, and a lease.

The lock is the object of the highest number in a folder.  To take it one creates the next number,
which the store grants to one of all who try (a conditional write).  The holder renews its object
every quarter of the lease; one that was not renewed for a whole lease, by the store's own clock,
may be taken over.  A number is never used twice, so that a holder that slept through its lease
sees a higher one and knows.  To remove an old lock and create a new one would not do: of eight
processes that tried, two to four believed to have it.
"""

import datetime
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from uuid import uuid4
from weakref import WeakValueDictionary

from clipsieve.errors import ClipsieveError, Locked, UsageError
from clipsieve.object_stores.errors import store_errors
from clipsieve.store.lock_terms import LockTerms

#: Stores give times in whole seconds.
_CLOCK_SECONDS = 1.0
#: Renewals in the length of a lease.
_RENEWALS = 4
#: What stores call the time of an object.
_TIMES = ("LastModified", "last_modified", "updated", "mtime", "created")
_PROBE = "probe-"
#: Locks that this process holds, by the URL of the folder.
_held: WeakValueDictionary[str, "NumberedLock"] = WeakValueDictionary()


class NumberedLock:
    """The lock of one folder; acquired and released once.

    Attributes:
      number: of the object by which it is held; 0 before.
    """

    def __init__(
        self,
        system: Any,
        folder: str,
        url: str,
        terms: LockTerms,
        on_lost: Callable[[str], None] | None = None,
    ) -> None:
        """Name the lock; nothing is asked of the store yet.

        Args:
          system: the fsspec file system.
          folder: path of the locks in it.
          url: of the folder that is locked, for messages.
          terms: lease, and whether to go on where there can be no lock.
          on_lost: told once, from another thread, that another process has taken the lock over.
        """
        self.number = 0
        self._system, self._folder, self._url = system, folder, url
        self._terms, self._on_lost = terms, on_lost
        self._ended = threading.Event()
        self._is_lost = False
        #: When the last renewal that the store took was begun; `time.monotonic`.
        self._renewed = 0.0
        self._renewal: threading.Thread | None = None

    def acquire(self) -> bool:
        """Take the lock and begin to renew it; whether there is one, see `LockTerms.is_required`.

        Raises:
          Locked: another process has it.
          UsageError: if the store has no conditional writes and a lock is required.
        """
        self._renewed = time.monotonic()
        with store_errors("lock", self._url):
            now = self._probe()
            if now is None:
                return False
            number = self._free_number(now)
            try:
                self._create(self._name(number), self._content("held"))
            except FileExistsError as error:
                raise Locked(f"{self._url} has just been locked by another process; {_WAIT}") from (
                    error
                )
            # One that was slow since it looked may have created a number that was used before.
            if self._highest() != number:
                self._remove(self._name(number))
                raise Locked(f"{self._url} has just been locked by another process; {_WAIT}")
            for older in self._numbers():
                if older < number:
                    self._remove(self._name(older))
        self.number = number
        _held[self._url] = self
        self._renewal = threading.Thread(target=self._renew, name="clipsieve-lock", daemon=True)
        self._renewal.start()
        return True

    def require(self, ask: bool = True) -> None:
        """Refuse to go on if another process has taken the lock over.

        Args:
          ask: the store; without, only if the last renewal is longer ago than the lease.

        Raises:
          Locked: says so.
          StorageError: if the store does not answer.
        """
        if not self._is_lost and (ask or time.monotonic() - self._renewed > self._terms.lease):
            with store_errors("lock", self._url):
                self._renew_once()
        if self._is_lost:
            raise Locked(self._lost_message())

    def _lost_message(self) -> str:
        return (
            f"the lock of {self._url} is gone: this process did not renew it for "
            f"{self._terms.lease:g} s and another one has taken it over, or it was deleted; "
            f"{_WAIT}, or give a longer --lease"
        )

    def release(self, forget: bool = False) -> None:
        """Give the lock up, so that the next process need not wait for the end of the lease.

        Args:
          forget: whether to remove its object, as if there had been no lock at all.
        """
        self._ended.set()
        if self._renewal is not None:
            self._renewal.join()
        _held.pop(self._url, None)
        # Of an error here nothing is lost but the rest of the lease.
        with suppress(Exception):
            if self._highest() != self.number:
                return
            if forget:
                self._remove(self._name(self.number))
            else:
                self._write(self._content("released"))

    def _renew(self) -> None:
        """Renew the lock until it is released or lost."""
        while not self._ended.wait(self._terms.lease / _RENEWALS):
            with suppress(Exception):  # tried again; the lease decides
                self._renew_once()
            if self._is_lost:
                if self._on_lost is not None:
                    self._on_lost("lock lost")
                return

    def _renew_once(self) -> None:
        """Renew the lock, or note that it is lost."""
        begun = time.monotonic()
        if self._highest() != self.number:
            self._is_lost = True
        elif not self._ended.is_set():
            self._write(self._content("held"))
            self._renewed = begun

    def _probe(self) -> datetime.datetime | None:
        """Return the store's time; None if it cannot lock, which the terms must allow."""
        name = f"{self._folder}/{_PROBE}{uuid4().hex}"
        try:
            self._create(name, b"{}")
            now = _time(self._system.info(name))
            try:
                self._create(name, b"{}")
            except FileExistsError:
                return now
        finally:
            with suppress(Exception):  # an error on its way says more
                self._system.rm_file(name)
        if self._terms.is_required:
            raise UsageError(
                f"{self._url}: the store ignores conditional writes, so two runs at once could "
                "not be told apart; use a store that has them, or say --no-lock if no other run "
                "ever writes there at the same time"
            )
        return None

    def _free_number(self, now: datetime.datetime) -> int:
        """Return the number to create; `Locked` while the highest is held."""
        while True:
            number = self._highest()
            if not number:
                return 1
            name = self._name(number)
            try:
                info = self._system.info(name)
                holder = _parsed(self._system.cat_file(name))
            except FileNotFoundError:  # removed by who has taken the next number
                if self._highest() == number:
                    return number + 1
                continue
            if holder.get("state") == "released":
                return number + 1
            age = (now - _time(info)).total_seconds()
            left = float(holder.get("lease", self._terms.lease)) + _CLOCK_SECONDS - age
            if left < 0:
                return number + 1
            raise Locked(
                f"{self._url} is being written by {holder.get('process', 'another process')}, "
                f"which renewed its lock {max(age, 0):.0f} s ago; {_WAIT}; if it is dead, its lock "
                f"ends in {max(left, 1):.0f} s"
            )

    def _numbers(self) -> list[int]:
        self._system.invalidate_cache()
        try:
            found = self._system.ls(self._folder, detail=False)
        except FileNotFoundError:
            return []
        last = (str(name).rstrip("/").rpartition("/")[2] for name in found)
        return sorted(int(name) for name in last if name.isdigit())

    def _highest(self) -> int:
        return max(self._numbers(), default=0)

    def _name(self, number: int) -> str:
        return f"{self._folder}/{number:09d}"

    def _content(self, state: str) -> bytes:
        process = f"process {os.getpid()} on {socket.gethostname()}"
        content = {"state": state, "process": process, "lease": self._terms.lease}
        return json.dumps(content).encode()

    def _write(self, content: bytes) -> None:
        self._system.pipe_file(self._name(self.number), content)

    def _create(self, name: str, content: bytes) -> None:
        """Write an object that is not there yet; `FileExistsError` if it is."""
        self._system.pipe_file(name, content, mode="create")

    def _remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            self._system.rm_file(name)


_WAIT = "wait for it to end, or write to another output folder"


def held_lock(url: str) -> NumberedLock | None:
    """Return the lock that this process holds on a folder."""
    return _held.get(url)


def _parsed(content: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(content)
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}


def _time(info: dict[str, Any]) -> datetime.datetime:
    """Return when an object was written, by the store's clock."""
    value = next((info[key] for key in _TIMES if info.get(key)), None)
    if isinstance(value, str):
        value = datetime.datetime.fromisoformat(value)
    if isinstance(value, int | float):
        value = datetime.datetime.fromtimestamp(value, datetime.UTC)
    if not isinstance(value, datetime.datetime):
        raise ClipsieveError(f"the store gives no time of its objects, only {sorted(info)}")
    return value if value.tzinfo else value.replace(tzinfo=datetime.UTC)
