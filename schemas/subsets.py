"""Arrow schemas of subsets: which rows a filter kept, and why it dropped the others.

A subset is `subsets/<name>/rev=<revision>/` with `kept/` and `dropped/`, a file of each for every
shard, rows in source order; together they are the shard's ledger.  Imports nothing of ours.
"""

import pyarrow as pa


def _field(name: str, type: pa.DataType, doc: str) -> pa.Field:
    return pa.field(name, type, metadata={"doc": doc})


def kept_schema(uid_type: pa.DataType) -> pa.Schema:
    """Schema of `kept/`.

    Args:
      uid_type: type of the source's uid column, or string.
    """
    return pa.schema(
        [
            _field("uid", uid_type, "identity, as in samples"),
            _field("shard", pa.string(), "output name of the input shard"),
            _field("row", pa.int64(), "row in the input file, from 0"),
        ]
    )


def dropped_schema(uid_type: pa.DataType) -> pa.Schema:
    """Schema of `dropped/`.

    Args:
      uid_type: type of the source's uid column, or string.
    """
    return pa.schema(
        [
            *kept_schema(uid_type),
            _field("reason", pa.string(), "the first step that the row fails"),
            _field("step", pa.int16(), "number of that step in the funnel, from 1"),
            _field("is_null", pa.bool_(), "whether the step's value is NULL there, not false"),
        ]
    )


#: `funnel.parquet`: what each step of a filter drops, in the order of the steps.
FUNNEL = pa.schema(
    [
        _field("step", pa.int16(), "from 1, in the order in which rows are tested"),
        _field("kind", pa.string(), "removed, from, clause, and or minus"),
        _field("label", pa.string(), "the clause, or the subset or list"),
        _field("rows_in", pa.int64(), "rows that passed every step before"),
        _field("lost", pa.int64(), "of those, rows that fail this one: their reason"),
        _field("lost_null", pa.int64(), "of those lost, rows where the clause is NULL"),
        _field("lost_alone", pa.int64(), "rows of the ledger that fail this step, by itself"),
        _field("lost_only", pa.int64(), "rows that fail this step and no other"),
        _field("rows_out", pa.int64(), "rows that passed this one too"),
    ]
)

#: `overlaps.parquet`: rows of the ledger by the steps they fail, most rows first.
OVERLAPS = pa.schema(
    [
        _field("failed", pa.list_(pa.int16()), "numbers of all steps the rows fail"),
        _field("labels", pa.list_(pa.string()), "their labels"),
        _field("rows", pa.int64(), "rows that fail exactly these"),
    ]
)

#: `thresholds.parquet`: what was computed of the whole dataset before a row was tested.
THRESHOLDS = pa.schema(
    [
        _field("quantity", pa.string(), "as in the predicate"),
        _field("group", pa.string(), "value of the group, as text; NULL without groups"),
        _field("rows", pa.int64(), "rows with a value, of that group"),
        _field("rank", pa.int64(), "of the threshold, from 1; 0 if every value passes"),
        _field("threshold", pa.string(), "shortest text that reads back as the same number"),
    ]
)
