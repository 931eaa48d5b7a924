"""Rows of finished shards that failed for a reason that may pass, to be fetched again."""

import json
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clipsieve.ingest import layout
from clipsieve.ingest.digests import as_array, first_rows, url_digests
from clipsieve.ingest.outcomes import is_worth_a_retry
from clipsieve.ingest.rows import Places, write_rows_file
from clipsieve.ingest.shard import FIRST_ROW, FIRST_SHARD, ROW, Task, remove_work
from clipsieve.store.files import LocalFiles


def retry_tasks(files: LocalFiles, finished: Sequence[int]) -> list[Task]:
    """Return the shards of which rows are fetched again; those of an interrupted run first."""
    if not files.exists(layout.RETRY_RECORD):
        _plan_retries(files, finished)
    shards: list[int] = json.loads(files.read(layout.RETRY_RECORD))["shards"]
    left = [shard for shard in shards if files.exists(layout.rows_name(shard, True))]
    if not left:
        files.delete(layout.RETRY_RECORD)
        return retry_tasks(files, finished) if shards else []
    return [Task(shard, is_retry=True) for shard in left]


def _plan_retries(files: LocalFiles, finished: Sequence[int]) -> None:
    """Write down the rows that failed for a reason that may pass, each URL once."""
    found: dict[int, tuple[list[int], list[str | None]]] = {}
    for shard in finished:
        table = pq.read_table(
            files.path(layout.shard_name(shard)), columns=["status", "error_message", "url"]
        )
        pairs = zip(table["status"].to_pylist(), table["error_message"].to_pylist(), strict=True)
        rows = [row for row, pair in enumerate(pairs) if is_worth_a_retry(*pair)]
        remove_work(files, Task(shard, is_retry=True))
        if rows:
            found[shard] = rows, table["url"].take(rows).to_pylist()
    digests = as_array(b"".join(url_digests(urls) for _, urls in found.values()))
    shards = [np.full(len(rows), shard, np.int64) for shard, (rows, _) in found.items()]
    numbers = [np.array(rows, np.int64) for rows, _ in found.values()]
    if found:
        places = Places(np.concatenate(shards), np.concatenate(numbers))
        first_shards, first_numbers = places.firsts(first_rows(digests))
        start = 0
        for shard, (rows, urls) in found.items():
            columns = {
                "url": pa.array(urls, pa.string()),
                ROW: pa.array(rows, pa.int32()),
                FIRST_SHARD: first_shards.slice(start, len(rows)),
                FIRST_ROW: first_numbers.slice(start, len(rows)),
            }
            start += len(rows)
            write_rows_file(files, layout.rows_name(shard, True), pa.table(columns))
    with files.writing(layout.RETRY_RECORD) as path:
        path.write_text(json.dumps({"shards": list(found)}), encoding="utf-8")
