"""One shard on its way through the model: rows come in, a scored table comes out."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from clipsieve.clip.decode import DecodedImage
from clipsieve.clip.encode import Encoder, Features
from clipsieve.control import Control
from clipsieve.embed.prepare import NO_IMAGE, Chunk
from clipsieve.formats.base import SourceConfig, WorkItem
from clipsieve.schemas.states import RowFailure, RowState
from clipsieve.scorers.base import Embedded, PairBatch


@dataclass(frozen=True, slots=True)
class EmbeddedShard:
    """All rows of one shard, encoded.

    Attributes:
      item: what was read.
      pairs: N pairs as the scorers see them.
      states: N row states.
      errors: N messages; None where the state is `ok`.
      widths: N image widths in pixels, 0 where the image was not decoded.
      heights: N image heights in pixels, 0 where the image was not decoded.
      digests: sha256 of each row's image bytes, 32 bytes; None without bytes.
      phashes: N perceptual hashes, uint64; masked where the image was not decoded.
      carried: N rows of source columns.
    """

    item: WorkItem
    pairs: PairBatch
    states: Sequence[RowState]
    errors: Sequence[str | None]
    widths: np.ndarray
    heights: np.ndarray
    digests: Sequence[bytes | None]
    phashes: np.ma.MaskedArray
    carried: pa.Table

    def counts(self) -> dict[str, int]:
        """Rows in each state, by name."""
        return dict(sorted(Counter(str(state) for state in self.states).items()))


class ShardBuilder:
    """Takes the chunks of one shard and encodes them; memory grows with rows, not with pixels."""

    def __init__(
        self, item: WorkItem, source: SourceConfig, encoder: Encoder, control: Control
    ) -> None:
        """Begin with no rows."""
        self._control = control
        self._item = item
        self._source = source
        self._encoder = encoder
        self._chunks: list[Chunk] = []
        self._waiting: list[torch.Tensor] = []
        self._features = Features(encoder.model.identity.dim)
        self._image_slots: list[int | RowFailure] = []  # by image number: a feature row, or why not
        self._sizes: list[tuple[int, int]] = []
        self._phashes: list[int] = []  # by image number, 0 for an image that was not decoded
        self._decoded = 0
        self._metered = (0, 0)
        self._tokens: list[Future[torch.Tensor]] = []

    def add(self, chunk: Chunk) -> None:
        """Take the next rows; encodes a batch of images as soon as it is full."""
        for job in chunk.images:
            for image in job.result():
                self._add_image(image)
        if chunk.tokens is not None:
            self._tokens.append(chunk.tokens)
        # The decoded pixels live in the jobs: keep everything of the chunk but those.
        self._chunks.append(dataclasses.replace(chunk, images=(), tokens=None))
        pairs = zip(chunk.image_numbers, chunk.text_numbers, strict=True)
        failed = sum(1 for i, t in pairs if i < 0 or t < 0 or not self._usable(i))
        self._metered = (self._metered[0] + len(chunk.captions), self._metered[1] + failed)
        self._control.add(rows=len(chunk.captions), failed_rows=failed)

    def withdraw(self) -> None:
        """Take the rows out of the meter again: this shard will not be written."""
        self._control.add(rows=-self._metered[0], failed_rows=-self._metered[1])

    def finish(self) -> EmbeddedShard:
        """Encode what is left, and the captions; the finished shard."""
        self._encode_waiting(1)
        image_numbers = _joined([chunk.image_numbers for chunk in self._chunks])
        text_numbers = _joined([chunk.text_numbers for chunk in self._chunks])
        image = self._image_embedded(image_numbers)
        with self._control.timing("encode"):
            text = Embedded.gather(self._encode_captions(), text_numbers)
        captions = [caption for chunk in self._chunks for caption in chunk.captions]
        states, errors = self._states(image_numbers, image, text, captions)
        widths, heights = self._dimensions(image_numbers)
        no_uids = pa.array([], self._source.uid_type or pa.string())
        no_rows = self._source.carried.empty_table()
        uids = pa.concat_arrays([no_uids, *(chunk.uids for chunk in self._chunks)])
        return EmbeddedShard(
            item=self._item,
            pairs=PairBatch(uids, image, {"": text}, captions=captions, shard=self._item.shard),
            states=states,
            errors=errors,
            widths=widths,
            heights=heights,
            digests=[digest for chunk in self._chunks for digest in chunk.digests],
            phashes=np.ma.masked_array(
                np.array([*self._phashes, 0], dtype=np.uint64)[image_numbers], widths == 0
            ),
            carried=pa.concat_tables([no_rows, *(chunk.carried for chunk in self._chunks)]),
        )

    def _usable(self, number: int) -> bool:
        return isinstance(self._image_slots[number], int)

    def _add_image(self, image: DecodedImage | RowFailure) -> None:
        if isinstance(image, RowFailure):
            self._image_slots.append(image)
            self._sizes.append((0, 0))
            self._phashes.append(0)
            return
        self._image_slots.append(self._decoded)
        self._sizes.append((image.width, image.height))
        self._phashes.append(image.phash)
        self._decoded += 1
        self._waiting.append(image.pixels)
        self._encode_waiting(self._encoder.batch_size)

    def _encode_waiting(self, at_least: int) -> None:
        """Encode the waiting images if there are `at_least` that many."""
        if len(self._waiting) < at_least:
            return
        with self._control.timing("encode"):
            self._features.put(self._encoder.start_images(torch.stack(self._waiting)))
        self._waiting.clear()

    def _image_embedded(self, numbers: np.ndarray) -> Embedded:
        """Image features of each row."""
        with self._control.timing("encode"):
            features = self._features.finish()
        # The last slot is for number -1: no image.
        slots = np.array([s if isinstance(s, int) else -1 for s in self._image_slots] + [-1])
        return Embedded.gather(features, slots[numbers])

    def _encode_captions(self) -> np.ndarray:
        """Features of the distinct captions, by caption number."""
        tokens = [future.result() for future in self._tokens]
        if not tokens:
            return np.empty((0, self._encoder.model.identity.dim), np.float32)
        return self._encoder.encode_tokens(torch.cat(tokens))

    def _dimensions(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Width and height of each row's image, 0 where unknown."""
        sizes = np.array([*self._sizes, (0, 0)], dtype=np.int32)[numbers]
        return sizes[:, 0], sizes[:, 1]

    def _states(
        self,
        numbers: np.ndarray,
        image: Embedded,
        text: Embedded,
        captions: Sequence[str | None],
    ) -> tuple[list[RowState], list[str | None]]:
        """State and error of each row, images before captions before embeddings."""
        states: list[RowState] = []
        errors: list[str | None] = []
        source = [
            chunk.failures.get(at) for chunk in self._chunks for at in range(len(chunk.captions))
        ]
        for row, (number, said) in enumerate(zip(numbers.tolist(), source, strict=True)):
            slot = self._image_slots[number] if number >= 0 else _no_image(said)
            failure = slot if isinstance(slot, RowFailure) else said
            failure = failure or _caption_failure(captions[row])
            failure = failure or _embedding_failure(row, image, text)
            states.append(failure.state if failure else RowState.OK)
            errors.append(failure.error if failure else None)
        return states, errors


def _no_image(said: RowFailure | None) -> RowFailure:
    """Why a row has no image: what the source says, if it speaks of the image at all."""
    if said is not None and said.state in NO_IMAGE:
        return said
    return RowFailure(RowState.MISSING_IMAGE, "the source has no image bytes")


def _caption_failure(caption: str | None) -> RowFailure | None:
    if caption is None:
        return RowFailure(RowState.EMPTY_CAPTION, "caption is NULL")
    if not caption.strip():
        return RowFailure(RowState.EMPTY_CAPTION, f"caption is blank: {caption[:20]!r}")
    return None


def _embedding_failure(row: int, image: Embedded, text: Embedded) -> RowFailure | None:
    if not image.valid[row]:
        return RowFailure(RowState.NONFINITE_EMBEDDING, "image embedding is not finite, or zero")
    if not text.valid[row]:
        return RowFailure(RowState.NONFINITE_EMBEDDING, "text embedding is not finite, or zero")
    return None


def _joined(parts: Sequence[Sequence[int]]) -> np.ndarray:
    """Chunks of numbers as one int64 array."""
    return np.array([number for part in parts for number in part], dtype=np.int64)
