"""The table of groups in the output folder."""

from collections.abc import Sequence
from importlib.metadata import version

import numpy as np
import pyarrow as pa

from clipsieve.audit.groups import Group
from clipsieve.audit.shards import AuditedShards
from clipsieve.audit.suspects import Suspects
from clipsieve.schemas import footers
from clipsieve.schemas.audits import groups_schema
from clipsieve.store import names
from clipsieve.store.canonical import canonical_json

#: Raised when the same scores, captions and vectors would give other groups.
AUDIT_VERSION = 1


def groups_table(groups: Sequence[Group], uid_type: pa.DataType) -> pa.Table:
    """Groups as rows, ranked from 1 in their order; no rows if there are none."""
    schema = groups_schema(uid_type)
    ranks = {"rank": range(1, len(groups) + 1)}
    columns = [
        pa.array(
            ranks.get(field.name) or [getattr(group, field.name) for group in groups], field.type
        )
        for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def write_groups(
    shards: AuditedShards,
    suspects: Suspects,
    groups: Sequence[Group],
    fraction: float,
    near_cosine: float,
    build: str,
) -> None:
    """Write the table of an audit; it replaces that of an earlier one of the same scores.

    The footer says how it was made: column, fraction, thresholds, rows seen and selected, and the
    wide `build` that held the rows.
    """
    threshold = suspects.threshold
    parameters = {
        "version": AUDIT_VERSION,
        "column": shards.column,
        "fraction": fraction,
        "near_cosine": near_cosine,
        "scored_rows": threshold.scored,
        "suspicious_rows": len(suspects),
        "line": float(np.float32(threshold.values[0])) if len(threshold.values) else None,
        "embeddings": {"model": shards.embeddings.model, "rev": shards.embeddings.revision},
    }
    footer = {
        footers.LAYOUT: footers.LAYOUT_VERSION,
        footers.FAMILY: f"{shards.family}_groups",
        footers.REVISION: shards.revision,
        footers.ROWS: str(len(groups)),
        footers.BUILD: build,
        footers.PARAMETERS: canonical_json(parameters),
        footers.VERSIONS: canonical_json(
            {name: version(name) for name in ("clipsieve", "numpy", "pyarrow")}
        ),
    }
    table = groups_table(groups, suspects.uid_type)
    shards.folder.write_table(names.groups(shards.family, shards.revision), table, footer)
