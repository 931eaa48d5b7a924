"""`dataset.json`: what an output folder holds, and which revisions its readers see.

It says what is *active*; whether a shard is done is decided by that shard's own files.
"""

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from clipsieve.clip.identity import ModelIdentity
from clipsieve.errors import UsageError
from clipsieve.schemas.footers import LAYOUT_VERSION
from clipsieve.schemas.views import is_view
from clipsieve.store.json_text import parse_json
from clipsieve.store.validation import (
    Count,
    FamilyName,
    Hash,
    HashOrEmpty,
    ScorerName,
    Slug,
    decode,
    shown,
)


@dataclass(frozen=True, slots=True)
class InputEntry:
    """What one kind of call read: absolute patterns, and the options that name and read shards."""

    patterns: tuple[str, ...]
    options: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class EmbeddingsEntry:
    """The active embeddings: slug of the model, and revision."""

    model: Slug
    revision: Hash


@dataclass(frozen=True, slots=True)
class ScorerEntry:
    """One scorer of a family: revision of its columns, its options, and what it learnt.

    Attributes:
      revision: of its columns.
      options: those it was made with.
      learned: id of its learned arrays; None if it learns nothing.
      basis: hash of everything that decides its values besides the rows it learns from.
      neighbours: id of each set of neighbour lists it reads, by key of the specification.
      learned_on: output folder that it learnt of, absolute; None is the folder itself.
    """

    revision: Hash
    options: Mapping[str, Any] = field(default_factory=dict)
    learned: Hash | None = None
    basis: Hash | None = None
    neighbours: Mapping[Hash, Hash] = field(default_factory=dict)
    learned_on: str | None = None


@dataclass(frozen=True, slots=True)
class FamilyEntry:
    """A score family: its active revision, its scorers by name, and options they share."""

    revision: Hash
    scorers: Mapping[ScorerName, ScorerEntry]
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WideEntry:
    """The build behind the `scores` view.

    Attributes:
      build: its id.
      rows: in it, those that are removed too.
      removals: id of the removal lists whose rows the view leaves out; "" without lists.
      removed: rows that it leaves out.
    """

    build: Hash
    rows: Count
    removals: HashOrEmpty = ""
    removed: Count = 0


@dataclass(frozen=True, slots=True)
class Manifest:
    """The content of `dataset.json`.

    Attributes:
      inputs: what was read, an entry for each call with other inputs.
      model: the model whose embeddings are active; None before the first run.
      embeddings: the active embeddings, likewise.
      families: active score families by name.
      wide: the build behind the `scores` view; None before the first compaction.
      layout_version: see `clipsieve.schemas.footers`.
    """

    inputs: tuple[InputEntry, ...] = ()
    model: ModelIdentity | None = None
    embeddings: EmbeddingsEntry | None = None
    families: Mapping[FamilyName, FamilyEntry] = field(default_factory=dict)
    wide: WideEntry | None = None
    layout_version: str = LAYOUT_VERSION

    def with_input(self, entry: InputEntry) -> "Manifest":
        """Return the manifest with `entry` among the inputs, once."""
        return self if entry in self.inputs else replace(self, inputs=(*self.inputs, entry))

    def scorers(self) -> dict[str, ScorerEntry]:
        """Every active scorer by name."""
        return {
            name: entry
            for family in self.families.values()
            for name, entry in family.scorers.items()
        }

    def scorer_options(self) -> dict[str, Mapping[str, Any]]:
        """Options of scorers by their names, and of families that have some by theirs."""
        shared = {name: family.options for name, family in self.families.items() if family.options}
        return shared | {name: entry.options for name, entry in self.scorers().items()}

    def revisions(self) -> dict[str, str]:
        """Active revision of each family."""
        return {name: family.revision for name, family in self.families.items()}

    def references_col(self) -> str | None:
        """Return the column of reference captions that was named last; None if none ever was."""
        columns = [entry.options.get("references_col") for entry in self.inputs]
        texts = [column for column in columns if isinstance(column, str) and column]
        return texts[-1] if texts else None

    def to_json(self) -> dict[str, Any]:
        """Return the manifest as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any], place: str) -> "Manifest":
        """Return the manifest that `to_json` gave.

        Raises:
          UsageError: if it was written by another major version, or is damaged.
        """
        try:
            if not isinstance(content, dict):
                raise ValueError("it is no object")
            # First of all: what else another version holds is unknown here.
            _check_version(content.get("layout_version"), place)
            for each in fields(cls):
                if each.name not in content:
                    raise ValueError(f"{each.name} is missing")
            # A field that is unknown is refused: it would be lost when the manifest is saved.
            manifest: Manifest = decode(cls, content)
            _check_together(manifest)
        except ValueError as error:
            raise UsageError(
                f"{place} is not a clipsieve dataset file ({error}); "
                "restore it from a copy, or choose another output folder"
            ) from error
        return manifest


def check_layout(content: bytes, place: str) -> None:
    """Refuse a manifest of another major version; layout 2 and before had no seal.

    Raises:
      UsageError: for another version, and for none otherwise.
    """
    with suppress(ValueError, KeyError, TypeError):
        _check_version(parse_json(content)["layout_version"], place)


def _check_version(version: Any, place: str) -> None:
    """Refuse a folder of another major version of the layout."""
    if not isinstance(version, str) or not re.fullmatch(r"[0-9]{1,4}(\.[0-9]{1,9})*", version):
        raise ValueError(f"layout_version must be a version such as 2.0, is {shown(version)}")
    major, own = (int(text.split(".")[0]) for text in (version, LAYOUT_VERSION))
    if major > own:
        raise UsageError(
            f"{place} has layout version {version}, this clipsieve reads up to "
            f"{LAYOUT_VERSION}; upgrade clipsieve"
        )
    if major < own:
        raise UsageError(
            f"{place} has layout version {version}, of an earlier clipsieve; this one writes "
            f"{LAYOUT_VERSION}: run again into another output folder"
        )


def _check_together(manifest: Manifest) -> None:
    """Raise ValueError for fields that contradict each other."""
    if (manifest.model is None) != (manifest.embeddings is None):
        raise ValueError("it has one of model and embeddings, without the other")
    if manifest.model is None and ("clip" in manifest.families or manifest.wide is not None):
        raise ValueError("it has scores of a model, and no model")
    scorers = [name for family in manifest.families.values() for name in family.scorers]
    if len(set(scorers)) < len(scorers):
        raise ValueError("two families have a scorer of one name")
    for name in manifest.families:
        if is_view(name):
            raise ValueError(f"family {name!r} has the name of a view of clipsieve's")
