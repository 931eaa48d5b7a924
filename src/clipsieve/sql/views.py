"""The views of one output folder, as text that any DuckDB runs."""

import re
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files

from clipsieve.errors import UsageError
from clipsieve.schemas import __name__ as SCHEMAS
from clipsieve.schemas.audits import AUDIT_VIEWS
from clipsieve.schemas.removals import REMOVED
from clipsieve.sql.columns import published_name, score_columns, stored_columns
from clipsieve.sql.literals import identifier, inside_quotes, literal
from clipsieve.sql.recipe_values import recipe_text
from clipsieve.sql.recipes import recipes
from clipsieve.sql.subset_views import SUBSET_VIEWS, subset_views
from clipsieve.store import names
from clipsieve.store.folder import READERS, OutputFolder
from clipsieve.store.frozen import frozen
from clipsieve.store.manifest import Manifest

#: What the block of run metrics makes.
RUN_METRICS_VIEWS = ("run_metrics", "value_of", "share_of", "change_of")


def views_sql(
    folder: OutputFolder, manifest: Manifest, root: str = "", only: Collection[str] | None = None
) -> str:
    """Return the text of `sql/views.sql` for the active revisions, without views of no files.

    Args:
      folder: whose files the views read.
      manifest: its active revisions.
      root: stands before every path; a pattern for DuckDB, without quotes.  "" leaves paths
        relative to the folder.
      only: names in lower case of the views and macros that are needed; None is all, with comments
        on their columns.  In an object store each costs a request or more.
    """
    blocks = _blocks()
    common = {"root": inside_quotes(root)}

    def filled(block: str, **values: str) -> str:
        return _filled(blocks[block], common | values)

    def is_needed(*views: str) -> bool:
        return only is None or any(view.lower() in only for view in views)

    parts = [blocks[""]]
    if is_needed("samples") and folder.shards():
        parts.append(filled("samples"))
    entry = manifest.embeddings
    if (
        is_needed("embeddings")
        and entry
        and folder.tables(names.embeddings_folder(entry.model, entry.revision))
    ):
        assert manifest.model is not None
        dim = str(manifest.model.dim)
        parts.append(filled("embeddings", model=entry.model, rev=entry.revision, dim=dim))
    for family, revision in sorted(manifest.revisions().items()):
        if is_needed(family) and folder.tables(names.family_folder(family, revision)):
            view = identifier(family)
            parts.append(filled("family", view=view, family=family, rev=revision))
    for table, view in AUDIT_VIEWS.items():
        if is_needed(view) and folder.files.exists(names.audit(table)):
            parts.append(filled("audit", view=view, table=table))
    if is_needed(*SUBSET_VIEWS):
        parts += subset_views(folder, filled, common["root"])
    for view, name in (("metrics", names.DATASET_METRICS), ("detectors", names.DETECTORS)):
        if is_needed(view) and folder.files.exists(name):
            parts.append(filled(view))
    is_wide = is_needed("scores", "removals") and manifest.wide is not None
    if manifest.wide and is_wide and folder.tables(names.wide_folder(manifest.wide.build)):
        alias = f", clip_similarity AS {published_name(manifest)}" if entry else ""
        aliases = alias if entry and "clip" in manifest.families else ""
        removals = manifest.wide.removals
        values = {
            "build": manifest.wide.build,
            "aliases": aliases,
            "left_out": f" EXCLUDE ({REMOVED})" if removals else "",
            "condition": f"\n  WHERE {REMOVED} IS NULL" if removals else "",
        }
        parts.append(filled("scores", **values))
        if removals and folder.tables(names.removals_folder(removals)):
            parts.append(filled("removals", removals=removals))
    columns = list(score_columns(folder, manifest)) if is_needed("score_columns") else []
    if columns:
        rows = ",\n    ".join(f"({', '.join(map(literal, row))})" for row in columns)
        parts.append(filled("score_columns", rows=rows))
    commented = _commented(folder, manifest) if only is None else ()
    for name, doc in ((str(row[0]), row[5]) for row in columns):
        if name in commented and doc:
            parts.append(filled("comment", column=identifier(name), doc=literal(doc)))
    history = folder.files.list_files(names.RUNS) if is_needed("runs", *RUN_METRICS_VIEWS) else ()
    if any(names.is_own(name, ".json") for name in history):
        parts.append(filled("runs"))
    if any(names.is_own(name, names.RUN_METRICS_ENDING) for name in history):
        parts.append(filled("run_metrics"))
    records = _record_globs(folder) if is_needed("shards") else []
    if records:
        paths = ", ".join(literal(root + record) for record in records)
        parts.append(filled("shards", files=paths))
    return "\n".join(part.strip() + "\n" for part in parts)


