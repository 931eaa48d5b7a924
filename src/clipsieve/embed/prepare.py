"""Reading and decoding ahead of the model: a thread that reads, a pool that decodes.

The reader gives each distinct image and caption of a shard a number and sends only the first of
each to the pool.  What is in flight is bounded by the queue, in rows, so that memory does not
depend on the size of a shard; the queue runs on across shards, so the model does not wait at
their borders.
"""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import pyarrow as pa
import torch

from clipsieve.clip.decode import DecodedImage
from clipsieve.control import Control
from clipsieve.errors import ShardError
from clipsieve.formats.base import RowBatch, WorkItem
from clipsieve.formats.uid import RowHasher
from clipsieve.schemas.states import RowFailure, RowState

#: Images a pool thread takes at once: less bookkeeping an image, still fine-grained.
IMAGES_A_JOB = 8
#: Chunks that may wait between the reader and the model.
CHUNKS_AHEAD = 4

#: Bytes of captions, uids and carried columns in one shard: all of them wait in memory until it is
#: written, and Arrow's text columns end at four times as many.
MAX_TEXT_BYTES = 512 << 20

#: States in which the source says that there is no image, or that it is not to be decoded.
NO_IMAGE = (RowState.FETCH_FAILED, RowState.MISSING_IMAGE, RowState.IMAGE_TOO_LARGE)

