"""Compare the tables of two output folders value by value, bit for bit.

    python benchmarks/compare.py BEFORE AFTER

Compares `samples`, `embeddings`, every score family that both have, and the wide table.  Revisions,
run ids, footers and the placing of files may differ; names of shards, their rows, columns and every
value may not.  Exit code 1 if something differs.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def main() -> int:
    """Print a line for each table, and what differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    options = parser.parse_args()
    before, after = tables(options.before), tables(options.after)
    problems = [f"{name} is only in one folder" for name in sorted(before.keys() ^ after.keys())]
    for name in sorted(before.keys() & after.keys()):
        found = list(differences(before[name], after[name]))
        rows = sum(table.num_rows for table in before[name].values())
        shards = len(before[name])
        print(f"{name:24} {rows:>8,} rows of {shards} files  {'differ' if found else 'equal'}")
        problems += [f"{name}: {problem}" for problem in found]
    for problem in problems[:40]:
        print(problem)
    return int(bool(problems))


def tables(out: Path) -> dict[str, dict[str, pa.Table]]:
    """Return the active tables of a folder: by kind, then by shard."""
    manifest = json.loads((out / "dataset.json").read_text(encoding="utf-8"))
    wide = manifest["wide"]["build"]
    folders = {"samples": out / "samples", "wide": out / "wide" / f"build={wide}"}
    embeddings = manifest["embeddings"]
    revision = embeddings.get("revision") or embeddings["rev"]
    folders["embeddings"] = out / "embeddings" / embeddings["model"] / f"rev={revision}"
    for family, entry in manifest["families"].items():
        revision = entry if isinstance(entry, str) else entry["revision"]
        folders[f"scores/{family}"] = out / "scores" / family / f"rev={revision}"
    return {name: read_folder(folder, name == "wide") for name, folder in folders.items()}


def read_folder(folder: Path, is_wide: bool) -> dict[str, pa.Table]:
    """Return a folder's tables by shard; the parts of a wide table as one, in name order."""
    paths = sorted(folder.glob("*.parquet"))
    if not is_wide:
        return {path.stem: pq.read_table(path, partitioning=None) for path in paths}
    parts = [pq.read_table(path, partitioning=None) for path in paths]
    return {"all": pa.concat_tables(parts, promote_options="default")}


def differences(before: dict[str, pa.Table], after: dict[str, pa.Table]) -> Iterator[str]:
    """Yield what differs between two sets of tables."""
    for shard in sorted(before.keys() ^ after.keys()):
        yield f"shard {shard} is only in one folder"
    for shard in sorted(before.keys() & after.keys()):
        old, new = before[shard], after[shard]
        if old.schema.remove_metadata() != new.schema.remove_metadata():
            yield f"shard {shard}: columns are {old.schema.names} and {new.schema.names}"
            continue
        for name in old.column_names:
            if not old[name].equals(new[name]):
                yield f"shard {shard}: column {name} differs"


if __name__ == "__main__":
    sys.exit(main())
