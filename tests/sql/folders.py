"""An output folder with every score that recipes read by default, from made-up values."""

import dataclasses

import numpy as np
import pyarrow as pa

from clipsieve.scorers.columns import REVISION, SCORER
from clipsieve.sql.views import write_sql
from clipsieve.store import names
from clipsieve.store.manifest import FamilyEntry, ScorerEntry
from clipsieve.store.parquet import nullable
from tests.store.folders import compacted, make_folder, shard_of

SHARDS = {"a": 60, "b": 40, "c": 25}
HOSTS = ["one.example", "two.example", "three.example"]
#: Written as URLs of all kinds; the host is the same.
FORMS = ["https://{}/{}.jpg", "HTTP://user@{}:8080/x/{}.png?q=a/b", "//{}/{}", "{}/{}"]
ACTIVE, BEFORE = "ac" * 4, "be" * 4


def add_scores(folder, manifest, family, columns, revision=ACTIVE):
    """Write a family with `columns` (values of all rows by name, NaN is NULL); its manifest."""
    at = 0
    for shard in folder.shards():
        uids = folder.read_table(names.samples(shard), ["uid"])["uid"].combine_chunks()
        part = slice(at, at := at + len(uids))
        fields = [
            pa.field(name, pa.float32(), metadata={SCORER: family, REVISION: revision})
            for name in columns
        ]
        values = [nullable(np.asarray(column[part], np.float32)) for column in columns.values()]
        schema = pa.schema([pa.field("uid", uids.type), *fields])
        table = pa.Table.from_arrays([uids, *values], schema=schema)
        footer = folder.read_footer(names.samples(shard))
        folder.write_table(names.scores(family, revision, shard), table, footer)
    entry = FamilyEntry(revision, {family: ScorerEntry(revision)})
    return dataclasses.replace(manifest, families={**manifest.families, family: entry})


def make_scored_folder(root, urls=True):
    """A folder of 125 rows with NULLs, ties, shared captions and hosts; two revisions of `ood`."""
    rng = np.random.default_rng(7)
    shards, row = [], 0
    for seed, (name, rows) in enumerate(SHARDS.items()):
        numbers = range(row, row + rows)
        url = [None if n % 29 == 0 else FORMS[n % 4].format(HOSTS[n % 3], n) for n in numbers]
        carried = pa.table({"url": pa.array(url, pa.string())} if urls else {"n": list(numbers)})
        shard = shard_of(name, rows, seed, carried=carried, no_image=[3, 7], no_text=[11])
        for position in range(0, rows, 6):
            if shard.pairs.captions[position] is not None:
                shard.pairs.captions[position] = ["Buy  now ", "buy\tNOW", "click here"][
                    position // 6 % 3
                ]
        shards.append(shard)
        row += rows
    folder, manifest = make_folder(root, shards, wide=False)
    density = np.round(rng.gamma(2.0, size=row), 1)  # ties
    density[[5, 50, 90]] = np.nan
    before, after = rng.normal(size=row), rng.normal(size=row)
    after[10:] = before[10:] + rng.normal(scale=0.1, size=row - 10)
    before[[1, 70]] = after[[2, 70, 99]] = np.nan
    manifest = add_scores(folder, manifest, "density", {"density_kdist": density})
    manifest = add_scores(folder, manifest, "ood", {"ood_msp": before}, BEFORE)
    manifest = add_scores(folder, manifest, "ood", {"ood_msp": after})
    _, manifest = compacted(folder, manifest)
    folder.save_manifest(manifest)
    write_sql(folder, manifest)
    return folder, manifest
