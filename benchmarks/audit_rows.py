"""Rows in memory for `audit.py`: demo data and planted groups, embedded by the bundled model."""

import hashlib
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TypeVar
from zlib import crc32

import numpy as np
import open_clip
import pyarrow as pa
import torch
from audit_plants import KINDS
from PIL import Image

from clipsieve.audit.data import ShardColumns
from clipsieve.clip.perceptual_hash import perceptual_hash_pillow
from clipsieve.demo import TINY_MODEL
from clipsieve.demo.encodings import jpeg
from clipsieve.demo.records import make_record
from clipsieve.demo.samples import CLEAN, DEMO, Mixture
from clipsieve.neighbours.index import ExactIndex
from clipsieve.scorers.clipscore import clip_score
from clipsieve.scorers.density import DEFAULT_K, k_distance
from clipsieve.scorers.density_scorer import reference_size

T = TypeVar("T")
SIDE = 64  #: pixels of a side, as the bundled model sees them
BATCH = 256
MIXTURES: dict[str, Mixture] = {"demo": DEMO, "clean": CLEAN}


@dataclass(frozen=True, slots=True)
class Rows:
    """N rows with their embeddings.

    Attributes:
      captions: N captions.
      urls: N addresses.
      kinds: (N,) what each row is.
      image_bytes: (N,) uint64 of the file.
      image_hashes: (N,) uint64 perceptual hashes.
      images: (N, D) float32 embeddings as the model gives them.
      texts: (N, D) float32.
    """

    captions: np.ndarray
    urls: np.ndarray
    kinds: np.ndarray
    image_bytes: np.ndarray
    image_hashes: np.ndarray
    images: np.ndarray
    texts: np.ndarray

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.kinds)


def joined(parts: Sequence[Rows]) -> Rows:
    """All rows of several parts."""
    return Rows(
        *(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Rows))
    )


