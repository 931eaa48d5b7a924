"""Whether inputs can be read and output can be written, as each worker asks it first."""

import pytest

from clipsieve.errors import StorageError
from clipsieve.job.reach import input_problems, output_problem
from clipsieve.store.files import LocalFiles
from clipsieve.store.folder import OutputFolder


def test_a_folder_that_can_be_written_to_has_no_problem_and_nothing_is_left(tmp_path):
    assert output_problem(str(tmp_path / "out")) is None
    assert [p.name for p in (tmp_path / "out").rglob("*") if p.is_file()] == []


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "out").write_text("a file")
    assert f"output folder {tmp_path}/out cannot be written to" in str(
        output_problem(str(tmp_path / "out"))
    )


def test_what_a_worker_leaves_that_dies_while_it_asks_is_swept(tmp_path, monkeypatch):
    def die(_files, name):
        raise StorageError(name)

    monkeypatch.setattr(LocalFiles, "delete", die)
    output_problem(str(tmp_path / "out"))
    folder = OutputFolder.open(tmp_path / "out")
    (left,) = folder.files.list_files("_runs")
    monkeypatch.undo()
    assert folder.sweep() == [f"_runs/{left}"] and folder.files.list_files("_runs") == []


@pytest.mark.parametrize("uri", ["/no/such/file", "unknown://x"])
def test_an_input_that_cannot_be_read_is_named(uri):
    (problem,) = input_problems([uri])
    assert uri in problem
