"""The command line: formats, refusals and exit codes."""

import csv
import io
import json
import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

import clipsieve
from clipsieve import cli, connect
from clipsieve.definitions import definitions_of
from clipsieve.ingest.settings import IngestConfig
from clipsieve.job.score import ScoreResult
from clipsieve.settings import RunConfig, ScoreConfig, WatchConfig
from tests.store.folders import make_folder, shard_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made, _ = make_folder(tmp_path_factory.mktemp("cli") / "it's out", [shard_of("a", 4)])
    return made.root


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


def test_json_has_no_nan_no_lost_column_and_no_python_bytes(folder):
    query = (
        "SELECT 'nan'::FLOAT AS a, '-inf'::DOUBLE AS a, 1.5 AS A, '\\x01\\xFF'::BLOB AS b, "
        "{'v': [1, 'nan'::DOUBLE], 'm': MAP {2: DATE '2020-01-02'}} AS c"
    )
    done = CliRunner().invoke(cli.cli, ["sql", folder, query, "--format", "json"])
    assert json.loads(done.stdout, parse_constant=pytest.fail) == {
        "a": None,
        "a_1": None,
        "A": "1.5",
        "b": "01ff",
        "c": {"v": [1.0, None], "m": {"2": "2020-01-02"}},
    }


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


def test_a_single_row_too_wide_is_shown_column_by_column(folder, capsys):
    names = [f"column_{number}" for number in range(20)]
    assert code_of("sql", folder, f"SELECT {', '.join(f'1.5 AS {name}' for name in names)}") == 0
    out = capsys.readouterr().out
    assert all(name in out for name in names) and out.count("1.5") == 20


def test_recipes_are_listed_without_a_folder(capsys):
    assert code_of("sql", "--recipes") == 0
    out = capsys.readouterr().out
    assert "threshold_for_keep: " in out and "--set keep=0.3 " in out


def test_sql_runs_a_recipe(folder):
    words = ["sql", folder, "--recipe", "keep_rate", "--set", "threshold=-1", "--format", "json"]
    done = CliRunner().invoke(cli.cli, words)
    assert json.loads(done.stdout) == {
        "rows": 4,
        "scored": 4,
        "kept": 4,
        "of_all": 1.0,
        "of_scored": 1.0,
    }


def test_sql_writes_a_catalog(folder, tmp_path, capsys):
    assert code_of("sql", folder, "--catalog") == 0
    assert code_of("sql", folder, "--catalog", str(tmp_path / "c.db")) == 0
    paths = [os.path.join(folder, "catalog.duckdb"), str(tmp_path / "c.db")]
    assert capsys.readouterr().out.splitlines() == [f"wrote {path}" for path in paths]
    assert all(os.path.exists(path) for path in paths)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "out is not given"),
        (["FOLDER", "SELECT 1", "--recipe", "funnel"], "give one of them"),
        (["FOLDER", "SELECT 1", "--catalog"], "give one of them"),
        (["FOLDER", "SELECT 1", "--set", "keep=1"], "say --recipe NAME"),
        (["FOLDER", "--recipe", "funnel", "--set", "keep"], "is not NAME=VALUE"),
        (["FOLDER", "--recipe", "funel"], "did you mean funnel"),
    ],
)
def test_sql_refuses_what_does_not_go_together(folder, capsys, words, message):
    assert code_of("sql", *(folder if word == "FOLDER" else word for word in words)) == 2
    assert message in capsys.readouterr().err


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


def seen_by_run(monkeypatch):
    """What the commands run and embed hand on: settings, whether it is a dry run, wide."""
    seen: list[tuple[RunConfig, bool, bool]] = []
    monkeypatch.setattr(cli, "_run", lambda *given, wide: seen.append((*given, wide)))
    return seen


def seen_by_score(monkeypatch):
    """What the command score hands on."""
    seen: list[ScoreConfig] = []

    def take(**values):
        seen.append(ScoreConfig(**values))
        return ScoreResult(0, 0, 0)

    monkeypatch.setattr(clipsieve, "score", take)
    return seen


@pytest.mark.parametrize(
    ("command", "config", "more"),
    [
        ("run", RunConfig, {"config", "dry_run", "urls", "ingest_config"}),
        ("embed", RunConfig, {"config", "dry_run"}),
        ("watch", WatchConfig, {"config"}),
        ("score", ScoreConfig, {"config"}),
        ("ingest", IngestConfig, {"config"}),
    ],
)
def test_every_setting_is_a_parameter_of_the_command(command, config, more):
    names = {definition.name for definition in definitions_of(config)}
    given = [parameter.name for parameter in cli.cli.commands[command].params]
    assert sorted(given) == sorted(names - {"beam_args"} | more)
    options = [word for parameter in cli.cli.commands[command].params for word in parameter.opts]
    assert len(options) == len(set(options))


@pytest.mark.parametrize(
    ("command", "config"),
    [("run", RunConfig), ("score", ScoreConfig), ("ingest", IngestConfig)],
)
def test_help_shows_every_setting_with_its_default(command, config):
    text = " ".join(CliRunner().invoke(cli.cli, [command, "--help"]).stdout.split())
    for definition in definitions_of(config):
        if definition.option is not None:
            assert definition.option in text
            assert definition.help.split()[0] in text
            if (command, definition.name) != ("score", "scorers"):
                assert f"[default: {definition.default_text}]" in text
    assert ("--scorers TEXT names of scorers, separated by commas [required]" in text) == (
        command == "score"
    )


