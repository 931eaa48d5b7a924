"""Parquet files as clipsieve writes them: encodings, NULL for NaN, provenance in the footer.

Scores are float32 without dictionary, BYTE_STREAM_SPLIT, zstd: 16 bytes a row for five scores
where pyarrow's defaults need 27.  float16 vectors get neither (DuckDB cannot read float16 in
BYTE_STREAM_SPLIT).  Row groups hold about 100,000 rows, or 10,000 where there are vectors.  Pages
carry checksums, and the footer a blank seal (`clipsieve.store.seal`).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clipsieve.schemas.footers import PREFIX, SEAL
from clipsieve.schemas.tables import DICTIONARY_COLUMNS
from clipsieve.store.seal import BLANK

ROW_GROUP_ROWS = 122_880
VECTOR_ROW_GROUP_ROWS = 10_240

Footer = dict[str, str]
"""The clipsieve keys of a Parquet footer, the seal apart; empty for a missing or damaged file."""


def nullable(values: np.ndarray) -> pa.Array:
    """Make a float32 column in which NaN and infinities of `values` (N,) are NULL."""
    column = np.asarray(values, dtype=np.float32)
    return pa.array(column, mask=~np.isfinite(column))


def vectors(unit: np.ndarray, valid: np.ndarray) -> pa.ListArray:
    """Make a float16 vector column from `unit` (N, D) float; rows not `valid` (N,) bool are NULL.

    The type is `list<float16>`, every list of D: a Parquet file stores it as it would a
    fixed-size list, but Arrow cannot read a NULL fixed-size list back ("Expected all lists to be
    of size=D but index i had size=0", pyarrow 25).
    """
    half = np.ascontiguousarray(unit[valid], dtype=np.float16)
    offsets = np.concatenate([[0], np.cumsum(valid)]) * unit.shape[1]
    return pa.ListArray.from_arrays(
        pa.array(offsets, pa.int32()), pa.array(half.reshape(-1)), mask=pa.array(~valid)
    )


def is_vector(field: pa.Field) -> bool:
    """Whether a column holds vectors."""
    return bool(pa.types.is_list(field.type) and field.type.value_type == pa.float16())


def open_writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """Open a writer to `path` with the encodings above; the caller closes it."""
    return pq.ParquetWriter(path, schema, **writer_options(schema), write_page_checksum=True)


def writer_options(schema: pa.Schema) -> dict[str, Any]:
    """Return compression, encodings and statistics of a table, as pyarrow's writers take them."""
    encodings = {f.name: "BYTE_STREAM_SPLIT" for f in schema if f.type == pa.float32()}
    encodings |= {f.name: "DELTA_BINARY_PACKED" for f in schema if f.name == "row"}
    # zstd takes two thirds of the time for random digits whose lengths stand apart.
    encodings |= {
        f.name: "DELTA_LENGTH_BYTE_ARRAY" for f in schema if f.name == "uid" and _is_text(f.type)
    }
    return {
        "compression": "zstd",
        "use_dictionary": [name for name in schema.names if name in DICTIONARY_COLUMNS],
        "column_encoding": encodings,
        # DuckDB 2.0.0 takes every row for `IS NULL` where all values of a text column are one or
        # NULL, and it has statistics and no dictionary.  Those of uids and captions help no query.
        "write_statistics": [
            f.name for f in schema if not _is_text(f.type) or f.name in DICTIONARY_COLUMNS
        ],
    }


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def write_parquet(path: Path, table: pa.Table, footer: Mapping[str, str]) -> None:
    """Write `table` to `path` with `footer` and a blank seal as key-value metadata."""
    with open_writer(path, table.schema) as writer:
        writer.write_table(table, row_group_size=row_group_rows(table.schema))
        add_footer(writer, footer)


def row_group_rows(schema: pa.Schema) -> int:
    """Return how many rows a row group of a table holds."""
    return VECTOR_ROW_GROUP_ROWS if any(map(is_vector, schema)) else ROW_GROUP_ROWS


def add_footer(writer: pq.ParquetWriter, footer: Mapping[str, str]) -> None:
    """Give the file that is being written `footer` and a blank seal as key-value metadata."""
    writer.add_key_value_metadata({**footer, SEAL: BLANK})


def footer_values(metadata: pq.FileMetaData) -> Footer:
    """Return the clipsieve keys of a file's metadata, but for the seal."""
    pairs = ((key.decode(), value.decode()) for key, value in (metadata.metadata or {}).items())
    return {key: value for key, value in pairs if key.startswith(PREFIX) and key != SEAL}
