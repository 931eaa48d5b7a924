"""Score columns of a whole folder, and which of its rows are out of distribution."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from clipsieve.errors import LedgerError, UsageError
from clipsieve.schemas import footers
from clipsieve.scorers.columns import made_by
from clipsieve.store import names
from clipsieve.store.folder import OutputFolder
from clipsieve.store.manifest import Manifest
from clipsieve.store.pairs import source_values

#: What the metadata of a column says of its direction, of those that detect.
DIRECTIONS = ("higher is more out of distribution", "higher is more suspicious")
_OUTSIDE, _INSIDE = {"true", "1"}, {"false", "0"}


@dataclass(frozen=True, slots=True)
class ScoreColumn:
    """A stored column of scores of which higher values are more out of distribution.

    Attributes:
      name: of the column.
      family: that it is in.
      family_revision: of the family's files.
      scorer: that made it.
      revision: of its values.
    """

    name: str
    family: str
    family_revision: str
    scorer: str
    revision: str


@dataclass(frozen=True, slots=True)
class OodColumn:
    """A column of the source that says which rows are out of distribution.

    Attributes:
      name: of the column.
      values: those of rows that are; None: true or 1 are, false or 0 are not.
    """

    name: str
    values: tuple[str, ...] | None = None

    @classmethod
    def parse(cls, text: str) -> "OodColumn":
        """Read `column` or `column=a,b`.

        Raises:
          UsageError: if a part of it is empty.

        >>> OodColumn.parse("kind=a,b")
        OodColumn(name='kind', values=('a', 'b'))
        """
        name, equals, listed = text.partition("=")
        values = tuple(value.strip() for value in listed.split(","))
        if not name or (equals and not all(values)):
            raise UsageError(f"ood column {text!r} is not COLUMN or COLUMN=VALUE,VALUE")
        return cls(name, values if equals else None)

    def __str__(self) -> str:
        """Return the text that `parse` reads."""
        return self.name if self.values is None else f"{self.name}={','.join(self.values)}"

    def is_outside(self, value: Any) -> bool | None:
        """Return whether a row with this value is out of distribution; None for NULL.

        Raises:
          UsageError: if that cannot be said.
        """
        if value is None or value != value:  # NaN
            return None
        text = str(value).lower() if isinstance(value, bool) else str(value)
        if self.values is not None:
            return text in self.values
        low = text.lower().removesuffix(".0")
        if low in _OUTSIDE or low in _INSIDE:
            return low in _OUTSIDE
        raise UsageError(
            f"column {self.name!r} has value {text[:80]!r}, which is neither true nor false; name "
            f"the values that are out of distribution: --ood-column {self.name}=VALUE,VALUE"
        )


class ScoredFolder:
    """Score columns of one folder, read whole, with rows in the order of shards."""

    def __init__(self, folder: OutputFolder, manifest: Manifest) -> None:
        """Look at which columns there are."""
        self.folder, self.manifest = folder, manifest
        self.shards = folder.shards()
        self.columns: Mapping[str, ScoreColumn] = {c.name: c for c in self._find_columns()}

    def read(self, column: ScoreColumn) -> np.ndarray:
        """Return (N,) float32 scores of all rows; NaN where they are NULL.

        Raises:
          LedgerError: if a shard's file is missing or damaged, or has no such column.
        """
        parts = [np.empty(0, np.float32)]
        for shard in self.shards:
            name = names.scores(column.family, column.family_revision, shard)
            table = self.folder.read_table(name, [column.name])
            if not table.column_names:
                raise LedgerError(
                    f"{self.folder.files.url(name)} has no column {column.name}; run "
                    f"`clipsieve score {self.folder.root} --scorers {column.scorer}` again"
                )
            parts.append(np.asarray(table[column.name].to_numpy(), np.float32))
        return np.concatenate(parts)

    def outside(self, column: OodColumn) -> np.ndarray:
        """Return (N,) int8: 1 for rows out of distribution, 0 for others, -1 for NULL.

        Raises:
          UsageError: if there is no such column, or a value is neither true nor false.
        """
        self.require_source_column(column.name)
        known: dict[Any, int] = {}
        parts = [np.empty(0, np.int8)]
        sources = [f"source_{column.name}", column.name]
        for shard in self.shards:
            samples = self.folder.read_table(names.samples(shard), ["uid", *sources])
            states = []
            for value in source_values(samples, column.name):
                is_plain = isinstance(value, bool | int | str | None)
                key = type(value), value if is_plain else repr(value)
                if key not in known:
                    answer = column.is_outside(value)
                    known[key] = -1 if answer is None else int(answer)
                states.append(known[key])
            parts.append(np.array(states, np.int8))
        return np.concatenate(parts)

    def require_source_column(self, name: str) -> None:
        """Refuse a column that no shard has.

        Raises:
          UsageError: naming those there are.
        """
        seen: dict[str, None] = {}
        for shard in self.shards:
            columns = self.folder.read_schema(names.samples(shard)).names
            if name in columns or f"source_{name}" in columns:
                return
            seen |= dict.fromkeys(columns)
        raise UsageError(
            f"column {name!r} is not among those of samples in {self.folder.root}; "
            f"take one of {', '.join(seen)}"
        )

    def check_aligned(self, families: Sequence[str]) -> None:
        """Refuse scores of other rows than the ledger's.

        Raises:
          LedgerError: naming the files.
        """
        ledgers = self.folder.read_footers(map(names.samples, self.shards))
        revisions = self.manifest.revisions()
        for family in families:
            files = [names.scores(family, revisions[family], shard) for shard in self.shards]
            for name, footer, ledger in zip(
                files, self.folder.read_footers(files), ledgers, strict=True
            ):
                if footer.get(footers.UID_HASH) != ledger.get(footers.UID_HASH):
                    raise LedgerError(
                        f"{self.folder.files.url(name)} is missing, or has other uids than the "
                        f"ledger; run `clipsieve score {self.folder.root} --scorers {family}` again"
                    )

    def _find_columns(self) -> list[ScoreColumn]:
        columns = []
        for family, revision in sorted(self.manifest.revisions().items()):
            tables = self.folder.tables(names.family_folder(family, revision))
            if not tables:
                continue
            for field in self.folder.read_schema(names.scores(family, revision, tables[0])):
                made = made_by(field)
                if made and pa.types.is_floating(field.type) and _direction(field) in DIRECTIONS:
                    columns.append(ScoreColumn(field.name, family, revision, *made))
        return columns


def _direction(field: pa.Field) -> str:
    direction: bytes = (field.metadata or {}).get(b"direction", b"")
    return direction.decode(errors="replace")
