"""Which shards were in hand when a worker died, as small objects in the output folder.

A worker on another machine writes a marker before it begins a shard and removes it when the shard
has ended.  Whoever is handed the shard again finds the markers of those who died on it, or beside
it: the shard is a suspect and is worked on alone; one on which two workers died alone is not begun
any more.  Only the markers' names are read.
"""

import os
import socket
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from uuid import uuid4

from clipsieve.errors import StorageError
from clipsieve.store import names
from clipsieve.store.folder import OutputFolder

#: Deaths of workers on a shard alone, after which it fails.
MOST_LONE_DEATHS = 2
_ALONE, _SHARED = "alone", "shared"
_ENDING = ".tries"


@dataclass(frozen=True, slots=True)
class Suspect:
    """What is left of earlier attempts at one shard.

    Attributes:
      markers: names of all of them.
      lone: of those, how many were begun with nothing else in hand.
    """

    markers: tuple[str, ...]
    lone: int

    @property
    def is_given_up(self) -> bool:
        """Whether it has killed enough workers."""
        return self.lone >= MOST_LONE_DEATHS


class Attempts:
    """Markers of the shards that one worker process has in hand, for one stage of a run."""

    def __init__(self, folder: OutputFolder, run_id: str, stage: str) -> None:
        """Write to `folder`; nothing is written yet."""
        self._folder, self._run_id, self._stage = folder, run_id, stage
        self._in_hand: dict[str, str] = {}
        self.is_alone = False

    @property
    def in_hand(self) -> tuple[str, ...]:
        """Names of the shards that were begun and have not ended."""
        return tuple(self._in_hand)

    def suspects(self, shards: Iterable[str]) -> dict[str, Suspect]:
        """Return those of the shards that have markers; asks for one list of names."""
        by_digest: dict[str, list[str]] = {}
        for name in self._folder.files.list_files(attempts_folder(self._run_id)):
            by_digest.setdefault(name.partition(".")[0], []).append(name)
        found = {}
        for shard in shards:
            markers = by_digest.get(self._digest(shard))
            if markers:
                lone = sum(f".{_ALONE}." in name for name in markers)
                found[shard] = Suspect(tuple(markers), lone)
        return found

    def hear(self, message: Mapping[str, object]) -> None:
        """Take a message of a `Control`: a shard is begun, or has ended."""
        if "begin" in message:
            self.begin(str(message["begin"]))
        elif "end" in message:
            self.end(str(message["end"]))

    def begin(self, shard: str) -> None:
        """Leave a marker; if it cannot be written, a death here is blamed on nothing."""
        kind = _ALONE if self.is_alone else _SHARED
        name = f"{self._digest(shard)}.{kind}.{uuid4().hex}"
        place = f"{attempts_folder(self._run_id)}/{name}"
        with suppress(StorageError):
            self._folder.write_text(place, f"{worker_name()}\n", durable=False)
            self._in_hand[shard] = place

    def end(self, shard: str) -> None:
        """Remove the marker of a shard, if this worker has left one."""
        place = self._in_hand.pop(shard, None)
        if place is not None:
            with suppress(StorageError):
                self._folder.files.delete(place)

    def end_all(self) -> None:
        """Remove all markers of this worker, which lives."""
        for shard in self.in_hand:
            self.end(shard)

    def acquit(self, suspect: Suspect) -> None:
        """Remove the markers of earlier attempts at a shard that has ended well."""
        for name in suspect.markers:
            with suppress(StorageError):
                self._folder.files.delete(f"{attempts_folder(self._run_id)}/{name}")

    def victims(self, suspect: Suspect) -> list[str]:
        """Return the names of the workers that died on a shard, as far as they can be read."""
        read = []
        for name in suspect.markers:
            with suppress(StorageError, FileNotFoundError, UnicodeDecodeError):
                content = self._folder.files.read(f"{attempts_folder(self._run_id)}/{name}")
                read.append(content.decode("utf-8").strip())
        return sorted(set(read))

    def _digest(self, shard: str) -> str:
        return sha256(f"{self._stage}\0{shard}".encode()).hexdigest()[:16]


@dataclass(slots=True)
class Deaths:
    """The markers that a driver has seen, so that it can tell whether another death left new ones.

    Attributes:
      seen: names of all so far.
    """

    folder: OutputFolder
    run_id: str
    seen: set[str] = field(default_factory=set)

    def any_new(self) -> bool:
        """Whether there is a marker that was not there at the last call."""
        now = set(self.folder.files.list_files(attempts_folder(self.run_id)))
        is_new = bool(now - self.seen)
        self.seen |= now
        return is_new


def attempts_folder(run_id: str) -> str:
    """Name the folder of a run's markers."""
    return f"{names.RUNS}/{run_id}{_ENDING}"


def clear_attempts(folder: OutputFolder) -> None:
    """Remove the markers of all runs; only for the holder of the lock."""
    for name in folder.files.list_folders(names.RUNS):
        if names.is_own(name, _ENDING):
            folder.files.delete_folder(f"{names.RUNS}/{name}")


def worker_name() -> str:
    """Name this process among those of other machines: host and process id."""
    return f"{socket.gethostname()}:{os.getpid()}"


def blamed(uri: str, workers: Sequence[str]) -> str:
    """Return why a shard fails on which workers died."""
    named = f" ({', '.join(workers)})" if workers else ""
    return (
        f"{uri}: the worker died on this shard{named}, also when it was alone; out of memory, or a "
        "file that crashes a decoder: look at that worker's log"
    )
