"""`_runs/files.parquet`: the files of an output folder as they were when last verified."""

import pyarrow as pa

FILES_SCHEMA = pa.schema(
    [
        pa.field("name", pa.string(), nullable=False),  # relative to the folder
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("mtime_ns", pa.int64(), nullable=False),  # since the epoch
        pa.field("sha256", pa.string()),  # of its seal; NULL if the file is damaged
        pa.field("problem", pa.string()),  # why it is damaged; NULL if it is sound
    ]
)
