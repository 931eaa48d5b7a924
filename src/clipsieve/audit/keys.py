"""What rows may have in common: 64-bit keys of captions, templates, words, pictures and hosts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b
from itertools import chain
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clipsieve.audit.captions import normalised, words

#: Stands for a row without a key.
NO_KEY = np.uint64(0)
#: Parts of a caption between white space in which words are looked for.
MOST_TOKENS = 64


class Kind(StrEnum):
    """What the rows of a group share, the narrowest first."""

    IMAGE_BYTES = "image_bytes"
    CAPTION = "caption"
    IMAGE_HASH = "image_hash"
    CAPTION_TEMPLATE = "caption_template"
    CAPTION_WORD = "caption_word"
    PICTURE = "picture"
    HOST = "host"

    @property
    def is_wide(self) -> bool:
        """Whether groups of this kind may hold groups of others."""
        return self in (Kind.CAPTION_WORD, Kind.PICTURE, Kind.HOST)


#: Kinds of which a row has one key at most.
SINGLE = (Kind.IMAGE_BYTES, Kind.CAPTION, Kind.IMAGE_HASH, Kind.CAPTION_TEMPLATE, Kind.HOST)


@dataclass(frozen=True, slots=True)
class RowKeys:
    """The keys of N rows.

    Attributes:
      single: (N,) uint64 by kind; `NO_KEY` where a row has none.
      word_rows: (M,) int64, rising: the row of each word.
      word_keys: (M,) uint64.
      bits: (N,) uint64 perceptual hashes; see `has_bits`.
      has_bits: (N,) bool: which rows have one.
    """

    single: Mapping[Kind, np.ndarray]
    word_rows: np.ndarray
    word_keys: np.ndarray
    bits: np.ndarray
    has_bits: np.ndarray

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.bits)

    def of_kind(self, kind: Kind) -> tuple[np.ndarray, np.ndarray]:
        """(M,) rows, rising, and (M,) keys; rows without a key are left out."""
        if kind is Kind.CAPTION_WORD:
            return self.word_rows, self.word_keys
        keys = self.single[kind]
        rows = np.flatnonzero(keys != NO_KEY)
        return rows, keys[rows]


def row_keys(
    captions: Sequence[str | None],
    urls: Sequence[str | None],
    image_bytes: np.ndarray,
    image_hashes: np.ndarray,
    has_hash: np.ndarray,
) -> RowKeys:
    """Make the keys of N rows.

    Args:
      captions: as read.
      urls: addresses.
      image_bytes: (N,) uint64 of the bytes' digest; 0 where there are none.
      image_hashes: (N,) uint64 perceptual hashes.
      has_hash: (N,) bool.
    """
    normal = pa.array([normalised(caption) for caption in captions], pa.string())
    forms = templates(normal)
    word_rows, word_keys = _words(normal)
    # An odd factor keeps hashes apart, and spreads them over the slots by their highest bits.
    mixed = np.maximum(image_hashes * np.uint64(0x9E3779B97F4A7C15), np.uint64(1))
    hash_keys = np.where(has_hash, mixed, NO_KEY)
    return RowKeys(
        {
            Kind.IMAGE_BYTES: image_bytes,
            Kind.CAPTION: hash_texts(normal),
            Kind.IMAGE_HASH: hash_keys,
            Kind.CAPTION_TEMPLATE: hash_texts(forms),
            Kind.HOST: hash_texts(pa.array(hosts(urls), pa.string())),
        },
        word_rows,
        word_keys,
        np.where(has_hash, image_hashes, np.uint64(0)),
        has_hash,
    )


def templates(normal: pa.Array) -> pa.Array:
    """Normalised captions with every run of ASCII digits as one `#`; NULL without digits.

    A caption without digits is its own template: the group would be that of the caption.

    >>> templates(pa.array(["img_0042.jpg", "no digits", None])).to_pylist()
    ['img_#.jpg', None, None]
    """
    replaced = pc.replace_substring_regex(normal, pattern="[0-9]+", replacement="#")
    return pc.if_else(pc.not_equal(replaced, normal), replaced, pa.scalar(None, pa.string()))


def hash_texts(texts: pa.Array) -> np.ndarray:
    """(N,) uint64: 64 bits of the blake2b of each text; `NO_KEY` for NULL."""
    column = texts.dictionary_encode()
    keys = np.array([_hash(text) for text in column.dictionary.to_pylist()], np.uint64)
    found = np.full(len(texts), NO_KEY)
    present = np.asarray(column.is_valid())
    found[present] = keys[column.indices.drop_null().to_numpy()]
    return found


def _hash(text: str) -> int:
    digest = blake2b(text.encode("utf-8"), digest_size=8).digest()
    return int.from_bytes(digest, "little") or 1


def _words(normal: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """(M,) int64 rows, rising, and (M,) uint64 keys: the different words of normalised captions.

    Of each caption the first `MOST_TOKENS` parts between white space are looked at.
    """
    column = pc.split_pattern(normal, " ")
    column = pc.list_slice(pc.fill_null(column, []), 0, MOST_TOKENS)
    counts = column.value_lengths().to_numpy()
    column = column.flatten().dictionary_encode()
    of_token = [[_hash(word) for word in words(text)] for text in column.dictionary.to_pylist()]
    lengths = np.fromiter(map(len, of_token), np.int64, len(of_token))
    keys = np.fromiter(chain.from_iterable(of_token), np.uint64)
    starts = np.cumsum(lengths) - lengths
    which = column.indices.to_numpy()
    repeats = lengths[which]
    rows = np.repeat(np.repeat(np.arange(len(normal)), counts), repeats)
    within = np.arange(len(rows)) - np.repeat(np.cumsum(repeats) - repeats, repeats)
    found = keys[np.repeat(starts[which], repeats) + within] if len(rows) else keys[:0]
    order = np.lexsort((found, rows))
    rows, found = rows[order], found[order]
    different = np.ones(len(rows), bool)
    different[1:] = (rows[1:] != rows[:-1]) | (found[1:] != found[:-1])
    return rows[different], found[different]


def hosts(urls: Sequence[str | None]) -> list[str | None]:
    """The host of each address in lower case; None if it has none.

    >>> hosts(["https://Images.Example.com:8080/a.jpg", "a.jpg", None])
    ['images.example.com', None, None]
    """
    known: dict[str, str | None] = {}

    def host(url: str | None) -> str | None:
        parts = url.split("/", 3) if url is not None else []
        if len(parts) < 3:
            return None
        start = "/".join(parts[:3])
        if start not in known:
            known[start] = _host(start)
        return known[start]

    return [host(url) for url in urls]


def _host(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:  # such as an unfinished IPv6 address
        return None
