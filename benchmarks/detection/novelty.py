"""How well models that were never poisoned flag a pasted patch, by its size.

    python benchmarks/detection/novelty.py FOLDER > benchmarks/detection/results_novelty.md

Uses the control models that `run.py` left in FOLDER: what they flag is new to them, not poison.
The AUROC of every seed goes to `FOLDER/novelty.json`.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from attacks import PATCH, patched, reserved_rows
from detectors import DETECTORS, density_scores, sample_rows
from measure import AUTO_REFERENCE, PAIRS, UNIT_REFERENCE
from report import markdown_table, spread
from run import DENSE, SEEDS, control_name, make_data, trained_model, write_json
from training import SmallClip
from world import World

from clipsieve.demo.evaluate import auroc

SIDES = (2, 4, 6, 8, 12)
REFERENCES = (AUTO_REFERENCE, UNIT_REFERENCE)
RATE = 0.003


def patch_aurocs(
    model: SmallClip, world: World, side: int, seed: int
) -> dict[int, dict[str, float]]:
    """Reference size -> detector -> AUROC of patched rows, as a model sees them."""
    rows = reserved_rows(PATCH, world, seed)[: round(RATE * len(world.captions))]
    images = world.images.copy()
    images[rows] = patched(images[rows], side)
    features = model.embed_images(images)
    is_planted = np.isin(np.arange(len(images)), rows)
    aurocs = {}
    for size in REFERENCES:
        scores = density_scores(features, sample_rows(len(images), size, 100 * seed))
        aurocs[size] = {
            name: auroc(scores[name][is_planted], scores[name][~is_planted]) for name in DETECTORS
        }
    return aurocs


def main() -> None:
    """Measure every size and seed, store the numbers and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--marked", type=float, default=0.3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    models = {seed: trained_model(arguments.folder, control_name(seed)) for seed in arguments.seeds}
    world = make_data(DENSE, arguments.pairs, arguments.marked).clean
    measured = {
        side: {seed: patch_aurocs(model, world, side, seed) for seed, model in models.items()}
        for side in SIDES
    }
    write_json(arguments.folder / "novelty.json", {"rate": RATE, "sides": measured})
    seeds = ", ".join(str(seed) for seed in models)
    print(
        f"# Newness alone: a patch that no model learnt\n\nAUROC, seeds {seeds}, rate {RATE:.1%}."
    )
    for size in REFERENCES:
        rows = []
        for side in SIDES:
            drawn = [found[size] for found in measured[side].values()]
            cells = [spread(aurocs[name] for aurocs in drawn) for name in DETECTORS]
            rows.append([f"{side} of 32 pixels", *cells])
        table = markdown_table(["side of the square", *DETECTORS], rows)
        print(f"\n## R = {size}\n\n{table}")


if __name__ == "__main__":
    main()
