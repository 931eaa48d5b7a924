"""Which scorers a command means, and in which geometry its model compares images and classes."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from clipsieve.clip.folder_config import CONFIG, read_config
from clipsieve.errors import UsageError
from clipsieve.job.option_files import OOD
from clipsieve.job.reporter import Reporter
from clipsieve.scorers.ood.geometry import COSINE, GEOMETRIES
from clipsieve.scorers.registry import own_options, resolve_names, scorer_factory

_LOCAL = "local-dir:"


def asked_scorers(names: Iterable[str], model: str) -> tuple[str, ...]:
    """Return the scorers that names stand for.

    Of a group, those that are not defined in the geometry of the model are left out.

    Args:
      names: of scorers and groups, see `resolve_names`.
      model: by its name.

    Raises:
      UsageError: for an unknown name, one given twice, or a model that declares nonsense.
    """
    listed = list(names)
    resolved = resolve_names(listed)
    geometry = declared_geometry(model).get("geometry", COSINE)
    return tuple(name for name in resolved if name in listed or _is_defined(name, geometry))


def declared_geometry(model: str) -> dict[str, Any]:
    """Return the options `geometry` and `curvature` that a model declares; none for cosines.

    A model in a folder (`local-dir:`) declares them in its `open_clip_config.json`, beside
    `model_cfg`: `"geometry": "lorentz", "curvature": 1.0`.

    Raises:
      UsageError: for a geometry that is not known.
    """
    if not model.startswith(_LOCAL):
        return {}
    path = Path(os.path.expanduser(model.removeprefix(_LOCAL))) / CONFIG
    try:
        config = read_config(path.parent)
    except UsageError:
        return {}  # said where the model is loaded
    if config.get("geometry") in (None, COSINE):
        return {}
    if config["geometry"] not in GEOMETRIES:
        raise UsageError(
            f"{path} declares geometry {config['geometry']!r}; known are {', '.join(GEOMETRIES)}"
        )
    return {name: config[name] for name in ("geometry", "curvature") if name in config}


def with_enough_classes(
    scorers: Sequence[str],
    named: Iterable[str],
    options: Mapping[str, Mapping[str, Any]],
    reporter: Reporter,
) -> tuple[str, ...]:
    """Return scorers without those that need more classes than there are.

    Scorers that were named stay, and are refused with their reason where they are made.

    Args:
      scorers: names, of groups and of the folder too.
      named: those that the user named one by one, among groups.
      options: by name of a scorer or family.
      reporter: is told what is left out.
    """
    kept = set(named)
    short = [name for name in scorers if name not in kept and not _has_enough(name, options)]
    if short:
        reporter.report("left_out", f"{', '.join(short)}: left out, need more classes than given")
    return tuple(name for name in scorers if name not in short)


def _has_enough(name: str, options: Mapping[str, Mapping[str, Any]]) -> bool:
    if name.partition(".")[0] != OOD:
        return True
    classes = own_options(name, options).get("classes", "imagenet")
    least = getattr(scorer_factory(name), "least_classes", 1)
    return isinstance(classes, str) or len(classes) >= least


def check_geometry(scorers: Sequence[str], options: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse scorers of cosines where images and classes are compared otherwise.

    Raises:
      UsageError: names them.
    """
    geometry = options.get(OOD, {}).get("geometry", COSINE)
    wrong = [name for name in scorers if not _is_defined(name, geometry)]
    if wrong:
        raise UsageError(
            f"{', '.join(wrong)}: defined on cosines, and the model's geometry is {geometry}; "
            "leave them out, and name scorers of logits, such as ood.msp,ood.max_logit,ood.energy"
        )


def _is_defined(name: str, geometry: Any) -> bool:
    if geometry == COSINE or name.partition(".")[0] != OOD:
        return True
    return geometry in getattr(scorer_factory(name), "geometries", (COSINE,))
