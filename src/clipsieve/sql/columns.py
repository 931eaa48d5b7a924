"""Columns of an output folder: those of scores with what they mean, and those of `scores`."""

import re
from collections.abc import Iterator, Sequence

import pyarrow as pa

from clipsieve.errors import LedgerError
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


def published_name(manifest: Manifest) -> str:
    """Return the name under which others know `clip_similarity` of the folder's model.

    `clip_b32_similarity_score` and `clip_l14_similarity_score` for OpenAI's two, as in DataComp;
    `clip_<model>_similarity_score` in lower case for every other.
    """
    assert manifest.model is not None and manifest.embeddings is not None
    known = _PUBLISHED.get((manifest.model.model, str(manifest.model.pretrained)))
    name = re.sub("[^a-z0-9]+", "_", manifest.embeddings.model.lower()).strip("_")
    return known or f"clip_{name}_similarity_score"


def score_columns(folder: OutputFolder, manifest: Manifest) -> Iterator[Sequence[str | None]]:
    """Yield the rows of `score_columns`, from the metadata of one file of each family."""
    for family, revision in sorted(manifest.revisions().items()):
        for field in stored_columns(folder, names.family_folder(family, revision)):
            if field.name == "uid":
                continue
            scorer, scorer_revision = made_by(field) or (None, None)
            metadata = {
                key.decode(errors="replace"): value.decode(errors="replace")
                for key, value in (field.metadata or {}).items()
            }
            described = [metadata.get(key) for key in ("doc", "direction", "range", "source")]
            yield field.name, family, scorer, scorer_revision, str(field.type), *described


def wide_columns(folder: OutputFolder, manifest: Manifest) -> dict[str, pa.DataType]:
    """Return name and type of the columns of the view `scores`; {} if there is none.

    Scores may be newer than its build.  Columns of the source may be in some of its parts only.
    """
    columns: dict[str, pa.DataType] = {}
    if manifest.wide is None:
        return columns
    wide = names.wide_folder(manifest.wide.build)
    for part in folder.tables(wide):
        for field in folder.read_schema(f"{wide}/{part}.parquet"):
            if pa.types.is_null(columns.get(field.name, pa.null())):
                columns[field.name] = field.type
    if "clip" in manifest.families and "clip_similarity" in columns:
        columns[published_name(manifest)] = columns["clip_similarity"]
    return columns


def stored_columns(folder: OutputFolder, tables: str) -> Sequence[pa.Field]:
    """Return the columns of the first table in a folder that can be read; [] if none can."""
    for table in folder.tables(tables):
        try:
            return list(folder.read_schema(f"{tables}/{table}.parquet"))
        except LedgerError:
            continue
    return []
