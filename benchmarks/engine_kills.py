"""Kill a job on Dask with its output in an S3 server, at random moments, and compare every byte.

    python benchmarks/engine_kills.py --cases 20 [--kinds worker,workers,driver] [--results FILE]

Each case runs `clipsieve run` on a scheduler with two worker processes, into a new folder of an S3
server on loopback, and kills at a moment drawn evenly between the driver's start and the time of an
undisturbed run (`alive`: whether it still ran): one worker, both workers, or the driver.  A driver
that was killed is started again until the lock of the dead one has ended (exit code 75 until then,
lease 3 s).  In the end the tables and arrays must equal, byte for byte, those of a run on this
machine alone, and nothing temporary may be left.  A line of JSON a case goes to FILE.  Exit code 1
if a case fails.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from clipsieve.demo.shards import write_shards
from tests.engines import clusters
from tests.engines.clusters import Cluster
from tests.engines.jobs import contents, temporary
from tests.object_stores.server import BUCKET, s3_server
from tests.pipelines.jobs import run_command

KINDS = ("worker", "workers", "driver")
LEASE_SECONDS = 3
PATIENCE_SECONDS = 300.0


def main() -> int:
    """Run the cases, print a table and a verdict."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", type=int, default=20, help="of each kind")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--shards", type=int, default=10)
    parser.add_argument("--rows", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path)
    options = parser.parse_args()
    failures = 0
    with (
        tempfile.TemporaryDirectory(prefix="clipsieve-kill-") as folder,
        s3_server(),
        clusters.dask(Path(folder)) as cluster,
    ):
        source = Path(folder) / "source"
        write_shards(source, options.rows, options.shards, options.seed)
        expected = reference(source)
        # The first one waits for the workers to import everything.
        life = min(undisturbed(source, cluster, expected, number) for number in range(2))
        print(f"an undisturbed run takes {life:.1f} s")
        print("kind      case   at (s)  alive  ended (s)  runs  waits  problems", flush=True)
        rng = random.Random(options.seed)
        for number in range(options.cases):
            for kind in options.kinds.split(","):
                case = run_case(kind, number, rng.uniform(0, life), source, cluster, expected)
                failures += bool(case["problems"])
                problems = ", ".join(case["problems"]) or "none"
                print(
                    f"{kind:<8} {number:>5} {case['at']:>8.1f} {case['was_alive']!s:>6} "
                    f"{case['seconds']:>10.1f} {case['runs']:>5} {case['waits']:>6}  {problems}",
                    flush=True,
                )
                if options.results is not None:
                    with open(options.results, "a", encoding="utf-8") as file:
                        file.write(json.dumps(case) + "\n")
    print("every case ended byte-equal" if not failures else f"{failures} cases failed")
    return int(failures > 0)


def words(source: Path, out: str, cluster: Cluster | None) -> list[str]:
    """Words of the job's command."""
    job = run_command(source, Path("x"), "--run-id", "fixed", "--lease", f"{LEASE_SECONDS}s")
    job[2] = out
    return [*job, *(cluster.words if cluster is not None else [])]


def start(command: list[str]) -> "subprocess.Popen[bytes]":
    """Start `clipsieve` as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "clipsieve.cli", *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=clusters.environment(),
    )


def finish(process: "subprocess.Popen[bytes]") -> tuple[int, str]:
    """Wait for a driver; its exit code and the end of what it said."""
    try:
        _, error = process.communicate(timeout=PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return -1, "it hung"
    return process.returncode, error.decode(errors="replace")[-400:]


def reference(source: Path) -> dict[str, bytes]:
    """Tables and arrays of a run in one process."""
    out = f"s3://{BUCKET}/reference"
    code, error = finish(start(words(source, out, None)))
    assert code == 0, error
    return contents(out)


def undisturbed(source: Path, cluster: Cluster, expected: dict[str, bytes], number: int) -> float:
    """Seconds of a run on the cluster that nobody kills."""
    out = f"s3://{BUCKET}/undisturbed-{number}"
    began = time.monotonic()
    code, error = finish(start(words(source, out, cluster)))
    assert code == 0, error
    seconds = time.monotonic() - began
    assert contents(out) == expected
    return seconds


def run_case(
    kind: str,
    number: int,
    moment: float,
    source: Path,
    cluster: Cluster,
    expected: dict[str, bytes],
) -> dict[str, Any]:
    """One case: what was killed and when, how it ended, and what is wrong."""
    out = f"s3://{BUCKET}/{kind}-{number}"
    command = words(source, out, cluster)
    workers = clusters.dask_workers(cluster)
    began = time.monotonic()
    driver = start(command)
    time.sleep(moment)
    was_alive = driver.poll() is None
    targets = {"worker": workers[:1], "workers": workers, "driver": [driver.pid]}[kind]
    for target in targets:
        with suppress(ProcessLookupError):
            os.kill(target, signal.SIGKILL)
    code, error = finish(driver)
    problems, runs, waits = [], 1, 0
    if kind != "driver" and code != 0:
        problems.append(f"the driver ended with {code}: {error}")
    while code != 0 and runs < 5 and time.monotonic() - began < PATIENCE_SECONDS:
        code, error = finish(start(command))
        if code == 75:
            waits += 1
        else:
            runs += 1
    if code != 0:
        problems.append(f"it never ended well: {error}")
    found = contents(out)
    different = sorted(name for name in found | expected if found.get(name) != expected.get(name))
    if different:
        problems.append(f"{len(different)} files differ, first {different[0]}")
    if temporary(out):
        problems.append(f"{temporary(out)[0]} was left")
    return {
        "kind": kind,
        "number": number,
        "at": round(moment, 2),
        "was_alive": was_alive,
        "seconds": round(time.monotonic() - began, 1),
        "runs": runs,
        "waits": waits,
        "problems": problems,
    }


if __name__ == "__main__":
    sys.exit(main())
