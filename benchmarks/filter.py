"""Filtering 10 million rows: the top 30 % against DataComp's own way, and a sweep of cut-offs.

    python benchmarks/filter.py /tmp/filter-bench --rows 10000000 --rounds 3

Both sides read Parquet of the same uids and scores on the same disk and write the same sorted
`.npy` of pairs.  DataComp's way (mlfoundations/datacomp, baselines.py; written after its rule):
load the column with pandas, `-np.sort(-x)[int(n f)]`, load uids and scores again, convert the uids
that pass one by one, sort, save.  Each side is a process of its own; time is of the whole process,
memory the largest peak of it and its children.
"""

import argparse
import json
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from clipsieve.store.folder import OutputFolder

SHARD_ROWS = 100_000
FRACTION = 0.3
SCORE = "clip_l14_similarity_score"


def main() -> None:
    """Make the data once, then time both sides in turn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", choices=("ours", "theirs", "sweep"), help=argparse.SUPPRESS)
    parser.add_argument("--workers", type=int, default=1, help=argparse.SUPPRESS)
    options = parser.parse_args()
    root = options.folder
    if options.side == "theirs":
        theirs_in_processes(root, options.workers) if options.workers > 1 else theirs(root)
        return
    if options.side == "ours":
        ours(root, options.workers)
        return
    if options.side == "sweep":
        sweep(root)
        return
    make_data(root, options.rows)
    results: dict[str, list[dict[str, float]]] = {}
    for _ in range(options.rounds):
        for side, workers in (("theirs", 1), ("ours", 1), ("theirs", 2), ("sweep", 1)):
            measured = measure(root, side, workers)
            results.setdefault(f"{side} {workers}", []).append(measured)
            print(side, workers, measured, flush=True)
    same = (root / "theirs.npy").read_bytes() == (root / "ours.npy").read_bytes()
    for name, rounds in results.items():
        seconds = statistics.median(each["seconds"] for each in rounds)
        peak = statistics.median(each["mib"] for each in rounds)
        print(f"{name}: {seconds:.1f} s, {peak:.0f} MiB")
    for workers in (1, 2):
        pairs = list(zip(results[f"theirs {workers}"], results["ours 1"], strict=True))
        faster = statistics.median(a["seconds"] / b["seconds"] for a, b in pairs)
        memory = statistics.median(b["mib"] / a["mib"] for a, b in pairs)
        print(f"their {workers} workers: {faster:.2f} times as fast, {memory:.2f} of the memory")
    print("same bytes:", same)


def measure(root: Path, side: str, workers: int) -> dict[str, float]:
    """Run one side in a process of its own, from nothing; its seconds and its peak."""
    shutil.rmtree(root / "out" / "subsets", ignore_errors=True)
    for path in root.glob(f"{side}.npy*"):
        path.unlink()
    words = [sys.executable, __file__, str(root), "--side", side, "--workers", str(workers)]
    started = time.perf_counter()
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
    seconds = time.perf_counter() - started
    return {"seconds": round(seconds, 2), "mib": json.loads(done.stdout.splitlines()[-1])["mib"]}


def print_peak() -> None:
    """Print the largest peak of this process and its children, as JSON.

    Of this process from /proc: what getrusage says of it counts the parent's memory too.
    """
    status = Path("/proc/self/status").read_text()
    own = int(status.split("VmHWM:")[1].split()[0])
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    print(json.dumps({"mib": round(max(own, children) / 1024)}))


def make_data(root: Path, rows: int) -> None:
    """Write the folder of ours, and metadata as DataComp has it, of the same rows."""
    # Here: what is imported above is in the memory of both sides.
    from clipsieve.clip.identity import ModelIdentity
    from clipsieve.embed.commit import embedded_family, embeddings_entry
    from clipsieve.job.compact import compact
    from clipsieve.pipelines.engine import make_engine
    from clipsieve.scorers.registry import EMBEDDED
    from clipsieve.settings import ScoreConfig
    from clipsieve.store.folder import OutputFolder
    from clipsieve.store.manifest import Manifest

    model = ModelIdentity("tiny", None, "0" * 64, False, 8, 16, {"size": 32}, "float32")
    mark = root / "rows.json"
    if mark.exists() and json.loads(mark.read_text()) == rows:
        return
    shutil.rmtree(root, ignore_errors=True)
    (root / "metadata").mkdir(parents=True)
    folder = OutputFolder.open(root / "out")
    entry = embeddings_entry(model)
    family = embedded_family(entry.revision)
    folder.save_manifest(Manifest(model=model, embeddings=entry, families={EMBEDDED: family}))
    rng = np.random.default_rng(0)
    for first in range(0, rows, SHARD_ROWS):
        count = min(SHARD_ROWS, rows - first)
        shard = f"{first // SHARD_ROWS:05d}"
        digits = rng.bytes(16 * count).hex()
        uids = pa.array([digits[at : at + 32] for at in range(0, 32 * count, 32)])
        scores = rng.normal(0.25, 0.05, count).astype(np.float32)
        write_shard(folder, family.revision, shard, uids, scores)
        pq.write_table(
            pa.table({"uid": uids, SCORE: scores}),
            root / "metadata" / f"{shard}.parquet",
        )
    compact(str(folder.root), make_engine(ScoreConfig(out=str(folder.root))))
    mark.write_text(json.dumps(rows))


def write_shard(
    folder: "OutputFolder", revision: str, shard: str, uids: pa.Array, scores: np.ndarray
) -> None:
    """Write the ledger and the clip scores of a shard, as `embed` would."""
    from clipsieve.embed.commit import uid_hash
    from clipsieve.schemas import footers
    from clipsieve.schemas.tables import samples_schema
    from clipsieve.scorers.registry import EMBEDDED
    from clipsieve.store import names

    count = len(uids)
    nothing = pa.nulls(count, pa.string())
    schema = samples_schema(pa.string(), pa.schema([]))
    columns = {
        "uid": uids,
        "shard": pa.array([shard] * count),
        "row": pa.array(range(count), pa.int64()),
        "status": pa.array(["ok"] * count),
    }
    ledger = pa.Table.from_arrays(
        [columns.get(f.name, nothing.cast(f.type)) for f in schema], schema=schema
    )
    footer = {
        footers.LAYOUT: footers.LAYOUT_VERSION,
        footers.FAMILY: "samples",
        footers.REVISION: "0a0a0a0a",
        footers.SHARD: shard,
        footers.ROWS: str(count),
        footers.UID_HASH: uid_hash(uids),
        footers.SOURCE_FINGERPRINT: "{}",
        footers.STATES: json.dumps({"ok": count}),
    }
    folder.write_table(names.samples(shard), ledger, footer)
    table = pa.table({"uid": uids, "clip_similarity": scores, "clip_score": 2.5 * scores.clip(0)})
    footer |= {footers.FAMILY: EMBEDDED, footers.REVISION: revision}
    folder.write_table(names.scores(EMBEDDED, revision, shard), table, footer)


def ours(root: Path, workers: int) -> None:
    """Filter and export."""
    import clipsieve

    out = root / "out"
    started = time.perf_counter()
    clipsieve.filter(out, "top", f"top_fraction(clip_similarity, {FRACTION})", workers=workers)
    print(f"filter {time.perf_counter() - started:.1f} s")
    clipsieve.export(out, "top", "npy", root / "ours.npy", workers=workers)
    print(f"filter and export {time.perf_counter() - started:.1f} s")
    print_peak()


def theirs(root: Path) -> None:
    """DataComp's `clip_score --fraction`, after its rule: load, sort, convert, sort, save."""
    import pandas as pd

    files = sorted((root / "metadata").glob("*.parquet"))
    table = pd.concat([pd.read_parquet(file, columns=["uid", SCORE]) for file in files])
    scores = table[SCORE].to_numpy()
    threshold = -np.sort(-scores)[int(len(scores) * FRACTION)]
    uids = _pairs(table[scores >= threshold]["uid"])
    uids.sort()
    np.save(root / "theirs.npy", uids)
    print_peak()


