"""Output in an object store: requests a shard, and rows a second against output on the disk.

    python benchmarks/stores.py /tmp/stores-bench --before TREE
    python benchmarks/stores.py /tmp/stores-bench --shards 8 --rows 2500 --latency 0.05 --rounds 3

The store is the S3 server of `tests/object_stores`, on loopback, which counts requests and answers
late on request; sources are local.

Requests: `clipsieve run` on 20 and on 40 shards of 8 rows, then the same command again, which
finds nothing to do.  What 20 shards more cost is a shard's, the rest is the cost of a run itself.
With `--before`, the tree of another version, both versions are counted.

Rate: the whole job on disk and in the store, in turns, in one process.  A shard of 2,500 rows takes
the tiny model about as long as a GPU at 4,000 rows a second takes for the 10,000 rows that
img2dataset puts in a shard: so many requests a second has a store to bear.  Seconds of each stage
say where the time goes.
"""

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pyarrow as pa
import pyarrow.parquet as pq

from clipsieve.demo.shards import write_benchmark_shards, write_shards
from clipsieve.job.reporter import Reporter
from clipsieve.job.run import run
from clipsieve.pipelines.engine import BeamEngine
from clipsieve.settings import RunConfig
from clipsieve.stage import Element, Report, Stage
from tests.object_stores.server import BUCKET, S3Server, kinds, s3_server

ROOT = Path(__file__).resolve().parents[1]
_FEW, _MANY, _COUNTED_ROWS = 20, 40, 8
_KINDS = ("PUT", "GET", "HEAD", "LIST", "POST", "DELETE")
#: What an object is for, by its name in the output folder; the first that matches.
_PURPOSES = (
    ("lock", r"\.lock/"),
    ("record of a shard", r"_runs/[^/]*\.shards(/|\.jsonl)"),
    ("what is known of files", r"_runs/(files|footers)\.parquet"),
    ("report of a stage", r"_runs/.*\.tmp-"),
    ("run and manifest", r"_runs/|dataset\.json"),
    ("ledger", r"samples/"),
    ("embeddings", r"embeddings/"),
    ("scores of embed", r"scores/clip/"),
    ("scores from storage", r"scores/"),
    ("wide table", r"wide/"),
    ("prompts and fits", r"(prompts|fits|audits)/"),
    ("SQL", r"sql/"),
)


