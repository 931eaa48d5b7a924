"""The tables of an audit in the output folder."""

import math
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import pyarrow as pa

from clipsieve.audit.copies import Copies
from clipsieve.audit.data import AuditData
from clipsieve.audit.describe import Group, common_type, row_tails
from clipsieve.audit.keys import Kind
from clipsieve.audit.survey import Findings
from clipsieve.audit.witnesses import Witness
from clipsieve.schemas import footers
from clipsieve.schemas.audits import copies_schema, groups_schema, members_schema
from clipsieve.store import names
from clipsieve.store.canonical import canonical_json
from clipsieve.store.folder import OutputFolder

#: Raised when the same scores, captions and vectors would give other groups.
AUDIT_VERSION = 2
CLIP_SCORE = "clip_score"


def groups_table(groups: Sequence[Group]) -> pa.Table:
    """Groups as rows, ranked from 1 in their order; no rows if there are none."""
    schema = groups_schema(_uid_type(groups))
    columns = [
        pa.array(
            range(1, len(groups) + 1)
            if field.name == "rank"
            else [_plain(getattr(group, field.name)) for group in groups],
            field.type,
        )
        for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def members_table(
    groups: Sequence[Group],
    findings: Findings,
    witnesses: Sequence[Witness],
) -> pa.Table:
    """Every row of every group, by rank, shard and row."""
    schema = members_schema(_uid_type(groups), [witness.column for witness in witnesses])
    members = findings.members
    rows = np.concatenate([np.zeros(0, np.int64), *(group.found.members for group in groups)])
    ranks = np.repeat(np.arange(1, len(groups) + 1), [group.rows for group in groups])
    uids = [uid for group in groups for uid in group.identities["uid"].to_pylist()]
    shards = [findings.shards[number] for number in members.shards[rows]]
    columns: list[Any] = [ranks, uids, shards, members.rows[rows]]
    columns += [_nullable(members.values[rows][:, n]) for n in range(len(witnesses))]
    columns += [_nullable(row_tails(members.scores[rows][:, n])) for n in range(len(witnesses))]
    arrays = [pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema)


def copies_table(data: AuditData, findings: Findings, density: str | None) -> pa.Table:
    """Captions and pictures that occur more than once, the most frequent of each kind first.

    Args:
      data: where captions and addresses are read.
      findings: have the copies.
      density: column of the k-distance; None without one.
    """
    parts = [
        _copies_of(data, findings.shards, kind, each, density)
        for kind, each in findings.copies.items()
    ]
    return pa.concat_tables([*parts, copies_schema().empty_table()])


def _copies_of(
    data: AuditData, shards: Sequence[str], kind: Kind, copies: Copies, density: str | None
) -> pa.Table:
    order = np.lexsort((copies.keys, -copies.rows))
    schema = copies_schema()
    examples = copies.examples[order]
    identities = _examples(data, shards, examples)
    columns: dict[str, Any] = {
        "kind": [str(kind)] * len(order),
        "rows": copies.rows[order],
        "n_captions": copies.distinct("captions")[order],
        "n_images": copies.distinct("pictures")[order],
        "n_hosts": copies.distinct("hosts")[order],
        "similarity": _nullable(copies.similarity()[order]),
        "clip_score_mean": _nullable(copies.means(CLIP_SCORE)[order]),
        "density_mean": [None] * len(order)
        if density is None
        else _nullable(copies.means(density)[order]),
        **{name: identities[name] for name in ("caption", "image_sha256", "url")},
    }
    arrays = [pa.array(columns[field.name], field.type) for field in schema]
    return pa.Table.from_arrays(arrays, schema=schema)


def _examples(
    data: AuditData, shards: Sequence[str], places: np.ndarray
) -> dict[str, list[str | None]]:
    """Caption, digest and address of the rows at (K, 2) shards and rows."""
    texts: dict[str, list[str | None]] = {
        name: [None] * len(places) for name in ("caption", "image_sha256", "url")
    }
    for shard in np.unique(places[:, 0]).tolist():
        here = np.flatnonzero(places[:, 0] == shard)
        table = data.identities(shards[shard], places[here, 1])
        for name, column in texts.items():
            for place, text in zip(here.tolist(), table[name].to_pylist(), strict=True):
                column[place] = text
    return texts


def write_audit(
    folder: OutputFolder,
    tables: Mapping[str, pa.Table],
    parameters: Mapping[str, Any],
    build: str,
) -> None:
    """Write the tables of an audit; they replace those of an earlier one.

    Args:
      folder: the output folder.
      tables: by name, in the order in which they are written: the last one says that all are there.
      parameters: how they were made, for their footers.
      build: the wide build that held the rows.
    """
    for name, table in tables.items():
        footer = {
            footers.LAYOUT: footers.LAYOUT_VERSION,
            footers.FAMILY: f"audit_{name}",
            footers.ROWS: str(table.num_rows),
            footers.BUILD: build,
            footers.PARAMETERS: canonical_json({"version": AUDIT_VERSION, **parameters}),
            footers.VERSIONS: canonical_json(
                {library: version(library) for library in ("clipsieve", "numpy", "pyarrow")}
            ),
        }
        folder.write_table(names.audit(name), table, footer)


def _uid_type(groups: Sequence[Group]) -> pa.DataType:
    return common_type([group.identities.schema.field("uid").type for group in groups])


def _nullable(values: np.ndarray) -> pa.Array:
    return pa.array(values, pa.float32() if values.dtype == np.float32 else None, from_pandas=True)


def _plain(value: Any) -> Any:
    """A value for a column: NaN is NULL, tuples are lists."""
    if isinstance(value, float) and math.isnan(value):
        return None
    return list(value) if isinstance(value, tuple) else value
