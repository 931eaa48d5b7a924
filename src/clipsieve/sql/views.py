"""The views of one output folder, as text that any DuckDB runs."""

import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files

import pyarrow as pa

from clipsieve.errors import LedgerError
from clipsieve.schemas import __name__ as SCHEMAS
from clipsieve.schemas.removals import REMOVED
from clipsieve.scorers.columns import made_by
from clipsieve.store import names
from clipsieve.store.folder import OutputFolder
from clipsieve.store.manifest import Manifest

#: Models whose cosine has a published column name, by model and pretrained tag.
_PUBLISHED = {
    ("ViT-B-32", "openai"): "clip_b32_similarity_score",
    ("ViT-B-32-quickgelu", "openai"): "clip_b32_similarity_score",
    ("ViT-L-14", "openai"): "clip_l14_similarity_score",
    ("ViT-L-14-quickgelu", "openai"): "clip_l14_similarity_score",
}


def views_sql(folder: OutputFolder, manifest: Manifest) -> str:
    """Return the text of `sql/views.sql` for the active revisions, without views of no files."""
    blocks = _blocks()
    parts = [blocks[""]]
    if folder.shards():
        parts.append(blocks["samples"])
    entry = manifest.embeddings
    if entry and folder.tables(names.embeddings_folder(entry.model, entry.revision)):
        assert manifest.model is not None
        values = {"model": entry.model, "rev": entry.revision, "dim": str(manifest.model.dim)}
        parts.append(_filled(blocks["embeddings"], values))
    for family, revision in sorted(manifest.revisions().items()):
        if folder.tables(names.family_folder(family, revision)):
            parts.append(_filled(blocks["family"], {"family": family, "rev": revision}))
        if folder.files.exists(names.groups(family, revision)):
            parts.append(_filled(blocks["groups"], {"family": family, "rev": revision}))
    for view, name in (("metrics", names.DATASET_METRICS), ("detectors", names.DETECTORS)):
        if folder.files.exists(name):
            parts.append(blocks[view])
    if manifest.wide and folder.tables(names.wide_folder(manifest.wide.build)):
        alias = f", clip_similarity AS {published_name(manifest)}"
        aliases = alias if "clip" in manifest.families else ""
        removals = manifest.wide.removals
        values = {
            "build": manifest.wide.build,
            "aliases": aliases,
            "left_out": f" EXCLUDE ({REMOVED})" if removals else "",
            "condition": f"\n  WHERE {REMOVED} IS NULL" if removals else "",
        }
        parts.append(_filled(blocks["scores"], values))
        if removals and folder.tables(names.removals_folder(removals)):
            parts.append(_filled(blocks["removals"], {"removals": removals}))
    columns = list(_score_columns(folder, manifest))
    if columns:
        rows = ",\n    ".join(f"({', '.join(map(_literal, row))})" for row in columns)
        parts.append(_filled(blocks["score_columns"], {"rows": rows}))
    commented = _wide_columns(folder, manifest)
    for name, doc in ((str(row[0]), row[5]) for row in columns):
        if name in commented and doc:
            values = {"column": _identifier(name), "doc": _literal(doc)}
            parts.append(_filled(blocks["comment"], values))
    if any(name.endswith(".json") for name in folder.files.list_files(names.RUNS)):
        parts.append(blocks["runs"])
    records = _record_globs(folder)
    if records:
        values = {"files": ", ".join(map(_literal, records))}
        parts.append(_filled(blocks["shards"], values))
    return "\n".join(part.strip() + "\n" for part in parts)


def macros_sql() -> str:
    """The text of `sql/macros.sql`."""
    return (files(SCHEMAS) / "sql" / "macros.sql").read_text(encoding="utf-8")


def write_sql(folder: OutputFolder, manifest: Manifest) -> None:
    """Write both files into the folder, for those who open it without clipsieve."""
    folder.write_text(f"{names.SQL}/views.sql", views_sql(folder, manifest))
    folder.write_text(f"{names.SQL}/macros.sql", macros_sql())


def published_name(manifest: Manifest) -> str:
    """Return the name under which others know `clip_similarity` of the folder's model.

    `clip_b32_similarity_score` and `clip_l14_similarity_score` for OpenAI's two, as in DataComp;
    `clip_<model>_similarity_score` in lower case for every other.
    """
    assert manifest.model is not None and manifest.embeddings is not None
    known = _PUBLISHED.get((manifest.model.model, str(manifest.model.pretrained)))
    name = re.sub("[^a-z0-9]+", "_", manifest.embeddings.model.lower()).strip("_")
    return known or f"clip_{name}_similarity_score"


def _score_columns(folder: OutputFolder, manifest: Manifest) -> Iterator[Sequence[str | None]]:
    """Yield the rows of `score_columns`, from the metadata of one file of each family."""
    for family, revision in sorted(manifest.revisions().items()):
        for field in _schema(folder, names.family_folder(family, revision)):
            if field.name == "uid":
                continue
            scorer, scorer_revision = made_by(field) or (None, None)
            metadata = {
                key.decode(errors="replace"): value.decode(errors="replace")
                for key, value in (field.metadata or {}).items()
            }
            described = [metadata.get(key) for key in ("doc", "direction", "range", "source")]
            yield field.name, family, scorer, scorer_revision, str(field.type), *described


def _wide_columns(folder: OutputFolder, manifest: Manifest) -> frozenset[str]:
    """Return the columns of the view `scores`; families may be newer than its build."""
    if manifest.wide is None:
        return frozenset()
    return frozenset(
        field.name for field in _schema(folder, names.wide_folder(manifest.wide.build))
    )


def _schema(folder: OutputFolder, tables: str) -> Sequence[pa.Field]:
    """Return the columns of the first table in a folder that can be read; [] if none can."""
    for table in folder.tables(tables):
        try:
            return list(folder.read_schema(f"{tables}/{table}.parquet"))
        except LedgerError:
            continue
    return []


def _record_globs(folder: OutputFolder) -> list[str]:
    """Return globs of the records of shards that match a file; DuckDB refuses others."""
    files = folder.files
    globs = []
    # Before the gathered ones: a run that ends meanwhile has one kind or the other.
    single = [name for name in files.list_folders(names.RUNS) if name.endswith(".shards")]
    if any(
        record.endswith(".json")
        for run in single
        for record in files.list_files(f"{names.RUNS}/{run}")
    ):
        globs.append(f"{names.RUNS}/*.shards/*.json")
    if any(name.endswith(".shards.jsonl") for name in files.list_files(names.RUNS)):
        globs.append(f"{names.RUNS}/*.shards.jsonl")
    return globs


def _literal(text: str | None) -> str:
    """Return `text` as a value in SQL; a NUL, which ends a statement, becomes U+FFFD."""
    if text is None:
        return "NULL::VARCHAR"
    return "'" + text.replace("\0", "\ufffd").replace("'", "''") + "'"


def _identifier(name: str) -> str:
    """Return `name` as a name in SQL."""
    return '"' + name.replace('"', '""') + '"'


def _blocks() -> dict[str, str]:
    """Blocks of the template by name; "" is its head."""
    text = (files(SCHEMAS) / "sql" / "views.sql").read_text(encoding="utf-8")
    head, *rest = re.split(r"^--: (\w+)\n", text, flags=re.MULTILINE)
    return {"": head, **dict(zip(rest[::2], rest[1::2], strict=True))}


def _filled(block: str, values: Mapping[str, str]) -> str:
    """`block` with `{name}` replaced; other braces, those in values too, are SQL's own."""
    return re.sub(r"\{(\w+)\}", lambda match: values.get(match[1], match[0]), block)
