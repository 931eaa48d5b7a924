"""Kill a job at random moments of its whole life, run it again, and compare every byte.

    python benchmarks/kill.py --kills 20

Each round kills a process with SIGKILL at a moment drawn evenly between its start and the time an
undisturbed run takes (the shortest seen).  When all shards are done the job is run once more
undisturbed, the folder is compared and begun anew, and so it is at the end: its Parquet files must
equal, byte for byte, those of a job that was never killed, finished shards must never have been
written again, and no temporary file may be left.  Exit code 1 if not.
"""

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from clipsieve.demo.shards import write_shards


@dataclass(frozen=True)
class Round:
    """One process: when it was killed, and what was on disk then."""

    number: int
    moment: float
    seconds: float
    survived: bool
    shards: int
    temporary: int
    problems: tuple[str, ...]


def main() -> int:
    """Run the rounds, print a table and a verdict."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--rows", type=int, default=600)
    parser.add_argument("--shards", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="clipsieve-kill-") as folder:
        return measure(Path(folder), options.kills, options.rows, options.shards, options.seed)


def measure(folder: Path, kills: int, rows: int, shards: int, seed: int) -> int:
    """All rounds in `folder`; the exit code."""
    source, calm, out = folder / "source", folder / "calm", folder / "out"
    write_shards(source, rows, shards, seed)
    life = finish(source, calm)
    print(f"an undisturbed run of {rows} rows in {shards} shards takes {life:.1f} s")
    print("kill  at (s)  shards done  temporary files  problems")
    rng = random.Random(seed)
    killed, failures, fresh = 0, 0, 0
    while killed < kills:
        done = round_of(source, out, killed + 1, rng.uniform(0, life))
        if done.survived:
            life = min(life, done.seconds)
            failures += settle(source, calm, out)
            shutil.rmtree(out)
            fresh += 1
            continue
        killed += 1
        failures += bool(done.problems)
        print(
            f"{done.number:4}  {done.moment:6.2f}  {done.shards:11}  {done.temporary:15}  "
            f"{'; '.join(done.problems) or 'none'}",
            flush=True,
        )
        if done.shards == shards and killed < kills:  # nothing but the end is left to be killed
            failures += settle(source, calm, out)
            shutil.rmtree(out)
            fresh += 1
    failures += settle(source, calm, out)
    verdict = "FAILED" if failures else "passed"
    print(f"{verdict}: {killed} kills, {fresh + 1} folders finished and compared, {failures} wrong")
    return 1 if failures else 0


def round_of(source: Path, out: Path, number: int, moment: float) -> Round:
    """Start the job, kill it at `moment` seconds, look at what is there."""
    before = finished_shards(out)
    start = time.perf_counter()
    process = subprocess.Popen(command(source, out), stderr=subprocess.DEVNULL)
    try:
        process.wait(moment)
        survived = True
    except subprocess.TimeoutExpired:
        process.kill()
        survived = process.wait() == 0
    seconds = time.perf_counter() - start
    after = finished_shards(out)
    changed = sorted(name for name, files in before.items() if after.get(name) != files)
    problems = [f"shard {name} was written again" for name in changed]
    temporary = len(temporary_files(out))
    return Round(number, moment, seconds, survived, len(after), temporary, tuple(problems))


def settle(source: Path, calm: Path, out: Path) -> int:
    """Let the job end, and compare; 1 if anything differs."""
    before = finished_shards(out)
    finish(source, out)
    after = finished_shards(out)
    wrong = [f"shard {n} was written again" for n, files in before.items() if after[n] != files]
    wrong += [f"{path} was left" for path in temporary_files(out)]
    expected, found = contents(calm), contents(out)
    names = sorted(expected.keys() | found.keys())
    wrong += [f"{n} differs" for n in names if expected.get(n) != found.get(n)]
    for line in wrong:
        print(f"      {line}")
    return bool(wrong)


def finish(source: Path, out: Path) -> float:
    """Run the job to its end; seconds taken."""
    start = time.perf_counter()
    subprocess.run(command(source, out), check=True, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


def command(source: Path, out: Path) -> list[str]:
    """The same words every time."""
    run = [sys.executable, "-m", "clipsieve.cli", "run", f"{source}/*.parquet", str(out)]
    options = {"model": "tiny", "device": "cpu", "dtype": "float32", "batch-size": "4"}
    return [*run, *(f"--{n}={v}" for n, v in options.items()), "--run-id=fixed"]


def finished_shards(out: Path) -> dict[str, list[tuple[str, int, int]]]:
    """Files, inodes and times of every shard that has all of its files."""
    files: dict[str, list[tuple[str, int, int]]] = {}
    for top in ("samples", "embeddings", "scores"):
        for path in sorted((out / top).rglob("*.parquet")):
            at = path.stat()
            files.setdefault(path.stem, []).append((top, at.st_ino, at.st_mtime_ns))
    return {name: found for name, found in files.items() if len(found) == 3}


def temporary_files(out: Path) -> list[str]:
    """What interrupted writes have left."""
    return sorted(str(path.relative_to(out)) for path in out.rglob("*.tmp-*"))


def contents(out: Path) -> dict[str, bytes]:
    """Bytes of every table and of `dataset.json`."""
    paths = [*out.rglob("*.parquet"), out / "dataset.json"]
    return {str(path.relative_to(out)): path.read_bytes() for path in paths}


if __name__ == "__main__":
    sys.exit(main())
