"""A nightly cycle, killed at random moments: the same commands end in the same tables.

    python benchmarks/nightly_kills.py --kills 20 [--rows 400] [--seed 0]

Day 1 fetches and scores a list of URLs from a server on loopback (`run --ingest`); day 2 a list in
which a tenth are gone and a quarter are new (`extend`), and removes what is gone.  Each command is
killed (`kill -9`, all its processes) at moments drawn evenly from its undisturbed length,
and is then given again.  In the end shards must be equal byte for byte, and views value for value
(footers hold the times of the shards), to those of an undisturbed cycle.  Exit code 1 if not.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

import clipsieve
from tests.ingest.server import Site, serving

KILLS_A_CYCLE = 5
LATENCY = 0.03
TOML = """
allow_ranges = "127.0.0.0/8"
rows_per_shard = 50
threads = 8
extend = {extend}
"""


def main() -> int:
    """Run the cycles, print a line for each and a verdict."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    failures, kills = 0, 0
    with tempfile.TemporaryDirectory(prefix="clipsieve-nightly-") as folder, serving() as site:
        site.latency = LATENCY
        calm = Cycle(Path(folder) / "calm", site, options.rows)
        lengths = [calm.run_once(number) for number in range(len(calm.commands))]
        print(f"undisturbed: {', '.join(f'{length:.1f} s' for length in lengths)}")
        expected, requests = calm.tables(), site.images().total()
        while kills < options.kills:
            site.requests.clear()
            cycle = Cycle(Path(folder) / f"case-{kills}", site, options.rows)
            before = kills
            for number, length in enumerate(lengths):
                share = KILLS_A_CYCLE * length / sum(lengths)
                for _ in range(max(1, round(share))):
                    kills += cycle.kill(number, rng.uniform(0, length))
                cycle.run_once(number)
            equal = cycle.tables() == expected
            again = site.images().total() - requests
            failures += not equal
            verdict = "equal" if equal else "DIFFER"
            print(f"{kills - before} kills, tables {verdict}, {again} images asked for again")
    print(f"{kills} kills, {failures} cycles wrong")
    return int(failures > 0)


class Cycle:
    """Lists, folders and commands of two days."""

    def __init__(self, place: Path, site: Site, rows: int) -> None:
        """Write the lists."""
        self.place = place
        place.mkdir()
        numbers = list(range(rows))
        for day, of_day in (
            (1, numbers),
            (2, numbers[rows // 10 :] + list(range(rows, rows * 5 // 4))),
        ):
            urls = [site.url(f"/good/{number}.jpg") for number in of_day]
            urls[5], urls[9] = site.url("/status/404"), "http://10.0.0.1/x.jpg"
            table = pa.table({"url": urls, "caption": [f"picture {number}" for number in of_day]})
            pq.write_table(table, place / f"day{day}.parquet")
            toml = TOML.format(extend="true" if day > 1 else "false")
            (place / f"day{day}.toml").write_text(toml)
        self.commands = [self._run(1), self._run(2), self._remove]

    def run_once(self, number: int) -> float:
        """Run a command to its end; return how long it took."""
        start = time.monotonic()
        process = self._start(number)
        text = process.communicate()[1].decode()
        if process.returncode:
            raise SystemExit(f"command {number} ended with {process.returncode}: {text[-2000:]}")
        return time.monotonic() - start

    def kill(self, number: int, after: float) -> int:
        """Kill a command, with its processes, after some seconds; whether it was at work then."""
        process = self._start(number)
        try:
            process.communicate(timeout=after)
            return 0
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return 1

    def tables(self) -> dict[str, object]:
        """Shards by their bytes, views by their values; not the history of runs."""
        found: dict[str, object] = {}
        for path in sorted((self.place / "shards").glob("*.parquet")):
            found[path.name] = path.read_bytes()
        with clipsieve.connect(self.place / "out") as connection:
            for view in ("samples", "embeddings", "scores", "clip", "density", "removals"):
                order = 'shard, "row"' if view in ("samples", "scores", "removals") else "uid"
                found[view] = connection.sql(f"FROM {view} ORDER BY {order}").to_arrow_table()
        return found

    def _start(self, number: int) -> "subprocess.Popen[bytes]":
        command = self.commands[number]
        words: Sequence[str] = command if isinstance(command, list) else command()
        return subprocess.Popen(
            [sys.executable, "-m", "clipsieve.cli", *words],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def _run(self, day: int) -> list[str]:
        return [
            *("run", str(self.place / "shards"), str(self.place / "out")),
            *("--model", "tiny", "--device", "cpu", "--dtype", "float32"),
            *("--scorers", "clip,density", "--run-id", f"day{day}"),
            *("--ingest", str(self.place / f"day{day}.parquet")),
            *("--ingest-config", str(self.place / f"day{day}.toml")),
        ]

    def _remove(self) -> list[str]:
        (gone,) = (self.place / "shards" / "_ingest").glob("gone-*.txt")
        return ["remove", str(self.place / "out"), str(gone), "--by", "url", "--name", "gone"]


if __name__ == "__main__":
    sys.exit(main())
