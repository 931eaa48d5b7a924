"""What is done in an output folder, what is left, what failed and why."""

import json
from collections.abc import Iterator

from clipsieve.embed.commit import source_footer
from clipsieve.pipelines.plan import plan_inputs_again
from clipsieve.schemas import footers
from clipsieve.statistics.counts import RowCounts
from clipsieve.store import dataset as datasets
from clipsieve.store.dataset import Dataset
from clipsieve.store.layout import Layout
from clipsieve.store.parquet import read_footer
from clipsieve.store.runs import FAILED, SCORED, read_records


def report(out: str) -> Iterator[str]:
    """Lines of the report, from footers and records; reads no rows.

    Raises:
      UsageError: if the folder holds no dataset.
    """
    layout = Layout.at(out)
    dataset = datasets.require(layout)
    model = dataset.model
    yield f"{layout.root}: {model['model']} {model['pretrained'] or ''} in {model['dtype']}"
    yield f"families: {', '.join(sorted(dataset.families)) or 'none'}"
    items = plan_inputs_again(dataset)
    last = {r.shard: r for r in read_records(layout) if r.state != SCORED}
    counts = RowCounts()
    left, failed = [], []
    for item in items:
        footer = read_footer(layout.samples(item.shard))
        source = source_footer(item, None)
        unchanged = footer.get(footers.SOURCE_FINGERPRINT) == source[footers.SOURCE_FINGERPRINT]
        if footer and unchanged:
            states = json.loads(footer[footers.STATES])
            counts = counts + RowCounts(states, shards=1)
        elif item.shard in last and last[item.shard].state == FAILED:
            failed.append(last[item.shard])
        else:
            left.append(item)
    yield f"done: {counts.shards} of {len(items)} shards, {counts.rows:,} rows"
    for state, rows in sorted(counts.states.items(), key=lambda pair: -pair[1]):
        yield f"  {state}: {rows:,}"
    yield f"left: {len(left)} shards" + (f", from {left[0].shard}" if left else "")
    yield f"failed: {len(failed)} shards"
    for record in failed:
        yield f"  {record.shard}: {record.error}"
    wide = dataset.wide
    if wide:
        yield f"scores view: {wide['rows']:,} rows{_behind(layout, dataset, counts)}"


def _behind(layout: Layout, dataset: Dataset, counts: RowCounts) -> str:
    """What to do if the scores view lacks rows that are in the ledger, or nothing."""
    if dataset.wide["rows"] == counts.rows:
        return ""
    shards = [path.stem for path in (layout.root / "samples").glob("*.parquet")]
    lacking = [
        family
        for family, revision in sorted(dataset.families.items())
        if not all(layout.scores(family, revision, shard).exists() for shard in shards)
    ]
    cure = f"score {layout.root} --scorers {','.join(lacking)}" if lacking else "compact"
    return f"; it is behind: run `clipsieve {cure}`"
