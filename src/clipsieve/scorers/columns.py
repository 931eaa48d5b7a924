"""Columns of scores as they are stored: revisions, metadata, types, NULL for NaN."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from clipsieve.scorers.base import Scorer
from clipsieve.store.canonical import canonical_json, short_hash
from clipsieve.store.parquet import nullable

#: Keys of a column's metadata: the scorer that made it, and the revision of its values.
SCORER, REVISION = b"scorer", b"revision"


def scorer_basis(scorer: Scorer, embeddings: str) -> str:
    """Return the hash of everything that decides a scorer's values beside the rows it learns from.

    Args:
      scorer: its name, version, parameters, columns, inputs, prompts and neighbour lists count.
      embeddings: revision of the embeddings it reads.
    """
    return short_hash(
        {
            "name": scorer.name,
            "version": scorer.version,
            "parameters": dict(scorer.parameters()),
            "columns": [[field.name, str(field.type)] for field in scorer.columns],
            "needs": sorted(scorer.needs),
            "prompt": scorer.prompt,
            "prompts": [prompts.key for prompts in scorer.prompts()],
            "neighbours": [spec.key for spec in scorer.neighbour_lists()],
            "embeddings": embeddings,
        }
    )


def scorer_revision(basis: str, learned: str | None, neighbours: Mapping[str, str]) -> str:
    """Return the revision of a scorer's columns.

    Args:
      basis: see `scorer_basis`.
      learned: id of what it learnt, or None.
      neighbours: id of each set of lists, by key of the specification.
    """
    return short_hash([basis, learned, dict(neighbours)])


def family_revision(revisions: Mapping[str, str]) -> str:
    """Return the revision of a family from those of its scorers, by name."""
    return short_hash(dict(revisions))


def scorers_footer(scorers: Sequence[Scorer], revisions: Mapping[str, str]) -> str:
    """Return the footer value that says how each scorer of a file was made, as JSON."""
    return canonical_json(
        {
            scorer.name: {
                "version": scorer.version,
                "revision": revisions[scorer.name],
                "parameters": dict(scorer.parameters()),
            }
            for scorer in scorers
        }
    )


def check_scores(scorer: Scorer, scores: Mapping[str, np.ndarray], rows: int) -> None:
    """Refuse scores that are not one value a row for each column of the scorer.

    Raises:
      ValueError: if a column is missing or has another shape; the message names the scorer.
    """
    for name in scorer.columns.names:
        shape = np.shape(scores[name]) if scores.get(name) is not None else None
        if shape == (rows,):
            continue
        if shape is None:
            has = "no values"
        else:
            has = f"{shape[0]} values" if len(shape) == 1 else f"values of shape {shape}"
        raise ValueError(f"scorer {scorer.name} gave {has} of column {name!r} for {rows} rows")


def score_columns(
    scorer: Scorer, revision: str, scores: Mapping[str, np.ndarray], rows: int
) -> list[tuple[pa.Field, pa.Array]]:
    """Return a scorer's columns with their metadata; NULL where a score is undefined.

    Raises:
      ValueError: if a column is missing, has another shape, or holds what its type cannot; the
        message names the scorer.
    """
    check_scores(scorer, scores, rows)
    columns = []
    for field in scorer.columns:
        metadata = {
            **(field.metadata or {}),
            SCORER: scorer.name.encode(),
            REVISION: revision.encode(),
        }
        try:
            stored = _stored(scores[field.name], field.type)
        except pa.ArrowException as error:
            raise ValueError(
                f"scorer {scorer.name} gave values of column {field.name!r} that are no "
                f"{field.type}: {error}"
            ) from error
        columns.append((field.with_metadata(metadata), stored))
    return columns


def made_by(field: pa.Field) -> tuple[str, str] | None:
    """Return name and revision of the scorer that made a stored column; None for other columns."""
    metadata = field.metadata or {}
    if SCORER not in metadata or REVISION not in metadata:
        return None
    name, revision = (metadata[key].decode(errors="replace") for key in (SCORER, REVISION))
    return name, revision


def scores_table(uids: pa.Array, columns: Sequence[tuple[pa.Field, Any]]) -> pa.Table:
    """Return the uid and score columns as one table."""
    schema = pa.schema([pa.field("uid", uids.type), *(field for field, _ in columns)])
    return pa.Table.from_arrays([uids, *(values for _, values in columns)], schema=schema)


def _stored(values: np.ndarray, type: pa.DataType) -> pa.Array:
    if type == pa.float32():
        return nullable(values)
    return pa.array(values, type, from_pandas=True)  # NaN and None are NULL
