"""`dataset.json`: what an output folder holds, and which revisions its readers see.

It says what is *active*; whether a shard is done is decided by that shard's own files.
"""

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from clipsieve.clip.identity import ModelIdentity
from clipsieve.errors import UsageError
from clipsieve.schemas.footers import LAYOUT_VERSION

#: Names become folders and views: no other characters get near a path or an SQL statement.
_FAMILY = re.compile(r"[a-z][a-z0-9_]*")
_SCORER = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)?")
_HASH = re.compile(r"[0-9a-f]{8,64}")
_SLUG = re.compile(r"[A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True)
class InputEntry:
    """What one kind of call read: absolute patterns, and the options that name and read shards."""

    patterns: tuple[str, ...]
    options: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class EmbeddingsEntry:
    """The active embeddings: slug of the model, and revision."""

    model: str
    revision: str


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

    revision: str
    options: Mapping[str, Any] = field(default_factory=dict)
    learned: str | None = None
    basis: str | None = None
    neighbours: Mapping[str, str] = field(default_factory=dict)
    learned_on: str | None = None


@dataclass(frozen=True, slots=True)
class FamilyEntry:
    """A score family: its active revision, its scorers by name, and options they share."""

    revision: str
    scorers: Mapping[str, ScorerEntry]
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

    build: str
    rows: int
    removals: str = ""
    removed: int = 0


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
    families: Mapping[str, FamilyEntry] = field(default_factory=dict)
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
        return next((column for column in reversed(columns) if column), None)

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
            # First of all: what else another version holds is unknown here.
            _check_version(content["layout_version"], place)
            # A field that is unknown is refused: it would be lost when the manifest is saved.
            fields = {
                **content,
                "inputs": tuple(
                    InputEntry(**{**entry, "patterns": tuple(entry["patterns"])})
                    for entry in content["inputs"]
                ),
                "model": _optional(ModelIdentity, content["model"]),
                "embeddings": _optional(EmbeddingsEntry, content["embeddings"]),
                "families": {
                    name: FamilyEntry(**{**family, "scorers": _scorers(family["scorers"])})
                    for name, family in content["families"].items()
                },
                "wide": _optional(WideEntry, content["wide"]),
            }
            manifest = cls(**fields)
            _check_names(manifest)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
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
    with suppress(ValueError, KeyError, TypeError, AttributeError, RecursionError):
        _check_version(json.loads(content)["layout_version"], place)


def _optional(kind: Any, value: Mapping[str, Any] | None) -> Any:
    return None if value is None else kind(**value)


def _scorers(entries: Mapping[str, Mapping[str, Any]]) -> dict[str, ScorerEntry]:
    return {name: ScorerEntry(**entry) for name, entry in entries.items()}


def _check_version(version: str, place: str) -> None:
    """Refuse a folder of another major version of the layout."""
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


def _check_names(manifest: Manifest) -> None:
    """Raise ValueError unless every name is one that this program would write."""
    checks = [(_FAMILY, name) for name in manifest.families]
    checks += [(_HASH, family.revision) for family in manifest.families.values()]
    for name, entry in manifest.scorers().items():
        checks += [(_SCORER, name), (_HASH, entry.revision)]
        hashes = (entry.learned, entry.basis, *entry.neighbours, *entry.neighbours.values())
        checks += [(_HASH, text) for text in hashes if text is not None]
    if manifest.embeddings is not None:
        checks += [(_SLUG, manifest.embeddings.model), (_HASH, manifest.embeddings.revision)]
    if manifest.wide is not None:
        checks.append((_HASH, manifest.wide.build))
        checks += [(_HASH, manifest.wide.removals)] if manifest.wide.removals else []
    for form, name in checks:
        if not form.fullmatch(name):
            raise ValueError(f"{name!r} is not a name of clipsieve's")
