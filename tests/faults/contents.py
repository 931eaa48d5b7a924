"""What an output folder says, apart from what differs from one run to the next."""

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

#: Keys of JSON files whose values are new in every run: names, times, files by content.
_NEW = re.compile(
    r"(run|run_id|runs|time|.*_at|seconds|.*_seconds|created.*|versions?|updated|bytes|size|mtime.*"
    r"|clipsieve\.sha256|sha256|digest|seals?|verified.*|files|inode|host|pid)$"
)
#: Names and times of runs, and hashes of the file itself, in SQL.
_NEW_IN_TEXT = re.compile(
    rb"\d{8}T\d{6}Z-[0-9a-f]+|to_timestamp\([\d.]+\)|clipsieve\.sha256: [0-9a-f]{64}"
)
#: Folders of what a user would miss; the rest is records of runs, locks, and kept damaged files.
_COMPARED = re.compile(
    r"(samples|embeddings|scores|wide|fits|prompts|audits|subsets|removals|neighbours|metrics|sql"
    r"|dataset\.json|exp)(/|$)"
)
_SKIPPED = re.compile(r"(\.tmp-|\.damaged|\.sha256$|\.seal$|/seals?/)")


def contents(folder: Path) -> dict[str, str]:
    """Digests of the tables, arrays and descriptions of `folder/out` and `folder/exp`, by names.

    Tables are compared as rows and types: footers name runs.  Parts of the wide table are one table
    whatever their number, and only those of the build that `dataset.json` names count.
    """
    found: dict[str, str] = {}
    wide: list[Path] = []
    build = active_build(folder / "out")
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder).as_posix().removeprefix("out/")
        if not _COMPARED.match(name) or _SKIPPED.search(name):
            continue
        if name.startswith("wide/"):
            if build is None or f"build={build}/" in name:
                wide.append(path)
        else:
            found[name] = digest_of(path)
    if wide:
        found["wide"] = _table_digest(wide, ("shard", "row"))
    return found


def differences(expected: dict[str, str], found: dict[str, str]) -> list[str]:
    """What is missing, new or of other content, in words."""
    lines = [f"{name} is missing" for name in sorted(expected.keys() - found.keys())]
    lines += [f"{name} is new" for name in sorted(found.keys() - expected.keys())]
    both = sorted(expected.keys() & found.keys())
    return lines + [f"{name} differs" for name in both if expected[name] != found[name]]


def lost(different: list[str]) -> list[str]:
    """Of those, what a user would miss."""
    return [line for line in different if line.endswith((" is missing", " differs"))]


def leftovers(folder: Path) -> list[str]:
    """Temporary files below `folder`."""
    return sorted(
        f"{path.relative_to(folder)} was left" for path in folder.rglob("*.tmp-*") if path.is_file()
    )


def active_build(folder: Path) -> str | None:
    """Name of the build of the wide table in use; None if the manifest does not say."""
    try:
        manifest = json.loads((folder / "dataset.json").read_bytes())
        return str(manifest["wide"]["build"])
    except (OSError, ValueError, TypeError, KeyError):
        return None


def digest_of(path: Path) -> str:
    """Digest of one file's meaning; a file that cannot be read has the error's name."""
    try:
        if path.suffix == ".parquet":
            return _table_digest([path], ())
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return _digest(
                    part
                    for name in sorted(arrays.files)
                    for part in (name.encode(), str(arrays[name].dtype).encode(), arrays[name])
                )
        if path.suffix == ".json":
            value = stable(json.loads(path.read_bytes()))
            return _digest([json.dumps(value, sort_keys=True).encode()])
        return _digest([_NEW_IN_TEXT.sub(b"", path.read_bytes())])
    except Exception as error:  # any file may be damaged in any way
        return f"unreadable: {type(error).__name__}"


def stable(value: Any) -> Any:
    """Leave out of a JSON value what is new in every run.

    >>> stable({"rows": 3, "run_id": "a", "x": [{"ended_at": 1.0}]})
    {'rows': 3, 'x': [{}]}
    """
    if isinstance(value, dict):
        return {k: stable(v) for k, v in value.items() if not _NEW.match(k)}
    if isinstance(value, list):
        return [stable(item) for item in value]
    return value


def _table_digest(paths: list[Path], order: Iterable[str]) -> str:
    """Digest of the rows and types of tables put together."""
    table = pa.concat_tables(pq.read_table(path, partitioning=None) for path in paths)
    if keys := [(name, "ascending") for name in order if name in table.column_names]:
        table = table.sort_by(keys)
    table = table.replace_schema_metadata(None).combine_chunks()
    parts = [str(table.schema.remove_metadata()).encode()]
    for column in table.columns:
        parts.append(repr(column.to_pylist()).encode())
    return _digest(parts)


def _digest(parts: Iterable[Any]) -> str:
    state = hashlib.sha256()
    for part in parts:
        state.update(part.tobytes() if isinstance(part, np.ndarray) else part)
    return state.hexdigest()[:16]
