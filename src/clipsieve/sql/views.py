"""The views of one output folder, as text that any DuckDB runs."""

import re
from collections.abc import Mapping
from importlib.resources import files

from clipsieve.schemas import __name__ as SCHEMAS
from clipsieve.store.atomic import write_text
from clipsieve.store.dataset import Dataset
from clipsieve.store.layout import Layout

#: Models whose cosine has a published column name, by model and pretrained tag.
_PUBLISHED = {
    ("ViT-B-32", "openai"): "clip_b32_similarity_score",
    ("ViT-B-32-quickgelu", "openai"): "clip_b32_similarity_score",
    ("ViT-L-14", "openai"): "clip_l14_similarity_score",
    ("ViT-L-14-quickgelu", "openai"): "clip_l14_similarity_score",
}


def views_sql(layout: Layout, dataset: Dataset) -> str:
    """The text of `sql/views.sql` for the active revisions; views without files are left out."""
    blocks = _blocks()
    parts = [blocks[""]]
    if _any(layout, "samples/*.parquet"):
        parts.append(blocks["samples"])
    embeddings = dataset.embeddings
    if embeddings and _any(
        layout, f"embeddings/{embeddings['model']}/rev={embeddings['rev']}/*.parquet"
    ):
        values = {**embeddings, "dim": str(dataset.model["dim"])}
        parts.append(_filled(blocks["embeddings"], values))
    for family, revision in sorted(dataset.families.items()):
        if _any(layout, f"scores/{family}/rev={revision}/*.parquet"):
            parts.append(_filled(blocks["family"], {"family": family, "rev": revision}))
        if _any(layout, f"audits/{family}/rev={revision}/groups.parquet"):
            parts.append(_filled(blocks["groups"], {"family": family, "rev": revision}))
    build = dataset.wide.get("build")
    if build and _any(layout, f"wide/build={build}/*.parquet"):
        alias = f", clip_similarity AS {published_name(dataset)}"
        values = {"build": build, "aliases": alias if "clip" in dataset.families else ""}
        parts.append(_filled(blocks["scores"], values))
    if _any(layout, "_runs/*.json"):
        parts.append(blocks["runs"])
    if _any(layout, "_runs/*.shards.jsonl"):
        parts.append(blocks["shards"])
    return "\n".join(part.strip() + "\n" for part in parts)


def macros_sql() -> str:
    """The text of `sql/macros.sql`."""
    return (files(SCHEMAS) / "sql" / "macros.sql").read_text(encoding="utf-8")


def write_sql(layout: Layout, dataset: Dataset) -> None:
    """Write both files into the folder, for those who open it without clipsieve."""
    write_text(layout.sql / "views.sql", views_sql(layout, dataset))
    write_text(layout.sql / "macros.sql", macros_sql())


def published_name(dataset: Dataset) -> str:
    """Name under which others know `clip_similarity` of the dataset's model.

    `clip_b32_similarity_score` and `clip_l14_similarity_score` for OpenAI's two, as in DataComp;
    `clip_<model>_similarity_score` in lower case for every other.

    >>> model = {"model": "ViT-L-14", "pretrained": "openai"}
    >>> published_name(Dataset(model=model, embeddings={"model": "ViT-L-14-openai"}))
    'clip_l14_similarity_score'
    >>> published_name(Dataset(embeddings={"model": "ViT-B-16-dfn2b"}))
    'clip_vit_b_16_dfn2b_similarity_score'
    """
    model = dataset.model
    known = _PUBLISHED.get((str(model.get("model")), str(model.get("pretrained"))))
    name = re.sub("[^a-z0-9]+", "_", dataset.embeddings["model"].lower()).strip("_")
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


def _any(layout: Layout, pattern: str) -> bool:
    """Whether any file matches."""
    return next(layout.root.glob(pattern), None) is not None
