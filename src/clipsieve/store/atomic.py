"""Writes that are either wholly there or not there at all.

A file is written beside its final place under a name that no reader's glob matches
(`*.parquet` would match `x.tmp.parquet`, so the mark is at the end), forced to disk, then renamed.
A kill at any instant leaves the old file, the new file, or a marked one that `sweep` removes.
"""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

MARK = ".tmp-"
_TEMPORARY = re.compile(re.escape(MARK) + "[0-9a-f]{32}")
#: Subfolders of an output folder in which temporary files are written.
_SWEPT = ("_runs", "audits", "embeddings", "fits", "samples", "scores", "sql", "wide")


def temporary_name(name: str) -> str:
    """A new name beside `name` that `sweep` recognises."""
    return f"{name}{MARK}{uuid4().hex}"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path to write to; it becomes `path` when the block ends without an exception.

    On an exception the temporary file is removed and `path` stays as it was.  Parent folders are
    made.  Two writers of one path do not disturb each other: the last to finish wins.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(temporary_name(path.name))
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Replace `path` by `text`, as UTF-8."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Replace `path` by `value` as readable JSON; NaN and infinity are refused."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n")


def sweep(folder: Path) -> list[Path]:
    """Remove what interrupted writes left in the output folder `folder`; the paths, sorted.

    Removes files whose names end in the mark and 32 hexadecimal digits, in the subfolders that
    clipsieve writes, and such copies of `dataset.json`.  Nothing else is touched.  Only the holder
    of the folder's lock may call this: it would remove a live writer's file too.
    """
    candidates = [p for name in _SWEPT for p in (folder / name).rglob(f"*{MARK}*")]
    candidates += folder.glob(f"dataset.json{MARK}*")
    left = sorted(
        p for p in candidates if _TEMPORARY.fullmatch(p.name[p.name.rfind(MARK) :]) and p.is_file()
    )
    for path in left:
        path.unlink()
    return left


def _sync_folder(folder: Path) -> None:
    """Force a rename in `folder` to disk, where the system lets folders be opened."""
    if os.name == "nt":  # Windows has no handle for this and orders renames itself.
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
