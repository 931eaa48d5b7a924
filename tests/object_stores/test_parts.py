"""Parts of one run that write to one folder of a store at once, and their locks there."""

import io
import re

import pyarrow.parquet as pq
import pytest

from clipsieve.demo.shards import write_shards
from clipsieve.errors import Locked
from clipsieve.store import names
from clipsieve.store.folder import OutputFolder
from clipsieve.store.lock_terms import LockTerms
from clipsieve.store.part_locks import clear_parts, momentary_writer, part_files, part_writer
from tests.engines.jobs import walk
from tests.pipelines.jobs import exit_code, run_command, start


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    write_shards(folder, rows=50, shards=5)
    return folder


def tables(out):
    """The content of all tables but those of history, without builds in names."""
    files = OutputFolder.open(out).files
    found = [n for n in walk(files) if n.endswith(".parquet") and not n.startswith(names.RUNS)]
    read = {n: pq.read_table(io.BytesIO(files.read(n))).replace_schema_metadata() for n in found}
    return {re.sub(r"build=\w+", "build", name): table for name, table in read.items()}


def test_parts_at_once_end_in_the_tables_of_one_run(shards, url, tmp_path):
    words = [run_command(shards, url, "--part", f"{n}/2") for n in (1, 2)]
    started = [start(each) for each in words]
    ended = [(process.communicate()[1], process.returncode) for process in started]
    assert [code for _, code in ended] == [0, 0], ended
    assert exit_code(run_command(shards, tmp_path / "disk")) == 0
    assert tables(url) == tables(str(tmp_path / "disk"))
    assert OutputFolder.open(url).files.list_folders(names.PARTS) == []


def test_a_part_and_a_writer_of_everything_exclude_each_other(url):
    folder, terms = OutputFolder.open(url), LockTerms(lease=30)
    with part_writer(folder.files, "2-of-3", terms):
        with pytest.raises(Locked, match=r"^part 2/3 of a run is writing to s3://.*process \d+ on"):
            with folder.lock(terms):
                pass
        with (
            pytest.raises(Locked, match="2-of-3"),
            part_writer(OutputFolder.open(url).files, "2-of-3", terms),
        ):
            pass
        with part_writer(folder.files, "1-of-3", terms), momentary_writer(folder.files, terms):
            pass
    with folder.lock(terms):
        with pytest.raises(Locked, match="is being written"):
            with momentary_writer(OutputFolder.open(url).files, terms, wait=0.2):
                pass
        clear_parts(folder.files, terms)
    assert folder.files.list_folders(names.PARTS) == []
    with part_writer(folder.files, "2-of-3", terms):
        pass


def test_clearing_leaves_the_part_that_is_at_work(url):
    folder, terms = OutputFolder.open(url), LockTerms(lease=30)
    for part in ("1-of-2", "2-of-2"):
        with part_writer(folder.files, part, terms):
            OutputFolder(part_files(folder.files, part)).write_text("done", "of this input")
    with part_files(folder.files, "2-of-2").lock(terms):
        clear_parts(folder.files, terms)
        assert folder.files.list_folders(names.PARTS) == ["2-of-2"]
