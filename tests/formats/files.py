"""Small real shards for the reader tests."""

import io
import json
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq

from clipsieve.formats.base import InputPlan, RowBatch, WorkItem
from clipsieve.formats.registry import read_rows

N = 250


def img2dataset_table(rows=N, failed_every=10, prefix=""):
    ok = [bool(row % failed_every) for row in range(rows)]
    return pa.table(
        {
            "url": [f"http://x/{prefix}{row}" for row in range(rows)],
            "key": [f"{row:09d}" for row in range(rows)],
            "status": ["success" if fine else "failed_to_download" for fine in ok],
            "error_message": pa.array([None if f else "404" for f in ok], pa.string()),
            "width": pa.array(range(rows), pa.int32()),
            "caption": [f"caption {prefix}{row}" for row in range(rows)],
            "jpg": pa.array(
                [f"{prefix}{r}".encode() * 50 if f else None for r, f in enumerate(ok)], pa.binary()
            ),
        }
    )


def write_parquet(path, table, rows=100, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=rows, **options)
    return path


def tar_bytes(members, **options):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=options.pop("mode", "w"), **options) as archive:
        for name, content in members:
            if isinstance(content, dict):
                content = json.dumps(content).encode()
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def write_tar(path, members, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tar_bytes(members, **options))
    return path


def sample(key, **members):
    """Members of one sample; `json` may be a dict."""
    return [(f"{key}.{extension}", content) for extension, content in members.items()]


def batches(item: WorkItem, plan: InputPlan) -> list[RowBatch]:
    return list(read_rows(item, plan.source))


def all_rows(plan: InputPlan) -> list[dict]:
    """Every row of a plan as one dict; checks what every batch promises."""
    rows = []
    for item in plan.items:
        expected = item.start
        for batch in read_rows(item, plan.source):
            assert batch.start == expected
            assert len(batch) == len(batch.captions) == batch.carried.num_rows
            assert batch.carried.schema.equals(plan.source.carried)
            uids = [None] * len(batch)
            if batch.uids is not None:
                assert batch.uids.type == plan.source.uid_type
                uids = batch.uids.to_pylist()
            carried = batch.carried.to_pylist() if batch.carried.num_columns else [{}] * len(batch)
            for at in range(len(batch)):
                rows.append(
                    {
                        "image": batch.images[at],
                        "caption": batch.captions[at],
                        "failure": batch.failures.get(at),
                        "uid": uids[at],
                        **carried[at],
                    }
                )
            expected += len(batch)
    return rows
