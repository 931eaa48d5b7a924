"""Exact nearest neighbours against the bare matrix product, and against what is used today.

    pip install '.[benchmark]'
    python benchmarks/density.py --queries 100000 --rounds 3

One run, all ways in turns, microseconds a query, medians:

    product  (a) the matrix product alone, in the number format of the search
    search   (ours) `ExactIndex`, made and searched: exact float32 order
    authors  (b) the paper's code: cdist without products and a full sort, batches of 2,048
    faiss    (c) IndexFlatL2
    sklearn  (d) NearestNeighbors, brute force

The slower ways run over fewer queries.  `--memory` prints the peak of two processes instead, one
with ten times as many queries.  `--all-pairs N` searches N rows among themselves, on a GPU by
default, and compares a sample of the lists with float64 brute force.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import faiss
import numpy as np
import torch
from sklearn.neighbors import NearestNeighbors

from clipsieve.neighbours.index import ExactIndex
from clipsieve.neighbours.options import SearchOptions, Sizes

DIM = 512
PORTION = 8192
BATCH = 2048


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--queries", type=int, default=100_000)
    parser.add_argument("--references", default="2048,16384,65536")
    parser.add_argument("--k", default="16,64")
    parser.add_argument("--data", default="gaussian,clusters")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--peak", type=int, help="print the peak of a search of so many queries")
    parser.add_argument("--all-pairs", type=int)
    options = parser.parse_args()
    if options.peak:
        print(_peak(options.peak))
    elif options.memory:
        _memory(options.queries)
    elif options.all_pairs:
        _all_pairs(options.all_pairs, options.device)
    else:
        for data in options.data.split(","):
            for rows in options.references.split(","):
                for k in options.k.split(","):
                    _compare(data, int(rows), int(k), options)


def _compare(data: str, rows: int, k: int, options: argparse.Namespace) -> None:
    """One line: all ways on one kind of data, for one reference."""
    reference = _vectors(data, rows, seed=1)
    queries = _vectors(data, options.queries, seed=2)
    sizes = Sizes.of(SearchOptions(device=options.device), rows)
    device, dtype = sizes.device, sizes.dtype
    right = torch.from_numpy(reference).to(device, dtype).T
    count = len(queries)
    fewer = max(BATCH, min(count, 200_000_000 // rows // BATCH * BATCH))

    def product() -> int:
        for part in _portions(queries, 1024):
            torch.mm(torch.from_numpy(part).to(device, dtype), right)
        return count

    def search() -> int:
        index = ExactIndex(reference, options=SearchOptions(device=options.device))
        for part in _portions(queries, PORTION):
            index.search(part, k)
        return count

    def authors() -> int:
        batch = torch.from_numpy(queries[:BATCH])
        near = torch.cdist(batch, batch, compute_mode="donot_use_mm_for_euclid_dist")
        torch.sort(near, dim=1)
        return BATCH

    def flat() -> int:
        index = faiss.IndexFlatL2(DIM)
        index.add(reference)
        index.search(queries[:fewer], k)
        return fewer

    def brute() -> int:
        model = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(reference)
        model.kneighbors(queries[: fewer // 2])
        return fewer // 2

    ways: dict[str, Callable[[], int]] = {
        "product": product,
        "search": search,
        "faiss": flat,
        "sklearn": brute,
    }
    if rows == BATCH:
        ways["authors"] = authors
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, way in ways.items():
            taken[name].append(_microseconds(way))
    line = [f"{data}, R = {rows:,}, k = {k}"]
    line += [f"{name} {statistics.median(times):,.1f}" for name, times in taken.items()]
    for name in ways:
        if name != "search":
            pairs = zip(taken[name], taken["search"], strict=True)
            line.append(f"{name}/search {statistics.median(a / b for a, b in pairs):.2f}")
    print(" | ".join(line), flush=True)


def _microseconds(way: Callable[[], int]) -> float:
    """Time a query, in microseconds."""
    start = time.perf_counter()
    count = way()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / count * 1e6


def _vectors(data: str, rows: int, seed: int) -> np.ndarray:
    """(rows, 512) float32: independent normal numbers, or clusters off the centre as CLIP's are."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((rows, DIM), np.float32)
    if data == "gaussian":
        return noise
    shared = np.random.default_rng(0)
    cone = 2 * shared.standard_normal(DIM, np.float32)
    centres = shared.standard_normal((500, DIM), np.float32)
    vectors = cone + centres[rng.integers(0, 500, rows)] + 0.7 * noise
    length: np.ndarray = 10 * vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return length.astype(np.float32)


def _portions(rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _memory(queries: int) -> None:
    """Peaks of two processes that make their queries portion by portion, and keep nothing."""
    for count in (queries // 10, queries):
        command = [sys.executable, __file__, "--peak", str(count)]
        peak = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        print(f"{count:,} queries: peak {peak} MiB")


def _peak(queries: int) -> int:
    index = ExactIndex(_vectors("clusters", 16_384, seed=1), options=SearchOptions(device="cpu"))
    for seed, _ in enumerate(range(0, queries, PORTION)):
        index.search(_vectors("clusters", PORTION, seed=seed), 16)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def _all_pairs(rows: int, device: str) -> None:
    """Every row's 16 nearest among all others."""
    vectors = np.concatenate(
        [_vectors("clusters", min(100_000, rows - s), seed=s) for s in range(0, rows, 100_000)]
    )
    numbers = np.arange(rows)
    start = time.perf_counter()
    index = ExactIndex(vectors, options=SearchOptions(device=device))
    made = time.perf_counter()
    found = index.search(vectors, 16, numbers)
    ended = time.perf_counter()
    some = np.random.default_rng(0).integers(0, rows, 20)
    for row in some:
        squares = np.zeros(rows)
        for first in range(0, rows, 100_000):
            part = vectors[first : first + 100_000].astype(np.float64) - vectors[row]
            squares[first : first + len(part)] = (part**2).sum(axis=1)
        squares[row] = np.inf
        distances = np.sqrt(squares).astype(np.float32)
        order = np.lexsort((numbers, distances))[:16]
        assert np.array_equal(found.indices[row], order), row
    print(
        f"{rows:,} x {rows:,}, k = 16: made in {made - start:.1f} s, "
        f"searched in {ended - made:.1f} s; {len(some)} lists equal brute force"
    )


if __name__ == "__main__":
    main()
