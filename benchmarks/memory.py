"""Peak memory of `clipsieve run`: it must not grow with the number of shards.

    python benchmarks/memory.py --rows 250 --repeats 3

Four cases, each run in a new process, in turns; medians of the peak resident set:

    few      4 shards of `--rows` rows
    many     40 shards of `--rows` rows; must be at most 1.1 times `few`
    long     1 shard of ten times the rows: what grows with the length of a shard
    workers  the shards of `few`, two worker processes; the largest process of the tree

Ends with exit code 1 if many / few is above `--limit`.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

from clipsieve.demo.shards import write_benchmark_shards

POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Case:
    """One way to run: shards, their rows, and processes."""

    name: str
    shards: int
    rows: int
    workers: int = 1


def main() -> int:
    """Print a table; 1 if memory grows with the number of shards."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=250, help="rows of a shard")
    parser.add_argument("--few", type=int, default=4, help="shards")
    parser.add_argument("--many", type=int, default=40, help="shards")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--limit", type=float, default=1.1, help="largest many / few")
    parser.add_argument("--cases", default="few,many,long,workers")
    parser.add_argument("--folder", help="keep the shards here, to be used again")
    parser.add_argument("options", nargs="*", help="more options of `clipsieve run`, after --")
    options = parser.parse_args()
    cases = [
        Case("few", options.few, options.rows),
        Case("many", options.many, options.rows),
        Case("long", 1, options.rows * 10),
        Case("workers", options.few, options.rows, workers=2),
    ]
    cases = [case for case in cases if case.name in options.cases.split(",")]
    folder = Path(options.folder or tempfile.mkdtemp(prefix="clipsieve-memory-"))
    peaks: dict[str, list[float]] = {case.name: [] for case in cases}
    try:
        for case in cases:
            shards_of(case, folder)
        for _ in range(options.repeats):
            for case in cases:
                peaks[case.name].append(peak_mib(case, folder, options.options))
                print(f"  {case.name}: {peaks[case.name][-1]:.0f} MiB", file=sys.stderr, flush=True)
    finally:
        if options.folder is None:
            shutil.rmtree(folder, ignore_errors=True)
    medians = {name: statistics.median(values) for name, values in peaks.items()}
    for case in cases:
        shown = ", ".join(f"{value:.0f}" for value in peaks[case.name])
        size = f"{case.shards} x {case.rows} rows"
        print(f"{case.name:8} {size:16} {medians[case.name]:7.0f} MiB   ({shown})")
    for name in ("many", "long", "workers"):
        if "few" in medians and name in medians:
            print(f"{name} / few: {medians[name] / medians['few']:.3f}")
    grows = {"few", "many"} <= set(medians) and medians["many"] / medians["few"] > options.limit
    return 1 if grows else 0


def shards_of(case: Case, folder: Path) -> Path:
    """The folder with the shards of a case, written if it is not there."""
    shards = folder / f"shards-{case.shards}x{case.rows}"
    if not (shards / f"{case.shards - 1:05d}.parquet").exists():
        write_benchmark_shards(shards, rows=case.shards * case.rows, shards=case.shards, seed=1)
    return shards


def peak_mib(case: Case, folder: Path, more: list[str]) -> float:
    """Largest peak resident set, in MiB, of any process of one run into a new folder.

    The kernel's own peak of each process (VmHWM) is looked up while it lives, and that of the
    run's first process once more when it has ended (`ru_maxrss`), so no late growth is missed.
    """
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "clipsieve.cli", "run"]
    command += [f"{shards_of(case, folder)}/*.parquet", str(out), "--model", "tiny"]
    command += ["--workers", str(case.workers), *more]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    said: list[bytes] = []
    assert process.stderr is not None
    reader = threading.Thread(target=lambda pipe=process.stderr: said.append(pipe.read()))
    reader.start()
    largest = 0
    while True:
        ended, status, usage = os.wait4(process.pid, os.WNOHANG)
        if ended:
            break
        largest = max([largest, *map(high_water_kib, tree(process.pid))])
        threading.Event().wait(POLL_SECONDS)
    reader.join()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.stderr.buffer.write(b"".join(said))
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return max(largest, usage.ru_maxrss) / 1024


def tree(pid: int) -> list[int]:
    """A process and all its descendants that live now."""
    pids = [pid]
    for parent in pids:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                pids += [int(word) for word in task.read_text().split()]
            except OSError:
                continue
    return pids


def high_water_kib(pid: int) -> int:
    """Peak resident set of a process in KiB; 0 if it has ended."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in text.splitlines() if "VmHWM" in line), 0)


if __name__ == "__main__":
    sys.exit(main())
