"""Where the audit puts the poison of the detection study, with the models that learnt it.

    python benchmarks/detection/run.py FOLDER
    python benchmarks/audit_poisoned.py FOLDER

For each seed of the study at 0.3 %: the audit of the data with all attacks side by side and with
each alone, by the model that was trained on them; and of the clean data, by the control that was
trained on those.  Prints the rank of the first line most of whose rows are of an attack, and the
share of the attack's rows that it holds.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from audit_rows import MemoryData, Rows
from PIL import Image

from clipsieve.audit.describe import describe
from clipsieve.audit.survey import survey
from clipsieve.audit.witnesses import LOW_SIMILARITY, SawData, Witness
from clipsieve.clip.perceptual_hash import perceptual_hash_pillow
from clipsieve.demo.records import url_of

sys.path.append(str(Path(__file__).parent / "detection"))
from attacks import BENIGN, BLEND, CAPTION, PATCH, poison
from run import DENSE, SEEDS, TRAINING_SEED, control_name, make_data, trained_model
from training import SmallClip

ATTACKS = (CAPTION, PATCH, BLEND, BENIGN)
RATE = 0.003
SOUND = "clean"
WITNESSES = (LOW_SIMILARITY, Witness("density_kdist"), Witness("density_kdist_large"))


def embedded(model: SmallClip, images: np.ndarray, captions: list[str], kinds: np.ndarray) -> Rows:
    """Rows of (N, 32, 32, 3) pictures as a model of the study sees them."""
    hashes = [perceptual_hash_pillow(Image.fromarray(image)) for image in images]
    return Rows(
        np.array(captions, object),
        np.array([url_of(0, row) for row in range(len(captions))], object),
        kinds,
        np.array([hash(image.tobytes()) % 2**63 for image in images], np.uint64),
        np.array(hashes, np.uint64),
        model.embed_images(images),
        model.embed_texts(captions),
    )


def chosen(rows: Rows, keep: np.ndarray) -> Rows:
    """The rows that (N,) bool `keep` marks."""
    return Rows(*(getattr(rows, name)[keep] for name in Rows.__slots__))


def lines_of(rows: Rows, saw_data: SawData) -> list[dict[str, int]]:
    """Rows of each kind in every line of the audit."""
    data = MemoryData(rows)
    findings = survey(data, WITNESSES, saw_data)
    lines = []
    for group in describe(data, findings, WITNESSES, saw_data):
        kinds, counts = np.unique(
            rows.kinds[group.identities["uid"].to_numpy()].astype(str), return_counts=True
        )
        lines.append(dict(zip(kinds.tolist(), counts.tolist(), strict=True)))
    return lines


def place(lines: list[dict[str, int]], kind: str, planted: int) -> str:
    """Rank of the first line most of whose rows are of a kind, and the share that it holds."""
    for rank, line in enumerate(lines, 1):
        if 2 * line.get(kind, 0) > sum(line.values()):
            return f"{rank} ({line[kind] / planted:.2f})"
    return "-"


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="has the study's models")
    parser.add_argument("--pairs", type=int, default=20_000)
    parser.add_argument("--marked", type=float, default=0.3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = make_data(DENSE, arguments.pairs, arguments.marked)
    names = [attack.name for attack in ATTACKS]
    print(f"| seed | model saw data | planted | {' | '.join(names)} | other lines |")
    print(f"| --: | --- | --- |{' --: |' * (len(names) + 1)}")
    for seed in SEEDS:
        planted = poison(data.clean, ATTACKS, RATE, seed, TRAINING_SEED, data.marked)
        kinds = np.full(len(planted.captions), SOUND, object)
        for name, own in planted.rows.items():
            kinds[own] = name
        model = trained_model(arguments.folder, f"{'+'.join(names)}-{RATE:g}-{seed}")
        rows = embedded(model, planted.images, [str(c) for c in planted.captions], kinds)
        cases = [("side by side", np.ones(len(rows), bool))]
        cases += [(f"{name} alone", np.isin(kinds.astype(str), [SOUND, name])) for name in names]
        control = trained_model(arguments.folder, control_name(seed))
        clean = embedded(
            control,
            data.clean.images,
            [str(c) for c in data.clean.captions],
            np.full(len(data.clean.captions), SOUND, object),
        )
        for saw_data in (SawData.UNKNOWN, SawData.YES):
            for title, keep in cases:
                _print_line(seed, saw_data, title, chosen(rows, keep), names)
            _print_line(seed, saw_data, "nothing (control)", clean, names)


def _print_line(seed: int, saw_data: SawData, title: str, rows: Rows, names: list[str]) -> None:
    lines = lines_of(rows, saw_data)
    cells = []
    for name in names:
        count = int((rows.kinds == name).sum())
        cells.append(place(lines, name, count) if count else "")
    others = sum(max(line, key=line.__getitem__) == SOUND for line in lines)
    print(f"| {seed} | {saw_data} | {title} | {' | '.join(cells)} | {others} |", flush=True)


if __name__ == "__main__":
    main()
