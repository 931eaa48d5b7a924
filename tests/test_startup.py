"""Commands that compute nothing start without the libraries that compute."""

import io
import json
import os
import subprocess
import sys
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipsieve.job.plan import input_entry
from clipsieve.settings import RunConfig
from tests.store.folders import make_folder, shard_of

HEAVY = {"torch", "torchvision", "open_clip", "apache_beam"}
MODULES = [
    "clipsieve",
    "clipsieve.cli",
    "clipsieve.job.audit",
    "clipsieve.job.evaluate",
    "clipsieve.job.inputs",
    "clipsieve.job.status",
    "clipsieve.sql.catalog",
    "clipsieve.sql.connect",
    "clipsieve.sql.run_recipe",
    "clipsieve.sql.verify",
    "clipsieve.store.compact",
    "clipsieve.store.reconcile",
]
#: Runs the code that is its first argument, then prints the loaded top-level modules as one line.
PROBE = """
import json, sys
code, sys.argv = sys.argv[1], sys.argv[1:]
try:
    exec(code)
except SystemExit as end:
    status = end.code
else:
    status = 0
loaded = sorted({name.partition(".")[0] for name in sys.modules})
print("\\n" + json.dumps([status, loaded]))
"""


def run_probe(code, *arguments):
    """Exit code, top-level modules loaded at the end, and output of a fresh process."""
    process = subprocess.run(
        [sys.executable, "-c", PROBE, code, *arguments],
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        check=True,
    )
    *lines, last = process.stdout.splitlines()
    status, loaded = json.loads(last)
    return status, set(loaded), "\n".join(lines)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An output folder whose sources are there: 4 rows of Parquet and one of a tar file."""
    source = tmp_path_factory.mktemp("in")
    table = pa.table({"jpg": [b"not a picture"] * 4, "caption": ["a cake"] * 4})
    pq.write_table(table, source / "a.parquet")
    with tarfile.open(source / "b.tar", "w") as tar:
        for name in ("0.jpg", "0.txt"):
            info = tarfile.TarInfo(name)
            info.size = 1
            tar.addfile(info, io.BytesIO(b"x"))
    out, manifest = make_folder(tmp_path_factory.mktemp("out"), [shard_of("a", 4)])
    for file in ("a.parquet", "b.tar"):
        config = RunConfig(inputs=(str(source / file),), out=out.root)
        manifest = manifest.with_input(input_entry(config))
    out.save_manifest(manifest)
    return out.root


def test_the_probe_sees_a_heavy_library():
    _, loaded, _ = run_probe("import clipsieve.embed.shard")
    assert "torch" in loaded


@pytest.mark.parametrize("module", MODULES)
def test_modules_that_look_at_a_folder_load_no_heavy_library(module):
    _, loaded, _ = run_probe(f"import {module}")
    assert not loaded & HEAVY


@pytest.mark.parametrize(
    ("words", "status", "output"),
    [
        (["--help"], 0, "Commands:"),
        (["run", "--help"], 0, "--batch-size"),
        (["status"], 0, "done: 0 of 2 shards"),
        (["reconcile"], 1, "input  │ 5"),  # its ledger is of other rows
        (["sql", "SELECT count(*) AS n FROM scores"], 0, "4"),
        (["audit"], 0, "audit: no group of the 4 rows"),
        (["evaluate", "--ood-column", "n"], 2, ""),  # nor scores to compare
    ],
)
def test_commands_that_look_at_a_folder_load_no_heavy_library(folder, words, status, output):
    command, *more = words
    place = [] if "--help" in words else [folder]
    found, loaded, text = run_probe(
        "from clipsieve.cli import main; main()", command, *place, *more
    )
    assert (found, loaded & HEAVY) == (status, set())
    assert output in text
