"""The output folder: the one object through which everything in it is read and written.

Every file that is written here is sealed; see `clipsieve.store.seal`.
"""

import io
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clipsieve.errors import ClipsieveError, LedgerError, UsageError
from clipsieve.formats.urls import is_url
from clipsieve.schemas import footers
from clipsieve.schemas.files import FOOTERS_SCHEMA
from clipsieve.store import names, seal
from clipsieve.store.arrays import parse_npz
from clipsieve.store.file_system import FileStatus, FileSystem
from clipsieve.store.files import LocalFiles
from clipsieve.store.footer_cache import by_folder, footer_cache
from clipsieve.store.json_text import MOST_BYTES, parse_json
from clipsieve.store.lock_terms import LockTerms
from clipsieve.store.manifest import Manifest, check_layout
from clipsieve.store.parquet import Footer, add_footer, footer_values, open_writer, write_parquet
from clipsieve.store.part_locks import only_writer
from clipsieve.store.seal import Seal
from clipsieve.store.table_types import TableTypeError, check_table

#: Footers read at once; a local disk needs few, an object store many.
READERS = 16
#: Names in a folder from which it takes fewer requests to list it than to ask for each.
_LISTED_FROM = 4
#: How a table shows that it is missing or damaged.
_DAMAGE = (OSError, pa.ArrowException, UnicodeDecodeError, TableTypeError)

Arrays = Mapping[str, np.ndarray]
"""Arrays by name."""


