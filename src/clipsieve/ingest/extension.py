"""A further list into shards that are there: its new rows, and the URLs that it lacks."""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clipsieve.errors import UsageError
from clipsieve.ingest import layout
from clipsieve.ingest.digests import (
    Digests,
    as_array,
    first_rows,
    is_among,
    row_digests,
    unmatched,
    url_digests,
)
from clipsieve.ingest.record import Record, TakenList, write_record
from clipsieve.ingest.rows import Places, listed_tables, new_places, write_rows
from clipsieve.ingest.scan import Scan, StoppableList
from clipsieve.store.files import LocalFiles
from clipsieve.versions import __version__


def gone_name(taken: TakenList) -> str:
    """Name the file of URLs that a list does not have any more."""
    return f"{layout.ROOM}/gone-{taken.hash[:8]}.txt"


def extended_plan(urls: StoppableList, scan: Scan, files: LocalFiles, record: Record) -> Record:
    """Write down the rows of a further list that the shards do not have, and the URLs gone."""
    columns = {field.name: str(field.type) for field in urls.schema}
    if columns != record.columns:
        raise UsageError(
            f"the list has columns {_words(columns)}, the shards in {files.root} have "
            f"{_words(record.columns)}; name the same with url_col, caption_col and carry"
        )
    places, held_rows, held_urls = _held(files, record, urls.schema.names)
    is_gone, is_new = unmatched(held_rows, scan.rows)
    is_gone &= ~is_among(held_urls, scan.urls)
    count = int(is_new.sum())
    added = new_places(count, record.shards, record.rows_per_shard)
    firsts = first_rows(np.concatenate([held_urls, scan.urls[is_new]]))
    places_of_firsts = (places + added).firsts(firsts, len(held_urls))
    write_rows(files, urls, is_new, added, places_of_firsts)
    shards = -(-count // record.rows_per_shard)
    taken = TakenList(scan.hash, len(scan.urls), count, record.shards, shards)
    if is_gone.any():
        _write_gone(files, record, taken, is_gone)
    record = record.with_list(taken, __version__)
    write_record(files, record)
    return record


def _words(columns: Mapping[str, str]) -> str:
    return ", ".join(f"{name} ({kind})" for name, kind in columns.items())


def _held(
    files: LocalFiles, record: Record, names: Sequence[str]
) -> tuple[Places, Digests, Digests]:
    """Return place, and digests of the row and the URL, of every row that a folder has."""
    by_row, by_url, shards, rows = bytearray(), bytearray(), [], []
    for shard, table in enumerate(listed_tables(files, record, names)):
        by_row += row_digests(table)
        by_url += url_digests(table["url"].to_pylist())
        shards.append(np.full(len(table), shard, np.int64))
        rows.append(np.arange(len(table), dtype=np.int64))
    places = Places(np.concatenate(shards), np.concatenate(rows))
    return places, as_array(by_row), as_array(by_url)


def _write_gone(
    files: LocalFiles, record: Record, taken: TakenList, is_gone: NDArray[np.bool_]
) -> None:
    """Write the URLs that no row of the new list has, one a line."""
    start = 0
    seen: dict[str, None] = {}
    for table in listed_tables(files, record, ["url"]):
        mask = is_gone[start : start + len(table)]
        start += len(table)
        for url in table["url"].filter(pa.array(mask)).to_pylist():
            if url is not None and url.strip() and url.isprintable():
                seen.setdefault(url)
    if seen:
        with files.writing(gone_name(taken)) as path:
            path.write_text("".join(f"{url}\n" for url in seen), encoding="utf-8")
