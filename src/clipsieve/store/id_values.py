"""Ids by which lists name rows: their kinds, and the values of a table that they are compared with.

    uid         the ledger's `uid`
    sha256      of the picture's bytes: 64 hexadecimal digits
    url         where the picture was fetched
    laion_hash  signed 64-bit integer, `mmh3.hash64(url + text)[0]`, as in LAION's tables

Hexadecimal ids (32 or 64 digits) are compared without case, all others as they are.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
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
    needed = compared_columns(kind, present, place)
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


def batches(texts: pa.Array) -> Iterator[list[Any]]:
    """Yield texts as Python objects, not all at once."""
    for first in range(0, len(texts), _BATCH):
        yield texts.slice(first, _BATCH).to_pylist()


def text_keys(texts: pa.Array) -> np.ndarray:
    """Return (N,) int64 keys of texts; 0 for NULL."""
    parts = [
        np.fromiter(
            (0 if text is None else mmh3.hash64(text)[0] for text in batch), np.int64, len(batch)
        )
        for batch in batches(texts)
    ]
    return np.concatenate([np.empty(0, np.int64), *parts])


def laion_hashes(
    columns: pa.Table, needed: Sequence[str], place: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return the LAION hash of each row, stored or computed; see `IdList.find`.

    Args:
      columns: those of `compared_columns`.
      needed: their names.
      place: what they are of, for messages.

    Returns:
      (N,) int64, 0 where there is none, and (N,) bool whether there is one.

    Raises:
      UsageError: if there is no url, and `hash` holds no integers.
    """
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
        urls, captions = (
            canonical_texts(IdKind.URL, by_name[name].take(rows)).to_pylist()
            for name in ("url", "caption")
        )
        pairs = zip(missing, urls, captions, strict=True)
        for row, url, caption in pairs:
            if url is not None:
                hashes[row], is_valid[row] = laion_hash(url, caption), True
    elif not is_stored:
        raise missing_columns(IdKind.LAION_HASH, place)
    return hashes, is_valid


def is_filled(columns: pa.Table, name: str) -> bool:
    """Return whether a column has values for rows that could have one."""
    column = columns[name]
    if column.null_count < len(column) or not len(column):
        return True
    if "status" not in columns.column_names:
        return False
    return not pc.any(pc.equal(columns["status"], RowState.OK)).as_py()


def compared_columns(kind: IdKind, present: Sequence[str], place: str) -> list[str]:
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
        raise missing_columns(kind, place)
    return names


def missing_columns(kind: IdKind, place: str) -> UsageError:
    """Return the error for a table without the columns that ids of a kind need, with the cure."""
    what, cure = _NEEDS[kind]
    return UsageError(f"{place} lacks {what}, with which ids of kind {kind} are compared; {cure}")
