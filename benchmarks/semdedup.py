"""SemDeDup's pass within clusters, side by side with a plain loop over clusters.

    python benchmarks/semdedup.py --rows 200000 --clusters 200 --rounds 3

One run, two ways in turns, medians over rounds, seconds:

    ours  `OrderedMembers.similarities`: blocks of products below the diagonal, clusters in threads
    loop  for each cluster `np.triu(v @ v.T, 1).max(axis=0)`, NumPy's products on all cores

Both get the same unit vectors, cluster by cluster and in order.  Clusters are uneven, as those of
k-means are: their sizes are lognormal.  Ratios are medians of the ratios within rounds.  Then the
largest difference of the results, the rows that are kept with the default eps by one way and not
by the other, and the resident memory that each way adds to a new process that holds the vectors,
at its peak (Linux only).
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np

from clipsieve.cores import cores
from clipsieve.scorers.cluster_order import OrderedMembers

EPS = 0.07


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--clusters", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peak", choices=[*WAYS], help=argparse.SUPPRESS)
    options = parser.parse_args()
    members = made_up(options.rows, options.dim, options.clusters)
    if options.peak:
        Path("/proc/self/clear_refs").write_text("5")  # the peak is from here on
        before = status_mib("VmRSS")
        WAYS[options.peak](members)
        print(f"{status_mib('VmHWM') - before:.0f}")
        return
    sizes = np.bincount(members.clusters)
    print(
        f"{options.rows} rows of {options.dim}, {options.clusters} clusters of {sizes.min()} to "
        f"{sizes.max()} rows, {cores()} cores\n"
    )
    times: dict[str, list[float]] = {name: [] for name in WAYS}
    results = {}
    for _ in range(options.rounds):
        for name, way in WAYS.items():
            start = time.perf_counter()
            results[name] = way(members)
            times[name].append(time.perf_counter() - start)
    print("| way | seconds | times ours | added MiB |\n| --- | --- | --- | --- |")
    for name, seconds in times.items():
        ratio = statistics.median(t / o for t, o in zip(seconds, times["ours"], strict=True))
        added = peak_of(name, options)
        print(f"| {name} | {statistics.median(seconds):.2f} | {ratio:.2f} | {added} |")
    ours, loop = results["ours"], results["loop"]
    kept, kept_by_loop = ours <= 1 - EPS, loop <= 1 - EPS
    print(
        f"\nlargest difference {np.abs(ours - loop).max():.1e}; kept {kept.mean():.1%}, "
        f"{int((kept != kept_by_loop).sum())} rows by one way only"
    )


def made_up(rows: int, dim: int, clusters: int) -> OrderedMembers:
    """Unit vectors of uneven clusters, a third of them near copies of others of their cluster."""
    rng = np.random.default_rng(0)
    shares = rng.lognormal(0, 1, clusters)
    numbers = np.sort(rng.choice(clusters, rows, p=shares / shares.sum())).astype(np.int32)
    centres = rng.standard_normal((clusters, dim), dtype=np.float32)
    vectors = centres[numbers] + rng.standard_normal((rows, dim), dtype=np.float32)
    firsts = np.searchsorted(numbers, numbers)
    sources = firsts + (rng.random(rows) * (np.arange(rows) - firsts)).astype(np.int64)
    copies = np.flatnonzero(rng.random(rows) < 1 / 3)
    noise = rng.standard_normal((len(copies), dim), dtype=np.float32)
    vectors[copies] = vectors[sources[copies]] + rng.uniform(0, 0.6, (len(copies), 1)) * noise
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return OrderedMembers(np.arange(rows), numbers, vectors)


def ours(members: OrderedMembers) -> np.ndarray:
    """(rows,) highest cosines with an earlier row."""
    return members.similarities()


def loop(members: OrderedMembers) -> np.ndarray:
    """The same, with the matrix of each cluster."""
    parts = []
    bounds = np.flatnonzero(np.diff(members.clusters, prepend=-1, append=-1)).tolist()
    for first, stop in pairwise(bounds):
        vectors = members.vectors[first:stop]
        parts.append(np.triu(vectors @ vectors.T, 1).max(axis=0))
    return np.maximum(np.concatenate(parts), 0)


def peak_of(way: str, options: argparse.Namespace) -> str:
    """MiB that a way adds to a process of its own."""
    words = [f"--{name}={getattr(options, name)}" for name in ("rows", "dim", "clusters")]
    command = [sys.executable, __file__, *words, "--peak", way]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def status_mib(name: str) -> float:
    """One of the kernel's numbers of this process, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


WAYS: dict[str, Callable[[OrderedMembers], np.ndarray]] = {"ours": ours, "loop": loop}


if __name__ == "__main__":
    main()