class Encoder:
    """The bundled model on the CPU."""

    def __init__(self) -> None:
        """Load it."""
        source = f"local-dir:{TINY_MODEL}"
        merges = str(Path(TINY_MODEL) / "bpe_merges.txt.gz")
        self._model = open_clip.create_model(source).eval()
        self._tokenizer = open_clip.get_tokenizer(source, bpe_path=merges)

    @torch.inference_mode()
    def images(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        """(N, D) float32."""
        small = [np.asarray(p.resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for p in pictures]
        parts = []
        for start in range(0, len(small), BATCH):
            pixels = torch.from_numpy(np.stack(small[start : start + BATCH]))
            parts.append(self._model.encode_image(pixels.permute(0, 3, 1, 2) / 127.5 - 1).numpy())
        return np.concatenate(parts)

    @torch.inference_mode()
    def texts(self, captions: Sequence[str]) -> np.ndarray:
        """(N, D) float32."""
        parts = [
            self._model.encode_text(self._tokenizer(list(captions[start : start + BATCH]))).numpy()
            for start in range(0, len(captions), BATCH)
        ]
        return np.concatenate(parts)


def _embedded(
    encoder: Encoder,
    files: Sequence[bytes],
    captions: Sequence[str],
    urls: Sequence[str],
    kinds: Sequence[str],
) -> Rows:
    pictures = [Image.open(io.BytesIO(file)).convert("RGB") for file in files]
    digests = [int(hashlib.sha256(file).hexdigest()[:16], 16) for file in files]
    return Rows(
        np.array(captions, object),
        np.array(urls, object),
        np.array(kinds, object),
        np.array(digests, np.uint64),
        np.array([perceptual_hash_pillow(picture) for picture in pictures], np.uint64),
        encoder.images(pictures),
        encoder.texts(captions),
    )


def demo_rows(encoder: Encoder, mixture: str, seed: int, count: int) -> Rows:
    """The rows of demo data that can be embedded."""
    files, captions, urls, kinds = [], [], [], []
    for index in range(count):
        record = make_record(seed, index, MIXTURES[mixture])
        if record.file is None or not record.caption or not record.caption.strip():
            continue
        try:
            Image.open(io.BytesIO(record.file)).convert("RGB")
        except (OSError, SyntaxError):  # damaged on purpose
            continue
        assert record.truth is not None
        files.append(record.file)
        captions.append(record.caption)
        urls.append(record.url)
        kinds.append(str(record.truth.kind))
    return _embedded(encoder, files, captions, urls, kinds)


def planted_rows(encoder: Encoder, kind: str, seed: int, count: int) -> Rows:
    """A planted group."""
    rng = np.random.default_rng([seed, crc32(kind.encode())])
    rows = KINDS[kind].rows(rng, count)
    return _embedded(
        encoder,
        [jpeg(image, quality=90) for image, _, _ in rows],
        [caption for _, caption, _ in rows],
        [f"https://{host}/{kind}/{n}.jpg" for n, (_, _, host) in enumerate(rows)],
        [f"+{kind}"] * count,
    )


def unit(vectors: np.ndarray) -> np.ndarray:
    """(N, D) float32 of unit norm."""
    wide = vectors.astype(np.float64)
    return (wide / np.linalg.norm(wide, axis=1, keepdims=True)).astype(np.float32)


class MemoryData:
    """Rows as an audit reads them, with the scores that `clipsieve run` would give them."""

    def __init__(self, rows: Rows, shard_rows: int = 2000, shuffled: int | None = None) -> None:
        """Score the rows; with a seed `shuffled` each column of scores in random order."""
        self.rows = rows
        starts = range(0, len(rows), shard_rows)
        self._parts = [np.arange(s, min(s + shard_rows, len(rows))) for s in starts]
        self._unit = unit(rows.images)
        similarity = (self._unit * unit(rows.texts)).sum(axis=1)
        values = {"clip_similarity": similarity, "clip_score": clip_score(similarity)}
        order = np.argsort([hashlib.blake2b(f"{n}".encode()).digest() for n in range(len(rows))])
        for name, column in (("auto", "density_kdist"), ("large", "density_kdist_large")):
            reference = np.sort(order[: reference_size(name, len(rows))])
            own = np.full(len(rows), -1)
            own[reference] = np.arange(len(reference))
            lists = ExactIndex(rows.images[reference]).search(rows.images, DEFAULT_K, own)
            values[column] = k_distance(lists.distances)
        if shuffled is not None:
            rng = np.random.default_rng(shuffled)
            values = {name: rng.permutation(column) for name, column in values.items()}
        self._values = {name: column.astype(np.float32) for name, column in values.items()}

    def shards(self) -> list[str]:
        """Numbers of the shards, as text."""
        return [str(number) for number in range(len(self._parts))]

    def each(self, read: Callable[[str], T], names: Sequence[str]) -> Iterator[T]:
        """Read one shard after the other."""
        return map(read, names)

    def columns(self, name: str, values: Sequence[str]) -> ShardColumns:
        """Narrow columns of a shard."""
        part, rows = self._parts[int(name)], self.rows
        return ShardColumns(
            rows.captions[part].tolist(),
            rows.urls[part].tolist(),
            rows.image_bytes[part],
            rows.image_hashes[part],
            np.ones(len(part), bool),
            {column: self._values[column][part] for column in values},
        )

    def vectors(self, name: str, rows: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Unit vectors of a shard."""
        part = self._parts[int(name)]
        part = part if rows is None else part[rows]
        return self._unit[part], np.ones(len(part), bool)

    def identities(self, name: str, rows: np.ndarray) -> pa.Table:
        """Number, caption, address and no digest."""
        part = self._parts[int(name)][rows]
        return pa.table(
            {
                "uid": pa.array(part),
                "caption": pa.array(self.rows.captions[part], pa.string()),
                "url": pa.array(self.rows.urls[part], pa.string()),
                "image_sha256": pa.nulls(len(part), pa.string()),
            }
        )
