"""Arrow schema of `removals/rev=<id>/`: the rows that removal lists name.

A file for each shard, also without rows; in source order, then by list.  Imports nothing of ours.
"""

import pyarrow as pa

#: Column of the wide table: the first list, in the order of names, that names the row, or NULL.
REMOVED = "removed"


def removed_schema(uid_type: pa.DataType) -> pa.Schema:
    """Schema of the rows of a shard that removal lists name: a row for each of them and list.

    Args:
      uid_type: type of the source's uid column, or string.
    """
    columns = [
        ("uid", uid_type, "identity, as in samples"),
        ("shard", pa.string(), "output name of the input shard"),
        ("row", pa.int64(), "row in the input file, from 0"),
        ("list", pa.string(), "name of the removal list"),
        ("kind", pa.string(), "of its ids: uid, sha256, url or laion_hash"),
        ("id", pa.string(), "the id that names the row"),
    ]
    return pa.schema([pa.field(name, kind, metadata={"doc": doc}) for name, kind, doc in columns])
