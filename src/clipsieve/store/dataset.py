"""`dataset.json`: what an output folder holds, and which revisions its readers see.

It says what is *active*; whether a shard is done is decided by that shard's own files.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from clipsieve.errors import UsageError
from clipsieve.schemas.footers import LAYOUT_VERSION
from clipsieve.store.atomic import write_json
from clipsieve.store.layout import Layout


@dataclass(frozen=True, slots=True)
class Dataset:
    """The content of `dataset.json`.

    Attributes:
      inputs: what was read, a mapping for each call with other inputs: `patterns` and `options`.
      model: identity of the model whose embeddings are active (JSON of `ModelIdentity`).
      embeddings: `{"model": slug, "rev": revision}` of the active embeddings, or empty.
      families: active revision of each score family.
      options: options of each scorer that has some, by family.
      fits: id and meaning of the active fit of each family that is fitted.
      wide: `{"build": id, "rows": n}` of the build behind the `scores` view, or empty.
      layout_version: see `clipsieve.schemas.footers`.
    """

    inputs: tuple[Mapping[str, Any], ...] = ()
    model: Mapping[str, Any] = field(default_factory=dict)
    embeddings: Mapping[str, str] = field(default_factory=dict)
    families: Mapping[str, str] = field(default_factory=dict)
    wide: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    fits: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    layout_version: str = LAYOUT_VERSION

    def with_input(self, entry: Mapping[str, Any]) -> "Dataset":
        """The same with `entry` among the inputs, once."""
        return self if entry in self.inputs else replace(self, inputs=(*self.inputs, entry))


def load(layout: Layout) -> Dataset | None:
    """The dataset in the folder, or None if there is none yet.

    Raises:
      UsageError: if the folder was written by a newer major version, or the file is damaged.
    """
    try:
        text = layout.dataset.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        content = json.loads(text)
        version = content["layout_version"]
        # First of all: what else a newer version holds is unknown here.
        if _major(version) > _major(LAYOUT_VERSION):
            raise UsageError(
                f"{layout.root} has layout version {version}, this clipsieve reads up to "
                f"{LAYOUT_VERSION}; upgrade clipsieve"
            )
        content["inputs"] = tuple(content["inputs"])
        return Dataset(**content)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{layout.dataset} is not a clipsieve dataset file ({error}); "
            "restore it from a copy, or choose another output folder"
        ) from error


def _major(version: str) -> int:
    return int(version.split(".")[0])


def require(layout: Layout) -> Dataset:
    """The dataset in the folder.

    Raises:
      UsageError: if there is none.
    """
    dataset = load(layout)
    if dataset is None:
        raise UsageError(
            f"{layout.root} holds no clipsieve dataset (no dataset.json); "
            "give the OUT folder of an earlier `clipsieve run`"
        )
    return dataset


def save(layout: Layout, dataset: Dataset) -> None:
    """Replace `dataset.json`."""
    write_json(layout.dataset, asdict(dataset))
