"""Lists of ids, and which rows of a table they name; kinds of ids are in `id_values`."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clipsieve.store.id_values import (
    IdKind,
    batches,
    canonical_texts,
    compared_columns,
    is_filled,
    laion_hashes,
    missing_columns,
    text_keys,
)


@dataclass(frozen=True, slots=True, eq=False)
class IdList:
    """Distinct ids of one kind, sorted by their 64-bit keys.

    Memory of 10 million ids, measured: 0.08 GB for LAION hashes, 0.48 GB for uids of 32 digits, 0.8
    GB for sha256, 1 GB for URLs of 80 characters; several times that while a file of them is read.

    Attributes:
      kind: of all ids.
      source: name of the file they are from, without its folder.
      sha256: of that file, 64 hexadecimal digits.
      read: ids in the file, duplicates counted.
      keys: (N,) int64, ascending; LAION hashes themselves, for others the key of the text.
      texts: (N,) large_string, in the order of `keys`; None for LAION hashes.
      column: that they are from; "" if the file has no named columns.
    """

    kind: IdKind
    source: str
    sha256: str
    read: int
    keys: np.ndarray
    texts: pa.Array | None = None
    column: str = ""

    @classmethod
    def from_texts(
        cls, kind: IdKind, texts: pa.Array, source: str = "", sha256: str = "", column: str = ""
    ) -> "IdList":
        """Return the list of ids that are text, none NULL; duplicates are dropped."""
        read, distinct = len(texts), canonical_texts(kind, texts)
        keys = text_keys(distinct)
        order = np.argsort(keys, kind="stable")
        if (np.diff(keys[order]) == 0).any():  # equal texts, or two with one key
            distinct = pc.unique(distinct)
            keys = text_keys(distinct)
            columns = pa.table({"key": keys, "text": distinct})
            by = [("key", "ascending"), ("text", "ascending")]
            order = pc.sort_indices(columns, sort_keys=by).to_numpy()
        return cls(kind, source, sha256, read, keys[order], distinct.take(order), column)

    @classmethod
    def from_hashes(
        cls, hashes: np.ndarray, source: str = "", sha256: str = "", column: str = ""
    ) -> "IdList":
        """Return the list of LAION hashes (N,) int64; duplicates are dropped."""
        keys = np.unique(np.asarray(hashes, np.int64))
        return cls(IdKind.LAION_HASH, source, sha256, len(hashes), keys, None, column)

    def __len__(self) -> int:
        """Return how many distinct ids there are."""
        return len(self.keys)

    @property
    def duplicates(self) -> int:
        """Ids of the file that are there more than once, less one of each."""
        return self.read - len(self)

    def content_sha256(self) -> str:
        """Return the sha256 of the distinct ids: equal for files of the same ids in any form."""
        state = hashlib.sha256(self.kind.encode())
        state.update(self.keys.astype("<i8").tobytes())
        for batch in batches(self.texts) if self.texts is not None else ():
            state.update("\n".join([*batch, ""]).encode())
        return state.hexdigest()

    def text(self, positions: np.ndarray) -> pa.Array:
        """Return ids as text, (M,) string, by their positions (M,) int64."""
        if self.texts is None:
            return pa.array(self.keys[positions]).cast(pa.string())
        return self.texts.take(pa.array(positions)).cast(pa.string())

    def matches(self, columns: pa.Table, place: str = "the table") -> np.ndarray:
        """Return (N,) bool: the rows that the list names; a row whose value is NULL is not.

        See `find`.
        """
        return self.find(columns, place) >= 0

    def find(self, columns: pa.Table, place: str = "the table") -> np.ndarray:
        """Return (N,) int64: position in the list of the id of each row, -1 if it is not there.

        * sha256: a row is named by `image_sha256` or by the source's `sha256`, which img2dataset
          computes of the bytes as they were before it resized the picture.
        * laion_hash: the source's `hash`; where that is missing, NULL or no integer it is computed
          from url and caption.  LAION hashed the caption as published: it must be the original
          one.  A row without both a hash and a url is not named.

        Args:
          columns: those of `needed_columns`, with `status` if `image_sha256` may be all NULL.
          place: what `columns` are of, for messages.

        Raises:
          UsageError: if columns are missing.
        """
        needed = compared_columns(self.kind, columns.column_names, place)
        if self.kind is IdKind.LAION_HASH:
            return self._find_hashes(columns, needed, place)
        if self.kind is IdKind.SHA256:
            needed = [name for name in needed if is_filled(columns, name)]
            if not needed:
                raise missing_columns(self.kind, place)
        places = np.full(columns.num_rows, -1, np.int64)
        for name in needed:
            found = self._find_texts(canonical_texts(self.kind, columns[name]))
            places = np.where(places >= 0, places, found)
        return places

    def _find_texts(self, values: pa.Array) -> np.ndarray:
        assert self.texts is not None
        is_valid = values.is_valid().to_numpy(zero_copy_only=False)
        keys = text_keys(values)
        first = np.searchsorted(self.keys, keys)
        places = np.full(len(values), -1, np.int64)
        left = np.flatnonzero(is_valid)
        at = first[left]
        while len(left):  # a second time only for texts that share a key with another
            is_same = at < len(self.keys)
            is_same[is_same] = self.keys[at[is_same]] == keys[left[is_same]]
            left, at = left[is_same], at[is_same]
            is_equal = pc.equal(self.texts.take(pa.array(at)), values.take(pa.array(left)))
            equal = is_equal.to_numpy(zero_copy_only=False).astype(bool)
            places[left[equal]] = at[equal]
            left, at = left[~equal], at[~equal] + 1
        return places

    def _find_hashes(self, columns: pa.Table, needed: Sequence[str], place: str) -> np.ndarray:
        hashes, is_valid = laion_hashes(columns, needed, place)
        at = np.searchsorted(self.keys, hashes)
        is_named = is_valid & (at < len(self.keys))
        is_named[is_named] = self.keys[at[is_named]] == hashes[is_named]
        return np.where(is_named, at, -1)
