"""OOD scores from Parquet to Parquet, side by side with the bare products and with pytorch-ood.

    python benchmarks/ood.py --rows 200000 --rounds 3
    python benchmarks/ood.py --memory 50000,400000
    python benchmarks/ood.py --run 2000 --rounds 3

Writes an output folder of made-up embeddings with the library itself: unit vectors of clusters in a
narrow cone, 512 components, 1,000 classes.  Ways in turns, medians over rounds, seconds:

    ours         the scoring of `clipsieve score`: planning, pipelines, reading and writing Parquet
    products     (a) nothing but the float64 matrix products that the scores need, in memory
    pytorch-ood  (b) the methods that it has, on the same arrays in memory, in float32

First the scores that need no learning, then the whole set but for the nearest neighbours, then the
nearest neighbours; learning is included on all sides.  pytorch-ood's ways over a thousand classes
are timed on fewer rows, and its seconds are for as many rows as ours.

`--memory` is the peak resident set of a process that scores folders of several sizes.  `--run` is
the whole job on that many JPEGs with ViT-B-32 (random weights), with and without the scores that
`run` computes by default; prompts are encoded the first time and come from the user's cache later.

    pip install pytorch-ood      not a dependency: without it, (b) is left out
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from families import DIM, random_shard  # beside this file

from clipsieve.clip.identity import ModelIdentity
from clipsieve.control import Control
from clipsieve.embed.commit import Revisions, ShardWriter, embedded_family, embeddings_entry
from clipsieve.job.reporter import Reporter
from clipsieve.job.scoring import Scoring, ScoringSettings
from clipsieve.pipelines.engine import BeamEngine
from clipsieve.schemas import footers
from clipsieve.scorers.base import Embedded
from clipsieve.scorers.registry import make_scorers, resolve_names
from clipsieve.scoring.prompts import prompt_sets
from clipsieve.store import names
from clipsieve.store.folder import OutputFolder
from clipsieve.store.manifest import Manifest

SHARD_ROWS = 25_000
LOGIT_SCALE = 100.0
#: Rows of one product: the fastest of 256 to 16,384 here.
BLOCK = 2048
#: Rows that pytorch-ood's ways over all classes are timed on.
SLOW_ROWS = 2_000

ZERO_SHOT = resolve_names(["ood.zero_shot"])
KNN = ("ood.knn",)
LEARNED = tuple(name for name in resolve_names(["ood.learned"]) if name not in KNN)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sets", default="zero_shot,all,knn")
    parser.add_argument("--memory", metavar="ROWS,ROWS", help="peak memory for numbers of rows")
    parser.add_argument("--run", type=int, metavar="ROWS", help="time the whole job")
    parser.add_argument("--peak", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        ours(options.peak, ZERO_SHOT + LEARNED)
        # Not ru_maxrss, in which the memory of the process that started this one counts.
        status = Path("/proc/self/status").read_text()
        print(int(status.partition("VmHWM:")[2].split()[0]) / 1024)
        return
    with tempfile.TemporaryDirectory(prefix="clipsieve-ood-") as folder:
        if options.run:
            time_runs(Path(folder), options.run, options.rounds)
            return
        if options.memory:
            print_memory(Path(folder), [int(rows) for rows in options.memory.split(",")])
            return
        data = Data(Path(folder) / "out", options.rows)
        sets = {"zero_shot": ZERO_SHOT, "all": ZERO_SHOT + LEARNED, "knn": KNN}
        for name in options.sets.split(","):
            report(data, name, sets[name], options.rounds)


class Data:
    """A folder of made-up embeddings, and the same as arrays."""

    def __init__(self, out: Path, rows: int) -> None:
        """Write the folder."""
        self.out, rng = out, np.random.default_rng(0)
        centres = rng.normal(size=(1000, DIM)) + 2.0 * rng.normal(size=DIM)
        self.texts = unit(centres + rng.normal(size=centres.shape))
        model = ModelIdentity("made-up", None, "0" * 64, False, DIM, 77, {}, "float32")
        folder = OutputFolder.open(out)
        provenance = {footers.LAYOUT: footers.LAYOUT_VERSION, footers.RUN_ID: "made"}
        revisions = Revisions.from_settings(model, {})
        writer = ShardWriter(folder, model, revisions, provenance, LOGIT_SCALE)
        images = []
        for first in range(0, rows, SHARD_ROWS):
            count = min(SHARD_ROWS, rows - first)
            shard = random_shard(rng, f"{first // SHARD_ROWS:05}", count)
            noise = shard.pairs.image.vectors * 1.5
            vectors = unit(centres[rng.integers(1000, size=count)] + noise).astype(np.float32)
            image = Embedded(vectors, np.ones(count, bool))
            pairs = shard.pairs.__class__(shard.pairs.uid, image, shard.pairs.texts)
            captions = [None] * count
            object.__setattr__(pairs, "captions", captions)
            object.__setattr__(shard, "pairs", pairs)
            writer.commit(shard)
            images.append(vectors)
        entry = embeddings_entry(model)
        families = {"clip": embedded_family(entry.revision)}
        manifest = Manifest(model=model, embeddings=entry, families=families)
        folder.save_manifest(manifest)
        for prompts in prompt_sets(make_scorers(ZERO_SHOT + LEARNED)):
            means = self.texts[: len(prompts.names)]
            name = names.prompts(entry.model, entry.revision, prompts.texts_key)
            folder.write_arrays(name, {"means": means, "cut": np.array(0)})
        self.images = unit(np.concatenate(images).astype(np.float16))


def unit(vectors: np.ndarray) -> np.ndarray:
    """Return float64 rows of unit norm."""
    wide = vectors.astype(np.float64)
    return np.asarray(wide / np.linalg.norm(wide, axis=1, keepdims=True))


class Quiet(Reporter):
    """Tells nothing."""

    def report(self, event: str, text: str, **fields: Any) -> None:
        """Nothing."""


def ours(out: Path, scorers: tuple[str, ...]) -> None:
    """Score a folder anew; nothing of it is kept."""
    folder = OutputFolder.open(out)
    manifest = folder.require_manifest()
    settings = ScoringSettings(scorers, {}, "cpu", "bench", refit=True)
    control = Control("bench", folder.root)
    scored = Scoring(folder, manifest, settings, BeamEngine(), Quiet(), control).run()
    assert scored.left == 0
    folder.files.delete_folder("scores/ood")


def products(data: Data, scorers: tuple[str, ...]) -> None:
    """Multiply what the scores must multiply, block by block, on all cores."""
    images = torch.from_numpy(data.images)
    texts = torch.from_numpy(data.texts)
    half = torch.from_numpy(np.ascontiguousarray(data.texts[: DIM // 2]))
    square = torch.from_numpy(np.ascontiguousarray(data.texts[:DIM]))
    classes = torch.eye(len(texts), dtype=torch.float64)
    if scorers == KNN:
        bank = images[: min(len(images), 50_000)].float()
        for first in range(0, len(images), BLOCK):
            images[first : first + BLOCK].float() @ bank.T
        return
    for first in range(0, len(images), BLOCK):
        block = images[first : first + BLOCK]
        block @ texts.T  # cosines
        if "ood.vim" not in scorers:
            continue
        block @ texts.T  # cosines again: learning reads every row before any is scored
        block.T @ block  # second moment
        block @ half.T  # residual
        block @ texts.T  # cosines and residual for alpha, in the second pass
        block @ half.T
        block @ square.T  # Mahalanobis: whitened, then with the class means
        block @ texts.T
        block @ square.T  # the background of the relative one
        block @ texts.T  # discriminant
        torch.ones(len(block), len(texts), dtype=torch.float64) @ classes  # KL-matching


def pytorch_ood(data: Data, scorers: tuple[str, ...]) -> float:
    """Run the same methods of pytorch-ood; the seconds for all rows."""
    from pytorch_ood import detector as theirs

    images = torch.from_numpy(data.images.astype(np.float32))
    texts = torch.from_numpy(data.texts.astype(np.float32))
    head = torch.nn.Linear(DIM, len(texts), bias=False)
    head.weight.data = LOGIT_SCALE * texts
    cosines = torch.nn.Linear(DIM, len(texts), bias=False)
    cosines.weight.data = texts

    def timed(call: Callable[[torch.Tensor], Any], rows: int, batch: int = BLOCK) -> float:
        started = time.perf_counter()
        with torch.inference_mode():
            for first in range(0, rows, batch):
                call(images[first : min(first + batch, rows)])
        return (time.perf_counter() - started) * len(images) / rows

    everything = len(images)
    seconds = 0.0
    if "ood.msp" in scorers:
        for kind in (theirs.MaxSoftmax, theirs.MaxLogit, theirs.EnergyBased, theirs.Entropy):
            seconds += timed(kind(head).predict, everything)
        seconds += timed(theirs.GEN(head, M=100).predict, everything)
        seconds += timed(theirs.MaxSoftmax(cosines).predict, everything)  # MCM
    if "ood.vim" in scorers:
        started = time.perf_counter()
        labels = torch.cat([head(part).argmax(dim=1) for part in images.split(BLOCK)])
        vim = theirs.ViM(torch.nn.Identity(), d=DIM // 2, w=head.weight.data, b=torch.zeros(1000))
        vim.fit_features(images, labels)
        maha = theirs.Mahalanobis(torch.nn.Identity())
        maha.fit_features(images, labels)
        relative = theirs.RMD(torch.nn.Identity())
        relative.fit_features(images, labels)
        matching = theirs.KLMatching(head)
        logits = torch.cat([head(part) for part in images.split(BLOCK)]).detach()
        matching.fit_logits(logits, labels)
        seconds += time.perf_counter() - started
        seconds += timed(vim.predict, everything)
        seconds += timed(maha.predict_features, SLOW_ROWS, 500)
        seconds += timed(relative.predict_features, SLOW_ROWS, 500)
        seconds += timed(matching.predict, SLOW_ROWS, 500)
    return seconds


def report(data: Data, name: str, scorers: tuple[str, ...], rounds: int) -> None:
    """Time the ways in turns and print a line for each."""
    with_theirs = find_spec("pytorch_ood") is not None and scorers != KNN
    times: dict[str, list[float]] = {}
    for _ in range(rounds):
        for way, seconds in ways(data, scorers, with_theirs):
            times.setdefault(way, []).append(seconds)
    print(f"\n{name}: {len(data.images):,} rows, {len(data.texts):,} classes, {DIM} components")
    for way, values in times.items():
        ratios = [value / own for value, own in zip(values, times["ours"], strict=True)]
        shown = f"{statistics.median(values):8.2f} s   {statistics.median(ratios):.2f} of ours"
        print(f"{way:12} {shown}   {[round(value, 2) for value in values]}", flush=True)


def ways(data: Data, scorers: tuple[str, ...], with_theirs: bool) -> Iterator[tuple[str, float]]:
    """Yield the seconds of each way."""
    for way, call in (("ours", ours), ("products", products)):
        started = time.perf_counter()
        call(data.out if way == "ours" else data, scorers)  # type: ignore[operator]
        yield way, time.perf_counter() - started
    if with_theirs:
        yield "pytorch-ood", pytorch_ood(data, scorers)


def time_runs(root: Path, rows: int, rounds: int) -> None:
    """Print the seconds of whole jobs with and without ood scores, in turns."""
    from throughput import random_model, write_benchmark_shards

    import clipsieve

    os.environ["CLIPSIEVE_CACHE"] = str(root / "cache")
    write_benchmark_shards(root / "shards", rows=rows, shards=4, seed=1)
    model = f"local-dir:{random_model('ViT-B-32', root)}"
    ways = {"without": "clip,density", "with": "clip,density,ood.zero_shot"}
    times: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(-1, rounds):  # the first round loads and encodes
        for way, scorers in ways.items():
            out = root / f"{way}{number}"
            started = time.perf_counter()
            clipsieve.run(f"{root}/shards/*.parquet", out, model=model, scorers=scorers)
            times[way].append(time.perf_counter() - started)
    for way, (first, *seconds) in times.items():
        shown = [round(value, 1) for value in seconds]
        print(f"{way:8} first {first:6.1f} s, then {statistics.median(seconds):6.1f} s  {shown}")
    pairs = zip(times["with"][1:], times["without"][1:], strict=True)
    print(f"with / without  {statistics.median(a / b for a, b in pairs):.3f}")


def print_memory(root: Path, sizes: list[int]) -> None:
    """Print the peak resident set of a process that scores folders of several sizes."""
    for rows in sizes:
        data = Data(root / str(rows), rows)
        command = [sys.executable, __file__, "--peak", str(data.out)]
        peak = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        print(f"{rows:>9,} rows: {float(peak):,.0f} MiB")


if __name__ == "__main__":
    main()
