"""The whole job on an engine, and what it leaves, read through the output folder."""

from pathlib import Path
from typing import Any

import clipsieve
from clipsieve.cli import main
from clipsieve.demo.shards import write_shards
from clipsieve.store import names
from clipsieve.store.file_system import FileSystem
from clipsieve.store.folder import OutputFolder
from tests.pipelines.jobs import SETTINGS

SHARDS, ROWS = 10, 12
RUN: dict[str, Any] = {
    **SETTINGS,
    "run_id": "fixed",
    "scorer_options": {"density": {"reference": "64,all", "k": 3, "lid_k": 4}},
}


def make_source(folder: Path) -> Path:
    write_shards(folder, SHARDS * ROWS, SHARDS, seed=5)
    return folder


def whole_job(source: Path, out: str, **engine: Any) -> None:
    """Embed, fit and score; another family; the wide table anew; a subset."""
    result = clipsieve.run(f"{source}/*.parquet", out, **{**RUN, **engine})
    assert (result.exit_code, result.done, result.failed) == (0, SHARDS, ())
    scored = clipsieve.score(out, ["clip_depicts"], device="cpu", run_id="later", **engine)
    assert (scored.exit_code, scored.done) == (0, SHARDS)
    OutputFolder.open(out).files.delete_folder("wide")
    words = ["--runner", engine["runner"], "--", *engine["beam_args"]] if "runner" in engine else []
    try:
        main(["compact", out, *words])
    except SystemExit as ended:
        assert ended.code == 0
    kept = clipsieve.filter(out, "keep", "clip_similarity > 0.2", run_id="filtered", **engine)
    assert 0 < kept.kept < SHARDS * ROWS


def contents(out: str) -> dict[str, bytes]:
    """Bytes of every table and array, by name; but for that of times."""
    files = OutputFolder.open(out).files
    timed = (*names.CACHES, names.RUN_METRICS_ENDING)
    listed = [n for n in walk(files) if n.endswith((".parquet", ".npz")) and not n.endswith(timed)]
    return {name: files.read(name) for name in sorted(listed)}


def walk(files: FileSystem, folder: str = "") -> list[str]:
    """Names of all objects."""
    prefix = f"{folder}/" if folder else ""
    found = [prefix + name for name in files.list_files(folder)]
    for name in files.list_folders(folder):
        found += walk(files, prefix + name)
    return found


def temporary(out: str) -> list[str]:
    """Objects that only a run in progress has."""
    marks = (".tmp-", ".tries/", ".stop", ".probe")
    return [name for name in walk(OutputFolder.open(out).files) if any(m in name for m in marks)]
