"""Exports that are interrupted, shared out, refused: what is in the folder after them."""

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import clipsieve
from clipsieve.errors import LedgerError
from clipsieve.exports.folder import ExportFolder
from clipsieve.job.export import export as export_job
from clipsieve.schemas.subsets import kept_schema
from clipsieve.store import names
from clipsieve.store.file_system import MARK
from tests.exports.rows import contents
from tests.exports.subsets import make_subset, write_subset
from tests.limits import file_sizes_at_most
from tests.pipelines.jobs import exit_code, run_job, start, wait_for, write_one

FORMATS = ("npy", "parquet", "tars", "clip-retrieval", "uids")
TEMPORARY = MARK + "0" * 32


def options(format: str) -> dict[str, Any]:
    if format == "tars":
        return {"samples_per_tar": 13}
    return {"with_images": True} if format == "parquet" else {}


def command(job, format: str, to: Path, *more: str) -> list[str]:
    words = ["export", str(job.out), job.subset, "--format", format, "--to", str(to)]
    return [*words, *more]


@pytest.fixture(scope="module")
def tars(job, tmp_path_factory) -> dict[str, bytes]:
    """Bytes of an undisturbed export as small tars."""
    to = tmp_path_factory.mktemp("tars")
    clipsieve.export(job.out, job.subset, "tars", to, samples_per_tar=3)
    return contents(to)


def test_two_workers_write_what_one_does(job, tars, tmp_path):
    clipsieve.export(job.out, job.subset, "tars", tmp_path, samples_per_tar=3, workers=2)
    assert contents(tmp_path) == tars


def test_killed_again_and_again_it_ends_with_the_bytes_of_an_undisturbed_one(job, tars, tmp_path):
    to = tmp_path / "to"
    words = command(job, "tars", to, "--samples-per-tar", "3")
    kept: dict[str, tuple[int, int]] = {}
    for _ in range(2):
        goal = len(kept) + 1

        def is_written(goal: int = goal) -> bool:
            return len(list((to / ".clipsieve-export").glob("*.part.json"))) >= goal

        process = start(words)
        with process:
            wait_for(is_written, f"{goal} parts")
            process.kill()
        assert process.returncode == -signal.SIGKILL
        records = (to / ".clipsieve-export").glob("*.part.json")
        stems = {path.name.split(".")[0] for path in records}
        now = {
            path.name: (path.stat().st_ino, path.stat().st_mtime_ns)
            for path in to.glob("*.tar")
            if path.stem in stems
        }
        assert kept.items() <= now.items(), "a complete tar was written again"
        kept = now
    # What a kill in the middle of a write leaves, and what is not ours.
    (to / f"00002.tar{TEMPORARY}").write_bytes(b"half")
    (to / f"mine.tar{TEMPORARY}").write_bytes(b"mine")
    assert exit_code(words) == 0
    after = contents(to)
    assert after.pop(f"mine.tar{TEMPORARY}") == b"mine"
    assert after == tars
    inodes = {p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in to.glob("*.tar")}
    assert kept.items() <= inodes.items()


def test_a_finished_export_is_left_alone_and_a_damaged_one_is_mended(job, tmp_path):
    first = clipsieve.export(job.out, job.subset, "clip-retrieval", tmp_path)
    before = contents(tmp_path)
    inodes = {path: path.stat().st_ino for path in tmp_path.rglob("*")}
    again = clipsieve.export(job.out, job.subset, "clip-retrieval", tmp_path)
    assert (again.rows, again.left_out, again.kept_parts) == (first.rows, first.left_out, 1)
    assert {path: path.stat().st_ino for path in tmp_path.rglob("*")} == inodes
    work = tmp_path / ".clipsieve-export"  # as a kill behind the manifest leaves it
    work.mkdir()
    (work / "settings.json").write_text("{}")
    clipsieve.export(job.out, job.subset, "clip-retrieval", tmp_path)
    assert {path: path.stat().st_ino for path in tmp_path.rglob("*")} == inodes
    os.truncate(tmp_path / "text_emb" / "text_emb_0.npy", 100)
    (tmp_path / "metadata" / "metadata_0.parquet").unlink()
    clipsieve.export(job.out, job.subset, "clip-retrieval", tmp_path)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("format", FORMATS)