def main() -> None:
    """Print what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="sources are kept here")
    parser.add_argument("--before", type=Path, help="tree of a version to compare requests with")
    parser.add_argument("--what", default="requests,rate")
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--rows", type=int, default=2_500, help="of a shard")
    parser.add_argument("--latency", type=float, default=0.05, help="seconds added to each request")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    with s3_server() as server:
        if "requests" in options.what:
            trees = {"before": options.before} if options.before is not None else {}
            for name, tree in {**trees, "after": ROOT}.items():
                count(server, options.folder, tree, name)
        if "rate" in options.what:
            server.set_latency(0)
            rate(server, options)


# Requests


def count(server: S3Server, folder: Path, tree: Path, version: str) -> None:
    """Print the requests of a first run and of one with nothing to do."""
    requests: dict[tuple[str, int], Counter[tuple[str, str]]] = {}
    for shards in (_FEW, _MANY):
        source, out = folder / f"counted-{shards}", f"s3://{BUCKET}/{version}-{shards}"
        if not source.exists():
            write_shards(source, rows=shards * _COUNTED_ROWS, shards=shards)
        for job in ("first run", "nothing to do"):
            server.requests()
            words = ("run", str(source), out, "--model", "tiny", "--dtype", "float32")
            clipsieve(tree, words)
            requests[job, shards] = purposes(server.requests(), out)
    for job in ("first run", "nothing to do"):
        few, many = requests[job, _FEW], requests[job, _MANY]
        print(f"\n{version}, {job}: requests a shard, and those of a run")
        print(
            f"  {'':24}" + "".join(f"{kind:>8}" for kind in _KINDS) + f"{'a shard':>9}{'a run':>7}"
        )
        rows = [name for name, _ in _PURPOSES] + ["listings", "other"]
        total = [0.0, 0.0]
        for name in rows:
            slopes = [(many[name, kind] - few[name, kind]) / (_MANY - _FEW) for kind in _KINDS]
            constant = sum(few[name, kind] for kind in _KINDS) - _FEW * sum(slopes)
            total = [total[0] + sum(slopes), total[1] + constant]
            if any(many[name, kind] for kind in _KINDS):
                shown = "".join(f"{slope:8.2f}" if slope else f"{'':8}" for slope in slopes)
                print(f"  {name:24}{shown}{sum(slopes):9.2f}{constant:7.0f}")
        print(f"  {'all':24}{'':48}{total[0]:9.2f}{total[1]:7.0f}", flush=True)


def purposes(requests: Sequence[str], out: str) -> Counter[tuple[str, str]]:
    """Return how many requests there are, by what they are for and their kind."""
    prefix = "/" + out.removeprefix("s3://") + "/"
    counts: Counter[tuple[str, str]] = Counter()
    for request in requests:
        (kind,) = kinds([request])
        path = request.split(" ")[1]
        name = "listings" if kind == "LIST" else "other"
        if path.startswith(prefix):
            inside = path.removeprefix(prefix)
            name = next((n for n, pattern in _PURPOSES if re.match(pattern, inside)), name)
        counts[name, kind] += 1
    return counts


def clipsieve(tree: Path, words: Sequence[str]) -> None:
    """Run a command of the version in `tree`."""
    environment = {**os.environ, "PYTHONPATH": f"{tree / 'src'}{os.pathsep}{tree}"}
    command = [sys.executable, "-m", "clipsieve.cli", *words]
    done = subprocess.run(
        command, env=environment, cwd=tree, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr[-3000:]}")


# Rate


@dataclass
class TimedEngine:
    """Runs stages, and keeps how long each took.

    Attributes:
      engine: runs them.
      seconds: by the name of the stage.
    """

    engine: BeamEngine
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    is_local = True

    def run(self, stage: Stage, elements: Sequence[Element], here: bool = False) -> Report:
        """Run a stage; see `clipsieve.stage.Engine`."""
        start = time.perf_counter()
        report = self.engine.run(stage, elements, here)
        self.seconds[stage.name] += time.perf_counter() - start
        return report


def rate(server: S3Server, options: argparse.Namespace) -> None:
    """Compare the whole job on disk with the same in the store."""
    source = make_source(options.folder, options.shards, options.rows)
    rows = options.shards * options.rows
    rates: dict[str, list[float]] = {"disk": [], "store": []}
    stages: dict[str, list[dict[str, float]]] = {"disk": [], "store": []}
    job(str(source), str(options.folder / "warm"), 0)
    shutil.rmtree(options.folder / "warm")
    for number in range(options.rounds):
        for place in ("disk", "store"):
            out = str(options.folder / "out")
            shutil.rmtree(out, ignore_errors=True)
            if place == "store":
                out = f"s3://{BUCKET}/rate-{number}"
                server.set_latency(options.latency)
            spent = job(str(source), out, rows)
            server.set_latency(0)
            rates[place].append(rows / spent["all"])
            stages[place].append(spent)
    print(
        f"\n{options.shards} shards of {options.rows:,} rows, {options.latency * 1e3:.0f} ms added "
        "to each request"
    )
    for place, values in rates.items():
        shown = ", ".join(f"{value:.0f}" for value in values)
        print(f"  {place:6}{statistics.median(values):8.0f} rows/s   ({shown})")
    pairs = [store / disk for store, disk in zip(rates["store"], rates["disk"], strict=True)]
    shown = ", ".join(f"{value:.2f}" for value in pairs)
    print(f"  store / disk: {statistics.median(pairs):.2f}   ({shown})")
    for name in stages["store"][0]:
        disk, store = (_median(spent[name] for spent in stages[p]) for p in ("disk", "store"))
        print(f"  {name:24}{disk:8.2f} s {store:8.2f} s   {store - disk:+.2f}")


def _median(values: Iterable[float]) -> float:
    return statistics.median(values)


def job(source: str, out: str, rows: int) -> dict[str, float]:
    """Run the whole job; seconds of each stage, of what is between them, and of all."""
    config = RunConfig(inputs=(source,), out=out, model="tiny", dtype="float32")
    engine = TimedEngine(BeamEngine())
    start = time.perf_counter()
    result = run(config, engine, _Silent())
    seconds = time.perf_counter() - start
    assert result.exit_code == 0 and rows in (0, result.counts.rows)
    return {**engine.seconds, "between": seconds - sum(engine.seconds.values()), "all": seconds}


def make_source(folder: Path, shards: int, rows: int) -> Path:
    """Return a folder of shards with the same pictures under other uids."""
    first, source = folder / f"pictures-{rows}", folder / f"shards-{shards}-{rows}"
    if not first.exists():
        write_benchmark_shards(first, rows=rows, shards=1, seed=1, processes=2)
    if not source.exists():
        table = pq.read_table(next(first.glob("*.parquet")))
        at = table.column_names.index("uid")
        source.mkdir()
        for shard in range(shards):
            uids = pa.array([f"{shard:04x}{uid[4:]}" for uid in table["uid"].to_pylist()])
            own = table.set_column(at, "uid", uids)
            pq.write_table(own, source / f"{shard:05}.parquet", row_group_size=100)
    return source


class _Silent(Reporter):
    """Says nothing."""

    def report(self, event: str, text: str, **fields: Any) -> None:
        """Nothing."""

    def report_lines(self, event: str, lines: Sequence[str], **fields: Any) -> None:
        """Nothing."""


if __name__ == "__main__":
    main()
