"""The harness itself: what it plants is there, and what it looks for is seen."""

import random
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.faults import hook, mutate, pages, rot
from tests.faults.contents import contents, differences
from tests.faults.machine import Ended, compile_shim
from tests.faults.outcome import LOST, SURVIVED, Outcome, markdown, totals

FAULTY = """
import sys
sys.path.insert(0, sys.argv[1])
import hook
hook.install({"root": sys.argv[2], "event": "open:w", "name": "b", "at": 1, "action": "ENOSPC"})
for name in ("a", "b", "b", "b"):
    try:
        open(f"{sys.argv[2]}/{name}", "w").close()
        print("written")
    except OSError as error:
        print(error.strerror)
"""


def test_a_fault_happens_at_its_point_only(tmp_path):
    words = [sys.executable, "-c", FAULTY, str(hook.__file__).rpartition("/")[0], str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:4] == [
        "written",
        "written",
        "No space left on device",
        "written",
    ]


def test_native_writes_fail_too(tmp_path):
    shim = compile_shim(tmp_path)
    if shim is None:
        pytest.skip("no C compiler")
    code = (
        "import pyarrow as pa, pyarrow.parquet as pq, sys\n"
        "pq.write_table(pa.table({'a': [1]}), sys.argv[1])"
    )
    environment = {
        "LD_PRELOAD": str(shim),
        "SHIM_ROOT": str(tmp_path),
        "SHIM_OP": "write",
        "SHIM_AT": "1",
        "SHIM_ACTION": "28",
    }
    words = [sys.executable, "-c", code, str(tmp_path / "a.parquet")]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 1
    assert "No space left on device" in done.stderr


def test_a_changed_value_is_a_difference_and_a_new_footer_is_none(tmp_path):
    path = tmp_path / "out" / "samples" / "0.parquet"
    path.parent.mkdir(parents=True)
    table = pa.table({"row": [0, 1], "score": pa.array([0.5, 0.25], pa.float32())})
    pq.write_table(table, path)
    before = contents(tmp_path)
    pq.write_table(table.replace_schema_metadata({"run": "other"}), path)
    assert differences(before, contents(tmp_path)) == []
    pq.write_table(table.set_column(1, "score", pa.array([0.5, 0.26], pa.float32())), path)
    assert differences(before, contents(tmp_path)) == ["samples/0.parquet differs"]


@pytest.mark.parametrize("how", rot.DAMAGES)
def test_damage_changes_the_file(tmp_path, how):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"a": list(range(100))}), path)
    before = path.read_bytes()
    rot.damage(path, how, random.Random(1))
    assert path.read_bytes() != before


def test_pages_are_found_and_damaged_with_valid_checksums(tmp_path):
    rng = random.Random(3)
    differing = 0
    for _ in range(20):
        data = bytearray(pages.base(rng, checksums=True))
        sound = bytes(data)
        found = list(pages.pages(sound))
        assert found[0].start == 4
        assert all(page.end <= len(sound) for page in found)
        pages._damage_page(data, rng)
        differing += bytes(data) != sound
        path = tmp_path / "a.parquet"
        path.write_bytes(data)
        try:
            pq.read_table(path, page_checksum_verification=True)
        except Exception as error:
            assert "CRC checksum verification failed" not in str(error)
    assert differing >= 15


def test_mutations_are_made_again_from_their_number():
    first, second = (mutate.mutate(bytes(range(256)) * 4, random.Random(7)) for _ in range(2))
    assert first == second


def test_bytes_that_a_terminal_obeys_are_seen():
    for text in ("\x1b[0m", "\x07", "\r", "\x9b", "\u202e", "\u2066"):
        assert Ended(0, text.encode(), b"", 0, 0, False, 0).control_bytes, ascii(text)
    assert not Ended(0, "é\t日本語\n".encode(), b"", 0, 0, False, 0).control_bytes


def test_totals_count_cases_by_kind():
    outcomes = [
        Outcome("rot", 1, "x", marks=(SURVIVED,)),
        Outcome("rot", 2, "x", marks=(LOST,), problems=("traceback: y",)),
    ]
    sums = totals(outcomes)
    assert (sums["rot"].cases, sums["rot"].lost, sums["rot"].tracebacks) == (2, 1, 1)
    assert markdown(sums).splitlines()[-1].startswith("| rot | 2 | 2 | 1 | 0 | 0 | 1 | 1 | 0 | 1 |")
