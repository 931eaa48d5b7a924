"""Files that options of scorers name: lists of classes, templates, labels, words, arrays.

The driver reads them once.  Texts of the `ood` family become the option's value, so workers need no
file, and a file that changes later changes no score until it is given again.  Of other files the
path and the hash are the value: workers read them, and refuse one that has changed.
"""

import os
from collections.abc import Mapping
from typing import Any

from clipsieve.clip.class_lists import FILE_OPTIONS
from clipsieve.clip.identity import TINY
from clipsieve.scorers.array_file import read_array_file
from clipsieve.scorers.option_file import file_value
from clipsieve.scorers.text_map import read_text_map

OOD = "ood"
#: Options of which one replaces the other.
_EXCLUSIVE = (("negatives", "words"), ("targets", "target_clusters"))
#: Options of the family `datacomp` that are files.
_DATACOMP, _DATACOMP_FILES = "datacomp", ("centroids", "targets", "target_clusters", "words")


def read_option_files(options: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return options of scorers with their files read.

    Args:
      options: by name of a scorer or family.

    Raises:
      UsageError: if a file cannot be used.
    """
    read: dict[str, dict[str, Any]] = {}
    for scorer, own in options.items():
        read[scorer] = {k: _read(scorer.partition(".")[0], k, v) for k, v in own.items()}
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
        replaced = {
            name
            for group in _EXCLUSIVE
            if any(each in given.get(scorer, {}) for each in group)
            for name in group
        }
        kept[scorer] = {k: v for k, v in own.items() if k not in replaced}
    return kept


def default_classes(model: str) -> str:
    """Return the classes of a model for which none are given."""
    return "demo" if model == TINY else "imagenet"


def _read(family: str, name: str, value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if family == _DATACOMP and name in _DATACOMP_FILES:
        return file_value(value, f"option {name} of {family}")
    if family != OOD:
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
