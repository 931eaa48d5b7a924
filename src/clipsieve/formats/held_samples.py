"""Samples of a tar that come before their turn: in memory up to a budget, then in a file."""

import os
import tempfile
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from typing import BinaryIO

from clipsieve.errors import StorageError
from clipsieve.formats.samples import Sample

_Place = tuple[Sample, int, tuple[int | None, ...]]


class HeldSamples:
    """Samples by key, those of one key in the order in which they came.

    A context manager: at its end the temporary file, if there is one, is gone.
    """

    def __init__(self, byte_budget: int) -> None:
        """Hold nothing.

        Args:
          byte_budget: bytes of content in memory; the content of further samples is in a file.
        """
        self._left = byte_budget
        self._file: BinaryIO | None = None
        self._samples: dict[str, deque[Sample | _Place]] = {}

    def __enter__(self) -> "HeldSamples":
        """Return itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Remove the temporary file."""
        if self._file is not None:
            self._file.close()

    def __len__(self) -> int:
        """Return the number of samples."""
        return sum(map(len, self._samples.values()))

    def put(self, key: str, sample: Sample) -> None:
        """Hold a sample.

        Raises:
          StorageError: the temporary file cannot be written.
        """
        size = sum(len(part) for part in _content(sample) if part)
        held: Sample | _Place = sample
        if size > self._left:
            held = self._write(sample)
        else:
            self._left -= size
        self._samples.setdefault(key, deque()).append(held)

    def take(self, key: str) -> Sample | None:
        """Return the first sample of a key and hold it no more; None if there is none."""
        queue = self._samples.get(key)
        if queue is None:
            return None
        held = queue.popleft()
        if not queue:
            del self._samples[key]
        if isinstance(held, Sample):
            self._left += sum(len(part) for part in _content(held) if part)
            return held
        return self._read(held)

    def drain(self) -> Iterator[Sample]:
        """Yield what is held, by key in the order in which keys came first."""
        for key in list(self._samples):
            while (sample := self.take(key)) is not None:
                yield sample

    def _write(self, sample: Sample) -> _Place:
        parts = _content(sample)
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="clipsieve-")
            start = self._file.seek(0, os.SEEK_END)
            for part in parts:
                self._file.write(part or b"")
            self._file.flush()
        except OSError as error:
            raise StorageError(
                f"samples that come in another order than in the sidecar cannot be kept in "
                f"{tempfile.gettempdir()} ({error.strerror}); make room there, or name another "
                "folder in TMPDIR"
            ) from error
        lengths = tuple(None if part is None else len(part) for part in parts)
        return replace(sample, image=None, text=None, json=None), start, lengths

    def _read(self, place: _Place) -> Sample:
        sample, start, lengths = place
        assert self._file is not None
        self._file.seek(start)
        parts = [None if length is None else self._file.read(length) for length in lengths]
        image, text, json = parts
        return replace(sample, image=image, text=text, json=json)


def _content(sample: Sample) -> tuple[bytes | None, bytes | None, bytes | None]:
    return sample.image, sample.text, sample.json
