"""Work items of Parquet shards: footers read, types unified, large shards cut up."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pyarrow as pa
from pyarrow import types

from clipsieve.errors import UsageError
from clipsieve.read.columns import Carried, Roles, choose_roles
from clipsieve.read.inputs import THREADS
from clipsieve.read.items import InputFormat, WorkItem
from clipsieve.read.names import shard_name
from clipsieve.read.options import ReadOptions
from clipsieve.read.parquet_scan import (
    ParquetFacts,
    carried_of,
    row_ranges,
    scan_parquet,
    unify_shards,
)
from clipsieve.read.shards import Shard, Shards
from clipsieve.read.source import SourceConfig

_IMG2DATASET = frozenset({"key", "status", "error_message"})


def plan_parquet(found: Shards, options: ReadOptions) -> tuple[list[WorkItem], SourceConfig, str]:
    """Return the items, the source and its description.

    Raises:
      UsageError: no shard can be read, types contradict each other, or a column is missing.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        scanned = _intern(list(pool.map(_scan, found.shards)))
    good = [(shard, facts) for shard, facts in scanned if facts is not None]
    if not good:
        first = scanned[0][0]
        raise UsageError(
            f"none of the {len(scanned):,} Parquet files can be read, first {first.uri}: "
            f"{first.problem}; replace them or check the path"
        )
    columns = unify_shards([(shard.uri, facts) for shard, facts in good])
    roles = choose_roles(
        columns,
        good[0][0].uri if len(good) == 1 else f"the {len(good):,} shards",
        pictures=frozenset().union(*(facts.pictures for _, facts in good)),
        image=options.image_col,
        caption=options.caption_col,
        uid=options.uid_col,
        references=options.references_col,
    )
    items: list[WorkItem] = []
    for shard, facts in scanned:
        items += _items(shard, facts, roles, options)
    carried = carried_of(columns, roles)
    huggingface = any(facts.huggingface for _, facts in good)
    flavour = "huggingface" if huggingface else "parquet"
    flavour = "img2dataset" if columns.keys() >= _IMG2DATASET and not huggingface else flavour
    source = SourceConfig(
        format=InputFormat.PARQUET,
        flavour=flavour,
        image=roles.image,
        caption=roles.caption,
        uid=roles.uid,
        references=roles.references,
        left_out=roles.pixels,
        carried=carried.schema,
        origins=carried.origins,
        uid_type=None if roles.uid is None else columns[roles.uid],
        byte_budget=options.byte_budget,
    )
    return items, source, _describe(source, columns, carried, items, len(scanned), good)


def _scan(shard: Shard) -> tuple[Shard, ParquetFacts | None]:
    if shard.problem is not None:
        return shard, None
    try:
        return shard, scan_parquet(shard.uri)
    except Exception as error:  # one damaged shard must not stop the plan
        reason = " ".join(str(error).split())
        return replace(shard, problem=f"its Parquet footer cannot be read: {reason}"), None


def _intern(
    scanned: Sequence[tuple[Shard, ParquetFacts | None]],
) -> list[tuple[Shard, ParquetFacts | None]]:
    """Return the same with one copy of equal schemas: there may be 500,000 shards."""
    known: dict[tuple[tuple[str, pa.DataType], ...], tuple[tuple[str, pa.DataType], ...]] = {}
    return [
        (shard, facts and replace(facts, columns=known.setdefault(facts.columns, facts.columns)))
        for shard, facts in scanned
    ]


def _items(
    shard: Shard, facts: ParquetFacts | None, roles: Roles, options: ReadOptions
) -> list[WorkItem]:
    name = options.shard_prefix + shard_name(shard.relative)
    problem, ranges = shard.problem, [(0, None)] if facts is None else None
    if facts is not None and roles.image not in dict(facts.columns):
        listed = ", ".join(label for label, _ in facts.columns)
        problem = f"it has no image column {roles.image!r}, only {listed}"
    limit = options.rows_per_item
    items = []
    for start, groups in ranges or row_ranges(facts.group_rows if facts else (), limit):
        rows = None
        if facts is not None:
            rows = facts.rows if groups is None else sum(facts.group_rows[slice(*groups)])
        items.append(
            WorkItem(
                shard=name if groups is None else f"{name}.r{start:09d}",
                uri=shard.uri,
                format=InputFormat.PARQUET,
                start=start,
                row_groups=groups,
                fingerprint=replace(shard.fingerprint, rows=rows),
                problem=problem,
            )
        )
    return items


def _describe(
    source: SourceConfig,
    columns: dict[str, pa.DataType],
    carried: Carried,
    items: Sequence[WorkItem],
    shards: int,
    good: Sequence[tuple[Shard, ParquetFacts]],
) -> str:
    kind = "parquet" if source.flavour == "parquet" else f"{source.flavour} parquet"
    rows = sum(facts.rows for _, facts in good)
    caption = "no captions" if source.caption is None else f"caption column {source.caption}"
    if source.caption is not None and types.is_nested(columns[source.caption]):
        caption += " (lists: the first entry is the caption)"
    parts = [
        kind,
        f"{shards:,} shard{'' if shards == 1 else 's'}",
        f"{rows:,} row{'' if rows == 1 else 's'}",
        f"image column {source.image}",
        caption,
        "no uid column" if source.uid is None else f"uid column {source.uid}",
    ]
    if source.references is not None:
        parts.append(f"references column {source.references}")
    text = ", ".join(parts)
    if len(items) > shards:
        text += f"; cut into {len(items):,} items"
    if source.left_out:
        text += f"; pixels not carried: {', '.join(source.left_out)}"
    text += renamed_note(carried)
    return text + problems_note(items)


def renamed_note(carried: Carried) -> str:
    """Return "; carried under other names: ...", or nothing."""
    pairs = ", ".join(f"{origin} as {name}" for origin, name in carried.renamed)
    return f"; carried under other names: {pairs}" if pairs else ""


def problems_note(items: Sequence[WorkItem]) -> str:
    """Return "; N unreadable, first ...", or nothing."""
    bad = [item for item in items if item.problem is not None]
    return f"; {len(bad):,} unreadable, first {bad[0].uri}: {bad[0].problem}" if bad else ""
