"""The command line: formats, refusals and exit codes."""

import csv
import io
import json

import pytest
from click.testing import CliRunner

from clipsieve import cli, connect
from tests.store.folders import make_folder, shard_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    layout, _ = make_folder(tmp_path_factory.mktemp("cli") / "it's out", [shard_of("a", 4)])
    return str(layout.root)


def code_of(*words):
    with pytest.raises(SystemExit) as end:
        cli.main(list(words))
    return end.value.code


QUERY = "SELECT row, caption, NULL AS nothing FROM scores WHERE row < 2 ORDER BY row"


def test_sql_as_json_lines(folder):
    done = CliRunner().invoke(cli.cli, ["sql", folder, QUERY, "--format", "json"])
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        {"row": row, "caption": f"caption a {row}", "nothing": None} for row in range(2)
    ]


def test_sql_as_csv(folder):
    done = CliRunner().invoke(cli.cli, ["sql", folder, QUERY, "--format", "csv"])
    rows = list(csv.reader(io.StringIO(done.stdout)))
    assert rows == [
        ["row", "caption", "nothing"],
        *([str(r), f"caption a {r}", ""] for r in (0, 1)),
    ]


def test_sql_as_a_table_shows_values_as_they_are(folder, capsys):
    assert code_of("sql", folder, "SELECT '[red]a[/red] \\[b]' AS \"x[i]\", NULL AS n") == 0
    out = capsys.readouterr().out
    assert "[red]a[/red] \\[b]" in out and "x[i]" in out and "NULL" in out


def test_sql_reads_standard_input(folder):
    done = CliRunner().invoke(cli.cli, ["sql", folder, "--format", "csv"], input="SELECT 1 AS x")
    assert done.stdout.split() == ["x", "1"]


def test_long_tables_are_cut_with_a_word(folder, capsys):
    assert code_of("sql", folder, "SELECT * FROM range(1500)") == 0
    assert "more than 1,000 rows; add LIMIT" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["table", "csv", "json"])
@pytest.mark.parametrize("query", ["SELEC", "SELECT caption::INT FROM scores"])
def test_failing_query_exits_2(folder, capsys, query, form):
    assert code_of("sql", folder, query, "--format", form) == 2
    assert capsys.readouterr().err.startswith("clipsieve: query failed: ")


def test_folder_without_a_dataset_exits_2(tmp_path, capsys):
    assert code_of("sql", str(tmp_path), "SELECT 1") == 2
    assert "holds no clipsieve dataset" in capsys.readouterr().err


def test_unknown_command_and_option_exit_2(capsys):
    assert code_of("sieve") == 2
    assert code_of("run", "in", "out", "--sieve") == 2
    assert "No such option" in capsys.readouterr().err


def test_what_follows_two_dashes_is_the_runner_s(monkeypatch):
    seen: dict[str, object] = {}

    def take(options, beam_args, wide):
        seen.update(options, beam_args=tuple(beam_args), wide=wide)
        return 0

    monkeypatch.setattr(cli, "_run", take)
    assert code_of("embed", "a", "b", "out", "--workers", "2", "--", "--x=1", "--", "y") == 0
    assert seen["beam_args"] == ("--x=1", "--", "y")
    assert (seen["inputs"], seen["out"], seen["workers"]) == (("a", "b"), "out", 2)
    assert seen["wide"] is False


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--deadline", "soon"], "deadline 'soon' is not a time; say 90s, 30m or 5h"),
        (["--dtype", "int8"], "dtype must be one of auto, float32"),
        (["--workers", "0"], "workers must be an int of at least 1, got 0"),
        (["--config", "/none.toml"], "config file /none.toml cannot be read"),
        (["--run-id", "../x"], "run_id '../x' becomes a file name"),
        (["--scorers", ","], "no scorer was named"),
        (["--option", "k=3"], "option 'k=3' is not SCORER.NAME=VALUE"),
    ],
)
def test_wrong_settings_exit_2_and_write_nothing(tmp_path, capsys, words, message):
    assert code_of("run", str(tmp_path), str(tmp_path / "out"), *words) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_connect_is_at_the_front_door(folder):
    assert connect(folder).sql("SELECT count(*) FROM scores").fetchall() == [(4,)]
