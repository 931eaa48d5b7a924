"""What a shard costs the driver: many shards of a few rows, on disk and in an object store.

    python benchmarks/scale.py /tmp/scale-bench --shards 10000 --store-shards 2000 --rounds 3

Shards are made by `clipsieve run` itself with made-up embeddings in the place of the model's: every
file, footer, record, score and the wide table is as a run leaves it, and a run that comes after
finds nothing to do, which is checked.  The store is the S3 server of `tests/object_stores`, on
loopback; sources are local.

The steps are done on a folder of `--shards` and on one of a tenth of them, in turns, each time by a
new process.  It does every step on a folder of ten shards first, so that imports are not counted,
gives memory back to the system, and resets the kernel's mark of its peak memory.  Printed are
medians: seconds, processor time and requests a shard, by how much longer ten times the shards take
by the clock and by the processor, and by how much peak memory grows.

Ends with exit code 1 if a step takes more than `--limit` times the processor time for ten times the
shards: the clock also counts what else the machine does.
"""

import argparse
import ctypes
import gc
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clipsieve.control import Control
from clipsieve.embed.job import EmbedStage
from clipsieve.embed.shard import EmbeddedShard
from clipsieve.formats.base import WorkItem
from clipsieve.job.compact import compact
from clipsieve.job.plan import make_plan
from clipsieve.job.reconcile import reconcile_folder
from clipsieve.job.reporter import Reporter
from clipsieve.job.run import run
from clipsieve.pipelines.engine import BeamEngine
from clipsieve.schemas.states import RowState
from clipsieve.scorers.base import Embedded, PairBatch
from clipsieve.settings import RunConfig
from clipsieve.sql.connect import run_query
from clipsieve.stage import Element, Report, Stage
from clipsieve.statistics.counts import RowCounts
from clipsieve.store import footer_cache, names
from clipsieve.store.folder import OutputFolder
from clipsieve.store.records import DONE, ShardRecord, add_record
from tests.object_stores.server import BUCKET, S3Server, kinds, s3_server

#: Shards of the folder on which a process warms up.
_WARM = 10
#: A family that comes with the embeddings, and one from storage.
_SCORERS = ("clip", "ood.zero_shot")
_MIB = 1 << 20


@dataclass(frozen=True)
class Place:
    """An output folder and its sources.

    Attributes:
      shards: how many.
      source: folder of the sources.
      out: the output folder.
    """

    shards: int
    source: str
    out: str

    def config(self) -> RunConfig:
        """Return the settings of the run that made it."""
        return RunConfig(
            inputs=(self.source,), out=self.out, model="tiny", dtype="float32", scorers=_SCORERS
        )


@dataclass(frozen=True)
class Cost:
    """What a step took.

    Attributes:
      seconds: of the clock.
      processor: seconds of the processor.
      memory: bytes of resident memory before it.
      growth: bytes by which its peak of resident memory was above what it had before.
      requests: to the store, by what they are.
    """

    seconds: float
    processor: float
    memory: int
    growth: int
    requests: dict[str, int]


