"""Nothing from data steers a terminal, in whatever way a command writes; no encoding ends one."""

import csv
import io
import json
import os
import pty
import subprocess
import sys
import unicodedata

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipsieve.demo.shards import write_shards
from clipsieve.terminal import (
    EscapingStream,
    escaped,
    escaped_line,
    escaped_streams,
    exact_output,
    json_text,
)
from tests.pipelines.jobs import COMMAND, exit_code, truncate

STEERING = "\x1b]0;title\x07\x1b[2J\x9b1A\r\u202e\u2066\u200b\u200d\xad\ufeff\u2028\U000e0041\x7f"
NAME = f"bad{STEERING}\n\tname"
#: The first is what a table has of a caption, and a reader of CSV the second.
CAPTION = f"a {STEERING} → 猫"
STEERS = {each.encode() for each in STEERING if escaped(each) != each and each not in "\x1b\r"}
#: What only data has: the escape sequences of rich end in m, h, l, K, A, or H of their own.
SEQUENCES = (b"\x1b]0;", b"\x1b[2J", b"\n\tname")


def steers(output: bytes) -> list[bytes]:
    """What of the data's steering characters is in an output as it is."""
    return [each for each in (*STEERS, *SEQUENCES) if each in output]


def command(*words, **environment):
    done = subprocess.run(
        [*COMMAND, *map(str, words)], env={**os.environ, **environment}, capture_output=True
    )
    assert b"Traceback" not in done.stderr
    return done


