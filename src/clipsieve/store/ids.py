"""Ids by which rows are named in lists, and which rows of a table a list names.

    uid         the ledger's `uid`
    sha256      of the picture's bytes: 64 hexadecimal digits
    url         where the picture was fetched
    laion_hash  signed 64-bit integer, `mmh3.hash64(url + text)[0]`, as in LAION's tables

Hexadecimal ids (32 or 64 digits) are compared without case, all others as they are.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import mmh3
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clipsieve.errors import UsageError
from clipsieve.formats.columns import find_column
from clipsieve.schemas.states import RowState

#: Rows or ids that are Python objects at once.
_BATCH = 1 << 18
_HEX_UID = re.compile("[0-9a-f]{32}|[0-9a-f]{64}")
_HEX_UID_ANY_CASE = "^([0-9a-fA-F]{32}|[0-9a-fA-F]{64})$"


class IdKind(StrEnum):
    """What the ids of a list are."""

    UID = "uid"
    SHA256 = "sha256"
    URL = "url"
    LAION_HASH = "laion_hash"


#: What ids of a kind are compared with, and how a folder gets it; for messages.
_NEEDS = {
    IdKind.UID: ("a column uid", "give the output folder of a `clipsieve run`"),
    IdKind.SHA256: (
        "a column image_sha256, or sha256 of the source",
        "run again into another output folder, which records image_sha256; or list ids of "
        "another kind, such as uid",
    ),
    IdKind.URL: (
        "a column url of the source",
        "run again with shards that have one; or list ids of another kind, such as uid",
    ),
    IdKind.LAION_HASH: (
        "an integer column hash of the source, or columns url and caption",
        "run again with shards that have them; or list ids of another kind, such as uid",
    ),
}


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
        keys = _text_keys(distinct)
        order = np.argsort(keys, kind="stable")
        if (np.diff(keys[order]) == 0).any():  # equal texts, or two with one key
            distinct = pc.unique(distinct)
            keys = _text_keys(distinct)
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
        for batch in _batches(self.texts) if self.texts is not None else ():
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
        needed = _compared_columns(self.kind, columns.column_names, place)
        if self.kind is IdKind.LAION_HASH:
            return self._find_hashes(columns, needed, place)
        if self.kind is IdKind.SHA256:
            needed = [name for name in needed if _is_filled(columns, name)]
            if not needed:
                raise _missing(self.kind, place)
        places = np.full(columns.num_rows, -1, np.int64)
        for name in needed:
            found = self._find_texts(canonical_texts(self.kind, columns[name]))
            places = np.where(places >= 0, places, found)
        return places

    def _find_texts(self, values: pa.Array) -> np.ndarray:
        assert self.texts is not None
        is_valid = values.is_valid().to_numpy(zero_copy_only=False)
        keys = _text_keys(values)
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
        hashes, is_valid = _laion_hashes(columns, needed, place)
        at = np.searchsorted(self.keys, hashes)
        is_named = is_valid & (at < len(self.keys))
        is_named[is_named] = self.keys[at[is_named]] == hashes[is_named]
        return np.where(is_named, at, -1)


def needed_columns(kind: IdKind, available: Iterable[str], place: str = "the table") -> list[str]:
    """Return those of the available columns that `IdList.find` reads.

    Names of a source's columns are taken in any case of letters.

    Args:
      kind: of the ids.
      available: names of columns; those of the ledger of a shard.
      place: what they are of, for messages.

    Raises:
      UsageError: if there are none; it says which are needed, and how to get them.
    """
    present = list(available)
    needed = _compared_columns(kind, present, place)
    if kind is IdKind.SHA256 and "status" in present:
        needed.append("status")
    return needed


def laion_hash(url: str | None, caption: str | None) -> int:
    """Return LAION's id of a pair: the first half of MurmurHash3 (x64, 128 bits), signed.

    NULL counts as "".

    >>> laion_hash("https://example.org/cat.jpg", "a cat")
    -591802334549289733
    """
    return int(mmh3.hash64(((url or "") + (caption or "")).encode())[0])


def canonical_texts(kind: IdKind, values: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Return ids as (N,) large_string in the form in which they are compared; NULL stays.

    Args:
      kind: of the ids.
      values: (N,) text, integers or bytes; bytes are text if they are hexadecimal digits, and
        otherwise written as such.
    """
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if pa.types.is_binary(values.type) or _is_other_binary(values.type):
        texts = pa.array(map(_bytes_text, values.to_pylist()), pa.large_string())
    else:
        texts = values.cast(pa.large_string())
    if kind is IdKind.SHA256:
        return pc.ascii_lower(texts)
    if kind is IdKind.UID:
        is_hexadecimal = pc.match_substring_regex(texts, _HEX_UID_ANY_CASE)
        return pc.if_else(is_hexadecimal, pc.ascii_lower(texts), texts)
    return texts


