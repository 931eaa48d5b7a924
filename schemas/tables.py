"""Arrow schemas of the tables on disk.

`samples/` is the row ledger: one row for each input row, in source order.  `embeddings/` and
`scores/<family>/` have the same rows in the same order; a row without a value there is NULL.
"""

import pyarrow as pa

#: Columns of `samples/` that clipsieve defines; the columns of the source follow them.
LEDGER = pa.schema(
    [
        pa.field("uid", pa.string(), metadata={"doc": "identity, in the source's type"}),
        pa.field("shard", pa.string(), metadata={"doc": "output name of the input shard"}),
        pa.field("row", pa.int64(), metadata={"doc": "row in the input file, from 0"}),
        pa.field("caption", pa.string(), metadata={"doc": "as read; U+FFFD for broken UTF-8"}),
        pa.field("status", pa.string(), metadata={"doc": "one of clipsieve.schemas.states"}),
        pa.field("error", pa.string(), metadata={"doc": "why status is not ok; NULL if it is"}),
        pa.field("image_width", pa.int32(), metadata={"doc": "pixels, as stored in the file"}),
        pa.field("image_height", pa.int32(), metadata={"doc": "pixels, as stored in the file"}),
        pa.field(
            "image_sha256",
            pa.string(),
            metadata={"doc": "sha256 of the encoded bytes, 64 hex digits; NULL without bytes"},
        ),
        pa.field(
            "image_phash",
            pa.uint64(),
            metadata={"doc": "perceptual hash (pHash, 64 bits); NULL if it was not decoded"},
        ),
    ]
)

#: Columns with few distinct values: the only ones for which a Parquet dictionary pays.  `removed`
#: must have one: where all values of a text column are one or NULL, and it has none, DuckDB 2.0.0
#: takes every row for `IS NULL`.
DICTIONARY_COLUMNS = frozenset(
    {"shard", "status", "error", "source_status", "domain", "reason", "removed"}
)


def samples_schema(uid_type: pa.DataType, carried: pa.Schema) -> pa.Schema:
    """Schema of a samples file: the ledger columns, then the source's own.

    Args:
      uid_type: type of the source's uid column, or string.
      carried: source columns that are not pixels; no name may equal a ledger column's.
    """
    ledger = LEDGER.set(0, LEDGER.field("uid").with_type(uid_type))
    return pa.schema([*ledger, *carried.remove_metadata()])


def embeddings_schema(uid_type: pa.DataType) -> pa.Schema:
    """Schema of an embeddings file.

    Vectors are stored with unit norm, rounded to float16, with the norm that the model gave in a
    column of its own: `image_norm * image_embedding` is the un-normalised feature.  Because of
    the rounding the stored norm is 1 only within 1e-3: normalise in float64 when reading.  All
    vectors of a file have the same length, the `dim` in the footer's model.
    """
    vector = pa.list_(pa.float16())
    return pa.schema(
        [
            pa.field("uid", uid_type),
            pa.field("image_embedding", vector),
            pa.field("image_norm", pa.float32()),
            pa.field("text_embedding", vector),
            pa.field("text_norm", pa.float32()),
        ]
    )
