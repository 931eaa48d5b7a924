"""Ledger and score families of one shard as one table: the columns of the view `scores`.

A column of the source with the name of a score, or with a reserved one, becomes `source_<name>`, as
in the ledger one with the name of a ledger column does.  Names are compared as SQL compares them,
without case.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa

from clipsieve.errors import LedgerError
from clipsieve.schemas import footers
from clipsieve.store import names
from clipsieve.store.folder import READERS, OutputFolder
from clipsieve.store.members import require_footer
from clipsieve.store.parquet import Footer


class GluedShards:
    """Reads the ledger of a shard with the columns of every family beside it.

    Attributes:
      folder: the output folder.
      families: active revision of each family.
      reserved: names that views give to scores, which no column of a source may have.
    """

    def __init__(
        self, folder: OutputFolder, families: Mapping[str, str], reserved: Collection[str] = ()
    ) -> None:
        """Read from `folder`; nothing is opened yet."""
        self.folder, self.families, self.reserved = folder, dict(families), frozenset(reserved)
        self._score_fields: dict[str, tuple[pa.Field, ...]] = {}
        self._found: dict[str, dict[str, tuple[str, pa.Field]]] = {}

    def schema(self, shard: str) -> pa.Schema:
        """Return the columns of a shard: those of the ledger, then those of every family.

        Raises:
          LedgerError: if a file is missing or damaged, or two families have a column of one name.
        """
        return pa.schema(
            [field.with_name(name) for name, (_, field) in self._origins(shard).items()]
        )

    def common_schema(self, shards: Sequence[str]) -> pa.Schema:
        """Return the columns of all shards, in types that hold the values of each."""
        with ThreadPoolExecutor(READERS, "clipsieve-schemas") as pool:
            return unified(list(pool.map(self.schema, shards)))

    def read(self, shard: str, columns: Sequence[str] | None = None) -> pa.Table:
        """Return a shard's rows, in source order.

        Files of which no column is asked for are not opened.  All columns are read with every
        family's uids, which are compared; for some, rely on `check_aligned`.

        Args:
          shard: its name.
          columns: those to return, in their order, of those that the shard has; None is all.

        Raises:
          LedgerError: if a file is missing or damaged, or is of other rows than the ledger.
        """
        origins = self._origins(shard)
        asked = list(origins) if columns is None else [name for name in columns if name in origins]
        by_file: dict[str, list[str]] = {}
        for name in asked:
            file, field = origins[name]
            by_file.setdefault(file, []).append(field.name)
        tables = {
            file: self._read_file(file, own if columns is not None else ["uid", *own])
            for file, own in by_file.items()
        }
        self._check_rows(shard, tables, has_uids=columns is None)
        arrays = [tables[file][field.name] for file, field in map(origins.get, asked)]  # type: ignore[misc]
        fields = [origins[name][1].with_name(name) for name in asked]
        return pa.Table.from_arrays(arrays, schema=pa.schema(fields))

    def _origins(self, shard: str) -> dict[str, tuple[str, pa.Field]]:
        """Return file and field of each column, by the name it has among all; looked at once."""
        if shard not in self._found:
            self._found[shard] = self._find_origins(shard)
        return self._found[shard]

    def _find_origins(self, shard: str) -> dict[str, tuple[str, pa.Field]]:
        samples = names.samples(shard)
        ledger = list(self.folder.read_schema(samples))
        scores: dict[str, tuple[str, pa.Field]] = {}
        for family, revision in self.families.items():
            file = names.scores(family, revision, shard)
            for field in self.score_fields(family):
                if field.name.lower() in (other.lower() for other in scores):
                    raise LedgerError(
                        f"{self.folder.files.url(file)} has column {field.name!r}, as another "
                        "family; rename it"
                    )
                scores[field.name] = (file, field)
        taken = {name.lower() for name in scores} | {name.lower() for name in self.reserved}
        origins: dict[str, tuple[str, pa.Field]] = {}
        used = taken | {field.name.lower() for field in ledger}
        for field in ledger:
            name = field.name
            if name.lower() in taken:
                name = free_name(name, used)
                used.add(name.lower())
            origins[name] = (samples, field)
        return {**origins, **scores}

    def score_fields(self, family: str) -> tuple[pa.Field, ...]:
        """Return the score columns of a family, equal in all its files; none if it has no file.

        Raises:
          LedgerError: if its first file is damaged.
        """
        if family not in self._score_fields:
            revision = self.families[family]
            shards = self.folder.tables(names.family_folder(family, revision))
            files = [names.scores(family, revision, shard) for shard in shards[:1]]
            fields = [field for file in files for field in self.folder.read_schema(file)]
            self._score_fields[family] = tuple(f for f in fields if f.name != "uid")
        return self._score_fields[family]

    def _read_file(self, file: str, columns: Sequence[str]) -> pa.Table:
        table = self.folder.read_table(file, list(dict.fromkeys(columns)))
        present = set(table.column_names)  # the property makes a new list every time
        missing = [column for column in columns if column not in present]
        if missing:
            raise LedgerError(
                f"{self.folder.files.url(file)} lacks the columns {', '.join(missing)}, which "
                "other shards have; delete it and run `clipsieve run` again"
            )
        return table

    def _check_rows(self, shard: str, tables: Mapping[str, pa.Table], has_uids: bool) -> None:
        """Refuse families of other rows than the ledger's."""
        samples = names.samples(shard)
        for file, table in tables.items():
            first = tables.get(samples, next(iter(tables.values())))
            if has_uids:
                is_same = table["uid"].equals(first["uid"])
            else:
                is_same = table.num_rows == first.num_rows
            if not is_same:
                place = self.folder.files.url
                raise LedgerError(
                    f"{place(file)} has other uids than {place(samples)}; delete both files and "
                    "run `clipsieve run` again"
                )


