"""`_runs/files.parquet` and `_runs/footers.parquet`: what is known of files without a look."""

import pyarrow as pa

FILES_SCHEMA = pa.schema(
    [
        pa.field("name", pa.string(), nullable=False),  # relative to the folder
        pa.field("bytes", pa.int64(), nullable=False),
        # A file's time in nanoseconds since the epoch; of an object in a store a hash of its ETag.
        pa.field("version", pa.int64(), nullable=False),
        pa.field("sha256", pa.string()),  # of its seal; NULL if the file is damaged
        pa.field("problem", pa.string()),  # why it is damaged; NULL if it is sound
    ]
)

FOOTERS_SCHEMA = pa.schema(
    [
        pa.field("name", pa.string(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("version", pa.int64(), nullable=False),
        pa.field("footer", pa.map_(pa.string(), pa.string()), nullable=False),
    ]
)