def test_a_stopped_export_goes_on(job, tmp_path, format):
    calm, stopped = tmp_path / "calm", tmp_path / "stopped"
    clipsieve.export(job.out, job.subset, format, calm, **options(format))
    result = clipsieve.export(
        job.out, job.subset, format, stopped, deadline=1e-6, **options(format)
    )
    assert result.exit_code == 3 and not (stopped / "export.json").exists()
    assert clipsieve.export(job.out, job.subset, format, stopped, **options(format)).exit_code == 0
    assert contents(stopped) == contents(calm)


def test_a_folder_that_holds_something_else_is_refused_and_untouched(job, tmp_path):
    to = tmp_path / "to"
    to.mkdir()
    (to / "mine.txt").write_text("mine")
    with pytest.raises(clipsieve.UsageError, match=r"holds 'mine.txt'"):
        clipsieve.export(job.out, job.subset, "uids", to)
    assert contents(to) == {"mine.txt": b"mine"}
    (to / "mine.txt").unlink()
    clipsieve.export(job.out, job.subset, "uids", to)
    before = contents(to)
    make_subset(job.out, "other", lambda row: row["row"] == 0)
    for subset, format in (("other", "uids"), (job.subset, "npy")):
        with pytest.raises(clipsieve.UsageError, match="holds the uids export of subset most"):
            clipsieve.export(job.out, subset, format, to)
    assert contents(to) == before
    (tmp_path / "file").write_text("mine")
    with pytest.raises(clipsieve.UsageError, match="is a file"):
        clipsieve.export(job.out, job.subset, "parquet", tmp_path / "file")


def test_settings_of_an_unfinished_export_count_too(job, tmp_path):
    ended = clipsieve.export(job.out, job.subset, "tars", tmp_path, deadline=1e-6)
    assert ended.exit_code == 3
    with pytest.raises(clipsieve.UsageError, match="or other settings of it"):
        clipsieve.export(job.out, job.subset, "tars", tmp_path, samples_per_tar=5)


def test_places_in_or_around_the_output_folder_are_refused(job):
    for to, relation in ((job.out / "sub", "in"), (job.out.parent, "around"), (job.out, "in")):
        with pytest.raises(clipsieve.UsageError, match=f", {relation} the output folder"):
            clipsieve.export(job.out, job.subset, "uids", to)
    with pytest.raises(clipsieve.UsageError, match="is a URL"):
        clipsieve.export(job.out, job.subset, "uids", "s3://bucket/to")


@pytest.mark.parametrize(
    ("format", "more", "message"),
    [
        ("csv", {}, "format must be one of npy, parquet, tars, clip-retrieval, uids, got 'csv'"),
        ("npy", {"with_images": True}, "with_images is for the format parquet"),
        ("uids", {"samples_per_tar": 3}, "samples_per_tar is for the format tars"),
        (
            "uids",
            {"to": "a.npy"},
            r"uids cannot be .* a file that ends in .txt, or a folder, such as a$",
        ),
        ("tars", {"to": "b/x.TAR"}, "tars cannot be that file; name a folder, such as b/x$"),
        ("parquet", {"to": "x.parquet"}, "to is x.parquet, and parquet cannot be that file"),
        ("tars", {"samples_per_tar": 0}, "samples_per_tar must be an integer of at least 1"),
    ],
)
def test_settings_that_do_not_fit_are_refused(job, tmp_path, format, more, message):
    with pytest.raises(clipsieve.UsageError, match=message):
        clipsieve.export(job.out, job.subset, format, **{"to": tmp_path, **more})


