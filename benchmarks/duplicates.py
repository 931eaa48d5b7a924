"""Near-duplicates of a million perceptual hashes, and what the hashes cost while embedding.

    python benchmarks/duplicates.py --rows 1000000 --repeats 3

Three tables, medians of runs that take turns:

    search   all pairs of distinct hashes within a Hamming distance, in a process of its own, with
             its peak memory; beside it comparing all with all (XOR, count, compare), timed on some
             rows against all in the same run and multiplied.  The pairs of those rows must be the
             same, else exit code 1.  `random` are uniform hashes and planted near-copies; of
             `skewed` ones most bits are nearly constant, so that many hashes share each key.
    groups   learning each scorer from batches in memory: all passes, sums and the search
    hashes   microseconds a JPEG: sha256 and perceptual hash beside `decode_image`, which has it
"""

import argparse
import hashlib
import io
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import simplejpeg
import skimage.data
import torch
from PIL import Image

from clipsieve.clip.decode import decode_image
from clipsieve.clip.perceptual_hash import perceptual_hash
from clipsieve.clip.preprocess import Preprocess
from clipsieve.scorers.base import Context, PairBatch
from clipsieve.scorers.duplicates.hamming import hamming_pairs
from clipsieve.scorers.registry import make_scorer

#: Rows that are compared with all.
SLICE = 200
SIZES = ((256, 256), (512, 384), (640, 640), (1600, 1067))
BATCH_ROWS = 16_384


def main() -> int:
    """Print the tables; 1 if the search misses a pair or invents one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--distance", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--search", choices=HASHES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.search:
        return search(options.search, options.rows, options.distance)
    torch.set_num_threads(1)
    print(f"search: {options.rows:,} hashes, distance {options.distance}")
    print(f"{'':>8} {'pairs':>9} {'seconds':>8} {'MB':>6} {'MB before':>9} {'all with all':>12}")
    for kind in HASHES:
        ran = [run_search(kind, options.rows, options.distance) for _ in range(options.repeats)]
        if any(run is None for run in ran):
            return 1
        pairs, seconds, peak, before, brute = (
            statistics.median(values) for values in zip(*filter(None, ran), strict=True)
        )
        memory = f"{peak:>6.0f} {before:>9.0f}"
        print(f"{kind:>8} {pairs:>9,.0f} {seconds:>8.2f} {memory} {brute:>10,.0f} s")
    print(f"groups: {options.rows:,} rows, seconds")
    for name in ("duplicates.bytes", "duplicates.caption", "duplicates.phash"):
        taken = [learn_seconds(name, options.rows) for _ in range(options.repeats)]
        print(f"{name:>20} {statistics.median(taken):>8.2f}")
    print_hashes(options.repeats)
    return 0


def random_hashes(rng: np.random.Generator, rows: int) -> np.ndarray:
    """Uniform hashes, one in ten a copy with 0 to 6 bits changed."""
    copies = rows // 10
    values = rng.integers(1 << 64, size=rows - copies, dtype=np.uint64)
    near = values[:copies].copy()
    for number in range(6):
        bits = np.uint64(1) << rng.integers(64, size=copies).astype(np.uint64)
        near ^= np.where(rng.random(copies) < number / 6, bits, np.uint64(0))
    return np.unique(np.concatenate([values, near]))


def skewed_hashes(rng: np.random.Generator, rows: int) -> np.ndarray:
    """Hashes whose bits are set with a probability of 0.02 to 0.5 each."""
    likely = rng.uniform(0.02, 0.5, 64)
    packed = [
        np.packbits(rng.random((min(100_000, rows - at), 64)) < likely, axis=1)
        for at in range(0, rows, 100_000)
    ]
    return np.unique(np.concatenate(packed).view(">u8").ravel().astype(np.uint64))


HASHES: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "random": random_hashes,
    "skewed": skewed_hashes,
}


def run_search(kind: str, rows: int, distance: int) -> tuple[float, ...] | None:
    """What `search` prints, run in a process of its own; None if it failed."""
    command = [sys.executable, __file__, "--search", kind]
    command += ["--rows", str(rows), "--distance", str(distance)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        print(done.stdout)
        return None
    return tuple(map(float, done.stdout.split()))


def search(kind: str, rows: int, distance: int) -> int:
    """Print pairs, seconds, peak and earlier memory in MB, and seconds of comparing all."""
    rng = np.random.default_rng(0)
    values = rng.permutation(HASHES[kind](rng, rows))
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = peak_megabytes()
    started = time.perf_counter()
    found = list(hamming_pairs(values, distance))
    seconds = time.perf_counter() - started
    peak = peak_megabytes()
    one, other = (np.concatenate([pair[side] for pair in found]) for side in (0, 1))
    started = time.perf_counter()
    expected = [
        np.flatnonzero(np.bitwise_count(values[row + 1 :] ^ values[row]) <= distance) + row + 1
        for row in range(SLICE)
    ]
    compared = sum(len(values) - row - 1 for row in range(SLICE))
    all_pairs = len(values) * (len(values) - 1) / 2
    brute = (time.perf_counter() - started) / compared * all_pairs
    for row, others in enumerate(expected):
        if not np.array_equal(np.sort(other[one == row]), others):
            print(f"{kind}: the pairs of hash {row} are not those of comparing all")
            return 1
    print(len(one), seconds, peak, before, brute)
    return 0


def peak_megabytes() -> float:
    """The largest resident set of this process so far."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def learn_seconds(name: str, rows: int) -> float:
    """Seconds in which a scorer learns of rows of which one in ten repeats another."""
    batches = [made_batch(at, min(BATCH_ROWS, rows - at)) for at in range(0, rows, BATCH_ROWS)]
    scorer, context = make_scorer(name, {}), Context(512, rows, 100.0)
    known: dict[str, np.ndarray] = {}
    started = time.perf_counter()
    while asked := scorer.statistics(known, context):
        sums: dict[str, Any] = {}
        for key, statistic in asked.items():
            for batch in batches:
                state = statistic.observe(batch, context)
                sums[key] = sums[key] + state if key in sums else state
        known = dict(scorer.learn(sums, known, context))
    return time.perf_counter() - started


