"""What the system refuses is one line, and what was there before stays."""

import errno
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pytest

from clipsieve.cli import main
from clipsieve.errors import StorageError, UsageError
from clipsieve.store.files import LocalFiles
from clipsieve.store.folder import OutputFolder
from clipsieve.store.storage_errors import storage_error, write_error
from tests.limits import file_sizes_at_most


@pytest.fixture
def full_disk(tmp_path):
    """A file system of 64 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    try:
        subprocess.run(words, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("file systems cannot be mounted here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def writers(folder):
    """Each way of writing a file of more than 64 kB, by the file's name."""
    values = np.random.default_rng(1).normal(size=50_000)
    return {
        "t/a.parquet": lambda: folder.write_table("t/a.parquet", pa.table({"x": values}), {}),
        "a.npz": lambda: folder.write_arrays("a.npz", {"x": values}),
        "a.json": lambda: folder.write_json("a.json", {"x": list(values)}),
    }


@pytest.mark.parametrize("name", ["t/a.parquet", "a.npz", "a.json"])
def test_a_limit_of_file_sizes_names_the_file_and_the_cure(tmp_path, name):
    folder = OutputFolder.open(tmp_path)
    folder.write_text(name, "before")
    with file_sizes_at_most(10_000), pytest.raises(StorageError) as caught:
        writers(folder)[name]()
    place = tmp_path / name
    assert str(caught.value) == (
        f"cannot write to {place}: File too large; raise the limit of file sizes (ulimit -f), "
        "then run the same command again: complete files are kept"
    )
    assert caught.value.exit_code == 1
    assert place.read_text() == "before" and os.listdir(place.parent) == [place.name]


@pytest.mark.parametrize("name", ["t/a.parquet", "a.npz", "a.json"])
def test_a_full_disk_says_how_much_is_free(full_disk, name):
    folder = OutputFolder.open(full_disk)
    with pytest.raises(StorageError, match=r"No space left on device \(\d+ kB free, the file n"):
        writers(folder)[name]()
    assert not [path for path in full_disk.rglob("*") if path.is_file()]


def test_an_error_about_another_file_passes_as_it_is(tmp_path):
    files = LocalFiles(tmp_path / "out")
    with pytest.raises(FileNotFoundError), files.writing("x"):
        (tmp_path / "source").read_bytes()
    with pytest.raises(OSError, match="no errno"), files.writing("x"):
        raise OSError("no errno")


def test_an_error_that_was_met_anywhere_is_told_if_it_is_the_systems():
    full = OSError(errno.ENOSPC, "No space left on device", "/tmp/x")
    assert str(storage_error(full)).startswith("cannot use /tmp/x: No space left on device; free")
    scratch = FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")
    assert "name a folder in TMPDIR" in str(storage_error(scratch))
    assert storage_error(FileNotFoundError(errno.ENOENT, "No such file", "/x")) is None
    assert storage_error(OSError("damaged")) is None


@pytest.fixture
def open_folder():
    """A folder that every user may enter, unlike pytest's."""
    with TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


@pytest.mark.skipif(os.getuid() != 0, reason="needs another user to be")
def test_what_another_user_may_not_read_or_write(open_folder):
    (open_folder / "dataset.json").write_text("{}")
    (open_folder / "dataset.json").chmod(0o600)
    code = (
        "import os, sys\n"
        "from clipsieve.errors import ClipsieveError\n"
        "from clipsieve.store.folder import OutputFolder\n"
        "os.setuid(65534)\n"
        "folder = OutputFolder.open(sys.argv[1])\n"
        "def attempt(what):\n"
        "    try:\n"
        "        what()\n"
        "    except ClipsieveError as error:\n"
        "        print(error.exit_code, error)\n"
        "attempt(folder.load_manifest)\n"
        "attempt(lambda: folder.write_text('a/x', ''))\n"
        "attempt(lambda: folder.lock().__enter__())\n"
    )
    words = [sys.executable, "-c", code, str(open_folder)]
    lines = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
    again = "Permission denied; change its permissions, then run the same command again"
    assert lines == [
        f"1 cannot read {open_folder}/dataset.json: {again}",
        f"1 cannot write to {open_folder}/a/x: {again}: complete files are kept",
        f"1 cannot write to {open_folder}: {again}: complete files are kept",
    ]


@pytest.mark.parametrize("change", ["removed", "renamed", "replaced"])
def test_a_folder_that_goes_away_is_not_made_again(tmp_path, change):
    root = tmp_path / "out"
    folder = OutputFolder.open(root)
    with folder.lock():
        folder.write_text("_runs/x", "")
        root.rename(tmp_path / "away")
        if change == "replaced":
            root.mkdir()
        for attempt in (
            lambda: folder.write_text("samples/a", ""),
            lambda: folder.files.read("samples/a"),
            folder.load_manifest,
            folder.shards,
        ):
            with pytest.raises(StorageError, match=f"output folder {root} is gone: it was removed"):
                attempt()
    assert root.exists() == (change == "replaced")
    folder.write_text("x", "")


def test_a_refusal_leaves_no_folder_that_the_lock_made(tmp_path):
    with pytest.raises(UsageError), OutputFolder.open(tmp_path / "a/b").lock():
        raise UsageError("no")
    assert not (tmp_path / "a").exists()
    (tmp_path / "mine").mkdir()
    with pytest.raises(UsageError), OutputFolder.open(tmp_path / "mine").lock():
        raise UsageError("no")
    assert not list((tmp_path / "mine").iterdir())
    folder = OutputFolder.open(tmp_path / "c")
    with pytest.raises(UsageError), folder.lock():
        folder.write_text("_runs/x", "kept")
        raise UsageError("no")
    assert (tmp_path / "c/_runs/x").read_text() == "kept"


def test_a_run_without_inputs_makes_no_output_folder(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["run", f"{tmp_path}/none/*.parquet", str(tmp_path / "mistyped"), "--model", "tiny"])
    assert ended.value.code == 2 and "no input matches" in capsys.readouterr().err
    assert not (tmp_path / "mistyped").exists()


def test_every_cure_is_something_to_do():
    error = write_error(OSError(errno.ENOENT, "x"), "/out/samples/a.parquet")
    assert "; put its folder back, which was removed meanwhile, then run" in str(error)
