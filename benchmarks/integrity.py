"""What checksums cost when files are written, and how fast `reconcile` reads a thousand shards.

    python benchmarks/integrity.py /tmp/integrity-bench --rounds 3

Cost: the three tables of a shard (ledger, float16 vectors of 512, scores) written as clipsieve
does, with page checksums and a sha256 of the file, and with the same encodings without either, in
turns; the difference is compared with the time that `clipsieve embed` takes for as many rows with
ViT-B-32 of random weights, whose speed does not depend on them.

Rate: an output folder of 1,000 shards, each with a table of some megabytes beside its own small
ones, read by `clipsieve reconcile`, `reconcile --quick` and `sha256sum` in turns, from the
page cache.  Times are of whole processes.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parent))

from throughput import random_model

from clipsieve.demo.shards import write_benchmark_shards, write_shards
from clipsieve.store import parquet
from clipsieve.store.folder import OutputFolder

DIM = 512


def main() -> None:
    """Measure both and print ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=10_000, help="of the shard that is written")
    parser.add_argument("--encoded", type=int, default=400, help="rows that ViT-B-32 encodes")
    parser.add_argument("--shards", type=int, default=1000)
    parser.add_argument("--megabytes", type=float, default=2.0, help="of each shard's large table")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    cost(options.folder, options.rows, options.encoded, options.rounds)
    rate(options.folder / "reconcile", options.shards, options.megabytes, options.rounds)


def cost(folder: Path, rows: int, encoded: int, rounds: int) -> None:
    """Compare writing with and without checksums, and with encoding."""
    tables = shard_tables(rows)
    ways: dict[str, Callable[[Path], None]] = {"with": with_checksums, "without": without}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        for name, write in ways.items():
            target = folder / f"write-{name}-{number}"
            os.sync()
            start = time.perf_counter()
            for part, table in tables.items():
                WRITTEN[part] = table
                write(target / f"{part}.parquet")
            seconds[name].append(time.perf_counter() - start)
            shutil.rmtree(target)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    differences = [a - b for a, b in zip(seconds["with"], seconds["without"], strict=True)]
    more = statistics.median(differences)
    for name, values in seconds.items():
        shown = ", ".join(f"{value:.3f}" for value in values)
        print(f"{rows:,} rows written {name} checksums: {medians[name]:.3f} s   ({shown})")
    embed = embed_seconds(folder, encoded) * rows / encoded
    print(f"ViT-B-32 embeds as many in {embed:.1f} s: checksums cost {more / embed:.3%} of it")


#: Table that a way of writing takes, by the stem of the file.
WRITTEN: dict[str, pa.Table] = {}


def shard_tables(rows: int) -> dict[str, pa.Table]:
    """A ledger, vectors and scores of the sizes that web data have."""
    rng = np.random.default_rng(0)
    uids = [f"{value:032x}" for value in rng.integers(0, 2**62, rows)]
    unit = rng.standard_normal((rows, DIM)).astype(np.float32)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    valid = np.ones(rows, bool)
    captions = [f"a photo of thing {n} on a table, number {n * 7919 % 1000}" for n in range(rows)]
    both = {"uid": uids, "row": pa.array(range(rows), pa.int64())}
    ledger = {**both, "caption": captions, "url": [f"https://example.org/{u}.jpg" for u in uids]}
    scores = {
        name: parquet.nullable(rng.random(rows)) for name in ("clip_similarity", "clip_score")
    }
    vectors = {f"{side}_embedding": parquet.vectors(unit, valid) for side in ("image", "text")}
    return {
        "samples": pa.table({**ledger, "status": ["ok"] * rows}),
        "embeddings": pa.table({**both, **vectors}),
        "scores": pa.table({**both, **scores}),
    }


def with_checksums(path: Path) -> None:
    """Write as clipsieve does."""
    OutputFolder.open(str(path.parent)).write_table(path.name, WRITTEN[path.stem], {"rows": "1"})


def without(path: Path) -> None:
    """Write with the same encodings, as durably, without checksums."""
    folder = OutputFolder.open(str(path.parent))
    table = WRITTEN[path.stem]
    size = parquet.row_group_rows(table.schema)
    with folder.files.writing(path.name) as temporary:
        options = parquet.writer_options(table.schema)
        pq.write_table(table, temporary, row_group_size=size, **options)


def embed_seconds(folder: Path, rows: int) -> float:
    """Seconds that `clipsieve embed` takes for `rows` with ViT-B-32, start apart."""
    source = folder / f"pictures-{rows}"
    if not source.exists():
        write_benchmark_shards(source, rows=rows, shards=1, seed=1)
    one = folder / "pictures-1"
    if not one.exists():
        write_benchmark_shards(one, rows=1, shards=1, seed=1)
    model = f"local-dir:{random_model('ViT-B-32', folder)}"
    times = []
    for shards in (one, source):
        with tempfile.TemporaryDirectory(dir=folder) as out:
            words = ("embed", str(shards), out, "--model", model)
            times.append(seconds_of(words))
    return times[1] - times[0]


def rate(folder: Path, shards: int, megabytes: float, rounds: int) -> None:
    """Compare `reconcile` with `sha256sum` of the same files."""
    source, out = folder / "source", folder / "out"
    if not out.exists():
        write_shards(source, shards * 2, shards, 0)
        words = ("run", str(source), str(out), "--model", "tiny", "--scorers", "clip")
        seconds_of((*words, "--dtype", "float32"))
        add_tables(out, shards, megabytes)
    files = [
        str(path)
        for path in sorted(out.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    ]
    total = sum(os.path.getsize(path) for path in files)
    print(f"{shards:,} shards, {len(files):,} files, {total / 1e6:,.0f} MB")
    ways: dict[str, Callable[[], float]] = {
        "sha256sum": lambda: sha256sum(files, 1),
        "sha256sum, 2 at a time": lambda: sha256sum(files, 2),
        "reconcile": lambda: seconds_of(("reconcile", str(out))),
        "reconcile --quick": lambda: seconds_of(("reconcile", str(out), "--quick")),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            seconds[name].append(way())
    for name, values in seconds.items():
        median = statistics.median(values)
        shown = ", ".join(f"{value:.2f}" for value in values)
        print(f"{name:24} {median:6.2f} s  {total / median / 1e6:7,.0f} MB/s   ({shown})")


def add_tables(out: Path, shards: int, megabytes: float) -> None:
    """Add a large table for every shard: what a model of more components leaves."""
    folder = OutputFolder.open(str(out))
    rng = np.random.default_rng(0)
    table = pa.table({"value": rng.integers(0, 256, int(megabytes * 1e6), np.uint8)})
    for shard in range(shards):
        folder.write_table(f"audits/bulk/rev=0/{shard:05}.parquet", table, {"rows": "1"})


def sha256sum(files: list[str], processes: int) -> float:
    """Seconds that coreutils take."""
    words = ["xargs", "-0", "-P", str(processes), "-n", "64", "sha256sum"]
    start = time.perf_counter()
    names = "\0".join(files).encode()
    subprocess.run(words, input=names, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def seconds_of(words: tuple[str, ...]) -> float:
    """Seconds that a clipsieve command takes, from start to end of its process."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "clipsieve.cli", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr[-2000:]}")
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
