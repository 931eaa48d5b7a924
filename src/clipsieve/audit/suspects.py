"""The suspicious rows of a dataset, with what is needed to group them."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from clipsieve.audit.captions import normalised
from clipsieve.audit.selection import Threshold, TopFraction
from clipsieve.audit.shards import AuditedShards

_NO_IMAGES = np.zeros((0, 0), np.float32)


@dataclass(frozen=True, slots=True)
class Suspects:
    """M rows, the most suspicious first; equal scores by uid, url, then caption.

    The order, and so everything made of it, does not depend on how rows are split over shards.

    Attributes:
      threshold: the line above which they lie.
      scores: (M,) float32.
      uids: M uids, in the type of the source.
      uid_type: that type; string if the shards' types differ.
      captions: M captions, as read.
      normal: M captions in the form in which they are compared; None where there is none.
      urls: M addresses; None where the source has none.
      images: (M, D) float32, image vectors of unit norm.
      caption_rows: scored rows of the dataset by normalised caption, for every caption that at
        least two of the M rows share.
    """

    threshold: Threshold
    scores: np.ndarray
    uids: Sequence[Any]
    uid_type: pa.DataType
    captions: Sequence[str | None]
    normal: Sequence[str | None]
    urls: Sequence[str | None]
    images: np.ndarray
    caption_rows: dict[str, int]

    def __len__(self) -> int:
        """Number of suspicious rows."""
        return len(self.scores)


def find_suspects(shards: AuditedShards, fraction: float) -> Suspects:
    """The top `fraction` of all scored rows, see `selection`.

    Reads every shard's scores twice or three times and its captions at most once, and the other
    columns where there are suspicious rows.  Memory is one shard's columns and those rows.

    Raises:
      LedgerError: if the files contradict each other.
      UsageError: if the fraction is not in (0, 1].
    """
    names = shards.shards()
    top = TopFraction()
    for scores in shards.each(shards.scores, names):
        top.add(scores)
    threshold = top.threshold(fraction)
    parts = list(_parts(shards, names, threshold))
    uid_type = _common_type([part.identities.schema.field("uid").type for part in parts])
    uids = [uid for part in parts for uid in part.identities["uid"].cast(uid_type).to_pylist()]
    urls = [url for part in parts for url in part.identities["url"].to_pylist()]
    captions = [text for part in parts for text in part.identities["caption"].to_pylist()]
    values = np.concatenate([np.zeros(0, np.float32), *(part.scores for part in parts)])
    descending = (-values).tolist()
    order = sorted(
        range(len(values)),
        key=lambda n: (descending[n], _key(uids[n]), _key(urls[n]), _key(captions[n])),
    )
    normal = [normalised(captions[n]) for n in order]
    return Suspects(
        threshold=threshold,
        scores=values[order],
        uids=[uids[n] for n in order],
        uid_type=uid_type,
        captions=[captions[n] for n in order],
        normal=normal,
        urls=[urls[n] for n in order],
        images=np.concatenate([part.images for part in parts])[order] if parts else _NO_IMAGES,
        caption_rows=_caption_rows(shards, names, normal),
    )


@dataclass(frozen=True, slots=True)
class _Part:
    """The suspicious rows of one shard, in row order."""

    scores: np.ndarray
    identities: pa.Table
    images: np.ndarray


def _parts(shards: AuditedShards, names: Sequence[str], threshold: Threshold) -> Iterator[_Part]:
    """The shards with suspicious rows."""
    for name, scores in zip(names, shards.each(shards.scores, names), strict=True):
        rows = np.flatnonzero(threshold.selects(scores))
        if len(rows):
            yield _Part(scores[rows], shards.identities(name, rows), shards.images(name, rows))


def _common_type(types: Sequence[pa.DataType]) -> pa.DataType:
    """The type of all shards' uids; string if they differ, or if there are none."""
    return types[0] if types and all(other == types[0] for other in types) else pa.string()


def _key(value: Any) -> tuple[bool, Any]:
    """Sorts values, those that are missing last."""
    return (value is None, value)


def _caption_rows(
    shards: AuditedShards, names: Sequence[str], normal: Sequence[str | None]
) -> dict[str, int]:
    """Scored rows of the dataset for each caption that occurs twice in `normal`."""
    suspicious = Counter(caption for caption in normal if caption is not None)
    rows = {caption: 0 for caption, count in suspicious.items() if count > 1}

    def read(name: str) -> tuple[np.ndarray, list[str | None]]:
        return ~np.isnan(shards.scores(name)), shards.captions(name)

    for scored, captions in shards.each(read, names if rows else ()):
        for caption, counted in zip(captions, scored, strict=True):
            if counted and (form := normalised(caption)) in rows:
                rows[form] += 1
    return rows