def made_batch(first: int, rows: int) -> PairBatch:
    """Return rows `first` on, as a shard."""
    rng = np.random.default_rng(first)
    number = np.where(rng.random(rows) < 0.1, rng.integers(0, first + 1, rows), first) + np.arange(
        rows
    )
    digests = [hashlib.sha256(n.tobytes()).digest() for n in number]
    hashes = np.frombuffer(b"".join(digest[:8] for digest in digests), "<u8")
    flipped = np.uint64(1) << rng.integers(64, size=rows).astype(np.uint64)
    return PairBatch(
        pa.array([f"{first + at:032x}" for at in range(rows)]),
        captions=[f"a caption of some words, number {n}" for n in number],
        shard=f"{first:09}",
        image_sha256=pa.array([digest.hex() for digest in digests]),
        image_phash=pa.array(hashes ^ np.where(rng.random(rows) < 0.5, flipped, np.uint64(0))),
        clip_score=rng.random(rows).astype(np.float32),
    )


def print_hashes(repeats: int) -> None:
    """Print microseconds a JPEG, by size."""
    preprocess = Preprocess((224, 224), (0.5,) * 3, (0.5,) * 3, "bicubic", "shortest")
    print("hashes: microseconds a JPEG")
    print(f"{'size':>11} {'decode_image':>12} {'simplejpeg':>10} {'phash':>6} {'sha256':>6} share")
    for width, height in SIZES:
        file = io.BytesIO()
        picture = Image.fromarray(skimage.data.coffee()).resize((width, height))
        picture.save(file, "JPEG", quality=85)
        data = file.getvalue()
        pixels = torch.from_numpy(simplejpeg.decode_jpeg(data, "RGB")).permute(2, 0, 1)
        ways: list[Callable[[], object]] = [
            lambda data=data: decode_image(data, preprocess),
            lambda data=data: simplejpeg.decode_jpeg(data, "RGB"),
            lambda pixels=pixels: perceptual_hash(pixels),
            lambda data=data: hashlib.sha256(data).digest(),
        ]
        whole, jpeg, phash, sha = interleaved(ways, 50 * repeats)
        print(
            f"{width:>5}x{height:<5} {whole:>12.0f} {jpeg:>10.0f} {phash:>6.0f} {sha:>6.0f} "
            f"{phash / whole:.0%}"
        )


def interleaved(ways: list[Callable[[], object]], repeats: int) -> list[float]:
    """Median microseconds of each way, the ways taking turns."""
    times: list[list[float]] = [[] for _ in ways]
    for _ in range(repeats):
        for way, record in zip(ways, times, strict=True):
            started = time.perf_counter()
            way()
            record.append((time.perf_counter() - started) * 1e6)
    return [statistics.median(record) for record in times]


if __name__ == "__main__":
    sys.exit(main())
