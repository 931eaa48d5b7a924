"""Columns of stored tables: those whose types readers rely on must have them.

A table of an output folder that was shared may hold anything; what passes here can be compared,
joined by uid, and counted without a look at every type.
"""

import pyarrow as pa

from clipsieve.schemas.tables import LEDGER, embeddings_schema
from clipsieve.store.validation import shown

#: Columns that every table of a folder has.
_NEEDED = {
    "samples": ("uid", "shard", "row", "status", "error"),
    "embeddings": ("uid", "image_embedding", "image_norm", "text_embedding", "text_norm"),
    "scores": ("uid",),
}
#: Types of columns by folder; those of the uid are the source's.
_TYPES = {
    "samples": {field.name: field.type for field in LEDGER if field.name != "uid"},
    "embeddings": {f.name: f.type for f in embeddings_schema(pa.string()) if f.name != "uid"},
    "subsets": {"shard": pa.string(), "row": pa.int64()},
    "removals": {"shard": pa.string(), "row": pa.int64()},
}


class TableTypeError(ValueError):
    """A table has other columns than clipsieve writes; the message says which."""


def check_table(name: str, schema: pa.Schema) -> None:
    """Raise `TableTypeError` for a table that clipsieve would not have written.

    Args:
      name: of the table in its output folder.
      schema: its columns.
    """
    folder = name.partition("/")[0]
    for column in _NEEDED.get(folder, ()):
        if column not in schema.names:
            raise TableTypeError(f"column {column!r} is missing")
    for column, expected in _TYPES.get(folder, {}).items():
        _check_column(schema, column, str(expected))
    if "uid" in schema.names and pa.types.is_nested(_field(schema, "uid").type):
        raise TableTypeError(f"column 'uid' is {shown(str(_field(schema, 'uid').type))}")


def _check_column(schema: pa.Schema, column: str, expected: str) -> None:
    if column not in schema.names:
        return
    # By text: the name of the field inside a list is of no account.
    found = str(_field(schema, column).type).replace("<element:", "<item:")
    if found != expected:
        raise TableTypeError(f"column {column!r} is {shown(found)}, not {expected}")


def _field(schema: pa.Schema, column: str) -> pa.Field:
    if len(schema.get_all_field_indices(column)) > 1:
        raise TableTypeError(f"two columns are named {column!r}")
    return schema.field(column)