def main() -> int:
    """Print a table for the disk and one for the store."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="sources and output are kept here")
    parser.add_argument("--shards", type=int, default=10_000, help="on disk; 0 is none")
    parser.add_argument("--store-shards", type=int, default=2_000, help="in the store; 0 is none")
    parser.add_argument("--rows", type=int, default=4, help="of a shard")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--store-rounds", type=int, default=1)
    parser.add_argument("--limit", type=float, default=11.0, help="most for ten times the shards")
    parser.add_argument("--steps", default="", help="only these, separated by commas")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        steps, places = options.child
        place, warm = (Place(**each) for each in json.loads(places))
        costs = {step: vars(_measured(step, place, warm)) for step in steps.split(",")}
        print(json.dumps(costs))
        return 0
    steps = options.steps.split(",") if options.steps else list(STEPS)
    options.folder.mkdir(parents=True, exist_ok=True)
    ratios: list[float] = []
    if options.shards:
        root = str(options.folder.absolute() / "out")
        ratios += compare("on disk", options, options.shards, root, steps)
    if options.store_shards:
        with s3_server():
            root, options.rounds = f"s3://{BUCKET}/out", options.store_rounds
            ratios += compare("in the store", options, options.store_shards, root, steps)
    return int(max(ratios) > options.limit)


def compare(
    where: str, options: argparse.Namespace, shards: int, root: str, steps: Sequence[str]
) -> list[float]:
    """Measure all steps with a tenth of the shards and with all; print them, return the ratios."""
    places = [
        make_place(options.folder, root, count, options.rows)
        for count in (_WARM, shards // 10, shards)
    ]
    warm, few, many = places
    costs: dict[tuple[str, int], list[Cost]] = {}
    for _ in range(options.rounds):
        own = [step for step in steps if "://" in root or step not in _OF_STORES]
        for place in (few, many):
            for step, cost in _in_process(own, place, warm).items():
                costs.setdefault((step, place.shards), []).append(cost)
    print(f"\n{few.shards:,} and {many.shards:,} shards of {options.rows} rows {where}")
    print(
        f"{'':24} {'seconds':>15} {'ms a shard':>15} {'of processor':>15} {'ratio':>11} "
        f"{'MiB':>12} {'KiB/shard':>9} {'requests a shard':>16}"
    )
    ratios = []
    for step in (step for step in steps if (step, few.shards) in costs):
        small, large = (_median(costs[step, place.shards]) for place in (few, many))
        ratios.append(large.processor / small.processor)
        pairs = ((small, few), (large, many))
        milliseconds = [cost.seconds / place.shards * 1e3 for cost, place in pairs]
        processor = [cost.processor / place.shards * 1e3 for cost, place in pairs]
        grown = (large.growth - small.growth) / (many.shards - few.shards) / 1024
        count = sum(large.requests.values())
        print(
            f"{step:24} {small.seconds:7.2f} {large.seconds:7.2f} "
            f"{milliseconds[0]:7.2f} {milliseconds[1]:7.2f} "
            f"{processor[0]:7.2f} {processor[1]:7.2f} "
            f"{large.seconds / small.seconds:5.1f} {ratios[-1]:5.1f} "
            f"{small.growth / _MIB:5.0f} {large.growth / _MIB:6.0f} {grown:9.1f} "
            + (f"{count / many.shards:8.2f} of {count:,}" if count else "")
        )
        shown = ", ".join(f"{cost.seconds:.2f}" for cost in costs[step, many.shards])
        kind = ", ".join(f"{name} {number:,}" for name, number in large.requests.items())
        print(f"{'':24} ({shown})  {kind}", flush=True)
    return ratios


# The steps; each is given its place, and what is done before is not counted.


def _plan(place: Place) -> Callable[[], Any]:
    folder = OutputFolder.open(place.out)
    config = place.config()
    manifest = folder.load_manifest()

    def step() -> None:
        control = Control(out=place.out)
        plan = make_plan(config, folder, manifest, BeamEngine(), _Silent(), control, True)
        assert len(plan.done) == place.shards and not plan.todo

    return step


def _plan_without_footers(place: Place) -> Callable[[], Any]:
    """Nobody has read the footers yet, as after a run that was killed."""
    OutputFolder.open(place.out).files.delete(names.FOOTERS)
    return _plan(place)


def _resume(place: Place) -> Callable[[], Any]:
    def step() -> None:
        result = run(place.config(), BeamEngine(), _Silent())
        assert (result.exit_code, result.done, result.skipped) == (0, 0, place.shards)

    return step


def _reconcile(place: Place, quick: bool = False) -> Callable[[], Any]:
    def step() -> None:
        accounts = reconcile_folder(place.out, quick).accounts
        assert len(accounts) == place.shards and not any(each.problems for each in accounts)

    return step


def _compact(place: Place) -> Callable[[], Any]:
    return lambda: compact(place.out, BeamEngine(), _Silent())


def _compact_anew(place: Place) -> Callable[[], Any]:
    folder = OutputFolder.open(place.out)
    with folder.lock():
        folder.files.delete_folder(names.WIDE)
    return _compact(place)


def _count(view: str) -> Callable[[Place], Callable[[], Any]]:
    def prepared(place: Place) -> Callable[[], Any]:
        def step() -> None:
            answer = run_query(place.out, f"SELECT count(*), count(uid) FROM {view}")
            assert answer is not None and answer.rows[0][0] >= place.shards

        return step

    return prepared


STEPS: dict[str, Callable[[Place], Callable[[], Any]]] = {
    "plan": _plan,
    "plan without footers": _plan_without_footers,
    "run with nothing to do": _resume,
    "reconcile": _reconcile,
    "reconcile --quick": lambda place: _reconcile(place, True),
    "compact nothing new": _compact,
    "compact anew": _compact_anew,
    "SQL count of scores": _count("scores"),
    "SQL count of samples": _count("samples"),
}
#: Steps that on a disk are the same as another one.
_OF_STORES = ("plan without footers",)


def _in_process(steps: Sequence[str], place: Place, warm: Place) -> dict[str, Cost]:
    """Return what each step takes in a new process."""
    places = json.dumps([vars(place), vars(warm)])
    command = [sys.executable, __file__, ".", "--child", ",".join(steps), places]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{place.out}: {done.stderr[-3000:]}")
    costs = json.loads(done.stdout.splitlines()[-1])
    return {step: Cost(**cost) for step, cost in costs.items()}


def _measured(step: str, place: Place, warm: Place) -> Cost:
    """Return what a step takes here, after the same on a small folder."""
    STEPS[step](warm)()
    todo = STEPS[step](place)
    footer_cache._caches.clear()  # what a step before has read
    server = S3Server(os.environ["AWS_ENDPOINT_URL"]) if "://" in place.out else None
    if server is not None:
        server.requests()
    gc.collect()
    pa.default_memory_pool().release_unused()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is the present
    before = _memory("VmRSS")
    clock, processor = time.perf_counter(), time.process_time()
    todo()
    seconds, used = time.perf_counter() - clock, time.process_time() - processor
    growth = _memory("VmHWM") - before
    requests = Counter() if server is None else kinds(server.requests())
    return Cost(seconds, used, before, growth, dict(sorted(requests.items())))


def _memory(key: str) -> int:
    """Bytes of resident memory of this process as Linux counts them, now or at its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    line = next(line for line in lines if line.startswith(key))
    return int(line.split()[1]) * 1024


