"""Texts that would run a statement if they left their quotes, and places in a folder for them."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from clipsieve.store.folder import OutputFolder

#: The statement writes into the current folder; file names cannot hold a "/".
COPY = "COPY (SELECT 1 AS a) TO 'stolen'"
TEXTS = {
    "double": f'x" AS SELECT 1; {COPY}; CREATE OR REPLACE VIEW "y',
    "single": f"x', true); {COPY}; SELECT ('",
    "line": f"x\n;{COPY};--",
    "dollar": f"$$;{COPY};$$ {{root}} {{rows}}",
}


def read_value(path):
    """Return the value of a JSON file without its checksum, if it has one."""
    content = json.loads(path.read_text())
    if isinstance(content, dict):
        content.pop("clipsieve.sha256", None)
    return content


def write_value(path, content):
    """Write a JSON file as clipsieve does, checksum and all: who attacks can write that too."""
    if isinstance(content, dict):
        OutputFolder.open(path.parent).write_json(path.name, content, sort_keys=False)
    else:
        path.write_text(json.dumps(content))


def change_json(path, *changes):
    """Replace values of a JSON file; a change is the keys that lead to one, and the value."""
    content = read_value(path)
    for *way, last, value in changes:
        at = content
        for key in way:
            at = at[key]
        at[last] = value
    write_value(path, content)


def rename_key(path, *way):
    """Give the first key of an object in a JSON file the last name of `way`."""
    *keys, name = way
    content = read_value(path)
    at = content
    for key in keys:
        at = at[key]
    old = next(iter(at))
    at[name] = at.pop(old)
    write_value(path, content)


def first(root: Path, pattern: str) -> Path:
    """Return the first file of a pattern, by name."""
    return min(root.glob(pattern))


def change_table(path, change):
    """Write a Parquet file again as `change` makes it; the footer stays."""
    table = pq.read_table(path)
    metadata = pq.read_metadata(path).metadata
    changed = change(table)
    changed = changed.replace_schema_metadata(
        {k: v for k, v in metadata.items() if k != b"ARROW:schema"}
        | (changed.schema.metadata or {})
    )
    pq.write_table(changed, path)


def _add_column(text, metadata=None):
    def change(table):
        field = pa.field(text, pa.float32(), metadata=metadata)
        return table.append_column(field, pa.nulls(len(table), pa.float32()))

    return change


def _all_values(column, text):
    def change(table):
        values = pa.array([text] * len(table), pa.string())
        return table.set_column(table.schema.get_field_index(column), column, values)

    return change


def _footer(text):
    def change(table):
        return table.replace_schema_metadata({text.encode(): b"1", b"clipsieve.rows": text})

    return change


def _rename(root, pattern, name):
    old = first(root, pattern)
    old.rename(old.with_name(name))


def _copy_revision(root, text):
    source = first(root, "scores/ood/rev=*")
    shutil.copytree(source, source.with_name(f"rev={text}"))


MANIFEST, SUBSET = "dataset.json", "subsets/keep/subset.json"
SCORES = "scores/ood/rev=ac*/a.parquet"

#: How a text gets into each place, by the name of the place.
PLACES = {
    "family": lambda root, text: rename_key(root / MANIFEST, "families", text),
    "scorer": lambda root, text: rename_key(root / MANIFEST, "families", "ood", "scorers", text),
    "family revision": lambda root, text: change_json(
        root / MANIFEST, ("families", "ood", "revision", text)
    ),
    "learned": lambda root, text: change_json(
        root / MANIFEST, ("families", "ood", "scorers", "ood", "learned", text)
    ),
    "slug": lambda root, text: change_json(root / MANIFEST, ("embeddings", "model", text)),
    "embeddings": lambda root, text: change_json(root / MANIFEST, ("embeddings", "revision", text)),
    "model": lambda root, text: change_json(root / MANIFEST, ("model", "model", text)),
    "pretrained": lambda root, text: change_json(root / MANIFEST, ("model", "pretrained", text)),
    "dim": lambda root, text: change_json(root / MANIFEST, ("model", "dim", text)),
    "build": lambda root, text: change_json(root / MANIFEST, ("wide", "build", text)),
    "removals": lambda root, text: change_json(root / MANIFEST, ("wide", "removals", text)),
    "version": lambda root, text: change_json(root / MANIFEST, ("layout_version", text)),
    "option": lambda root, text: change_json(
        root / MANIFEST, ("families", "ood", "options", {"x": text})
    ),
    "subset folder": lambda root, text: (root / "subsets" / "keep").rename(
        root / "subsets" / text[:60]
    ),
    "subset name": lambda root, text: change_json(root / SUBSET, ("name", text)),
    "subset revision": lambda root, text: change_json(root / SUBSET, ("revision", text)),
    "definition": lambda root, text: change_json(root / SUBSET, ("definition", {"where": text})),
    "subset run": lambda root, text: change_json(root / SUBSET, ("run_id", text)),
    "score column": lambda root, text: change_table(first(root, SCORES), _add_column(text)),
    "doc": lambda root, text: change_table(
        first(root, SCORES), _add_column("z", {"doc": text, "scorer": text, "range": text})
    ),
    "wide column": lambda root, text: change_table(
        first(root, "wide/*/*.parquet"), _add_column(text, {"doc": text})
    ),
    "commented": lambda root, text: [
        change_table(first(root, pattern), _add_column(text, {"doc": text}))
        for pattern in (SCORES, "wide/*/*.parquet")
    ],
    "source column": lambda root, text: change_table(
        first(root, "samples/*.parquet"), _add_column(text)
    ),
    "caption": lambda root, text: change_table(
        first(root, "wide/*/*.parquet"), _all_values("caption", text)
    ),
    "uid": lambda root, text: change_table(
        first(root, "wide/*/*.parquet"), _all_values("uid", text)
    ),
    "footer": lambda root, text: change_table(first(root, "samples/*.parquet"), _footer(text)),
    "samples file": lambda root, text: _rename(root, "samples/*.parquet", f"{text}.parquet"),
    "scores file": lambda root, text: _rename(root, SCORES, f"{text}.parquet"),
    "revision folder": _copy_revision,
    "record": lambda root, text: (root / "_runs" / f"{text}.shards.jsonl").write_text(
        json.dumps({"run_id": text, "shard": text, "uri": text, "state": text}) + "\n"
    ),
    "run": lambda root, text: (root / "_runs" / f"{text}.json").write_text(json.dumps({text: 1})),
    "views.sql": lambda root, text: (root / "sql" / "views.sql").write_text(f"{COPY};\n{text}"),
    "macros.sql": lambda root, text: (root / "sql" / "macros.sql").write_text(f"{COPY};\n{text}"),
    "recipe": lambda root, text: (root / "sql" / "score_summary.sql").write_text(f"{COPY};{text}"),
    "catalog": lambda root, text: (root / "catalog.duckdb").write_text(f"{COPY};\n{text}"),
}
