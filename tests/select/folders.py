"""Output folders whose source columns are random numbers, and what a predicate keeps of them."""

import random

import numpy as np
import pyarrow as pa

from clipsieve.job.compact import compact
from clipsieve.job.filter import filter_rows
from clipsieve.job.filter_settings import FilterSettings
from clipsieve.settings import ScoreConfig
from clipsieve.stage import Report
from tests.store.folders import make_folder, shard_of


def random_column(rng, kind, rows):
    """Values of one type with ties, NULLs and, for floats, NaN."""
    if kind == "constant":
        values = np.full(rows, 0.25, np.float32)
    elif kind.startswith("float"):
        values = rng.normal(size=rows).round(int(rng.integers(1, 7))).astype(kind)
        values[rng.random(rows) < 0.05] = np.nan
    else:
        values = rng.integers(-20 if kind[0] == "i" else 0, 30, rows).astype(kind)
    return pa.array(values, mask=rng.random(rows) < rng.choice([0.0, 0.1, 0.6]))


def random_folder(root, seed, kind, shards=4, most_rows=60):
    """A folder with columns `x` (of `kind`) and `g` (text, with NULLs), over several shards."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(shards):
        rows = int(rng.integers(1, most_rows))
        groups = [None if n == 0 else f"group {n}" for n in rng.integers(0, 5, rows)]
        carried = pa.table(
            {"x": random_column(rng, kind, rows), "g": pa.array(groups, pa.string())}
        )
        made.append(shard_of(f"s{number}", rows, seed=number, carried=carried))
    folder, _ = make_folder(root, made, wide=False)
    compact(str(root), InProcess())
    return folder


class InProcess:
    """Runs a stage in this process, its reports added up in a random order."""

    is_local = True

    def __init__(self, seed=0):
        self._rng = random.Random(seed)

    def run(self, stage, elements, here=False):
        texts = [element.text for element in elements]
        self._rng.shuffle(texts)
        return stage.finish(sum(stage.open().work(texts), Report()))


def column(folder, name):
    """Values of a source column over all shards, None for NULL and NaN."""
    values = [
        value
        for shard in folder.shards()
        for value in folder.read_table(f"samples/{shard}.parquet", [name])[name].to_pylist()
    ]
    return [None if value != value else value for value in values]


def kept_rows(folder, subset):
    """For every row of the ledger in order, whether a subset keeps it."""
    kept = []
    for shard in folder.shards():
        rows = folder.read_table(f"samples/{shard}.parquet", ["row"])["row"].to_pylist()
        name = f"{subset.path}/kept/{shard}.parquet".removeprefix(f"{folder.root}/")
        own = set(folder.read_table(name)["row"].to_pylist())
        kept += [row in own for row in rows]
    return kept


def filtered(folder, name, where=None, seed=0, **settings):
    """Filter a folder in this process, shards in a random order."""
    config = ScoreConfig(out=folder.root)
    given = FilterSettings(name=name, where=where, **settings)
    return filter_rows(config, lambda: InProcess(seed), given)
