"""Embed shards one after the other; reading, decoding and writing run in background threads."""

import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from clipsieve.clip.decode import ImageLimits, decode_image, decode_pool_initializer
from clipsieve.clip.encode import Encoder
from clipsieve.control import Control
from clipsieve.cores import cores
from clipsieve.embed.commit import ShardWriter, states_from_footer
from clipsieve.embed.prepare import Begin, Chunk, Preparer
from clipsieve.embed.shard import EmbeddedShard, ShardBuilder
from clipsieve.errors import ShardError, StorageError
from clipsieve.formats.base import SourceConfig, WorkItem
from clipsieve.formats.registry import fingerprint, read_rows
from clipsieve.schemas.states import RowState
from clipsieve.store.records import DONE, FAILED, ShardRecord, add_record


@dataclass(frozen=True, slots=True)
class Embedder:
    """Everything a process needs to embed shards; holds the loaded model.

    Attributes:
      encoder: the model.
      writer: where and how shards are written.
      source: how to read.
      limits: sizes over which an image is refused.
      run_id: for the shard records.
      control: stop and progress.
      reprocess: write every item again, except what this run itself has written.
      threads: decoding threads.
    """

    encoder: Encoder
    writer: ShardWriter
    source: SourceConfig
    limits: ImageLimits
    run_id: str
    control: Control
    reprocess: bool = False
    threads: int = field(default_factory=cores)

    def embed(self, items: Iterable[WorkItem]) -> Iterator[ShardRecord]:
        """Read, encode, score and write each item; yields how each ended, in order.

        A shard that cannot be read ends as "failed" and the next one goes on.  Items whose files
        are there already are answered from their footers.  Once the run is stopped the shard in
        hand is finished and no other begun: the rest gets no record.

        Raises:
          DeviceError: if the device fails; shards written before stay written.
        """
        preprocess, limits = self.encoder.model.preprocess, self.limits
        written_by = self.run_id if self.reprocess else None
        left: list[WorkItem] = []
        planned = list(items)
        # A runner may hand out an item again after a worker's death.
        for item, ledger in zip(planned, self.writer.done(planned, written_by), strict=True):
            if ledger is not None:
                yield self._recorded(self._done(item, states_from_footer(ledger)))
            else:
                left.append(item)
        with (
            ThreadPoolExecutor(
                self.threads, "clipsieve-decode", initializer=decode_pool_initializer
            ) as pool,
            ThreadPoolExecutor(1, "clipsieve-write") as writer,
        ):
            preparer = Preparer(
                read=lambda item: read_rows(item, self.source),
                decode=lambda image: decode_image(image, preprocess, limits),
                tokenize=self.encoder.model.tokenize,
                pool=pool,
                cores_free=self.encoder.cores_free,
                chunk_rows=self.encoder.batch_size,
                control=self.control,
            )
            # One shard may be on its way to disk while the next is encoded, and no more: what
            # waits for the disk is memory.
            writing: Future[ShardRecord] | None = None
            try:
                for shard in self._encoded(preparer, left):
                    if writing is not None:
                        yield writing.result()
                        writing = None
                    if isinstance(shard, ShardRecord):
                        yield self._recorded(shard)
                    else:
                        writing = writer.submit(self._commit, shard, time.time())
            except StorageError:
                if writing is not None:
                    writing.exception()  # waits: what can be written is
                raise
            if writing is not None:
                yield writing.result()

    def _encoded(
        self, preparer: Preparer, items: Iterable[WorkItem]
    ) -> Iterator[EmbeddedShard | ShardRecord]:
        """Each item encoded, or the record of its failure."""
        builder: ShardBuilder | None = None
        for event in preparer.events(items):
            if isinstance(event, Begin):
                if self.control.stopped:
                    return
                item = event.item
                self.writer.require_room(item)
                builder = ShardBuilder(item, self.source, self.encoder, self.control)
            elif builder is None:  # its shard has failed already
                continue
            elif isinstance(event, Chunk):
                try:
                    builder.add(event)
                except MemoryError:
                    builder.withdraw()
                    builder = None
                    yield self._failed(item, _out_of_memory(item))
            else:
                error = event.error
                try:
                    if error is None:
                        shard = builder.finish()
                        error = _changed(item)
                except MemoryError:
                    error = _out_of_memory(item)
                if error is None:
                    yield shard
                else:
                    builder.withdraw()
                    yield self._failed(item, error)
                builder = None

    def _commit(self, shard: EmbeddedShard, since: float) -> ShardRecord:
        """Write a shard's files and its record; the model need not wait for either."""
        return self._recorded(self._written(shard, since))

    def _written(self, shard: EmbeddedShard, since: float) -> ShardRecord:
        """Write a shard's files."""
        try:
            with self.control.timing("write"):
                files = self.writer.commit(shard)
        except MemoryError:
            rows = len(shard.pairs)
            failed = rows - shard.counts().get(str(RowState.OK), 0)
            self.control.add(rows=-rows, failed_rows=-failed)
            return self._failed(shard.item, _out_of_memory(shard.item))
        self.control.add(shards=1)
        return replace(self._done(shard.item, shard.counts(), since), files=files)

    def _done(
        self, item: WorkItem, states: Mapping[str, int], since: float | None = None
    ) -> ShardRecord:
        """The record of a shard that is on disk."""
        ended = time.time()
        return ShardRecord(
            run_id=self.run_id,
            shard=item.shard,
            uri=item.uri,
            state=DONE,
            rows=sum(states.values()),
            states=states,
            seconds=round(ended - since, 3) if since is not None else 0.0,
            ended_at=ended,
        )

    def _failed(self, item: WorkItem, error: ShardError) -> ShardRecord:
        """The record of a shard that could not be read."""
        self.control.add(failed_shards=1)
        return ShardRecord(
            self.run_id, item.shard, item.uri, FAILED, error=str(error), ended_at=time.time()
        )

    def _recorded(self, record: ShardRecord) -> ShardRecord:
        """Append `record` to the run's history."""
        add_record(self.writer.folder, record)
        self.control.end(record.shard)
        return record


def _out_of_memory(item: WorkItem) -> ShardError:
    """The error of a shard that does not fit."""
    return ShardError(
        f"{item.uri}: it takes more memory than there is; cut it into smaller files, or run again "
        "with fewer --workers or a smaller --byte-budget"
    )


def _changed(item: WorkItem) -> ShardError | None:
    """The error if a source changed while it was read."""
    try:
        if fingerprint(item) == item.fingerprint:
            return None
    except ShardError as error:
        return error
    return ShardError(f"{item.uri}: changed while it was read; run again when it is at rest")
