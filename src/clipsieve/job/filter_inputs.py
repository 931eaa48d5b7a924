"""What a filter is made of: its predicate, the columns it reads, and the sets of rows it names."""

import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from clipsieve.errors import LedgerError, UsageError
from clipsieve.job.filter_settings import FilterSettings
from clipsieve.schemas.removals import REMOVED
from clipsieve.scorers.columns import made_by
from clipsieve.scorers.registry import EMBEDDED
from clipsieve.select.column_makers import ColumnMakers
from clipsieve.select.id_lists import read_folder_list
from clipsieve.select.membership import ListRows, Membership, RemovedRows, SubsetRows
from clipsieve.select.recipes import load_recipe
from clipsieve.select.rows import FilterRows
from clipsieve.select.verdict import MAX_STEPS, Step, StepKind
from clipsieve.sql.columns import published_name
from clipsieve.sql.predicate import Predicate, read_predicate
from clipsieve.sql.quantity import Quantity
from clipsieve.sql.syntax import parse_where, walk
from clipsieve.store import names
from clipsieve.store.compact import plan_build
from clipsieve.store.fits import read_fit_description
from clipsieve.store.folder import OutputFolder
from clipsieve.store.glue import GluedShards, check_aligned
from clipsieve.store.id_values import needed_columns
from clipsieve.store.ids import IdList
from clipsieve.store.members import members_key, read_members
from clipsieve.store.subsets import (
    Subset,
    check_subset_name,
    load_subset,
    require_subset,
    subset_names,
)