def theirs_in_processes(root: Path, workers: int) -> None:
    """The same, file by file in a pool, scores first and uids in a second pass."""
    from multiprocessing import Pool

    files = sorted((root / "metadata").glob("*.parquet"))
    with Pool(workers) as pool:
        scores = np.concatenate(pool.map(_read_scores, files))
        threshold = -np.sort(-scores)[int(len(scores) * FRACTION)]
        parts = pool.starmap(_read_uids, [(file, threshold) for file in files])
    uids = np.concatenate(parts)
    uids.sort()
    np.save(root / "theirs.npy", uids)
    print_peak()


def _read_scores(file: Path) -> np.ndarray:
    import pandas as pd

    return np.asarray(pd.read_parquet(file, columns=[SCORE])[SCORE].to_numpy())


def _read_uids(file: Path, threshold: float) -> np.ndarray:
    import pandas as pd

    table = pd.read_parquet(file, columns=["uid", SCORE])
    return _pairs(table[table[SCORE] >= threshold]["uid"])


def _pairs(uids: Iterable[str]) -> np.ndarray:
    pairs = [(int(uid[:16], 16), int(uid[16:32], 16)) for uid in uids]
    return np.array(pairs, np.dtype("u8,u8"))


def sweep(root: Path) -> None:
    """Rows kept by each of 100 cut-offs: in one query, and in a query each (of which five run)."""
    import clipsieve

    data = clipsieve.connect(root / "out")
    started = time.perf_counter()
    curve = data.sql("FROM keep_curve('scores', 'clip_similarity', n := 100)").fetchall()
    together = time.perf_counter() - started
    started = time.perf_counter()
    for line, kept, *_ in curve[10:60:10]:
        count = data.sql(f"SELECT count(*) FILTER (clip_similarity >= {line!r}) FROM scores")
        assert abs(count.fetchall()[0][0] - kept) <= 2
    apart = (time.perf_counter() - started) * 20
    print(f"100 cut-offs {together:.2f} s, one by one {apart:.1f} s: {apart / together:.0f} times")
    print_peak()


if __name__ == "__main__":
    main()
