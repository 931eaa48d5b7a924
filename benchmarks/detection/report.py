"""Tables and the figure of the detection study, from the results of `run.py`.

    python benchmarks/detection/report.py FOLDER [--figure docs/backdoor.svg]

Every cell is a mean over seeds with the least and greatest value behind it.
"""

import argparse
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from detectors import DETECTORS
from figure import Line, Panel, draw_panels
from measure import REFERENCES, SIMILARITY, UNIT_REFERENCE

ROLES = ("poisoned", "control")

Result = dict[str, Any]
Group = list[Result]  # the results of one attack and rate, one for each seed


def load(folder: Path) -> dict[tuple[str, float], Group]:
    """(attack, rate) -> results of all seeds that `folder` holds.

    Raises:
      ValueError: if it holds none.
    """
    groups: dict[tuple[str, float], Group] = {}
    for path in sorted(folder.glob("*.result.json")):
        result = json.loads(path.read_text())
        groups.setdefault((result["attack"], result["rate"]), []).append(result)
    if not groups:
        raise ValueError(f"{folder} has no *.result.json: run run.py first")
    return dict(sorted(groups.items()))


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


def _table(header: list[str], rows: Iterable[list[str]]) -> str:
    lines = [header, ["---"] + ["--:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def success_table(groups: dict[tuple[str, float], Group]) -> str:
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
    return _table(header, rows)


def detection_table(
    groups: dict[tuple[str, float], Group], detectors: Iterable[str], unit: bool, key: str
) -> str:
    """One number of each detector at each reference size, poisoned model and control."""
    sizes = [UNIT_REFERENCE] if unit else list(REFERENCES)
    header = ["attack", "rate", "detector", "model", *(f"R = {size}" for size in sizes)]
    rows = [
        [
            attack,
            f"{rate:.1%}",
            detector,
            role,
            *(spread(detection_values(group, role, detector, size, unit, key)) for size in sizes),
        ]
        for (attack, rate), group in groups.items()
        for detector in detectors
        for role in ROLES
    ]
    return _table(header, rows)


def planted_table(groups: dict[tuple[str, float], Group]) -> str:
    """Planted pairs in the reference; the same for all detectors and both models."""
    header = ["attack", "rate", *(f"R = {size}" for size in REFERENCES)]
    rows = []
    for (attack, rate), group in groups.items():
        cells = [
            spread(detection_values(group, "poisoned", DETECTORS[0], size, False, "planted"), 1)
            for size in REFERENCES
        ]
        rows.append([attack, f"{rate:.1%}", *cells])
    return _table(header, rows)


def similarity_table(groups: dict[tuple[str, float], Group]) -> str:
    """The CLIP similarity as a detector."""
    header = ["attack", "rate", *ROLES]
    rows = [
        [
            attack,
            f"{rate:.1%}",
            *(
                spread(detection_values(group, role, SIMILARITY, 0, True, "auroc"))
                for role in ROLES
            ),
        ]
        for (attack, rate), group in groups.items()
    ]
    return _table(header, rows)


def curves(groups: dict[tuple[str, float], Group], attack: str) -> list[Panel]:
    """AUROC against reference size: one panel a detector, one line a rate and model."""

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
        )

    chosen = {rate: group for (name, rate), group in groups.items() if name == attack}
    return [
        Panel(
            f"{attack}: {detector}",
            [line(group, role, detector, rate) for role in ROLES for rate, group in chosen.items()],
        )
        for detector in ("k-distance", "DAO")
    ]


def main() -> None:
    """Print all tables; draw the figure if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--figure", type=Path, help="SVG to write")
    parser.add_argument("--curve-attacks", nargs="+", default=["patch", "caption"])
    arguments = parser.parse_args()
    groups = load(arguments.folder)
    sections: list[tuple[str, Callable[[], str]]] = [
        ("Attack success", lambda: success_table(groups)),
        ("AUROC", lambda: detection_table(groups, DETECTORS, False, "auroc")),
        ("FPR at 95 % TPR", lambda: detection_table(groups, DETECTORS, False, "fpr95")),
        ("AUROC, normalised", lambda: detection_table(groups, DETECTORS, True, "auroc")),
        ("AUROC of dissimilarity", lambda: similarity_table(groups)),
        ("Planted pairs in the reference", lambda: planted_table(groups)),
    ]
    for title, make in sections:
        print(f"## {title}\n\n{make()}\n")
    if arguments.figure is not None:
        panels = [panel for name in arguments.curve_attacks for panel in curves(groups, name)]
        arguments.figure.write_text(draw_panels(panels, columns=2))


if __name__ == "__main__":
    main()