def _median(costs: Sequence[Cost]) -> Cost:
    """Return the medians of some rounds, with the requests of the last."""
    return Cost(
        statistics.median(cost.seconds for cost in costs),
        statistics.median(cost.processor for cost in costs),
        int(statistics.median(cost.memory for cost in costs)),
        int(statistics.median(cost.growth for cost in costs)),
        costs[-1].requests,
    )


# The folders


def make_place(folder: Path, root: str, shards: int, rows: int) -> Place:
    """Return an output folder of so many shards; it is made unless it is there."""
    place = Place(shards, str(folder / f"sources-{shards}-{rows}"), f"{root}-{shards}-{rows}")
    if not Path(place.source).exists():
        with _whole(Path(place.source)) as unfinished:
            for shard in range(shards):
                write_source(unfinished / f"{shard:06}.parquet", shard, rows)
    if OutputFolder.open(place.out).load_manifest() is None:
        start = time.perf_counter()
        result = run(place.config(), SyntheticEngine(BeamEngine()), _Silent())
        assert (result.exit_code, result.done) == (0, shards)
        seconds = time.perf_counter() - start
        print(
            f"{place.out}: {shards:,} shards in {seconds:.1f} s, {seconds / shards * 1e3:.1f} ms a "
            f"shard, {result.encode_seconds / shards * 1e3:.1f} of them to write and record it",
            file=sys.stderr,
            flush=True,
        )
    return place


@contextmanager
def _whole(folder: Path) -> Iterator[Path]:
    """Give a folder that gets its name when all is in it."""
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    yield unfinished
    unfinished.rename(folder)


def write_source(path: Path, shard: int, rows: int) -> None:
    """Write a source as img2dataset does, with pictures that nobody decodes."""
    numbers = range(shard * rows, (shard + 1) * rows)
    columns = {
        "uid": [f"{number:032x}" for number in numbers],
        "url": [f"https://example.org/{number}.jpg" for number in numbers],
        "caption": [f"a photo of thing {number * 7919 % 1000}" for number in numbers],
        "jpg": [b"picture"] * rows,
    }
    pq.write_table(pa.table(columns), path)


@dataclass(frozen=True)
class SyntheticEngine:
    """Runs all stages as they are, but the embed stage with made-up vectors.

    Attributes:
      engine: runs the others.
    """

    engine: BeamEngine
    is_local = True

    def run(self, stage: Stage, elements: Sequence[Element], here: bool = False) -> Report:
        """Run a stage; see `clipsieve.stage.Engine`."""
        if not isinstance(stage, EmbedStage):
            return self.engine.run(stage, elements, here)
        writer = stage.writer("cpu", 100.0)
        total = RowCounts()
        for element in elements:
            item = WorkItem.from_json(element.text)
            shard = synthetic_shard(item, stage)
            states = shard.counts()
            record = ShardRecord(
                run_id=stage.run_id,
                shard=item.shard,
                uri=item.uri,
                state=DONE,
                rows=len(shard.pairs),
                states=states,
                ended_at=time.time(),
                files=writer.commit(shard),
            )
            add_record(writer.folder, record)
            total += RowCounts(states, 1)
        return Report(tuple(element.name for element in elements), rows=total)


def synthetic_shard(item: WorkItem, stage: EmbedStage) -> EmbeddedShard:
    """Return a source with vectors that its name decides."""
    table = pq.read_table(item.uri, columns=["uid", *stage.source.carried.names, "caption"])
    rows = len(table)
    rng = np.random.default_rng(int(item.shard))
    image, text = rng.standard_normal((2, rows, stage.model.dim)).astype(np.float32)
    valid = np.ones(rows, bool)
    return EmbeddedShard(
        item=item,
        pairs=PairBatch(
            table["uid"].combine_chunks(),
            Embedded(image, valid),
            {"": Embedded(text, valid)},
            captions=table["caption"].to_pylist(),
            shard=item.shard,
        ),
        states=[RowState.OK] * rows,
        errors=[None] * rows,
        widths=np.full(rows, 256, np.int32),
        heights=np.full(rows, 256, np.int32),
        digests=[rng.bytes(32) for _ in range(rows)],
        phashes=np.ma.masked_array(rng.integers(0, 1 << 60, rows).astype(np.uint64), False),
        carried=table.select(stage.source.carried.names).cast(stage.source.carried),
    )


class _Silent(Reporter):
    """Says nothing."""

    def report(self, event: str, text: str, **fields: Any) -> None:
        """Nothing."""

    def report_lines(self, event: str, lines: Sequence[str], **fields: Any) -> None:
        """Nothing."""


if __name__ == "__main__":
    sys.exit(main())
