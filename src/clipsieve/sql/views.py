"""The views of one output folder, as text that any DuckDB runs."""

import re
from collections.abc import Mapping
from importlib.resources import files

from clipsieve.schemas import __name__ as SCHEMAS
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
    if manifest.wide and folder.tables(names.wide_folder(manifest.wide.build)):
        alias = f", clip_similarity AS {published_name(manifest)}"
        aliases = alias if "clip" in manifest.families else ""
        values = {"build": manifest.wide.build, "aliases": aliases}
        parts.append(_filled(blocks["scores"], values))
    runs = folder.files.list_files(names.RUNS)
    if any(name.endswith(".json") for name in runs):
        parts.append(blocks["runs"])
    if any(name.endswith(".shards.jsonl") for name in runs):
        parts.append(blocks["shards"])
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


def _blocks() -> dict[str, str]:
    """Blocks of the template by name; "" is its head."""
    text = (files(SCHEMAS) / "sql" / "views.sql").read_text(encoding="utf-8")
    head, *rest = re.split(r"^--: (\w+)\n", text, flags=re.MULTILINE)
    return {"": head, **dict(zip(rest[::2], rest[1::2], strict=True))}


def _filled(block: str, values: Mapping[str, str]) -> str:
    """`block` with `{name}` replaced; other braces are SQL's own."""
    for name, value in values.items():
        block = block.replace("{" + name + "}", value)
    return block
