"""Kill `clipsieve ingest` at random moments, over and over, and compare what it ends with.

    python benchmarks/ingest_kills.py /tmp/ingest-kills --kills 50

Each kill ends the driver with SIGKILL, some number of requests after the start; the workers notice
that it is gone.  Then the same command runs again.  In the end the shards must have the bytes of an
undisturbed run.  The server of `tests/ingest` counts how often each URL was asked for: more than
once only if it was in flight at a kill.
"""

import argparse
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from tests.ingest.server import Site, serving

ROWS, IMAGES = 600, 500


def start(folder: Path, name: str) -> "subprocess.Popen[bytes]":
    """Start the command."""
    words = ["ingest", str(folder / "list.parquet"), str(folder / name)]
    words += ["--allow-ranges", "127.0.0.0/8", "--rows-per-shard", "50", "--processes", "2"]
    words += ["--threads", "8", "--per-host", "8"]
    return subprocess.Popen(
        [sys.executable, "-m", "clipsieve.cli", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def kill_after(process: "subprocess.Popen[bytes]", site: Site, requests: int) -> bool:
    """Kill a command so many requests from now; False if it ended before."""
    enough = site.requests.total() + requests
    while site.requests.total() < enough:
        if process.poll() is not None:
            if process.returncode:
                raise SystemExit(f"a run that was not killed ended with {process.returncode}")
            return False
        time.sleep(0.001)
    children = psutil.Process(process.pid).children()
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(children, timeout=10)
    if alive:
        raise SystemExit(f"workers did not notice that their driver is gone: {alive}")
    return True


def main() -> None:
    """Kill, compare, and print a line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    kills = rounds = 0
    most = 0
    while kills < options.kills:
        shutil.rmtree(options.folder, ignore_errors=True)
        options.folder.mkdir(parents=True)
        with serving() as site:
            site.latency = 0.01
            urls = [site.url(f"/good/{n % IMAGES}.jpg") for n in range(ROWS)]
            pq.write_table(pa.table({"url": urls}), options.folder / "list.parquet")
            if start(options.folder, "undisturbed").wait():
                raise SystemExit("the undisturbed run failed")
            site.requests.clear()
            # Few enough requests between kills that many fit into one list.
            while kill_after(start(options.folder, "killed"), site, rng.randrange(1, 120)):
                kills += 1
            rounds += 1
            ours, wanted = (
                {path.name: path.read_bytes() for path in (options.folder / name).glob("*.parquet")}
                for name in ("killed", "undisturbed")
            )
            if ours != wanted:
                raise SystemExit(f"after {kills} kills the shards differ")
            most = max(most, *site.images().values())
            twice = sum(count > 1 for count in site.images().values())
            print(
                f"{kills} kills: equal bytes; {twice} URLs asked for again, in flight", flush=True
            )
    print(
        f"{kills} kills in {rounds} lists of {ROWS} rows; a URL was asked for {most} times at most"
    )


if __name__ == "__main__":
    main()
