"""Tables and the figure of the detection study, from the results of `run.py`.

    python benchmarks/detection/report.py FOLDER --figure docs/backdoor.svg > results.md

Every cell is a mean over seeds with the least and greatest value behind it.
"""

import argparse
import itertools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from attacks import BENIGN
from detectors import DETECTORS
from figure import Line, Panel, draw_panels
from measure import AUTO_REFERENCE, REFERENCES, SIMILARITY, UNIT_REFERENCE

from clipsieve.scorers.density import DEFAULT_K

ROLES = ("poisoned", "control")
WORKING = 0.8  #: success from which an attack counts as working
NOTE = """\
Means over seeds (least-greatest).  R: rows of the reference; `clipsieve` took R = {auto} for this
many pairs.  The control of `caption` holds the same pictures at the same rate, truly captioned.
`benign` is no attack: a rare class with true captions.  See `docs/backdoor.md`."""
SEEN = 0.95  #: AUROC from which a detector counts as seeing it
VERDICT_REFERENCES = (AUTO_REFERENCE, 512, UNIT_REFERENCE)
CURVE_DETECTORS = ("k-distance", "DAO")
COMPANY = (0, 4, 8, 12, 16, 24, 32, 64, 250)  #: bounds of planted pairs in a reference

Result = dict[str, Any]
Group = list[Result]  # the results of one attack and rate, one for each model
Groups = dict[tuple[str, float], Group]  # (attack, rate) -> results


def load(folder: Path) -> tuple[Groups, Groups]:
    """The results that `folder` holds.

    Returns:
      The first training of every seed; and, where a seed was trained again, all trainings of that
      seed, each with the seed's own control.

    Raises:
      ValueError: if it holds none, or repeats without the first training.
    """
    groups: Groups = {}
    again: Groups = {}
    for path in sorted(folder.glob("*.results.json")):
        for result in json.loads(path.read_text()):
            chosen = again if result["repeat"] else groups
            chosen.setdefault((result["attack"], result["rate"]), []).append(result)
    if not groups:
        raise ValueError(f"{folder} has no *.results.json: run run.py first")
    repeats: Groups = {}
    for key, results in again.items():
        seeds = {result["seed"] for result in results}
        first = [result for result in groups.get(key, []) if result["seed"] in seeds]
        if len(seeds) != 1 or len(first) != 1:
            raise ValueError(f"repeats of {key} need one seed and its first training, got {seeds}")
        control = first[0]["control"]
        repeats[key] = [*first, *({**result, "control": control} for result in results)]
    return dict(sorted(groups.items())), dict(sorted(repeats.items()))


def spread(values: Iterable[float], digits: int = 2) -> str:
    """Mean, least and greatest.

    >>> spread([0.9, 1.0])
    '0.95 (0.90-1.00)'
    >>> spread([0.5])
    '0.50'
    """
    array = np.array(list(values))
    mean = f"{array.mean():.{digits}f}"
    if len(array) == 1:
        return mean
    return f"{mean} ({array.min():.{digits}f}-{array.max():.{digits}f})"


def detection_values(
    group: Group, role: str, detector: str, reference: int, unit: bool, key: str
) -> list[float]:
    """One number of one detector, for each seed."""
    return [
        found[key]
        for result in group
        for found in result[role]["detections"]
        if (found["detector"], found["reference"], found["unit"]) == (detector, reference, unit)
    ]


def _reference_name(size: int) -> str:
    return "all" if size == max(REFERENCES) else f"R = {size}"