def test_an_unknown_subset_names_those_there_are(job, tmp_path):
    with pytest.raises(clipsieve.UsageError, match="no subset 'mots'; it has most"):
        clipsieve.export(job.out, "mots", "uids", tmp_path)
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("uid", ["f" * 31, "f" * 64, "0x" + "1" * 30, None])
def test_a_uid_that_is_no_pair_is_refused_by_name_and_nothing_is_left(job, tmp_path, uid):
    kept = pa.table(
        {"uid": ["0" * 32, uid], "shard": ["00000"] * 2, "row": [3, 8]},
        schema=kept_schema(pa.string()),
    )
    write_subset(job.out, "bad", {"00000": kept})
    to = tmp_path / "to"
    with pytest.raises(clipsieve.UsageError) as caught:
        clipsieve.export(job.out, "bad", "npy", to)
    assert str(caught.value).startswith(f"uid {str(uid)!r} of shard 00000, row 8 is not 32")
    assert "--format uids or parquet" in str(caught.value)
    assert not to.exists()


def test_a_uid_that_is_no_line_is_refused(job, tmp_path):
    kept = pa.table(
        {"uid": ["a", "b\nc"], "shard": ["00000"] * 2, "row": [3, 8]},
        schema=kept_schema(pa.string()),
    )
    write_subset(job.out, "lines", {"00000": kept})
    with pytest.raises(clipsieve.UsageError, match=r"uid 'b\\nc' of shard 00000, row 8"):
        clipsieve.export(job.out, "lines", "uids", tmp_path)


def test_a_subset_of_other_rows_is_refused(job, tmp_path):
    for uid, row in (("0" * 32, 3), ("0" * 32, 10_000)):
        columns = {"uid": [uid], "shard": ["00000"], "row": [row]}
        kept = pa.table(columns, schema=kept_schema(pa.string()))
        write_subset(job.out, "old", {"00000": kept})
        for format in ("parquet", "tars", "clip-retrieval"):
            with pytest.raises(LedgerError, match="made of other rows of shard 00000"):
                clipsieve.export(job.out, "old", format, tmp_path)
    assert contents(tmp_path) == {}


def test_a_subset_that_lacks_a_file_is_refused(job, tmp_path):
    subset = make_subset(job.out, "partial", lambda row: True)
    (job.out / names.kept("partial", subset.revision, "00001")).unlink()
    with pytest.raises(LedgerError, match="holds 80 kept rows, and subset 'partial' has 120"):
        clipsieve.export(job.out, "partial", "uids", tmp_path)
    assert contents(tmp_path) == {}


def test_sources_that_moved_or_changed_are_refused_before_anything_is_written(tmp_path):
    source, out, to = tmp_path / "source", tmp_path / "out", tmp_path / "to"
    for number in range(2):
        write_one(source, f"{number:05d}", 8, seed=number)
    run_job(source, out, scorers="clip")
    make_subset(out, "all", lambda row: True)
    make_subset(out, "first", lambda row: row["shard"] == "00000")
    second = source / "00001.parquet"
    away = tmp_path / "away.parquet"
    os.replace(second, away)
    for format in ("tars", "parquet"):
        with pytest.raises(clipsieve.UsageError) as caught:
            clipsieve.export(out, "all", format, to, **options(format))
        message = str(caught.value)
        assert f"shard 00001 are needed, and its source {second} is not where it was" in message
    assert not to.exists()
    clipsieve.export(out, "all", "parquet", tmp_path / "columns")  # needs no pictures
    clipsieve.export(out, "first", "tars", tmp_path / "first")  # nor those of the other shard
    shutil.copyfile(away, second)  # the same bytes at another time may be others
    with pytest.raises(
        clipsieve.UsageError, match=r"has changed since it was scored \(modification time\)"
    ):
        clipsieve.export(out, "all", "tars", to)
    shutil.copystat(away, second)
    assert clipsieve.export(out, "all", "tars", to).exit_code == 0
    second.write_bytes(b"PAR1 and no more")
    with pytest.raises(clipsieve.UsageError, match=r"shard 00001 .* cannot be read"):
        clipsieve.export(out, "all", "tars", tmp_path / "again")