class OutputFolder:
    """An output folder over a file system: tables, footers, arrays, JSON, manifest and lock.

    Attributes:
      files: where it lies.
    """

    def __init__(self, files: FileSystem) -> None:
        """Open the folder of `files`; nothing is read or made yet."""
        self.files = files

    @classmethod
    def open(cls, root: str | Path) -> "OutputFolder":
        """Open the folder `root`: a path of this machine, or the URL of an object store.

        Raises:
          UsageError: if the name is empty, or a URL that cannot be written to.
        """
        if is_url(str(root)):
            # fsspec takes 80 ms to import.
            from clipsieve.object_stores.files import ObjectStoreFiles

            return cls(ObjectStoreFiles(str(root)))
        return cls(LocalFiles(root))

    @property
    def root(self) -> str:
        """Where the folder lies, absolute."""
        return self.files.url()

    def lock(
        self, terms: LockTerms | None = None, on_lost: Callable[[str], None] | None = None
    ) -> AbstractContextManager[None]:
        """Hold the only writer's lock for the length of the block; see `only_writer`."""
        return only_writer(self.files, terms, on_lost)

    def sweep(self) -> list[str]:
        """Remove what interrupted writes left; only for the holder of the lock."""
        return self.files.sweep(names.FOLDERS, (names.MANIFEST, names.CATALOG))

    # The manifest

    def load_manifest(self) -> Manifest | None:
        """Return the manifest; None if the folder has none yet.

        Raises:
          UsageError: if it was written by another major version, or is damaged.
        """
        place = self.files.url(names.MANIFEST)
        try:
            content = self.read_json(names.MANIFEST)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except ValueError as error:
            check_layout(self.files.read(names.MANIFEST), place)
            raise UsageError(
                f"{place} is damaged: {error}; repeat the `clipsieve run` that made the folder, or "
                f"`clipsieve compact {self.root}`, which restore it from its copy"
            ) from error
        return Manifest.from_json(content, place)

    def require_manifest(self) -> Manifest:
        """Return the manifest.

        Raises:
          UsageError: if the folder has none.
        """
        manifest = self.load_manifest()
        if manifest is None and self.files.exists(names.MANIFEST_COPY):
            raise UsageError(
                f"{self.root} has lost its {names.MANIFEST}; repeat the `clipsieve run` that made "
                f"the folder, or `clipsieve compact {self.root}`, which restore it from its copy"
            )
        if manifest is None:
            raise UsageError(
                f"{self.root} holds no clipsieve dataset (no {names.MANIFEST}); "
                "give the OUT folder of an earlier `clipsieve run`"
            )
        return manifest

    def require_folder(self) -> None:
        """Refuse a folder that holds neither a manifest, damaged or not, nor a copy of one.

        Raises:
          UsageError: as `require_manifest`.
        """
        if not any(map(self.files.exists, (names.MANIFEST, names.MANIFEST_COPY))):
            self.require_manifest()

    def save_manifest(self, manifest: Manifest) -> None:
        """Replace the manifest, and then its copy.

        Raises:
          Locked: if another process has taken the folder's lock over.
        """
        self.files.require_lock()
        # In its own order: that of classes in an option is the order of their numbers.
        for name in (names.MANIFEST, names.MANIFEST_COPY):
            self.write_json(name, manifest.to_json(), sort_keys=False)

    def restore_manifest(self) -> bool:
        """Replace a damaged or missing manifest by its copy; whether that was needed.

        Only for the holder of the lock.

        Raises:
          UsageError: if the copy is missing or damaged too.
        """
        try:
            self.read_json(names.MANIFEST)
        except (FileNotFoundError, NotADirectoryError):
            if not self.files.exists(names.MANIFEST_COPY):
                return False
            with suppress(ValueError):
                self.write_json(names.MANIFEST, self.read_json(names.MANIFEST_COPY), False)
                return True
        except ValueError as error:
            place = self.files.url(names.MANIFEST)
            check_layout(self.files.read(names.MANIFEST), place)
            try:
                self.write_json(names.MANIFEST, self.read_json(names.MANIFEST_COPY), False)
            except (FileNotFoundError, ValueError) as missing:
                raise UsageError(
                    f"{place} is damaged: {error}, and its copy {names.MANIFEST_COPY} too; restore "
                    "one of them from a backup, or run into another output folder"
                ) from missing
            return True
        return False

    # Tables

    def shards(self) -> list[str]:
        """Names of all shards in the ledger, sorted."""
        return self.tables(names.SAMPLES)

    def tables(self, folder: str) -> list[str]:
        """Names, without their ending, of the Parquet files in `folder`, sorted."""
        files = self.files.list_files(folder)
        return sorted(n[: -len(".parquet")] for n in files if names.is_own(n, ".parquet"))

    def read_footer(self, name: str) -> Footer:
        """Return the clipsieve keys of a file's footer; empty if it is missing or damaged."""
        try:
            return footer_values(self.files.read_footer(name))
        except (FileNotFoundError, pa.ArrowException, UnicodeDecodeError):
            return {}
        except OSError as error:
            if error.errno is not None:  # the system's refusal; damage found by Parquet has none
                raise
            return {}

    def read_footers(self, tables: Iterable[str]) -> list[Footer]:
        """Return `read_footer` of every name, in order; read concurrently.

        In an object store names are listed, and no footer is read twice; see `FooterCache`.
        """
        listed = list(tables)
        if self.files.is_remote:
            return self._remote_footers(listed)
        if len(listed) < 2:
            return [self.read_footer(name) for name in listed]
        with ThreadPoolExecutor(READERS, "clipsieve-footers") as pool:
            return list(pool.map(self.read_footer, listed))

    def _remote_footers(self, tables: Sequence[str]) -> list[Footer]:
        """Return the footers of objects, of which those that are not in the cache are read."""
        cache = footer_cache(self.root)
        few: set[str] = set()
        statuses: dict[str, FileStatus] = {}
        for folder, listed in by_folder(tables).items():
            if len(listed) < _LISTED_FROM:
                few.update(listed)
                continue
            cache.load(lambda: self.read_cache(names.FOOTERS, FOOTERS_SCHEMA))
            entries = self.files.entries(folder)
            statuses |= {f"{folder}/{name}": each for name, each in entries.files.items()}

        def footer(name: str) -> Footer:
            if name in few:
                return self.read_footer(name)
            status = statuses.get(name)
            if status is None:
                return {}
            known = cache.find(name, status)
            if known is None:
                known = self.read_footer(name)
                cache.add(name, status, known)
            return known

        with ThreadPoolExecutor(READERS, "clipsieve-footers") as pool:
            return list(pool.map(footer, tables))

    def read_cache(self, name: str, schema: pa.Schema) -> pa.Table | None:
        """Return a table of `names.CACHES`; None if there is none, or a damaged one.

        Whoever asks finds out anew what it would have said.
        """
        try:
            self.verify(name)
            return self.read_table(name).select(schema.names).cast(schema)
        except (FileNotFoundError, ClipsieveError, ValueError, KeyError):
            return None

    def write_cache(self, name: str, table: pa.Table) -> None:
        """Replace a table of `names.CACHES`."""
        footer = {footers.LAYOUT: footers.LAYOUT_VERSION, footers.ROWS: str(len(table))}
        self.write_table(name, table, footer)

    def save_footers(self, present: Collection[str]) -> None:
        """Keep the footers that were read of a folder in a store for the next process.

        Args:
          present: names of the files that are there.
        """
        if self.files.is_remote:
            table = footer_cache(self.root).table(present)
            if table is not None:
                self.write_cache(names.FOOTERS, table)

    @contextmanager
    def open_table(self, name: str) -> Iterator[pq.ParquetFile]:
        """Open a Parquet file for reading; page checksums are verified.

        Raises:
          LedgerError: if it is missing or damaged, also while it is read within the block, or
            its columns are of other types than clipsieve writes.
        """
        try:
            with (
                self.files.open(name) as source,
                pq.ParquetFile(source, page_checksum_verification=True) as file,
            ):
                check_table(name, file.schema_arrow)
                yield file
        except _DAMAGE as error:
            raise self._damaged(name, error) from error

    def _damaged(self, name: str, error: Exception) -> LedgerError:
        return LedgerError(
            f"{self.files.url(name)} is missing or damaged ({error}); run `clipsieve run` again"
        )

    def read_table(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """Return those of `columns` that a table has, in their order; all if None.

        Raises:
          LedgerError: if it is missing or damaged.
        """
        return self.read_table_and_footer(name, columns)[0]

    def read_table_and_footer(
        self, name: str, columns: Sequence[str] | None = None
    ) -> tuple[pa.Table, Footer]:
        """Return `read_table` and `read_footer` of one file, which is opened once.

        Raises:
          LedgerError: if it is missing or damaged.
        """
        with self.open_table(name) as file:
            if columns is not None:
                present = set(file.schema_arrow.names)
                columns = [column for column in columns if column in present]
            return file.read(columns=columns), footer_values(file.metadata)

    def read_schema(self, name: str) -> pa.Schema:
        """Return the schema of a table.

        Raises:
          LedgerError: if it is missing or damaged.
        """
        try:
            schema = self.files.read_footer(name).schema.to_arrow_schema()
            check_table(name, schema)
        except _DAMAGE as error:
            raise self._damaged(name, error) from error
        return schema

    def write_table(self, name: str, table: pa.Table, footer: Mapping[str, str]) -> Seal:
        """Replace a table, with `footer` as key-value metadata; return its seal."""
        with self.files.writing(name) as path:
            write_parquet(path, table, footer)
            return seal.seal(path)

    def write_tables(
        self, tables: Iterable[tuple[str, pa.Table, Mapping[str, str]]]
    ) -> dict[str, Seal]:
        """Replace tables as `write_table` does, in an object store all at once; seals by name.

        If one cannot be written, others may have been.
        """
        listed = list(tables)
        if not self.files.is_remote or len(listed) < 2:
            return {name: self.write_table(name, *rest) for name, *rest in listed}
        with ThreadPoolExecutor(len(listed), "clipsieve-tables") as pool:
            seals = pool.map(lambda each: self.write_table(*each), listed)
            return {name: seal for (name, *_), seal in zip(listed, seals, strict=True)}

    @contextmanager
    def writing_table(
        self, name: str, schema: pa.Schema, footer: Mapping[str, str]
    ) -> Iterator[pq.ParquetWriter]:
        """Replace a table by what the block writes, with `footer` as key-value metadata."""
        with self.files.writing(name) as path:
            with open_writer(path, schema) as writer:
                yield writer
                add_footer(writer, footer)
            seal.seal(path)

    # Arrays and JSON

    def read_arrays(self, name: str) -> dict[str, np.ndarray]:
        """Return the arrays that `write_arrays` wrote.

        Raises:
          LedgerError: if they are missing or damaged.
        """
        place = self.files.url(name)
        try:
            return parse_npz(self._sealed(name))
        except (OSError, ValueError) as error:
            reason = "missing" if isinstance(error, FileNotFoundError) else f"damaged ({error})"
            raise LedgerError(
                f"{place} is {reason}; `clipsieve run`, or `clipsieve score {self.root}`, makes it "
                "again"
            ) from error

    def write_arrays(self, name: str, arrays: Arrays) -> None:
        """Replace a file of arrays; the bytes depend on names and values only."""
        with self.files.writing(name) as path:
            with open(path, "wb") as file:
                named: dict[str, Any] = dict(sorted(arrays.items()))
                np.savez(file, **named)
            seal.add_blank_comment(path)
            seal.seal(path)

    def read_json(self, name: str) -> Any:
        """Return the value of a JSON file that `write_json` wrote.

        Raises:
          FileNotFoundError: if it is missing.
          ValueError: if it is damaged or was edited, or is larger or deeper than any of
            clipsieve's.
        """
        return seal.without_seal(parse_json(self._sealed(name, MOST_BYTES)))

    def write_json(
        self,
        name: str,
        value: Mapping[str, Any],
        sort_keys: bool = True,
        indent: int | None = 1,
        durable: bool = True,
    ) -> None:
        """Replace a file by `value` as JSON, on one line if `indent` is None.

        NaN and infinity are refused.  For `durable` see `FileSystem.writing`.
        """
        self.write_sealed(name, seal.blank_json(value, indent, sort_keys), durable)

    def write_sql(self, name: str, text: str, durable: bool = True) -> None:
        """Replace a file by statements of SQL."""
        self.write_sealed(name, text + seal.blank_comment("--"), durable)

    def write_sealed(self, name: str, text: str, durable: bool = True) -> None:
        """Replace a file by `text`, which has a blank seal, as UTF-8."""
        with self.files.writing(name, durable) as path:
            path.write_text(text, encoding="utf-8")
            seal.seal(path)

    def write_text(self, name: str, text: str, durable: bool = True) -> None:
        """Replace a file by `text`, as UTF-8, without a seal; see `FileSystem.writing`."""
        with self.files.writing(name, durable) as path:
            path.write_text(text, encoding="utf-8")

    def verify(self, name: str) -> Seal:
        """Read a whole file and return its seal.

        Raises:
          FileNotFoundError: if it is missing.
          Damaged: if a byte is not as it was written.
        """
        with self.files.open(name) as file:
            return seal.verify(file, file.size())

    def _sealed(self, name: str, limit: int | None = None) -> bytes:
        """Return the content of a sealed file; `Damaged` if it is not what was written.

        Raises:
          ValueError: if it has more than `limit` bytes.
        """
        content = self.files.read(name, None if limit is None else limit + 1)
        if limit is not None and len(content) > limit:
            raise ValueError(f"it has more than {limit:,} bytes")
        seal.verify(io.BytesIO(content), len(content))
        return content
