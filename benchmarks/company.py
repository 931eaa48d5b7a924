"""Rows a second beside a busy process, with and without threads that sleep while they wait.

    python benchmarks/company.py --rows 300 --rounds 5

Four cases in turns, medians of `clipsieve.run` over the same shards, each way in a process of its
own that has loaded the model before:

    idle, polling    threads of the model poll while they wait for each other, the library's default
    idle, sleeping   they sleep soon, as the command line sets them: what sleeping costs
    busy, polling    as many `while True: pass` as `--neighbours` run beside it
    busy, sleeping   likewise

A row also says how its rate compares with `idle, polling`.  Ends with exit code 1 if that of
`busy, sleeping` is under `--limit` for a model other than tiny.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from clipsieve.cores import WAIT_SETTINGS, sleep_at_barriers, usable_cores

#: What GNU's OpenMP does where nothing is set.
POLLING = {"GOMP_SPINCOUNT": "300000"}
BUSY = "while True: pass"
CASES = [(company, way) for company in ("idle", "busy") for way in ("polling", "sleeping")]


def main() -> int:
    """Print a table for each model; 1 if company costs too much."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--neighbours", type=int, default=1)
    parser.add_argument("--models", default="ViT-B-32,tiny")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--limit", type=float, default=0.45)
    parser.add_argument("--folder", help="keep data and weights here, to be used again")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options)
        return 0
    options.folder = options.folder or tempfile.mkdtemp(prefix="clipsieve-company-")
    print(f"{usable_cores()} cores, {options.neighbours} busy neighbours, {options.rows} rows")
    slow = [name for name in options.models.split(",") if not measure(name, options)]
    return 1 if set(slow) - {"tiny"} else 0


def measure(name: str, options: argparse.Namespace) -> bool:
    """Time all cases in turns and print them; whether the last is within the limit."""
    rates: dict[tuple[str, str], list[float]] = {case: [] for case in CASES}
    with ExitStack() as stack:
        ways = {
            way: stack.enter_context(server(name, way, options)) for way in ("polling", "sleeping")
        }
        for _ in range(options.rounds):
            for company, way in CASES:
                with neighbours(options.neighbours if company == "busy" else 0):
                    rates[company, way].append(options.rows / ask(ways[way]))
    medians = {case: statistics.median(values) for case, values in rates.items()}
    base = medians["idle", "polling"]
    print(f"\n{name} {options.dtype}")
    for (company, way), values in rates.items():
        median = medians[company, way]
        shown = ", ".join(f"{value:.1f}" for value in values)
        print(f"  {company}, {way:8} {median:8.1f} rows/s  {median / base:5.2f}   ({shown})")
    return medians["busy", "sleeping"] / base >= options.limit


@contextmanager
def server(name: str, way: str, options: argparse.Namespace) -> Iterator[subprocess.Popen[str]]:
    """A process that runs the job once for each line it gets, and says how long it took."""
    environment = {k: v for k, v in os.environ.items() if k not in WAIT_SETTINGS}
    words = [sys.executable, __file__, "--serve", f"{way}/{name}", "--dtype", options.dtype]
    words += ["--rows", str(options.rows), "--folder", options.folder]
    process = subprocess.Popen(
        words,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment | (POLLING if way == "polling" else {}),
    )
    try:
        ask(process)  # loads the model
        yield process
    finally:
        process.kill()
        process.communicate()


def ask(process: subprocess.Popen[str]) -> float:
    """Seconds of one run in a server."""
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write("run\n")
    process.stdin.flush()
    answer = process.stdout.readline()
    if not answer:
        raise SystemExit("a run failed; its message is above")
    return float(json.loads(answer))


@contextmanager
def neighbours(count: int) -> Iterator[None]:
    """Within the block that many processes compute."""
    processes = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(count)]
    try:
        time.sleep(0.2)
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def serve(what: str, options: argparse.Namespace) -> None:
    """Run the job for each line of standard input."""
    sleep_at_barriers()  # before torch is loaded; leaves what the environment says
    from throughput import Setting, pipeline, random_model

    from clipsieve.demo.shards import write_benchmark_shards

    way, name = what.split("/", 1)
    folder = Path(options.folder)
    shards = folder / f"shards-{options.rows}"
    if not shards.exists():
        write_benchmark_shards(shards, rows=options.rows, shards=1, seed=1)
    model = name if name == "tiny" else f"local-dir:{random_model(name, folder)}"
    own = folder / way
    own.mkdir(exist_ok=True)
    pattern = f"{shards}/*.parquet"
    setting = Setting(model, options.dtype, "cpu", pattern, options.rows, options.rows, own)
    for _line in sys.stdin:
        start = time.perf_counter()
        pipeline(setting)
        print(json.dumps(time.perf_counter() - start), flush=True)


if __name__ == "__main__":
    sys.exit(main())