Decode = Callable[[bytes], DecodedImage | RowFailure]
Tokenize = Callable[[Sequence[str]], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Chunk:
    """Up to a batch of consecutive rows, their images being decoded.

    Attributes:
      captions: N captions as read.
      failures: what the source says of a row, by position in the chunk.
      carried: N rows of source columns.
      uids: N uids.
      digests: sha256 of each row's image bytes, 32 bytes; None without bytes.
      image_numbers: for each row the number of its image in this shard, -1 if it has none.
      text_numbers: for each row the number of its caption in this shard, -1 if it has none.
      images: decoded images not seen before in this shard, in the order of their numbers.
      tokens: token ids of captions not seen before, in the order of their numbers; None if all
        were seen.
    """

    captions: Sequence[str | None]
    failures: Mapping[int, RowFailure]
    carried: pa.Table
    uids: pa.Array
    digests: Sequence[bytes | None]
    image_numbers: Sequence[int]
    text_numbers: Sequence[int]
    images: Sequence[Future[list[DecodedImage | RowFailure]]]
    tokens: Future[torch.Tensor] | None


@dataclass(frozen=True, slots=True)
class Begin:
    """The rows of `item` follow."""

    item: WorkItem


@dataclass(frozen=True, slots=True)
class End:
    """All rows of the item were given, or reading it failed with `error`."""

    error: ShardError | None = None


Event = Begin | Chunk | End


@dataclass(slots=True)
class _Numbers:
    """First come, first numbered."""

    of: dict[bytes | str, int] = field(default_factory=dict)

    def number(self, key: bytes | str) -> tuple[int, bool]:
        """The number of `key`, and whether it is new."""
        known = self.of.get(key)
        if known is not None:
            return known, False
        self.of[key] = len(self.of)
        return len(self.of) - 1, True


class Preparer:
    """Reads items in order and yields their rows with decoding under way."""

    def __init__(
        self,
        read: Callable[[WorkItem], Iterator[RowBatch]],
        decode: Decode,
        tokenize: Tokenize,
        pool: ThreadPoolExecutor,
        cores_free: threading.Event,
        chunk_rows: int,
        control: Control,
    ) -> None:
        """Read with `read`; `decode` and `tokenize` run in `pool` while `cores_free` is set."""
        self._control = control
        self._cores_free = cores_free
        self._read = read
        self._decode = decode
        self._tokenize = tokenize
        self._pool = pool
        self._chunk_rows = chunk_rows

    def events(self, items: Iterable[WorkItem]) -> Iterator[Event]:
        """Begin, chunks, End for each item, in order.

        An item that cannot be read ends with an error and the next begins.  Any other exception
        of the reader is raised here.  Closing the iterator stops the reader.
        """
        ahead: queue.Queue[Event | BaseException | None] = queue.Queue(CHUNKS_AHEAD)
        closed = threading.Event()

        def put(event: Event | BaseException | None) -> bool:
            while not closed.is_set():
                try:
                    ahead.put(event, timeout=0.1)
                except queue.Full:
                    continue
                return True
            return False

        def run() -> None:
            try:
                for item in items:
                    if not all(put(event) for event in self._item_events(item)):
                        return
                put(None)
            except BaseException as error:  # carried to the consumer, which raises it
                put(error)

        reader = threading.Thread(target=run, name="clipsieve-read", daemon=True)
        reader.start()
        try:
            while (event := ahead.get()) is not None:
                if isinstance(event, BaseException):
                    raise event
                yield event
        finally:
            closed.set()
            reader.join()

    def _item_events(self, item: WorkItem) -> Iterator[Event]:
        """Events of one item."""
        self._control.begin(item.shard)
        yield Begin(item)
        images, texts = _Numbers(), _Numbers()
        held = 0
        batches = self._read(item)
        while True:
            try:
                with self._control.timing("read"):
                    batch = next(batches, None)
            except ShardError as error:
                yield End(error)
                return
            if batch is None:
                break
            held += _text_bytes(batch)
            if held > MAX_TEXT_BYTES:
                yield End(_too_much_text(item, batch))
                return
            for low in range(0, len(batch), self._chunk_rows):
                with self._control.timing("read"):
                    chunk = self._chunk(batch, low, images, texts)
                yield chunk
        yield End()

    def _chunk(self, batch: RowBatch, low: int, images: _Numbers, texts: _Numbers) -> Chunk:
        """Rows `low` to `low + chunk_rows` of `batch`, sent to the pool."""
        high = min(low + self._chunk_rows, len(batch))
        captions = batch.captions[low:high]
        failures = {at - low: why for at, why in batch.failures.items() if low <= at < high}
        urls = _urls(batch.carried, low, high)
        image_numbers, new_images = [-1] * (high - low), []
        text_numbers, new_texts = [-1] * (high - low), []
        hashed: list[str] = []
        digests: list[bytes | None] = []
        hasher = RowHasher()
        for at, (image, caption) in enumerate(zip(batch.images[low:high], captions, strict=True)):
            digest, uid = hasher.digest_and_uid(image, caption, urls[at])
            hashed.append(uid)
            digests.append(digest if image else None)
            if image is not None and digest is not None and not _unusable(failures.get(at)):
                image_numbers[at], new = images.number(digest)
                if new:
                    new_images.append(image)
            if caption is not None and caption.strip() and at not in failures:
                text_numbers[at], new = texts.number(caption)
                if new:
                    new_texts.append(caption)
        jobs = [
            self._pool.submit(self._decode_all, new_images[first : first + IMAGES_A_JOB])
            for first in range(0, len(new_images), IMAGES_A_JOB)
        ]
        tokens = self._pool.submit(self._tokenize, new_texts) if new_texts else None
        return Chunk(
            captions=captions,
            failures=failures,
            carried=batch.carried.slice(low, high - low),
            uids=_uids(batch, low, high, hashed),
            digests=digests,
            image_numbers=image_numbers,
            text_numbers=text_numbers,
            images=jobs,
            tokens=tokens,
        )

    def _decode_all(self, images: Sequence[bytes]) -> list[DecodedImage | RowFailure]:
        """Each image decoded, in order."""
        decoded = []
        for image in images:
            self._cores_free.wait()
            with self._control.timing("decode"):
                decoded.append(self._decode(image))
        return decoded


def _text_bytes(batch: RowBatch) -> int:
    """Bytes of a batch that stay in memory until its shard is written."""
    captions = sum(len(caption) for caption in batch.captions if caption is not None)
    uids = 0 if batch.uids is None else batch.uids.nbytes
    return int(captions + uids + batch.carried.nbytes)


def _too_much_text(item: WorkItem, batch: RowBatch) -> ShardError:
    """The error of a shard whose text does not fit."""
    rows = batch.start + len(batch) - item.start
    sizes = {column: batch.carried[column].nbytes for column in batch.carried.column_names}
    largest = max(sizes, key=sizes.__getitem__, default=None)
    cure = "cut it into smaller files"
    if largest is not None and sizes[largest] > _text_bytes(batch) // 2:
        cure += f", or leave column {largest!r} out with --leave-out"
    return ShardError(
        f"cannot read {item.uri}: captions and carried columns of its first {rows:,} rows take "
        f"over {MAX_TEXT_BYTES:,} bytes; {cure}"
    )


def _unusable(failure: RowFailure | None) -> bool:
    """Whether the source says that there is no image."""
    return failure is not None and failure.state in NO_IMAGE


def _urls(carried: pa.Table, low: int, high: int) -> list[str | None]:
    """The url of each row, None where the source has none."""
    if "url" not in carried.column_names:
        return [None] * (high - low)
    urls: list[str | None] = carried["url"].slice(low, high - low).cast(pa.string()).to_pylist()
    return urls


def _uids(batch: RowBatch, low: int, high: int, hashed: list[str]) -> pa.Array:
    """The source's uids, else the hashed ones; a NULL among text uids is hashed too."""
    if batch.uids is None:
        return pa.array(hashed, pa.string())
    uids = batch.uids.slice(low, high - low)
    if uids.null_count and pa.types.is_string(uids.type):
        pairs = zip(uids.to_pylist(), hashed, strict=True)
        return pa.array([own if own is not None else made for own, made in pairs], pa.string())
    return uids
