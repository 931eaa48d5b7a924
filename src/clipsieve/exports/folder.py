"""The folder of an export: what it is made of, which parts are complete, and its manifest.

While an export is unfinished a hidden folder in it holds the record of every complete part, which
says of what it was made; a part counts as complete if its record does and its files have the
recorded sizes.  At the end `export.json` takes the place of the records.
"""

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from clipsieve.errors import LedgerError, UsageError
from clipsieve.exports.disk_errors import disk_errors
from clipsieve.exports.parts import Part
from clipsieve.exports.records import LEFT_OUT_SCHEMA, FileRecord, PartRecord
from clipsieve.store.file_system import MARK, temporary_stem
from clipsieve.store.files import LocalFiles
from clipsieve.store.name_limits import MAX_NAME_BYTES
from clipsieve.store.parquet import open_writer

MANIFEST = "export.json"
LEFT_OUT = "left_out.parquet"
_SETTINGS = "settings.json"
_TEMPORARY = re.compile("(.*)" + re.escape(MARK) + "[0-9a-f]{32}", re.DOTALL)


@dataclass(slots=True)
class OpenFile:
    """A file being written: its temporary path, and its rows, which the writer sets."""

    path: Path
    rows: int = 0


class ExportFolder:
    """The folder that an export is written to.

    Attributes:
      files: the folder.
      manifest: name of the description that is written last.
    """

    def __init__(self, root: str | os.PathLike[str], file: str | None = None) -> None:
        """Name the folder; nothing is made yet.

        Args:
          root: the folder.
          file: name of the only file of the export, in a folder that may hold others; None if the
            folder is the export's own.

        Raises:
          UsageError: if a name is too long.
        """
        self.files = LocalFiles(root)
        self._file = file
        self.manifest = MANIFEST if file is None else f"{file}.{MANIFEST}"
        self._is_new = False
        self._work = ".clipsieve-export" if file is None else f".{file}.clipsieve-export"
        over = len(os.fsencode(self._work)) - MAX_NAME_BYTES
        if over > 0:
            raise UsageError(
                f"export file {file} has too long a name for the names of its parts beside it; "
                f"choose one that is shorter by {over} bytes"
            )

    @property
    def place(self) -> str:
        """What the user named, absolute."""
        return self.files.url(self._file or "")

    def read_manifest(self) -> dict[str, Any] | None:
        """Return the manifest of a finished export; None if there is none or it is damaged."""
        return self._read_json(self.manifest)

    def check(self, key: str) -> None:
        """Refuse a folder that holds something else than this export.

        Args:
          key: hash of what is exported, and how.

        Raises:
          UsageError: says what it holds.
        """
        if self.files.root.exists() and not self.files.root.is_dir():
            raise UsageError(f"{self.files.root} is a file; name a folder that is new or empty")
        settings = self._read_json(f"{self._work}/{_SETTINGS}")
        for present in (self.read_manifest(), settings):
            if present is not None and present.get("key") == key:
                return
            if present is not None:
                subset, revision = present.get("subset"), present.get("revision")
                raise UsageError(
                    f"{self.place} holds the {present.get('format')} export of subset {subset} "
                    f"(revision {revision}) or other settings of it; name another folder, or "
                    "delete that one"
                )
        foreign = self._present() + [
            name for name in self.files.list_files(self._work) if not _TEMPORARY.fullmatch(name)
        ]
        if foreign:
            raise UsageError(
                f"{self.place} holds {foreign[0]!r}, which no export of these settings left there; "
                "name a folder that is new or empty"
            )

    def begin(self, settings: Mapping[str, Any], planned: Collection[str]) -> None:
        """Mark the folder as this export's, and remove what interrupted writes left.

        Args:
          settings: of the export, with its `key`.
          planned: names of all its files.
        """
        self._is_new = not self.files.root.exists()
        self.sweep(planned)
        with disk_errors(self.place):
            self._write_json(f"{self._work}/{_SETTINGS}", settings)

    def sweep(self, planned: Collection[str]) -> None:
        """Remove temporary files of the export's own files, and of no others."""
        own = {temporary_stem(name) for name in (*planned, self.manifest, LEFT_OUT)}
        for folder in sorted({name.rpartition("/")[0] for name in own}):
            for name in self.files.list_files(folder):
                match = _TEMPORARY.fullmatch(f"{folder}/{name}" if folder else name)
                if match is not None and match[1] in own:
                    self.files.delete(match[0])
        self.files.sweep((self._work,), ())

    # Parts

    def read_record(self, part: Part) -> PartRecord | None:
        """Return the record of a part that is complete; None if it is not."""
        content = self._read_json(self._record(part))
        if content is None or content.get("key") != part.key:
            return None
        record = PartRecord.from_json(content)
        return record if self.is_whole(record.files) else None

    def is_whole(self, files: Sequence[FileRecord]) -> bool:
        """Whether all files are there, with their recorded sizes."""
        try:
            return all(os.path.getsize(self.files.path(f.name)) == f.size for f in files)
        except FileNotFoundError:
            return False

    def write_record(self, part: Part, record: PartRecord, left_out: pa.Table) -> None:
        """Note that a part is complete."""
        if left_out.num_rows:
            with self.files.writing(self._left_out(part)) as path:
                pq.write_table(left_out.cast(LEFT_OUT_SCHEMA), path)
        self._write_json(self._record(part), asdict(record))

    @contextmanager
    def writing(self, name: str, records: list[FileRecord]) -> Iterator[OpenFile]:
        """Give a temporary path that becomes `name` when the block ends well; adds its record."""
        with self.files.writing(name) as path:
            file = OpenFile(path)
            yield file
            with open(path, "rb") as content:
                digest = hashlib.file_digest(content, "sha256").hexdigest()
            record = FileRecord(name, file.rows, os.path.getsize(path), digest)
        records.append(record)

    # The end

    def finish(
        self, parts: Sequence[Part], description: Mapping[str, Any], notes: Sequence[str]
    ) -> dict[str, Any]:
        """Write the list of rows left out, then the manifest; remove the records.

        Args:
          parts: all parts, complete.
          description: what the manifest says of the export.
          notes: lines that the user should know, beside those of the parts.

        Returns:
          The manifest.

        Raises:
          LedgerError: if a part is not complete.
        """
        records = []
        for part in parts:
            record = self.read_record(part)
            if record is None:
                raise LedgerError(
                    f"part {part.name} of the export to {self.place} has gone while it was "
                    "written; is another program at work there?  Run the same command again"
                )
            records.append(record)
        files = [file for record in records for file in record.files]
        with disk_errors(self.place):
            left_out = self._write_left_out(parts, files)
            counts: Counter[str] = Counter()
            for record in records:
                counts.update(record.notes or {})
            manifest = {
                **description,
                "rows": sum(record.rows for record in records),
                "left_out": left_out,
                "notes": [*(f"{name}: {rows:,}" for name, rows in counts.items()), *notes],
                "files": [asdict(file) for file in files],
            }
            self._write_json(self.manifest, manifest)
        self.forget_records()
        return manifest

    def forget_records(self) -> None:
        """Remove the records of parts, for which a manifest speaks."""
        self.files.delete_folder(self._work)

    def forget_manifest(self) -> None:
        """Forget that the export was finished, for its files are not whole any more."""
        self.files.delete(self.manifest)

    def discard(self) -> None:
        """Remove the marks of an export of which no file was written, and the folder they made."""
        if self.files.list_files(self._work) not in ([], [_SETTINGS]) or self._present():
            return
        self.files.delete_folder(self._work)
        if self._is_new and self.files.root.is_dir() and not any(self.files.root.iterdir()):
            self.files.root.rmdir()

    def _present(self) -> list[str]:
        """Return what is in the place of the export's files, by name."""
        listed = self.files.list_files("") + self.files.list_folders("")
        if self._file is not None:
            return [name for name in listed if name == self._file]
        return [name for name in listed if name != self._work]

    def _write_left_out(self, parts: Sequence[Part], files: list[FileRecord]) -> int:
        rows = 0
        names = [name for name in map(self._left_out, parts) if self.files.exists(name)]
        if not names:
            return 0
        with (
            self.writing(LEFT_OUT, files) as file,
            open_writer(file.path, LEFT_OUT_SCHEMA) as writer,
        ):
            for name in names:
                table = pq.read_table(self.files.path(name))
                writer.write_table(table)
                rows += table.num_rows
            file.rows = rows
            writer.close()
        return rows

    def _record(self, part: Part) -> str:
        return f"{self._work}/{part.name}.part.json"

    def _left_out(self, part: Part) -> str:
        return f"{self._work}/{part.name}.{part.key}.left_out.parquet"

    def _read_json(self, name: str) -> dict[str, Any] | None:
        try:
            content = json.loads(self.files.read(name))
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return None
        return content if isinstance(content, dict) else None

    def _write_json(self, name: str, content: Mapping[str, Any]) -> None:
        text = json.dumps(content, indent=1, allow_nan=False) + "\n"
        with self.files.writing(name) as path:
            path.write_text(text, encoding="utf-8")
