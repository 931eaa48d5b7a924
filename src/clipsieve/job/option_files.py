"""Files that options of the `ood` family name: lists of classes, templates, labels, arrays.

The driver reads them once.  Texts become the option's value, so workers need no file, and a file
that changes later changes no score until it is given again.
"""

import os
from collections.abc import Mapping
from typing import Any

from clipsieve.clip.class_lists import FILE_OPTIONS
from clipsieve.clip.identity import TINY
from clipsieve.scorers.array_file import read_array_file
from clipsieve.scorers.text_map import read_text_map

OOD = "ood"
#: Options of which one replaces the other.
_EXCLUSIVE = ("negatives", "words")


def read_option_files(options: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return options of scorers with the files of the `ood` family's read.

    Args:
      options: by name of a scorer or family.

    Raises:
      UsageError: if a file cannot be used.
    """
    read: dict[str, dict[str, Any]] = {}
    for scorer, own in options.items():
        is_ood = scorer.partition(".")[0] == OOD
        read[scorer] = {k: _read(k, v) if is_ood else v for k, v in own.items()}
    return read


def without_replaced(
    recorded: Mapping[str, Mapping[str, Any]], given: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Return recorded options without those that a given one replaces.

    Args:
      recorded: by name of a scorer or family.
      given: likewise.
    """
    kept: dict[str, dict[str, Any]] = {}
    for scorer, own in recorded.items():
        replaced = any(name in given.get(scorer, {}) for name in _EXCLUSIVE)
        kept[scorer] = {k: v for k, v in own.items() if not (replaced and k in _EXCLUSIVE)}
    return kept


def default_classes(model: str) -> str:
    """Return the classes of a model for which none are given."""
    return "demo" if model == TINY else "imagenet"


def _read(name: str, value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if name in FILE_OPTIONS:
        return FILE_OPTIONS[name](value)
    if name == "text_map":
        text_map = read_text_map(value)
        return {"path": text_map.path, "sha256": text_map.sha256}
    if name == "no_prototypes":
        path = os.path.abspath(os.path.expanduser(value))
        return {"path": path, "sha256": read_array_file(path, "no-prototypes", name)[1]}
    return value
