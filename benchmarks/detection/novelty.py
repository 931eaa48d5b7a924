"""How well models that were never poisoned flag a pasted patch, by its size.

    python benchmarks/detection/novelty.py FOLDER

Uses the control models that `run.py` left in FOLDER: what they flag is new to them, not poison.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from attacks import PATCH, patched, reserved_rows
from detectors import DETECTORS, density_scores, sample_rows
from report import spread
from run import DENSE, Data, control_model, make_data

from clipsieve.demo.evaluate import auroc

SIDES = (2, 4, 6, 8, 12)
REFERENCE = 2048
RATE = 0.003


def patch_aurocs(folder: Path, data: Data, side: int, seed: int) -> list[float]:
    """AUROC of each detector for patched rows, as seen by the control of a seed."""
    model = control_model(folder, data, steps=0, seed=seed)
    world = data.clean
    rows = reserved_rows(PATCH, world, seed)[: round(RATE * len(world.captions))]
    images = world.images.copy()
    images[rows] = patched(images[rows], side)
    scores = density_scores(
        model.embed_images(images), sample_rows(len(images), REFERENCE, 100 * seed)
    )
    is_planted = np.isin(np.arange(len(images)), rows)
    return [auroc(scores[name][is_planted], scores[name][~is_planted]) for name in DETECTORS]


def main() -> None:
    """Print one row for each size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pairs", type=int, default=20_000)
    parser.add_argument("--marked", type=float, default=0.3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    seeds = [
        int(path.stem.removeprefix("control-").removesuffix(".cpu"))
        for path in sorted(arguments.folder.glob("control-*.cpu.json"))
    ]
    if not seeds:
        parser.error(f"{arguments.folder} has no control model: run run.py first")
    data = make_data(DENSE, arguments.pairs, arguments.marked)
    print(f"| side of the patch | {' | '.join(DETECTORS)} |")
    for side in SIDES:
        drawn = np.array([patch_aurocs(arguments.folder, data, side, seed) for seed in seeds])
        print(f"| {side} of 32 pixels | {' | '.join(spread(column) for column in drawn.T)} |")


if __name__ == "__main__":
    main()