def macros_sql() -> str:
    """The text of `sql/macros.sql`: those for analyses, and the functions of predicates."""
    folder = files(SCHEMAS) / "sql"
    return "\n".join(
        (folder / name).read_text(encoding="utf-8") for name in ("macros.sql", "predicates.sql")
    )


def write_sql(folder: OutputFolder, manifest: Manifest) -> None:
    """Write views, macros and recipes into the folder, for those who open it without clipsieve.

    Recipes have the defaults of their parameters; one whose columns or files are not there is
    left out.
    """
    looked_at = frozen(folder, _listed(manifest))
    texts: dict[str, str | None] = {
        f"{names.SQL}/views.sql": views_sql(looked_at, manifest),
        f"{names.SQL}/macros.sql": macros_sql(),
    }
    lasting = tuple(texts)
    for recipe in recipes().values():
        name = f"{names.SQL}/{recipe.name}.sql"
        try:
            body = recipe_text(recipe, looked_at, manifest, {}, name_scorers=False)
            texts[name] = recipe.head() + body
        except UsageError:
            texts[name] = None

    def write(name: str) -> None:
        text = texts[name]
        if text is None:
            folder.files.delete(name)
        else:
            folder.write_sql(name, text, durable=name in lasting)

    # In an object store each is a request.
    with ThreadPoolExecutor(READERS if folder.files.is_remote else 1, "clipsieve-sql") as pool:
        list(pool.map(write, texts))


def write_views(folder: OutputFolder, manifest: Manifest) -> None:
    """Write the views anew, where only records of runs have come since `write_sql`."""
    folder.write_sql(
        f"{names.SQL}/views.sql", views_sql(frozen(folder, _listed(manifest)), manifest)
    )


def _listed(manifest: Manifest) -> list[str]:
    """Return the folders that all views together ask for."""
    listed = [names.SAMPLES, names.AUDITS, names.METRICS, names.RUNS, names.SUBSETS]
    entry = manifest.embeddings
    if entry is not None:
        listed.append(names.embeddings_folder(entry.model, entry.revision))
    for family, revision in manifest.revisions().items():
        listed += [names.family_folder(family, revision), f"scores/{family}"]
    if manifest.wide is not None:
        listed.append(names.wide_folder(manifest.wide.build))
        if manifest.wide.removals:
            listed.append(names.removals_folder(manifest.wide.removals))
    return listed


def _commented(folder: OutputFolder, manifest: Manifest) -> frozenset[str]:
    """Return the columns of the view `scores`, of which scores are in every part alike."""
    if manifest.wide is None:
        return frozenset()
    fields = stored_columns(folder, names.wide_folder(manifest.wide.build))
    return frozenset(field.name for field in fields)


def _record_globs(folder: OutputFolder) -> list[str]:
    """Return globs of the records of shards that match a file; DuckDB refuses others."""
    files = folder.files
    globs = []
    # Before the gathered ones: a run that ends meanwhile has one kind or the other.
    single = [name for name in files.list_folders(names.RUNS) if names.is_own(name, ".shards")]
    if any(
        names.is_own(record, ".json")
        for run in single
        for record in files.list_files(f"{names.RUNS}/{run}")
    ):
        globs.append(f"{names.RUNS}/[!.]*.shards/[!.]*.json")
    if any(names.is_own(name, ".shards.jsonl") for name in files.list_files(names.RUNS)):
        globs.append(f"{names.RUNS}/[!.]*.shards.jsonl")
    return globs


def _blocks() -> dict[str, str]:
    """Blocks of the template by name; "" is its head."""
    text = (files(SCHEMAS) / "sql" / "views.sql").read_text(encoding="utf-8")
    head, *rest = re.split(r"^--: (\w+)\n", text, flags=re.MULTILINE)
    return {"": head, **dict(zip(rest[::2], rest[1::2], strict=True))}


def _filled(block: str, values: Mapping[str, str]) -> str:
    """`block` with `{name}` replaced; other braces, those in values too, are SQL's own."""
    return re.sub(r"\{(\w+)\}", lambda match: values.get(match[1], match[0]), block)
