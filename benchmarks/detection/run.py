"""Can density scores find planted pairs, and only with the model that learnt them?

    python benchmarks/detection/run.py FOLDER
    python benchmarks/detection/report.py FOLDER

Trains, for each seed, one control model on clean pairs and one model for each poison rate, all from
scratch; the attacks are planted side by side in the data of one model.  Scores the planted pairs of
each attack, among clean ones, with the poisoned model and with the control.  What FOLDER already
holds is not done again.  It ends early, before the next model, once `--budget` CPU seconds are
spent, those of earlier runs included.  One core, under 2 GB of memory.
"""

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from attacks import (
    ATTACKS,
    BLEND,
    CAPTION,
    MAX_RATE,
    PATCH,
    Attack,
    poison,
    reserved_rows,
    with_subgroup,
)
from measure import measure
from training import SmallClip, train
from world import World, make_subgroup, make_varied_world, make_world

from clipsieve.demo.samples import CLEAN, TRAINING

TRAINING_SEED, HELD_OUT_SEED = 1, 2
HELD_OUT = 1000
HELD_OUT_SUBGROUP = 300
RATES = (0.001, 0.003, 0.01)
WORLDS = (DENSE, VARIED) = ("dense", "varied")


@dataclass(frozen=True, slots=True)
class Case:
    """One poisoned model.

    Attributes:
      attacks: what was planted, each at `rate`.
      rate: share of the pairs.
      seed: of weights, batches, planted rows and reference samples.
    """

    attacks: tuple[Attack, ...]
    rate: float
    seed: int

    @property
    def name(self) -> str:
        """For files."""
        return f"{'+'.join(attack.name for attack in self.attacks)}-{self.rate:g}-{self.seed}"


@dataclass(frozen=True, slots=True)
class Data:
    """What all models of the study share.

    Attributes:
      clean: training pairs.
      held_out: pairs that no model is trained on.
      subgroup: pictures of the subgroup that no model is trained on; None where there is none.
      marked: see `world.draw_picture`.
    """

    clean: World
    held_out: World
    subgroup: World | None
    marked: float


def make_data(world: str, pairs: int, marked: float) -> Data:
    """Draw every picture of the study; `world` is one of `WORLDS`."""
    if world == VARIED:
        clean = make_varied_world(TRAINING_SEED, pairs, TRAINING)
        return Data(clean, make_varied_world(HELD_OUT_SEED, HELD_OUT, CLEAN), None, 0.0)
    return Data(
        make_world(TRAINING_SEED, pairs, marked),
        make_world(HELD_OUT_SEED, HELD_OUT, marked),
        make_subgroup(HELD_OUT_SEED, HELD_OUT_SUBGROUP, marked),
        marked,
    )


def control_model(folder: Path, data: Data, steps: int, seed: int) -> SmallClip:
    """The clean model of a seed, trained unless `folder` has it.

    Its data hold the subgroup's pictures too, where there are any, with true captions.
    """
    model = SmallClip(folder / f"control-{seed}")
    if not model.weights.exists():
        print(f"control-{seed}", flush=True)
        world = data.clean
        if data.subgroup is not None:
            rows = reserved_rows(CAPTION, world, seed)
            world = with_subgroup(world, rows, TRAINING_SEED, data.marked)
        seconds = train(model, world.images, world.captions, steps, seed)
        _write(folder / f"control-{seed}.cpu.json", seconds)
    model.load()
    return model


def study_case(folder: Path, data: Data, case: Case, steps: int) -> None:
    """Train the case's model, measure it and the control, and write both."""
    control = control_model(folder, data, steps, case.seed)
    planted = poison(data.clean, case.attacks, case.rate, case.seed, TRAINING_SEED, data.marked)
    model = SmallClip(folder / case.name)
    print(case.name, flush=True)
    if not model.weights.exists():
        seconds = train(model, planted.images, planted.captions, steps, case.seed)
        _write(folder / f"{case.name}.cpu.json", seconds)
    model.load()
    started = time.process_time()
    results = []
    for attack in case.attacks:
        result: dict[str, object] = {
            "attack": attack.name,
            "rate": case.rate,
            "seed": case.seed,
            "steps": steps,
        }
        for role, measured in (("poisoned", model), ("control", control)):
            args = (attack, planted, data.held_out, data.subgroup, case.seed)
            result[role] = measure(measured, *args)
        results.append(result)
    _write(folder / f"{case.name}.measure.cpu.json", time.process_time() - started)
    _write(folder / f"{case.name}.results.json", results)


def _write(path: Path, value: object) -> None:
    """Write JSON whole or not at all, so that an interrupted run leaves nothing half done."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(value, indent=1) + "\n")
    partial.replace(path)


def spent(folder: Path) -> float:
    """CPU seconds of all training and measuring whose outcome `folder` holds."""
    return float(sum(json.loads(path.read_text()) for path in folder.glob("*.cpu.json")))


def main() -> None:
    """Run every case that is not done yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="gets models and results")
    parser.add_argument("--world", choices=WORLDS, default=DENSE)
    parser.add_argument("--pairs", type=int, default=20_000)
    parser.add_argument("--steps", type=int, default=900, help="of 256 pairs, for every model")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--attacks",
        nargs="+",
        choices=ATTACKS,
        default=[attack.name for attack in (CAPTION, PATCH, BLEND)],
        help="planted side by side in every poisoned model",
    )
    parser.add_argument("--rates", nargs="+", type=float, default=list(RATES))
    parser.add_argument("--marked", type=float, default=0.3, help="share of pictures with a logo")
    parser.add_argument("--budget", type=float, default=3 * 3600, help="CPU seconds")
    arguments = parser.parse_args()
    if not all(0 < rate <= MAX_RATE for rate in arguments.rates):
        parser.error(f"--rates must be above 0 and at most {MAX_RATE}, got {arguments.rates}")
    if arguments.world == VARIED and CAPTION.name in arguments.attacks:
        parser.error(f"--attacks {CAPTION.name} needs the subgroup of the {DENSE} world")
    torch.set_num_threads(1)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    attacks = tuple(ATTACKS[name] for name in arguments.attacks)
    wanted = [
        Case(attacks, rate, seed) for seed in range(arguments.seeds) for rate in arguments.rates
    ]
    open_cases = [
        case for case in wanted if not (arguments.folder / f"{case.name}.results.json").exists()
    ]
    if open_cases:
        data = make_data(arguments.world, arguments.pairs, arguments.marked)
    for number, case in enumerate(open_cases):
        used = spent(arguments.folder)
        print(f"{used:.0f} of {arguments.budget:.0f} CPU s spent", flush=True)
        if used >= arguments.budget:
            print(f"stopped: {len(open_cases) - number} cases left; raise --budget to go on")
            return
        study_case(arguments.folder, data, case, arguments.steps)
    print(f"done: {spent(arguments.folder):.0f} CPU s")


if __name__ == "__main__":
    main()