class FilterInputs:
    """A filter of one folder, checked against what the folder holds."""

    def __init__(self, folder: OutputFolder, settings: FilterSettings, removals: str = "") -> None:
        """Read the predicate and look up every set.

        Args:
          folder: the output folder.
          settings: what to keep.
          removals: id of the folder's removal lists, whose rows were looked for; "" without any.

        Raises:
          UsageError: for whatever in the settings cannot be done.
          LedgerError: if files are missing or damaged.
        """
        self.folder, self.settings = folder, settings
        self.manifest = folder.require_manifest()
        self.members = read_members(folder)
        if not self.members:
            raise UsageError(f"{folder.root} holds no shard yet; run `clipsieve run` first")
        self.name = self._name()
        self.notes: list[str] = []
        self._sets: dict[str, Membership] = {}
        self.removals = removals
        self._removed = RemovedRows(removals) if removals else None
        self.base = self._own_subset(settings.base) if settings.base is not None else None
        self.predicate = self._predicate()
        self.families = self._families()
        self._check_groups()
        self.steps, self.memberships = self._steps()
        self.rescues = tuple(map(self._set, self._union))
        self._check_name()

    @property
    def count(self) -> int:
        """Rows of the ledger."""
        return sum(member.rows for member in self.members)

    @property
    def quantities(self) -> tuple[Quantity, ...]:
        """Thresholds that the predicate takes of the dataset."""
        return self.predicate.quantities if self.predicate is not None else ()

    @cached_property
    def definition(self) -> dict[str, Any]:
        """What was asked for, as plain JSON."""
        settings = self.settings
        return {
            "where": self.predicate.text if self.predicate is not None else None,
            "recipe": Path(settings.recipe).name if settings.recipe is not None else None,
            "parameters": dict(settings.parameters),
            "from": settings.base,
            "and": list(map(self._described, settings.intersect)),
            "or": list(map(self._described, settings.union)),
            "minus": list(map(self._described, settings.subtract)),
        }

    def resolved(self, thresholds: Mapping[int, str]) -> tuple[str, ...]:
        """Return the SQL of each clause with the thresholds that have no groups."""
        if self.predicate is None:
            return ()
        return tuple(clause.sql for clause in self.predicate.resolved(thresholds))

    def clause_rows(self) -> FilterRows:
        """Return the rows with the columns that clauses read."""
        return self._rows(self.predicate.columns if self.predicate is not None else ())

    def threshold_rows(self) -> FilterRows:
        """Return the rows with the columns that thresholds are computed of."""
        texts = [text for q in self.quantities for text in (q.value, q.group) if text is not None]
        read = {
            name
            for text in texts
            for node in walk(parse_where(text))
            if node["class"] == "COLUMN_REF"
            for name in node["column_names"]
        }
        return self._rows([name for name in self._schema.names if name in read])

    def is_wide_current(self) -> bool:
        """Whether the view `scores` shows every row, with the active scores."""
        if self.manifest.wide is None:
            return False
        try:
            build = plan_build(
                self.folder,
                self.manifest.revisions(),
                reserved=self._aliases,
                removals=self.removals,
            )
        except LedgerError:  # of a family that the filter need not read
            return False
        return build.id == self.manifest.wide.build

    def set_keys(self) -> list[str]:
        """Return what identifies the rows of every set that is named."""
        sets = [*self.memberships.values(), *self.rescues]
        return [membership.key for membership in sets]

    # The predicate

    def _predicate(self) -> Predicate | None:
        """Return the predicate; None if all rows pass."""
        text = self.settings.where
        if self.settings.recipe is not None:
            recipe = load_recipe(self.settings.recipe)
            text = recipe.predicate_text(self.settings.parameters, self._schema)
            if recipe.notes:
                self.notes.append(f"recipe {recipe.name}: {recipe.notes}")
        if not text and self.settings.where is None:
            return None
        return read_predicate(text or "", self._schema, ColumnMakers(self.folder.root))

    @cached_property
    def _aliases(self) -> dict[str, str]:
        """Stored column of each other name that the view `scores` gives it."""
        if EMBEDDED not in self.manifest.families:
            return {}
        return {published_name(self.manifest): "clip_similarity"}

    @property
    def _reserved(self) -> tuple[str, ...]:
        """Names that the view gives to scores, and to what removal lists say."""
        return (*self._aliases, REMOVED) if self.removals else tuple(self._aliases)

    @cached_property
    def _schema(self) -> pa.Schema:
        """Columns of the view `scores`, whether or not it is up to date."""
        schema = self._glued.common_schema([member.shard for member in self.members])
        self._check_cases(schema.names)
        for alias, column in self._aliases.items():
            if column in schema.names:
                schema = schema.append(schema.field(column).with_name(alias))
        return pa.schema([field.with_type(_readable(field.type)) for field in schema])

    @cached_property
    def _glued(self) -> GluedShards:
        return GluedShards(self.folder, self.manifest.revisions(), self._reserved)

    def _check_cases(self, columns: Sequence[str]) -> None:
        """Refuse columns that SQL cannot tell apart."""
        by_lower: dict[str, str] = {}
        for name in columns:
            other = by_lower.setdefault(name.lower(), name)
            if other != name:
                raise UsageError(
                    f"shards of {self.folder.root} write one column as {other!r} and as {name!r}, "
                    "which SQL takes for the same; write it alike in the sources, and run again"
                )

    def _families(self) -> dict[str, str]:
        """Return the families that the predicate reads; each has a file for every shard."""
        read = set(self.predicate.columns) if self.predicate is not None else set()
        read = {self._aliases.get(name, name) for name in read}
        families = {
            family: revision
            for family, revision in self.manifest.revisions().items()
            if read & {field.name for field in self._glued.score_fields(family)}
        }
        self._check_complete(families)
        return families

    def _check_groups(self) -> None:
        """Refuse groups of duplicates that were learnt before some of the rows came."""
        for column in self.predicate.group_columns if self.predicate is not None else ():
            scorer, _ = made_by(self._schema.field(column)) or ("", "")
            entry = self.manifest.scorers().get(scorer)
            if entry is None or entry.learned is None:
                continue  # a column of the user's own
            learnt = read_fit_description(self.folder, scorer, entry.learned)
            known = {(member.shard, member.key) for member in learnt.members}
            later = [m.shard for m in self.members if (m.shard, m.key) not in known]
            if later:
                raise UsageError(
                    f"{column} knows nothing of {len(later):,} shards that came later, such as "
                    f"{later[0]}; learn it again: clipsieve score {self.folder.root} --scorers "
                    f"{scorer} --refit"
                )

    def _check_complete(self, families: Mapping[str, str]) -> None:
        """Refuse families that lack shards, or were made for other rows."""
        shards = [member.shard for member in self.members]
        ledgers = self.folder.read_footers(map(names.samples, shards))
        for family, revision in families.items():
            files = [names.scores(family, revision, shard) for shard in shards]
            written = self.folder.read_footers(files)
            missing = [shard for shard, footer in zip(shards, written, strict=True) if not footer]
            if missing:
                raise UsageError(
                    f"family {family!r} has no scores for {len(missing):,} of {len(shards):,} "
                    f"shards, such as {missing[0]}; run `clipsieve run` again, or `clipsieve score "
                    f"{self.folder.root} --scorers {family}`"
                )
            for shard, ledger, file, footer in zip(shards, ledgers, files, written, strict=True):
                check_aligned(self.folder, shard, ledger, {file: footer})

    def _rows(self, columns: Sequence[str]) -> FilterRows:
        return FilterRows(
            self.folder.root,
            # All of them: which columns of the source have other names depends on every score's.
            self.manifest.revisions(),
            self._reserved,
            self._aliases,
            pa.schema([self._schema.field(name) for name in columns]),
            self.base,
            self._removed,
        )

    # Steps

    @property
    def _is_union(self) -> bool:
        """Whether sets are joined and nothing else is asked for."""
        settings = self.settings
        others = (settings.where, settings.recipe, settings.base, *settings.intersect)
        return bool(settings.union) and all(each is None for each in others)

    @property
    def _intersect(self) -> tuple[str, ...]:
        """Sets that a row must be in; the first of a union, which the others add to."""
        return self.settings.union[:1] if self._is_union else self.settings.intersect

    @property
    def _union(self) -> tuple[str, ...]:
        return self.settings.union[1:] if self._is_union else self.settings.union

    def _steps(self) -> tuple[tuple[Step, ...], dict[int, Membership]]:
        steps: list[Step] = []
        memberships: dict[int, Membership] = {}
        settings = self.settings

        def add(kind: StepKind, label: str, membership: Membership | None = None) -> None:
            if membership is not None:
                memberships[len(steps)] = membership
            steps.append(Step(kind, label))

        if self._removed is not None:
            add(StepKind.REMOVED, "a removal list", self._removed)
        if self.base is not None:
            add(StepKind.FROM, self.base.name, SubsetRows(self.base))
        for clause in self.predicate.clauses if self.predicate is not None else ():
            add(StepKind.CLAUSE, clause.text)
        for each in self._intersect:
            add(StepKind.AND, _label(each), self._set(each))
        for each in settings.subtract:
            add(StepKind.MINUS, _label(each), self._set(each))
        if len(steps) > MAX_STEPS:
            raise UsageError(
                f"the filter has {len(steps)} steps, at most {MAX_STEPS} are counted; filter "
                "twice, with --from"
            )
        return tuple(steps), memberships

    def _set(self, text: str) -> Membership:
        """Return the rows that the name of a subset, or the path of a list, means.

        Raises:
          UsageError: if it is neither, or both.
        """
        if text not in self._sets:
            is_subset = text in subset_names(self.folder)
            is_file = os.path.isfile(os.path.expanduser(text))
            if is_subset and is_file:
                raise UsageError(
                    f"{text!r} is a subset and a file; say ./{text} for the file, or rename it"
                )
            if is_file:
                path = str(Path(os.path.expanduser(text)).absolute())
                ids = read_folder_list(self.folder, path, self.settings.by)
                self._check_list(text, ids)
                self._sets[text] = ListRows(path, str(ids.kind), ids.sha256)
            elif "/" in text or "." in text:
                raise UsageError(
                    f"list {text} is not there; give the path of a file of ids, or the name of a "
                    "subset"
                )
            else:
                self._sets[text] = SubsetRows(self._own_subset(text))
        return self._sets[text]

    def _check_list(self, text: str, ids: IdList) -> None:
        """Refuse a list for whose ids a shard has no column."""
        for member in self.members:
            name = names.samples(member.shard)
            place = f"{self.folder.files.url(name)}, for list {text},"
            needed_columns(ids.kind, self.folder.read_schema(name).names, place)

    def _described(self, text: str) -> Any:
        """Return what the definition says of a set: a name, or what identifies a list's content."""
        rows = self._set(text)
        if isinstance(rows, ListRows):
            return {"list": Path(text).name, "by": rows.by, "sha256": rows.sha256}
        return text

    def _own_subset(self, name: str) -> Subset:
        """Return a subset of the shards that are there now."""
        subset = require_subset(self.folder, name)
        if subset.members != members_key(self.members):
            raise UsageError(
                f"subset {name!r} was made before shards were added or changed; make it again with "
                f"the same `clipsieve filter ... --name {name}`"
            )
        return subset

    # The name

    def _name(self) -> str:
        settings = self.settings
        name = settings.name
        if name is None and settings.recipe is not None:
            name = settings.recipe.rpartition("/")[2].removesuffix(".toml").replace(".", "_")
        if name is None and settings.dry_run:
            return ""
        if name is None:
            raise UsageError("the subset has no name; give --name, or --dry-run to count only")
        if name in (settings.base, *settings.intersect, *settings.union, *settings.subtract):
            raise UsageError(f"subset {name!r} is made of itself; give it another --name")
        return check_subset_name(name)

    def _check_name(self) -> None:
        """Refuse a name that a subset of another definition has."""
        if self.settings.dry_run or self.settings.replace:
            return
        present = load_subset(self.folder, self.name)
        if present is not None and dict(present.definition) != self.definition:
            before = present.definition.get("where") or present.definition
            raise UsageError(
                f"subset {self.name!r} is there with another definition ({before}); choose another "
                "--name, or replace it with --replace"
            )


def _readable(kind: pa.DataType) -> pa.DataType:
    """Return the type in which DuckDB reads a column from memory."""
    if pa.types.is_float16(kind):
        return pa.float32()
    return pa.float64() if pa.types.is_decimal256(kind) else kind


def _label(text: str) -> str:
    """Return what messages call a set: a list by its file's name."""
    return Path(text).name