def on_a_terminal(*words) -> tuple[int, bytes]:
    """Exit code of a command whose three streams are a terminal, and all that it writes there."""
    leader, follower = pty.openpty()
    with subprocess.Popen(
        [*COMMAND, *map(str, words)], stdin=follower, stdout=follower, stderr=follower
    ) as process:
        os.close(follower)
        output = b""
        try:
            while part := os.read(leader, 65536):
                output += part
        except OSError:  # Linux, at the end
            pass
    os.close(leader)
    return process.returncode, output


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Inputs, output folder and output of a run on a terminal, with steering text in the data."""
    place = tmp_path_factory.mktemp("terminal")
    first, second = write_shards(place / "in", 8, 2, 3)
    second.rename(place / "in" / f"{NAME}.parquet")
    truncate(place / "in" / f"{NAME}.parquet")
    table = pq.read_table(first)
    at = table.column_names.index("caption")
    captions = pa.array([f"{CAPTION} {row}" for row in range(table.num_rows)])
    pq.write_table(table.set_column(at, "caption", captions), first)
    words = ("--model", "tiny", "--device", "cpu", "--dtype", "float32", "--scorers", "clip")
    shards, out = place / "in", place / "out"
    code, output = on_a_terminal("run", shards, out, *words, "--max-failed-shards", "1")
    assert code == 0
    return shards, out, output


@pytest.fixture(scope="module")
def folder(ran):
    """The inputs and output folder of the run."""
    return ran[:2]


def test_run_and_query_on_a_terminal(ran):
    _, out, output = ran
    assert not steers(output)
    assert output.count(b"bad\\x1b]0;title\\x07\\x1b[2J\\x9b1A\\r\\u202e") > 1
    assert b"\\u2028\\U000e0041\\x7f\\n\\tname" in output and b"\x1b[?25l" in output  # rich's own
    code, output = on_a_terminal("sql", out, f"SELECT '{STEERING}' AS x")
    assert code == 0 and not steers(output) and b" \\x1b]0;title" in output


@pytest.mark.parametrize(
    "words",
    [
        ("status", "OUT"),
        ("reconcile", "OUT"),
        ("sql", "OUT", "SELECT caption, uid FROM scores"),
        ("sql", "OUT", f'SELECT 1 AS "{STEERING}"'),
        ("sql", "OUT", f"SELECT error('{STEERING}\nline 2')"),
        ("sql", "OUT", "SELECT caption FROM scores", "--format", "json"),
        ("filter", "OUT", "--where", f"caption != '{NAME}'", "--dry-run"),
        ("filter", "OUT", "--where", f"caption = '{NAME}' AND \"{NAME}\" > 1", "--dry-run"),
        ("run", "IN", "OUT", "--dry-run", "--scorers", "clip"),
        ("run", "IN", "OUT", "--log-format", "json", "--scorers", "clip"),
        ("run", f"IN/{NAME}*", "OUT"),
        ("run", "IN", f"/{NAME}"),
        ("run", "IN", "OUT", "--run-id", NAME),
        ("run", "IN", "OUT", f"--{NAME}"),
        ("remove", "OUT", f"{NAME}.txt"),
    ],
)
def test_commands_in_a_pipe(folder, capfdbinary, words):
    shards, out = folder
    exit_code([word.replace("IN", str(shards)).replace("OUT", str(out)) for word in words])
    output, errors = capfdbinary.readouterr()
    assert not steers(output + errors) and b"\x1b" not in output + errors
    assert b"Traceback" not in errors


def test_an_error_is_one_line_and_duckdb_s_keeps_its_own(folder, capfdbinary):
    shards, out = folder
    assert exit_code(["run", f"{shards}/{NAME}*", str(out)]) in (1, 2, 3)
    assert capfdbinary.readouterr().err.count(b"\n") == 1
    assert exit_code(["sql", str(out), "SELECT *\nFROMM scores WHERE"]) == 2
    assert b"\nLINE 2: FROMM scores WHERE" in capfdbinary.readouterr().err


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1:strict"},
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    ],
)
def test_csv_is_exact_and_tables_are_escaped_in_every_encoding(folder, environment):
    _, out = folder
    query = "SELECT caption, E'one\\ntwo\\r\\n' AS lines FROM scores ORDER BY row LIMIT 1"
    done = command("sql", out, query, "--format", "csv", **environment)
    rows = list(csv.reader(io.StringIO(done.stdout.decode("utf-8"), newline="")))
    assert rows == [["caption", "lines"], [f"{CAPTION} 0", "one\ntwo\r\n"]]
    done = command("sql", out, query, **environment)
    assert done.returncode == 0 and done.stdout.isascii() and b"\\u2192 \\u732b" in done.stdout
    assert b"+---" in done.stdout


def test_the_funnel_is_ascii_where_the_encoding_has_no_blocks(folder):
    _, out = folder
    words = ("filter", out, "--where", "caption != 'a'", "--dry-run")
    done = command(*words, PYTHONIOENCODING="ascii")
    assert done.returncode == 0 and done.stdout.isascii() and b"####" in done.stdout


def test_json_is_exact_and_in_ascii(folder, capfdbinary):
    _, out = folder
    words = ["sql", str(out), "SELECT caption FROM scores ORDER BY row", "--format", "json"]
    assert exit_code(words) == 0
    lines = capfdbinary.readouterr().out.split(b"\n")
    assert [json.loads(line)["caption"] for line in lines[:2]] == [f"{CAPTION} {n}" for n in (0, 1)]
    assert b"".join(lines).isascii()


def test_a_query_on_standard_input_is_utf_8(folder):
    _, out = folder
    words = [*COMMAND, "sql", str(out), "--format", "csv"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(words, input="SELECT '猫'".encode(), env=environment, capture_output=True)
    assert done.stdout.endswith("\r\n猫\r\n".encode())
    done = subprocess.run(words, input=b"SELECT '\xff'", capture_output=True)
    assert done.returncode == 2 and done.stderr.startswith(b"clipsieve: query on standard input is")


def test_all_that_steers_is_escaped():
    shown = {chr(code) for code in range(0x110000) if escaped(chr(code)) == chr(code)}
    steering = {
        chr(code)
        for code in range(0x110000)
        if unicodedata.category(chr(code)) in ("Cc", "Cf", "Cs", "Zl", "Zp")
    }
    assert steering & shown == {"\t", "\n"}
    assert all(escaped_line(letter).isascii() for letter in steering)
    kept = {letter for letter in map(chr, range(0x20, 0x110000)) if letter.isalnum()} - set("ᅟᅠㅤﾠ")
    assert kept <= shown


@pytest.mark.parametrize("text", ["é → 猫", "[red]", "a\\x1b", "👍🏽", "שלום"])
def test_other_text_stays_as_it_is(text):
    assert escaped(text) == escaped_line(text) == text


def test_whatever_is_written_to_a_stream_is_escaped():
    plain = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    stream = EscapingStream(plain)
    print("a\x1b[2J\n\tb\u202e", file=stream)
    stream.writelines(["\rprogress\r", "\n"])
    with pytest.raises(TypeError):
        stream.write(b"")  # type: ignore[arg-type]
    stream.flush()
    assert plain.buffer.getvalue() == b"a\\x1b[2J\n\tb\\u202e\n\rprogress\\r\n"
    assert stream.encoding == "latin-1" and not stream.isatty()


def test_a_traceback_is_escaped_too():
    code = (
        "from clipsieve.terminal import escaped_streams\n"
        "with escaped_streams():\n    raise ValueError('\\x1b[2J\\u202e\\udcff')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True)
    assert b"ValueError: \\x1b[2J\\u202e\\udcff" in done.stderr and b"\x1b" not in done.stderr


def test_streams_are_as_before_after_the_block():
    before = sys.stdout, sys.stderr
    with pytest.raises(SystemExit), escaped_streams():
        assert isinstance(sys.stdout, EscapingStream)
        sys.exit(0)
    with escaped_streams(), escaped_streams():
        pass
    assert (sys.stdout, sys.stderr) == before


def test_exact_output_without_bytes_is_the_stream(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    with exact_output() as exact:
        exact.write("é")
    assert stream.getvalue() == "é"


def test_json_holds_no_control_character():
    assert json_text({"a\x7f": "\x1b\x85é"}) == '{"a\\u007f": "\\u001b\\u0085\\u00e9"}'
