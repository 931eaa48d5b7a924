"""Digests of rows and URLs, 16 bytes each, and what is equal among millions of them."""

import json
from collections.abc import Iterable
from hashlib import blake2b

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

#: (N, 2) uint64: a digest a row.
Digests = NDArray[np.uint64]
_BYTES = 16
_encode = json.JSONEncoder(default=str, separators=(",", ":")).encode


def row_digests(table: pa.Table) -> bytes:
    """Return the digests of whole rows, one after the other."""
    columns = [column.to_pylist() for column in table.columns]
    return b"".join(
        blake2b(_encode(values).encode(), digest_size=_BYTES).digest()
        for values in zip(*columns, strict=True)
    )


def url_digests(urls: Iterable[str | None]) -> bytes:
    """Return the digests of URLs, one after the other; that of NULL is zero."""
    return b"".join(
        bytes(_BYTES)
        if url is None
        else blake2b(url.encode("utf-8", "surrogatepass"), digest_size=_BYTES).digest()
        for url in urls
    )


def as_array(digests: bytes | bytearray) -> Digests:
    """Return digests that follow each other as an array, (N, 2) uint64."""
    return np.frombuffer(digests, np.uint64).reshape(-1, 2)


def first_rows(digests: Digests) -> NDArray[np.int64]:
    """Return for each digest the first position of an equal one, its own if it is the first.

    Those that are zero equal none.
    """
    order = np.lexsort((digests[:, 1], digests[:, 0]))
    starts = _starts(digests[order])
    firsts = np.empty(len(digests), np.int64)
    firsts[order] = order[starts][np.cumsum(starts) - 1]
    is_null = ~digests.any(axis=1)
    firsts[is_null] = np.flatnonzero(is_null)
    return firsts


def unmatched(old: Digests, new: Digests) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which of the old and of the new digests have no partner among the others.

    A digest that is there twice takes two partners; earlier ones are served first.
    """
    both = np.concatenate([old, new])
    order = np.lexsort((both[:, 1], both[:, 0]))
    starts = _starts(both[order])
    group = np.cumsum(starts) - 1
    is_old = order < len(old)
    old_counts = np.bincount(group, is_old).astype(np.int64)
    sizes = np.bincount(group)
    rank = np.arange(len(both)) - np.flatnonzero(starts)[group]  # old ones come first: stable
    partners = np.minimum(old_counts, sizes - old_counts)[group]
    is_alone = np.where(is_old, rank >= partners, rank - old_counts[group] >= partners)
    alone = np.empty(len(both), np.bool_)
    alone[order] = is_alone
    return alone[: len(old)], alone[len(old) :]


def is_among(digests: Digests, others: Digests) -> NDArray[np.bool_]:
    """Return which digests are among others."""
    firsts = first_rows(np.concatenate([others, digests]))
    found: NDArray[np.bool_] = firsts[len(others) :] < len(others)
    return found


def _starts(ordered: Digests) -> NDArray[np.bool_]:
    """Which rows of an ordered array differ from the one before."""
    starts = np.ones(len(ordered), np.bool_)
    starts[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    return starts