def check_aligned(
    folder: OutputFolder, shard: str, ledger: Footer, families: Mapping[str, Footer]
) -> None:
    """Refuse families of a shard that are missing, or of other rows than its ledger.

    Args:
      folder: the output folder.
      shard: its name.
      ledger: footer of its ledger.
      families: footer of each family's file, by the file's name.

    Raises:
      LedgerError: for the first of them.
    """
    samples = names.samples(shard)
    require_footer(folder, samples, ledger)
    for name, footer in families.items():
        if not footer:
            raise LedgerError(
                f"{folder.files.url(name)} is missing or damaged; run `clipsieve run` or "
                "`clipsieve score` again"
            )
        for key in (footers.UID_HASH, footers.ROWS):
            if footer.get(key) != ledger.get(key):
                raise LedgerError(
                    f"{folder.files.url(name)} and {folder.files.url(samples)} differ in "
                    f"{key}: {footer.get(key)} and {ledger.get(key)}; delete both files and run "
                    "`clipsieve run` again"
                )


def unified(schemas: Iterable[pa.Schema]) -> pa.Schema:
    """Return one schema for all: the wider of two types, text where they have nothing in common."""
    fields: dict[str, pa.Field] = {}
    for field in (field for schema in schemas for field in schema):
        first = fields.setdefault(field.name, field)
        if first.type != field.type:
            try:
                pair = [pa.schema([first]), pa.schema([field])]
                fields[field.name] = pa.unify_schemas(pair, promote_options="permissive").field(0)
            except pa.ArrowException:
                fields[field.name] = pa.field(field.name, pa.string())
    return pa.schema(fields.values())


def conformed(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return `table` with exactly the columns and types of `schema`; NULL for missing columns."""
    columns = []
    present = set(table.column_names)
    for field in schema:
        if field.name not in present:
            columns.append(pa.nulls(table.num_rows, field.type))
            continue
        try:
            columns.append(table[field.name].cast(field.type))
        except pa.ArrowException as error:
            raise LedgerError(
                f"column {field.name!r} is {table[field.name].type} in one shard and does not fit "
                f"{field.type}, which others need ({error}); give it one type in the sources"
            ) from error
    return pa.Table.from_arrays(columns, schema=schema)


def free_name(name: str, used: Iterable[str]) -> str:
    """Return `source_<name>`, with as many `source_` as make it new; compared without case."""
    taken = {other.lower() for other in used}
    free = f"source_{name}"
    while free.lower() in taken:
        free = f"source_{free}"
    return free
