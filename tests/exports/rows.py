"""The kept rows of a job, read without clipsieve."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tests.exports.conftest import Job


def kept_rows(job: Job) -> list[dict[str, Any]]:
    """Return ledger, source bytes (`jpg`) and scores of every row of the subset `most`."""
    rows = []
    for ledger in sorted((job.out / "samples").glob("*.parquet")):
        columns = pq.read_table(ledger).to_pylist()
        pictures = pq.read_table(job.source / ledger.name, columns=["jpg"]).to_pylist()
        (scores,) = (job.out / "scores" / "clip").glob(f"*/{ledger.name}")
        similarities = pq.read_table(scores, partitioning=None).to_pylist()
        for row, picture, score in zip(columns, pictures, similarities, strict=True):
            if row["row"] % 4 != 2:
                rows.append({**row, **picture, **score})
    return rows


def contents(folder: Path) -> dict[str, bytes]:
    """Return the bytes of all files below a folder by name."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(files)}
