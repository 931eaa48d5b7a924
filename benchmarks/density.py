"""Exact nearest neighbours, side by side with the bare product and with the usual ways.

    python benchmarks/density.py --rounds 5
    python benchmarks/density.py --gpu

One run, five ways in turns, medians over rounds, microseconds a query:

    ours     `ExactIndex.search` over a stream of query batches
    product  (a) nothing but the matrix products of the same blocks in the same number format
    authors  (b) `torch.cdist` without products and a full sort, 2048 queries at a time, as in
             HanxunH/Detect-CLIP-Backdoor-Samples
    faiss    (c) faiss-cpu `IndexFlatL2`
    sklearn  (d) scikit-learn `NearestNeighbors(algorithm="brute")`

Ratios are medians of the ratios within rounds.  Slow ways answer fewer queries, and all times are
of one query.  Building an index is outside of all five.  Then the peak resident set of two new
processes that answer a tenth and all of the queries in a stream.  `--gpu` instead searches three
million rows in themselves on one GPU.

faiss-cpu and scikit-learn come with `pip install 'clipsieve[benchmark]'`.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from clipsieve.neighbours.index import ExactIndex, ResolvedOptions, SearchOptions

DIM = 512
#: Queries of one call of `search`.
BATCH = 16_384
#: Queries of one call where memory is measured: small beside the smallest number of queries.
STREAM_BATCH = 2048
#: Rows at once, in the authors' experiments.
AUTHORS_BATCH = 2048
#: Distances that a slow way computes in a round, at most; a query at least.
AUTHORS_PAIRS, RIVAL_PAIRS = 1 << 22, 1 << 26


@dataclass(frozen=True)
class Setting:
    """One line of the table."""

    data: str
    rows: int
    k: int
    queries: int
    options: SearchOptions


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", default="2048,16384,65536", help="sizes of the reference")
    parser.add_argument("--k", default="16,64")
    parser.add_argument("--queries", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data", default="gaussian,clip")
    parser.add_argument("--ways", default="ours,product,authors,faiss,sklearn")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--gpu-rows", type=int, default=3_000_000)
    parser.add_argument("--stream", type=int, metavar="QUERIES", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.gpu:
        on_gpu(options.gpu_rows)
        return
    search = SearchOptions(device="cpu", dtype=options.dtype)
    rows = [int(size) for size in options.rows.split(",")]
    if options.stream is not None:
        print(peak_of_stream(Setting("gaussian", rows[-1], 16, options.stream, search)))
        return
    ways = options.ways.split(",")
    head = ["data", "R", "k", *ways, *(f"{way} / ours" for way in ways[1:])]
    dtype = ResolvedOptions.from_options(search, 1).dtype
    print(f"{DIM}-d, {dtype}, {torch.get_num_threads()} threads; us a query\n")
    print(line(head) + "\n" + line(["---"] * len(head)), flush=True)
    for data in options.data.split(","):
        for size in rows:
            for k in (int(k) for k in options.k.split(",")):
                report(Setting(data, size, k, options.queries, search), ways, options.rounds)
    if not options.no_memory:
        print_memory(rows[-1], options.queries, options.dtype)


def report(setting: Setting, names: list[str], rounds: int) -> None:
    """Time the ways in turns and print one line."""
    reference = vectors(setting.data, setting.rows, 0)
    ways = {name: WAYS[name](setting, reference) for name in names}
    times: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        for name, way in ways.items():
            seconds, queries = way()
            times[name].append(seconds / queries * 1e6)
    shown = [f"{statistics.median(values):.1f}" for values in times.values()]
    for name in names[1:]:
        ratios = [theirs / ours for theirs, ours in zip(times[name], times[names[0]], strict=True)]
        shown.append(f"{statistics.median(ratios):.2f}")
    print(line([setting.data, str(setting.rows), str(setting.k), *shown]), flush=True)


def line(cells: list[str]) -> str:
    """A row of a Markdown table."""
    return "| " + " | ".join(cells) + " |"


def vectors(kind: str, rows: int, seed: int) -> np.ndarray:
    """(rows, DIM) float32: plain Gaussian, or unit vectors of clusters in a narrow cone."""
    rng = np.random.default_rng([seed, rows])
    values = rng.standard_normal((rows, DIM), dtype=np.float32)
    if kind == "gaussian":
        return values
    shared = np.random.default_rng(7)
    centres = shared.standard_normal((200, DIM), dtype=np.float32)
    cone = 1.2 * shared.standard_normal(DIM, dtype=np.float32)
    values = 0.6 * values + 0.5 * centres[rng.integers(0, len(centres), rows)] + cone
    unit: np.ndarray = values / np.linalg.norm(values, axis=1, keepdims=True)
    return unit


def stream(setting: Setting, queries: int) -> Iterator[np.ndarray]:
    """Batches of queries, made one at a time."""
    for seed, start in enumerate(range(0, queries, STREAM_BATCH), start=1):
        yield vectors(setting.data, min(STREAM_BATCH, queries - start), seed)


Way = Callable[[], tuple[float, int]]


def timed(batches: list[np.ndarray], answer: Callable[[np.ndarray], Any]) -> Way:
    """A way that times `answer` on all batches and gives seconds and queries."""

    def way() -> tuple[float, int]:
        start = time.perf_counter()
        for batch in batches:
            answer(batch)
        return time.perf_counter() - start, sum(len(batch) for batch in batches)

    return way


def ours(setting: Setting, reference: np.ndarray) -> Way:
    """The search; making queries is not timed."""
    index = ExactIndex(reference, options=setting.options)
    batch = vectors(setting.data, BATCH, 1)
    count = max(1, setting.queries // BATCH)
    return timed([batch] * count, lambda queries: index.search(queries, setting.k))


def product(setting: Setting, reference: np.ndarray) -> Way:
    """(a): results are written over each other, so that memory costs nothing either."""
    sizes = ResolvedOptions.from_options(setting.options, setting.rows)
    parts = torch.from_numpy(reference).to(sizes.dtype).split(sizes.reference_rows)
    queries = torch.from_numpy(vectors(setting.data, BATCH, 1)).to(sizes.dtype)
    out = torch.empty(sizes.query_rows * len(parts[0]), dtype=sizes.dtype)
    count = max(1, setting.queries // BATCH)

    def multiply(_batch: np.ndarray) -> None:
        for block in queries.split(sizes.query_rows):
            for part in parts:
                room = out[: len(block) * len(part)].view(len(block), len(part))
                torch.mm(block, part.T, out=room)

    return timed([np.empty(BATCH)] * count, multiply)


def authors(setting: Setting, reference: np.ndarray) -> Way:
    """(b)."""
    rows = torch.from_numpy(reference)
    count = max(1, min(AUTHORS_BATCH, AUTHORS_PAIRS // setting.rows))
    batch = vectors(setting.data, count, 1)

    def sort(queries: np.ndarray) -> Any:
        mode = "donot_use_mm_for_euclid_dist"
        distances = torch.cdist(torch.from_numpy(queries), rows, compute_mode=mode)
        return distances.sort(dim=1)

    return timed([batch], sort)


def faiss(setting: Setting, reference: np.ndarray) -> Way:
    """(c)."""
    try:
        import faiss as library
    except ImportError as error:
        raise SystemExit("faiss is missing: pip install 'clipsieve[benchmark]'") from error
    library.omp_set_num_threads(torch.get_num_threads())
    index = library.IndexFlatL2(DIM)
    index.add(reference)
    return timed([rival_queries(setting)], lambda queries: index.search(queries, setting.k))


def sklearn(setting: Setting, reference: np.ndarray) -> Way:
    """(d)."""
    try:
        from sklearn.neighbors import NearestNeighbors
    except ImportError as error:
        raise SystemExit("sklearn is missing: pip install 'clipsieve[benchmark]'") from error
    index = NearestNeighbors(n_neighbors=setting.k, algorithm="brute").fit(reference)
    return timed([rival_queries(setting)], index.kneighbors)


def rival_queries(setting: Setting) -> np.ndarray:
    """As many queries as a rival can answer in a second or so."""
    count = max(1, min(setting.queries, BATCH, RIVAL_PAIRS // setting.rows))
    return vectors(setting.data, count, 1)


WAYS = {"ours": ours, "product": product, "authors": authors, "faiss": faiss, "sklearn": sklearn}


def print_memory(rows: int, queries: int, dtype: str) -> None:
    """Peak memory for a tenth and all of the queries, each in a new process."""
    print(f"\npeak resident set, R = {rows}, lists consumed in a stream\n")
    print(line(["queries", "MiB"]) + "\n" + line(["---", "---"]))
    for count in (queries // 10, queries):
        command = [sys.executable, __file__, f"--stream={count}", f"--rows={rows}"]
        done = subprocess.run(
            [*command, f"--dtype={dtype}"], check=True, stdout=subprocess.PIPE, text=True
        )
        print(line([str(count), f"{int(done.stdout) / 1024:.0f}"]), flush=True)


def peak_of_stream(setting: Setting) -> int:
    """Answer all queries of a stream; the most KiB this process ever held."""
    index = ExactIndex(vectors(setting.data, setting.rows, 0), options=setting.options)
    total = 0.0
    for batch in stream(setting, setting.queries):
        total += float(index.search(batch, setting.k).distances[:, -1].sum())
    assert total > 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def on_gpu(rows: int) -> None:
    """All rows in all rows, themselves left out, k = 16; exact."""
    batch, k = 1 << 18, 16
    reference = np.concatenate(
        [
            vectors("clip", min(batch, rows - at), at).astype(np.float16)
            for at in range(0, rows, batch)
        ]
    )
    start = time.perf_counter()
    index = ExactIndex(reference, options=SearchOptions(device="cuda"))
    torch.cuda.synchronize()
    built = time.perf_counter()
    for at in range(0, rows, batch):
        own = np.arange(at, min(at + batch, rows))
        index.search(reference[at : at + batch], k, own)
    done = time.perf_counter()
    print(f"{torch.cuda.get_device_name()}: {rows} x {rows}, {DIM}-d, k = {k}, exact")
    print(f"built in {built - start:.1f} s, searched in {done - built:.1f} s")


if __name__ == "__main__":
    main()
