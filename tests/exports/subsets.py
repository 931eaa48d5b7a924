"""Subsets of real output folders, written without the filter."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from clipsieve.schemas import footers
from clipsieve.schemas.subsets import kept_schema
from clipsieve.store import names
from clipsieve.store.canonical import short_hash
from clipsieve.store.folder import OutputFolder
from clipsieve.store.subsets import Subset

Row = Mapping[str, Any]


def make_subset(out: Path, name: str, keeps: Callable[[Row], bool]) -> Subset:
    """Write the subset of the ledger's rows for which `keeps` is true."""
    tables = {}
    folder = OutputFolder.open(out)
    for shard in folder.shards():
        ledger = folder.read_table(names.samples(shard))
        schema = kept_schema(ledger.schema.field("uid").type)
        mask = [keeps(row) for row in ledger.to_pylist()]
        tables[shard] = ledger.filter(pa.array(mask, pa.bool_())).select(schema.names).cast(schema)
    return write_subset(out, name, tables)


def write_subset(out: Path, name: str, kept: Mapping[str, pa.Table]) -> Subset:
    """Write a subset of these rows: uid, shard and row by shard."""
    folder = OutputFolder.open(out)
    revision = short_hash([name, [table.to_pylist() for table in kept.values()]])
    for shard, table in kept.items():
        footer = {footers.ROWS: str(table.num_rows)}
        folder.write_table(names.kept(name, revision, shard), table, footer)
    total = sum(table.num_rows for table in kept.values())
    subset = Subset(name, revision, {"where": name}, (), total, total, 0)
    folder.write_json(names.subset_manifest(name), subset.to_json())
    return subset