def markdown_table(header: list[str], rows: Iterable[list[str]]) -> str:
    """A Markdown table, text to the right but in the first column."""
    lines = [header, ["---"] + ["--:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def success_table(groups: Groups) -> str:
    """Does each attack work?"""
    header = ["attack", "rate", "seeds", "success", "untriggered", "control", "accuracy"]

    def values(group: Group, role: str, key: str) -> str:
        return spread(result[role]["success"][key] for result in group)

    rows = [
        [
            attack,
            f"{rate:.1%}",
            str(len(group)),
            values(group, "poisoned", "triggered"),
            values(group, "poisoned", "untriggered"),
            values(group, "control", "triggered"),
            values(group, "poisoned", "accuracy"),
        ]
        for (attack, rate), group in groups.items()
    ]
    return markdown_table(header, rows)


def detectors_table(groups: Groups, unit: bool, key: str) -> str:
    """One number of every detector, and of the CLIP similarity, at `UNIT_REFERENCE`."""
    header = ["attack", "rate", "model", *DETECTORS, SIMILARITY]
    rows = []
    for (attack, rate), group in groups.items():
        for role in ROLES:
            cells = [
                spread(detection_values(group, role, name, UNIT_REFERENCE, unit, key))
                for name in DETECTORS
            ]
            similarity = spread(detection_values(group, role, SIMILARITY, 0, True, key))
            rows.append([attack, f"{rate:.1%}", role, *cells, similarity])
    return markdown_table(header, rows)


def references_table(groups: Groups, key: str) -> str:
    """One number of each detector at each reference size, poisoned model and control."""
    header = [
        "attack",
        "rate",
        "detector",
        "model",
        *(_reference_name(size) for size in REFERENCES),
    ]
    rows = []
    for (attack, rate), group in groups.items():
        for detector in DETECTORS:
            for role in ROLES:
                cells = [
                    spread(detection_values(group, role, detector, size, False, key))
                    for size in REFERENCES
                ]
                rows.append([attack, f"{rate:.1%}", detector, role, *cells])
    return markdown_table(header, rows)


def turning_table(groups: Groups) -> str:
    """AUROC of k-distance and DAO at each reference size, poisoned models, attacks that work."""
    header = ["attack", "rate", "detector", *(_reference_name(size) for size in REFERENCES)]
    rows = []
    for (attack, rate), group in groups.items():
        if np.mean([result["poisoned"]["success"]["triggered"] for result in group]) < WORKING:
            continue
        for detector in CURVE_DETECTORS:
            cells = [
                spread(detection_values(group, "poisoned", detector, size, False, "auroc"))
                for size in REFERENCES
            ]
            rows.append([attack, f"{rate:.1%}", detector, *cells])
    return markdown_table(header, rows)


def verdict_table(groups: Groups) -> str:
    """For how many models the attack works, the model sees it and the control does not."""
    header = ["attack", "rate", "R", *DETECTORS]
    rows = []
    for (attack, rate), group in groups.items():
        works = [result["poisoned"]["success"]["triggered"] >= WORKING for result in group]
        for size in VERDICT_REFERENCES:
            cells = []
            for name in DETECTORS:
                seen = detection_values(group, "poisoned", name, size, False, "auroc")
                control = detection_values(group, "control", name, size, False, "auroc")
                met = [
                    works and found >= SEEN and clean < SEEN
                    for works, found, clean in zip(works, seen, control, strict=True)
                ]
                cells.append(f"{sum(met)} of {len(met)}")
            rows.append([attack, f"{rate:.1%}", str(size), *cells])
    return markdown_table(header, rows)


def repeats_table(repeats: Groups) -> str:
    """Success and AUROC of repeated trainings on the same data."""
    header = ["attack", "rate", "trainings", "success of each", "success", "R", *DETECTORS]
    rows = []
    for (attack, rate), group in repeats.items():
        triggered = [result["poisoned"]["success"]["triggered"] for result in group]
        each = " ".join(f"{value:.2f}" for value in triggered)
        for size in VERDICT_REFERENCES:
            cells = [
                spread(detection_values(group, "poisoned", name, size, False, "auroc"))
                for name in DETECTORS
            ]
            trained = [str(len(group)), each, spread(triggered)]
            rows.append([attack, f"{rate:.1%}", *trained, str(size), *cells])
    return markdown_table(header, rows)


def planted_table(groups: Groups) -> str:
    """Planted pairs in the reference; the same for all detectors and both models."""
    header = ["attack", "rate", *(_reference_name(size) for size in REFERENCES)]
    rows = []
    for (attack, rate), group in groups.items():
        cells = [
            spread(detection_values(group, "poisoned", DETECTORS[0], size, False, "planted"), 1)
            for size in REFERENCES
        ]
        rows.append([attack, f"{rate:.1%}", *cells])
    return markdown_table(header, rows)


def company_table(groups: Groups) -> str:
    """AUROC of poisoned models by how many planted pairs the reference holds.

    Over all attacks, rates, seeds and reference sizes where the attack works; `BENIGN` is none.
    """
    header = ["planted in the reference", "measured", *DETECTORS]
    found = [
        value
        for (attack, _), group in groups.items()
        if attack != BENIGN.name
        for result in group
        if result["poisoned"]["success"]["triggered"] >= WORKING
        for value in result["poisoned"]["detections"]
        if value["detector"] in DETECTORS and not value["unit"]
    ]
    rows = []
    for low, high in itertools.pairwise(COMPANY):
        inside = [value for value in found if low <= value["planted"] < high]
        aurocs = {name: [v["auroc"] for v in inside if v["detector"] == name] for name in DETECTORS}
        if inside:
            count = str(len(inside) // len(DETECTORS))
            rows.append([f"{low} to {high}", count, *(spread(aurocs[name]) for name in DETECTORS)])
    return markdown_table(header, rows)


def curves(groups: Groups, attack: str) -> list[Panel]:
    """AUROC against reference size: one panel a detector, one line a rate and model.

    The mark of a rate is the reference size with 16 planted pairs on average.
    """

    def line(group: Group, role: str, detector: str, rate: float) -> Line:
        values = [
            detection_values(group, role, detector, size, False, "auroc") for size in REFERENCES
        ]
        return Line(
            label=f"{rate:.1%}" if role == "poisoned" else "",
            x=list(REFERENCES),
            y=[float(np.mean(value)) for value in values],
            low=[min(value) for value in values],
            high=[max(value) for value in values],
            dashed=role == "control",
            mark=DEFAULT_K / rate if role == "poisoned" else None,
        )

    chosen = {rate: group for (name, rate), group in groups.items() if name == attack}
    return [
        Panel(
            f"{attack}: AUROC of {detector} by reference size",
            [line(group, role, detector, rate) for role in ROLES for rate, group in chosen.items()],
            dashed_label="clean control",
        )
        for detector in CURVE_DETECTORS
    ]


def main() -> None:
    """Print all tables; draw the figure if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--figure", type=Path, help="SVG to write")
    parser.add_argument("--curve-attacks", nargs="+", default=["patch", "caption", "benign"])
    arguments = parser.parse_args()
    groups, repeats = load(arguments.folder)
    at = f"R = {UNIT_REFERENCE}"
    again = []
    if repeats:
        again = [
            ("The same of repeated trainings on the data of one seed", verdict_table(repeats)),
            ("Repeated trainings on the data of one seed", repeats_table(repeats)),
        ]
    sections = [
        ("Attack success", success_table(groups)),
        (
            f"Seeds with success of at least {WORKING}, AUROC of at least {SEEN} and, for the "
            f"control, below {SEEN}",
            verdict_table(groups),
        ),
        *again,
        (f"AUROC, {at}", detectors_table(groups, False, "auroc")),
        (
            f"Share of clean pairs flagged with 95 % of the planted, {at}",
            detectors_table(groups, False, "fpr95"),
        ),
        (f"AUROC, normalised embeddings, {at}", detectors_table(groups, True, "auroc")),
        (f"AUROC by reference size, mean success of at least {WORKING}", turning_table(groups)),
        (
            "AUROC at every reference size, all detectors and models",
            references_table(groups, "auroc"),
        ),
        (
            "Share of clean pairs flagged with 95 % of the planted, at every reference size",
            references_table(groups, "fpr95"),
        ),
        ("AUROC by planted pairs in the reference, attacks that work", company_table(groups)),
        ("Planted pairs in the reference", planted_table(groups)),
    ]
    print(f"# The detection study in numbers\n\n{NOTE.format(auto=AUTO_REFERENCE)}\n")
    filled = [(title, table) for title, table in sections if table.count("\n") > 1]
    print("\n".join(f"## {title}\n\n{table}\n" for title, table in filled))
    if arguments.figure is not None:
        panels = [panel for name in arguments.curve_attacks for panel in curves(groups, name)]
        arguments.figure.write_text(draw_panels(panels, columns=2))


if __name__ == "__main__":
    main()