def test_the_command_line_goes_before_toml(tmp_path, monkeypatch):
    path = tmp_path / "job.toml"
    path.write_text(
        f'inputs = "in"\nout = "{tmp_path}"\nworkers = 2\nrefit = true\nscorers = "own.x"\n'
        'beam_args = ["--a"]\n[scorer_options."own.x"]\nk = 1\nm = 2\n'
    )
    runs, scores = seen_by_run(monkeypatch), seen_by_score(monkeypatch)
    words = ["--config", str(path), "--workers", "3", "--no-refit", "--option", "own.x.k=5"]
    assert code_of("run", *words) == 0
    assert code_of("score", "other", *words, "--", "--b") == 0
    (run, _, _), (score,) = runs[0], scores
    assert (run.inputs, run.out, score.out) == (("in",), str(tmp_path), "other")
    assert (run.beam_args, score.beam_args) == (("--a",), ("--b",))
    for config in (run, score):
        assert (config.workers, config.refit, config.scorers) == (3, False, ("own.x",))
        assert config.scorer_options == {"own.x": {"k": 5, "m": 2}}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run"], "inputs is not given; say INPUTS, or write it in a --config file"),
        (["run", "out"], "inputs is not given"),
        (["score"], "out is not given; say OUT"),
        (["score", "out"], "scorers is not given; say --scorers VALUE, or write it in"),
        (["score", "", "--scorers", "clip"], "out is empty"),
        (["compact", ""], "out is empty"),
    ],
)
def test_what_must_be_given_is_said(capsys, words, message):
    assert code_of(*words) == 2
    assert capsys.readouterr().err.startswith(f"clipsieve: {message}")


def test_a_comment_may_begin_a_query(folder, capsys):
    for words in (["-- how many = 4\nSELECT 1 AS x"], ["--", "--rows\nSELECT 1 AS x"]):
        assert code_of("sql", folder, "--format", "csv", *words) == 0
        assert capsys.readouterr().out.split() == ["x", "1"]
    assert code_of("sql", folder, "--formt=csv") == 2


def test_what_a_terminal_obeys_is_shown_escaped(folder, capsys):
    assert code_of("sql", folder, "SELECT chr(27) || '[2J' || chr(155) AS \"a\x1b[1m\"") == 0
    out = capsys.readouterr().out
    assert "\\x1b[2J\\x9b" in out and "a\\x1b[1m" in out and "\x1b" not in out
    assert code_of("sql", folder, "SELECT error('\x1b[2J')") == 2
    assert "\x1b" not in capsys.readouterr().err


@pytest.mark.parametrize("form", ["table", "csv", "json"])
def test_a_character_that_the_terminal_lacks_is_escaped_and_csv_is_utf_8(folder, form):
    command = [sys.executable, "-m", "clipsieve.cli", "sql", folder, "SELECT 'à→' AS x"]
    for encoding in ("ascii", "latin-1:strict"):
        environment = {**os.environ, "PYTHONIOENCODING": encoding}
        done = subprocess.run([*command, "--format", form], env=environment, capture_output=True)
        assert done.returncode == 0, done.stderr
        assert ("→".encode() if form == "csv" else b"\\u2192") in done.stdout


def test_help_starts_without_what_computes():
    heavy = "{'apache_beam', 'duckdb', 'numpy', 'open_clip', 'pyarrow', 'rich', 'torch'}"
    code = f"import sys, clipsieve.cli; sys.exit(str(sorted({heavy} & set(sys.modules))))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip() == "[]"


def test_what_follows_two_dashes_is_the_runner_s(monkeypatch):
    seen = seen_by_run(monkeypatch)
    assert code_of("embed", "a", "b", "out", "--workers", "2", "--", "--x=1", "--", "y") == 0
    ((config, _, wide),) = seen
    assert config.beam_args == ("--x=1", "--", "y")
    assert (config.inputs, config.out, config.workers) == (("a", "b"), "out", 2)
    assert wide is False


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
        (["--log-format", "xml"], "log_format must be one of auto, text, json; got 'xml'"),
    ],
)
def test_wrong_settings_exit_2_and_write_nothing(tmp_path, capsys, words, message):
    assert code_of("run", str(tmp_path), str(tmp_path / "out"), *words) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_connect_is_at_the_front_door(folder):
    assert connect(folder).sql("SELECT count(*) FROM scores").fetchall() == [(4,)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sql", "FOLDER", "--catalog", "x" * 300], "cannot be written (File name too long)"),
        (["status", "~nobody-here/x"], "holds no clipsieve dataset"),
        (["filter", "FOLDER", "--minus", "~nobody-here/x", "--dry-run"], "~nobody-here/x"),
        (
            ["filter", "FOLDER", "--recipe", "\udcff.toml", "--name", "a"],
            "\\udcff.toml cannot be read",
        ),
        (["filter", "FOLDER", "--name", "x" * 300, "--where", "true"], "becomes a folder"),
        (["sql", "FOLDER", "SELECT '\udcff'"], "query failed: "),
        (["score", "FOLDER", "--scorers", "clip", "--run-id", "x" * 300], "at most 100"),
    ],
)
def test_names_that_cannot_be_are_refused(folder, capsys, words, message):
    assert code_of(*(folder if word == "FOLDER" else word for word in words)) == 2
    assert message in capsys.readouterr().err
