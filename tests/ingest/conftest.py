from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import clipsieve
from clipsieve.ingest.job import IngestResult
from tests.ingest.server import Site, serving


@pytest.fixture
def site() -> Iterator[Site]:
    with serving() as site:
        yield site


class Ingesting:
    """A list, a folder of shards, and the settings of a test."""

    def __init__(self, tmp_path: Path) -> None:
        self.path = tmp_path
        self.list = tmp_path / "list.parquet"
        self.shards = tmp_path / "shards"

    def write(self, urls: list[Any], **columns: list[Any]) -> None:
        captions = columns.pop("caption", [f"picture {row}" for row in range(len(urls))])
        table = {"url": pa.array(urls, pa.string()), "caption": captions, **columns}
        pq.write_table(pa.table(table), self.list)

    def __call__(self, **settings: Any) -> IngestResult:
        given = {"allow_ranges": "127.0.0.0/8", "processes": 1, "rows_per_shard": 10, **settings}
        return clipsieve.ingest(self.list, self.shards, **given)

    def files(self) -> dict[str, bytes]:
        """Bytes of all shards."""
        return {path.name: path.read_bytes() for path in sorted(self.shards.glob("*.parquet"))}

    def rows(self) -> list[dict[str, Any]]:
        """All rows, in order."""
        tables = [pq.read_table(path) for path in sorted(self.shards.glob("*.parquet"))]
        return [row for table in tables for row in table.to_pylist()]

    def left(self) -> list[str]:
        """What is in the room of ingest beside its record."""
        return sorted(path.name for path in (self.shards / "_ingest").glob("*"))


@pytest.fixture
def ingesting(tmp_path: Path) -> Ingesting:
    return Ingesting(tmp_path)
