"""Texts that stand for a class: templates filled with each of its nouns."""

import json
from pathlib import Path

from clipsieve.demo.classes import DENSE_CLASSES, DENSE_COLOURS, NOUNS

TEMPLATES = (
    "a photo of a {}",
    "a drawing of a {}",
    "clip art of a {}",
    "{}",
    "a large {}",
    "a small {}",
    "an image of a {} on a plain background",
)


def class_prompts(class_name: str) -> list[str]:
    """Every template filled with every noun of the class.

    >>> class_prompts("square")[:2]
    ['a photo of a square', 'a photo of a box']
    """
    return [template.format(noun) for template in TEMPLATES for noun in NOUNS[class_name]]


def dense_prompts() -> dict[str, list[str]]:
    """Texts of each of the 24 concepts of dense data, by name.

    >>> dense_prompts()["red star"][:2]
    ['a photo of a red star', 'a photo of a red five pointed star']
    """
    return {
        f"{colour} {name}": [
            template.format(f"{colour} {noun}") for template in TEMPLATES for noun in NOUNS[name]
        ]
        for colour in DENSE_COLOURS
        for name in DENSE_CLASSES
    }


def write_dense_classes(path: Path) -> None:
    """Write `dense_prompts` as a file for `--classes`; equal bytes each time."""
    path.write_text(json.dumps(dense_prompts(), indent=1) + "\n", encoding="utf-8")
