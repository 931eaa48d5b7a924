"""Small real jobs: demo shards in, the whole pipeline run, the output folder read back."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipsieve.cli import main
from clipsieve.demo.shards import write_shards
from clipsieve.job.run import run
from clipsieve.job.run_result import RunResult
from clipsieve.pipelines.engine import make_engine
from clipsieve.settings import RunConfig
from clipsieve.store import names
from clipsieve.store.folder import OutputFolder
from clipsieve.store.manifest import Manifest

#: What every job here has in common; a format is named so that no time goes into measuring, and
#: scorers so that none goes into those of `ood`, which have tests of their own.
SETTINGS: Mapping[str, Any] = {
    "model": "tiny",
    "device": "cpu",
    "dtype": "float32",
    "threads": 2,
    "scorers": "clip,density",
}
COMMAND = (sys.executable, "-m", "clipsieve.cli")
STARTING_SECONDS = 120.0


def run_job(shards: Path, out: Path, **settings: Any) -> RunResult:
    """Run the whole job in this process over `shards/*.parquet`."""
    given = {"inputs": (f"{shards}/*.parquet",), **SETTINGS, **settings}
    config = RunConfig(out=str(out), **given)
    return run(config, make_engine(config))


def run_command(shards: Path, out: Path, *options: str) -> list[str]:
    """Words of the command that runs the same job."""
    common = [word for name, value in SETTINGS.items() for word in (f"--{name}", str(value))]
    return ["run", f"{shards}/*.parquet", str(out), *common, *options]


def start(words: Sequence[str], **changes: Any) -> subprocess.Popen[str]:
    """Start `clipsieve WORDS` as a process of its own."""
    return subprocess.Popen(
        [*COMMAND, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **changes
    )


def exit_code(words: Sequence[str]) -> int:
    """Exit code of `clipsieve WORDS`, run in this process through its own `main`."""
    with pytest.raises(SystemExit) as ended:
        main(list(words))
    code = ended.value.code
    assert isinstance(code, int)
    return code


def wait_for(condition: Callable[[], Any], what: str, seconds: float = STARTING_SECONDS) -> None:
    """Poll `condition` until it is true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s in vain for {what}"
        time.sleep(0.002)


def tables(out: Path) -> dict[str, bytes]:
    """Bytes of every Parquet file of an output folder, by relative path; but for those of times."""
    timed = (names.FILES, f"{names.RUNS}/*{names.RUN_METRICS_ENDING}")
    files = [p for p in sorted(out.rglob("*.parquet")) if not any(map(p.match, timed))]
    return {str(p.relative_to(out)): p.read_bytes() for p in files}


def identities(out: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of every shard's file: a file written again has another inode."""
    of_all = ("wide", "audits", "_runs")
    files = [p for p in out.rglob("*.parquet") if p.relative_to(out).parts[0] not in of_all]
    return {str(p.relative_to(out)): (p.stat().st_ino, p.stat().st_mtime_ns) for p in files}


def leftovers(out: Path) -> list[str]:
    """Files of an output folder that are neither tables nor its known small files."""
    known = (".parquet", ".json", ".npz", ".shards.jsonl", ".sql", ".lock", ".copy")
    files = (p for p in out.rglob("*") if p.is_file())
    return sorted(str(p.relative_to(out)) for p in files if not p.name.endswith(known))


def manifest_of(out: Path) -> Manifest:
    """What `dataset.json` of an output folder says."""
    return OutputFolder.open(out).require_manifest()


def read(out: Path, family: str) -> pa.Table:
    """All rows of `samples`, `embeddings`, or the active build of `wide`, in name order."""
    top = family
    if family == "wide":
        entry = manifest_of(out).wide
        assert entry is not None
        top = f"wide/build={entry.build}"
    files = sorted((out / top).rglob("*.parquet"), key=lambda p: p.name)
    read = [pq.read_table(f, partitioning=None) for f in files]
    return pa.concat_tables(read, promote_options="default")


def write_one(folder: Path, name: str, rows: int, seed: int) -> Path:
    """Put one more shard, of its own seed, into `folder`."""
    made = folder.parent / f"made-{name}-{seed}"
    (path,) = write_shards(made, rows, 1, seed)
    folder.mkdir(parents=True, exist_ok=True)
    os.replace(path, folder / f"{name}.parquet")
    return folder / f"{name}.parquet"


def truncate(path: Path) -> bytes:
    """Cut a file in the middle; its bytes before."""
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    return whole