def _is_other_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind))


def _bytes_text(value: bytes | None) -> str | None:
    if value is None:
        return None
    text = value.decode("latin-1").lower()
    return text if _HEX_UID.fullmatch(text) else value.hex()


def _batches(texts: pa.Array) -> Iterator[list[Any]]:
    """Yield texts as Python objects, not all at once."""
    for first in range(0, len(texts), _BATCH):
        yield texts.slice(first, _BATCH).to_pylist()


def _text_keys(texts: pa.Array) -> np.ndarray:
    """Return (N,) int64 keys of texts; 0 for NULL."""
    parts = [
        np.fromiter(
            (0 if text is None else mmh3.hash64(text)[0] for text in batch), np.int64, len(batch)
        )
        for batch in _batches(texts)
    ]
    return np.concatenate([np.empty(0, np.int64), *parts])


def _laion_hashes(
    columns: pa.Table, needed: Sequence[str], place: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return (N,) int64 hashes, and (N,) bool whether a row has one."""
    by_name = {name.lower(): columns[name].combine_chunks() for name in needed}
    hashes = np.zeros(columns.num_rows, np.int64)
    is_valid = np.zeros(columns.num_rows, bool)
    stored = by_name.get("hash")
    is_stored = stored is not None and pa.types.is_integer(stored.type)
    if stored is not None and is_stored:
        is_valid = stored.is_valid().to_numpy(zero_copy_only=False)
        filled = stored.fill_null(0).to_numpy(zero_copy_only=False)
        hashes = filled.astype(np.int64)  # unsigned ones keep their bits
    if "url" in by_name:
        missing = np.flatnonzero(~is_valid)
        rows = pa.array(missing)
        urls, captions = (by_name[name].take(rows).to_pylist() for name in ("url", "caption"))
        pairs = zip(missing, urls, captions, strict=True)
        for row, url, caption in pairs:
            if url is not None:
                hashes[row], is_valid[row] = laion_hash(url, caption), True
    elif not is_stored:
        raise _missing(IdKind.LAION_HASH, place)
    return hashes, is_valid


def _is_filled(columns: pa.Table, name: str) -> bool:
    """Return whether a column has values for rows that could have one."""
    column = columns[name]
    if column.null_count < len(column) or not len(column):
        return True
    if "status" not in columns.column_names:
        return False
    return not pc.any(pc.equal(columns["status"], RowState.OK)).as_py()


def _compared_columns(kind: IdKind, present: Sequence[str], place: str) -> list[str]:
    """Return the columns with which ids are compared; raises `UsageError` if there are none."""
    url, caption = find_column("url", present), find_column("caption", present)
    if kind is IdKind.UID:
        columns = [find_column("uid", present)]
    elif kind is IdKind.SHA256:
        columns = [find_column("image_sha256", present), find_column("sha256", present)]
    elif kind is IdKind.URL:
        columns = [url]
    else:
        columns = [find_column("hash", present)]
        columns += [url, caption] if url and caption else []
    names = [name for name in columns if name is not None]
    if not names:
        raise _missing(kind, place)
    return names


def _missing(kind: IdKind, place: str) -> UsageError:
    what, cure = _NEEDS[kind]
    return UsageError(f"{place} lacks {what}, with which ids of kind {kind} are compared; {cure}")