@pytest.mark.parametrize("format", ["tars", "parquet", "npy"])
def test_a_full_disk_is_one_line_and_leaves_no_half_file(job, tmp_path, format):
    calm, to = tmp_path / "calm", tmp_path / "to"
    clipsieve.export(job.out, job.subset, format, calm, **options(format))
    largest = max(len(content) for content in contents(calm).values())
    with file_sizes_at_most(largest - 1), pytest.raises(clipsieve.ClipsieveError) as caught:
        clipsieve.export(job.out, job.subset, format, to, **options(format))
    message = str(caught.value)
    assert caught.value.exit_code == 1 and "\n" not in message
    assert f"cannot write to {to}: File too large; raise the limit" in message
    assert "run the same `clipsieve export` again" in message
    whole = {path.name: path.read_bytes() for path in to.glob("*") if path.is_file()}
    assert whole.items() <= contents(calm).items() and len(whole) < len(contents(calm))
    clipsieve.export(job.out, job.subset, format, to, **options(format))
    assert contents(to) == contents(calm)


def test_the_command_says_what_it_wrote(job, tmp_path, capsys):
    assert exit_code(command(job, "uids", tmp_path)) == 0
    rows = json.loads((tmp_path / "export.json").read_text())["rows"]
    assert capsys.readouterr().out == f"{rows} rows in 1 file: {tmp_path}\n"


def test_the_manifest_says_which_rows_and_has_a_digest_of_every_file(job, tmp_path):
    import hashlib

    clipsieve.export(job.out, job.subset, "tars", tmp_path)
    manifest = json.loads((tmp_path / "export.json").read_text())
    subset = json.loads((job.out / "subsets" / job.subset / "subset.json").read_text())
    assert manifest["revision"] == subset["revision"]
    assert (manifest["format"], manifest["samples_per_tar"]) == ("tars", 10_000)
    files = {file["name"]: file for file in manifest["files"]}
    assert files.keys() | {"export.json"} == contents(tmp_path).keys()
    for name, content in contents(tmp_path).items():
        if name != "export.json":
            assert files[name]["sha256"] == hashlib.sha256(content).hexdigest()
            assert files[name]["size"] == len(content)


def test_marks_without_a_part_are_no_foreign_files(tmp_path):
    folder = ExportFolder(tmp_path)
    work = tmp_path / ".clipsieve-export"
    work.mkdir()
    (work / f"settings.json{TEMPORARY}").write_text("{")
    folder.check("0a")
    folder.begin({"key": "0a"}, ["a.tar"])
    folder.check("0a")
    assert [path.name for path in work.iterdir()] == ["settings.json"]
    with pytest.raises(clipsieve.UsageError, match="other settings"):
        folder.check("0b")
    folder.discard()
    assert tmp_path.is_dir() and not list(tmp_path.iterdir())


def test_marks_stay_while_a_file_of_the_export_is_there(tmp_path):
    folder = ExportFolder(tmp_path)
    folder.begin({"key": "0a"}, ["a.tar"])
    with folder.writing("a.tar", []) as file:
        file.path.write_bytes(b"tar")
    folder.discard()  # its record could not be written
    folder.check("0a")
    with pytest.raises(clipsieve.UsageError, match="other settings"):
        folder.check("0b")


def test_the_lock_of_the_output_folder_is_taken(job, tmp_path):
    from clipsieve.errors import Locked
    from clipsieve.exports.formats import ExportSettings
    from clipsieve.settings import ScoreConfig
    from clipsieve.store.folder import OutputFolder

    def no_engine():
        raise AssertionError("no work may begin")

    with OutputFolder.open(job.out).lock(), pytest.raises(Locked):
        settings = ExportSettings(job.subset, "uids", str(tmp_path))
        export_job(ScoreConfig(out=str(job.out)), no_engine, settings)
