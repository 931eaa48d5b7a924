"""Settings are checked before anything is read."""

import ast
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from clipsieve import settings
from clipsieve.definitions import definitions_of
from clipsieve.errors import UsageError
from clipsieve.setting_values import seconds
from clipsieve.settings import RunConfig, ScoreConfig, load_toml, parse_options


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"inputs": ()}, "no input was given"),
        ({"byte_budget": 0}, "byte_budget must be an int of at least 1, got 0"),
        ({"rows_per_item": -1}, "rows_per_item must be an int of at least 1, got -1"),
        ({"batch_size": 0}, "batch_size must be an int of at least 1, got 0"),
        ({"threads": 1.5}, "threads must be an int of at least 1, got 1.5"),
        ({"max_image_side": "big"}, "max_image_side must be an int of at least 1, got 'big'"),
        ({"max_failed_shards": -1}, "max_failed_shards must be an int of at least 0, got -1"),
        ({"dtype": "fp16"}, "dtype must be one of auto, .*; got 'fp16'"),
        ({"input_format": "csv"}, "input_format must be one of auto, parquet"),
        ({"log_format": "xml"}, "log_format must be one of auto, text, json; got 'xml'"),
        ({"scorers": ()}, "no scorer was named; the default is clip"),
        ({"scorer_options": {"density": 3}}, "scorer_options of density must be a table"),
        ({"scorer_options": {"density": {"k": float("nan")}}}, "scorer_options of density must"),
        ({"scorer_options": {"density": {"k": object()}}}, "scorer_options of density must be"),
        ({"scorer_options": "density.k=3"}, "scorer_options must be a table, got 'density"),
        ({"workers": 2, "runner": "flink"}, "workers=2 .* give one of the two"),
        ({"run_id": "a/b"}, "run_id 'a/b' becomes a file name"),
        ({"run_id": ""}, "run_id '' becomes a file name"),
        ({"run_id": "a" * 101}, "run_id 'a+' becomes a file name; .* at most 100"),
        ({"run_id": "a.tmp-b"}, r"run_id 'a.tmp-b' becomes a file name; .* no '\.tmp-'"),
        ({"shard_prefix": "a" * 101}, "shard_prefix 'a+' becomes part of file names; .* 100"),
        ({"shard_prefix": "a.tmp-"}, "shard_prefix 'a.tmp-' becomes part of file names"),
        ({"out": ""}, "out is empty, which would mean the current folder; name a folder"),
        ({"out": None}, "out must be text, got None"),
        ({"out": "a\0b"}, r"out must be text, got 'a\\x00b'"),
        ({"inputs": ("a", "")}, "no input was given"),
        ({"inputs": 3}, "inputs must be text or a list of texts, got 3"),
        ({"inputs": (b"a",)}, "inputs must be text or a list of texts"),
        ({"scorers": 3}, "scorers must be text or a list of texts, got 3"),
        ({"scorers": {"clip": 1}}, "scorers must be text or a list of texts, got {'clip': 1}"),
        ({"scorers": " , "}, "no scorer was named"),
        ({"model": 1}, "model must be text, got 1"),
        ({"model": None}, "model must be text, got None"),
        ({"workers": "2"}, "workers must be an int of at least 1, got '2'"),
        ({"workers": True}, "workers must be an int of at least 1, got True"),
        ({"reprocess": "no"}, "reprocess must be true or false, got 'no'"),
        ({"refit": 1}, "refit must be true or false, got 1"),
        ({"deadline": []}, r"deadline must be a number of at least 0, got \[\]"),
        ({"deadline": -1}, "deadline must be a number of at least 0, got -1"),
        ({"deadline": "-1s"}, "deadline must be a number of at least 0, got -1.0"),
        ({"deadline": float("inf")}, "deadline must be a number of at least 0, got inf"),
        ({"deadline": True}, "deadline must be a number of at least 0, got True"),
        ({"deadline": "soon"}, "deadline 'soon' is not a time"),
        ({"stall": "soon"}, "stall 'soon' is not a time; say 90s, 30m or 5h"),
        ({"stall": 0}, "stall must be a number of at least 1, got 0"),
        ({"stall": 60, "runner": "DaskRunner"}, "stall=60 watches processes on this machine"),
    ],
)
def test_value_out_of_range_is_refused(values, message):
    with pytest.raises(UsageError, match=message):
        RunConfig(**{"inputs": ("in",), "out": "out", **values})


def test_json_gives_the_settings_back():
    config = RunConfig(("a", "b"), "out", scorers=("clip", "clip_depicts"), beam_args=("--x",))
    assert RunConfig.from_json(config.to_json()) == config


def test_values_of_one_meaning_are_kept_alike(tmp_path):
    values: list[dict[str, Any]] = [
        {"inputs": tmp_path, "out": tmp_path / "out", "scorers": "clip, own.x", "deadline": "1m"},
        {"inputs": [str(tmp_path)], "out": f"{tmp_path}/out", "scorers": ["clip", "own.x"]},
    ]
    one, other = RunConfig(**values[0]), RunConfig(**values[1], deadline=60)
    assert one == other
    assert (one.inputs, one.scorers, one.deadline) == ((str(tmp_path),), ("clip", "own.x"), 60.0)


def test_settings_of_a_score_are_those_of_a_run_that_do_not_read_images():
    names = {definition.name for definition in definitions_of(ScoreConfig)}
    assert names < {definition.name for definition in definitions_of(RunConfig)}
    assert {"out", "scorers", "scorer_options", "refit", "device", "workers", "runner"} < names
    assert {"run_id", "deadline", "log_format", "beam_args"} < names
    assert "max_failed_shards" not in names
    assert not {"inputs", "model", "dtype", "reprocess"} & names
    config = ScoreConfig("out", scorers=("clip",), scorer_options={"clip": {"x": (1, 2)}})
    assert ScoreConfig.from_json(json.loads(json.dumps(config.to_json()))) == config
    with pytest.raises(UsageError, match="out is empty"):
        ScoreConfig("")


def test_no_setting_is_defined_twice():
    source = ast.parse(Path(settings.__file__).read_text(encoding="utf-8"))
    classes = [node for node in source.body if isinstance(node, ast.ClassDef)]
    defined = Counter(
        node.target.id
        for part in classes
        for node in part.body
        if isinstance(node, ast.AnnAssign)
        and isinstance(node.target, ast.Name)
        and node.value
        and ast.unparse(node.value).startswith("setting(")
    )
    assert set(defined.values()) == {1}
    # The field `out` is positional, so each class has it; its definition is one function.
    # Those of `ingest` are all in one class, in a file of its own.
    configs = [config for command, config in settings.CONFIGS.items() if command != "ingest"]
    known = {d.name for part in configs for d in definitions_of(part)}
    assert set(defined) | {"out"} == known


def test_every_setting_has_a_help_text_and_a_default_of_its_own_kind():
    for definition in definitions_of(RunConfig):
        assert definition.help
        if not definition.required:
            assert definition.checked(definition.default) == definition.default


def test_the_table_in_the_docs_is_that_of_the_definitions():
    page = Path(__file__).parents[1] / "docs" / "settings.md"
    assert page.read_text(encoding="utf-8") == settings.settings_page(), "make settings-page"


def write(tmp_path, text):
    path = tmp_path / "run.toml"
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    return path


def test_toml_has_the_keys_of_the_options(tmp_path):
    text = 'model = "tiny"\nbatch-size = 8\nuid_col = "uid"\nscorers = "clip"\ninputs = ["a"]\n'
    assert load_toml(write(tmp_path, text)) == {
        "model": "tiny",
        "batch_size": 8,
        "uid_col": "uid",
        "scorers": ("clip",),
        "inputs": ("a",),
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('reprocess = "no"', "reprocess must be true or false, got 'no'"),
        ('workers = "2"', "workers must be an int of at least 1, got '2'"),
        ("workers = true", "workers must be an int of at least 1, got True"),
        ("workers = 2020-01-01", "workers must be an int of at least 1, got datetime"),
        ("scorers = 3", "scorers must be text or a list of texts, got 3"),
        ("scorers = [1]", r"scorers must be text or a list of texts, got \[1\]"),
        ("model = 1", "model must be text, got 1"),
        ("deadline = []", r"deadline must be a number of at least 0, got \[\]"),
        ('deadline = "soon"', "deadline 'soon' is not a time"),
        ("byte_budget = 1.5", "byte_budget must be an int of at least 1, got 1.5"),
        ("[model]\nname = 1", "model must be text, got {'name': 1}"),
        ("[scorers]\nclip = 1", "scorers must be text or a list of texts, got {'clip': 1}"),
        ("scorer_options = 3", "scorer_options must be a table, got 3"),
        ("[scorer_options]\nclip = 3", "scorer_options of clip must be a table of options, got 3"),
        ("[scorer_options.clip]\nx = inf", "scorer_options of clip must be text, finite numbers"),
        ('out = ""', "out is empty"),
        ("beam_args = 1", "beam_args must be text or a list of texts, got 1"),
    ],
)
@pytest.mark.parametrize("config", [RunConfig, ScoreConfig])
def test_a_wrong_value_in_toml_is_refused_with_the_file(tmp_path, text, message, config):
    with pytest.raises(UsageError, match=rf"config file .*run\.toml: {message}"):
        load_toml(write(tmp_path, text), config)


def test_one_toml_file_serves_all_commands(tmp_path):
    path = write(tmp_path, 'model = "tiny"\nscorers = "clip,own.x"\nworkers = 2\n')
    assert load_toml(path, ScoreConfig) == {"scorers": ("clip", "own.x"), "workers": 2}
    assert load_toml(path)["model"] == "tiny"


def test_a_key_in_both_spellings_is_refused(tmp_path):
    with pytest.raises(UsageError, match="gives a key twice"):
        load_toml(write(tmp_path, "batch-size = 8\nbatch_size = 9\n"))


def test_toml_has_a_table_of_options_for_each_scorer(tmp_path):
    text = '[scorer_options.density]\nreference = "2048,all"\nk = 8\n'
    values = load_toml(write(tmp_path, text))
    assert values == {"scorer_options": {"density": {"reference": "2048,all", "k": 8}}}
    assert RunConfig(inputs=("a",), out="b", **values).scorer_options["density"]["k"] == 8


def test_options_of_scorers_are_json_or_text():
    words = ["density.k=3", "density.metric=cosine", "density.texts=true", "own.x=a=b", "own.y="]
    assert parse_options(words) == {
        "density": {"k": 3, "metric": "cosine", "texts": True},
        "own": {"x": "a=b", "y": ""},
    }


@pytest.mark.parametrize("word", ["k=3", "density.k", "density=3", ".k=3", ""])
def test_an_option_of_another_form_is_refused(word):
    with pytest.raises(UsageError, match=r"is not SCORER\.NAME=VALUE"):
        parse_options([word])


def test_the_name_of_an_option_follows_the_last_dot():
    words = ["density.lof.k=32", "a.b.c.path=x.y=z", "density.reference=2048,all", "density.k=2048"]
    assert parse_options([*words, "density.lid_k=NaN"]) == {
        "density.lof": {"k": 32},
        "a.b.c": {"path": "x.y=z"},
        "density": {"reference": "2048,all", "k": 2048, "lid_k": "NaN"},
    }


def test_unknown_key_is_refused_with_the_known_ones(tmp_path):
    message = r"run\.toml has unknown keys \['modell'\]; known: \['allow_private'"
    with pytest.raises(UsageError, match=message):
        load_toml(write(tmp_path, 'modell = "tiny"'))


@pytest.mark.parametrize("text", ["model = ", "\x00", "[[", 'model = "\udcff"'])
def test_damaged_toml_is_refused(tmp_path, text):
    with pytest.raises(UsageError, match=r"run\.toml cannot be read"):
        load_toml(write(tmp_path, text))


def test_missing_toml_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"none\.toml cannot be read: .*No such file"):
        load_toml(tmp_path / "none.toml")


@pytest.mark.parametrize("text", ["", "s", "5d", "1h30m"])
def test_a_length_of_time_needs_a_number(text):
    with pytest.raises(UsageError, match="is not a time"):
        seconds(text)


#: Values of TOML that are of a wrong type, or out of range, for settings of each kind.
WRONG = {
    str: ("1", "1.5", "true", "[]", '["a"]', "{a = 1}", "2020-01-01", "10:00:00", '"a\\u0000"'),
    int: ('"2"', "1.5", "nan", "true", "[1]", "[[1]]", "{}", "2020-01-01", "9223372036854775808"),
    float: ("nan", "inf", "-inf", "1e400", "true", "[1]", "{}", "2020-01-01T00:00:00Z", '"no"'),
    bool: ('"no"', '"true"', "0", "1", "[true]", "{}", "2020-01-01"),
    tuple: ("1", "{a = 1}", "[1]", '["a", 1]', '[["a"]]', "2020-01-01", "nan", '["a\\u0000"]'),
    Mapping: ("1", '"a"', "[]", "{clip = 1}", "{clip = [1]}", "{clip = {x = 2020-01-01}}"),
}
WRONG_VALUES = [
    (definition, value)
    for definition in definitions_of(RunConfig)
    for value in WRONG[definition.kind]
]


@pytest.mark.parametrize("config", [RunConfig, ScoreConfig])
def test_every_setting_refuses_each_wrong_value_with_file_key_and_type(tmp_path, config):
    assert len(WRONG_VALUES) > 200
    for definition, value in WRONG_VALUES:
        for key in {definition.name, definition.name.replace("_", "-")}:
            path = write(tmp_path, f"{key} = {value}\n")
            with pytest.raises(UsageError) as refusal:
                load_toml(path, config)
            message = str(refusal.value)
            assert message.startswith(f"config file {path}: {definition.name}"), (key, value)
            told = (" must be ", " is not a time; say 90s, 30m or 5h")
            assert any(text in message for text in told) and "\n" not in message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe", "cannot be read: 'utf-8' codec can't decode byte 0xff"),
        (b"[" * 100_000, "cannot be read: "),
        (b"a = " + b"[" * 100_000, "cannot be read: maximum recursion depth exceeded"),
        (b"model = 'a\x1b'", "cannot be read: Found invalid character"),
        (b"workers = 1\nworkers = 2", "cannot be read: Cannot overwrite a value"),
        (b"[run]\nworkers = 1", r"has unknown keys \['run'\]"),
        (b'"a\\u001b" = 1', r"has unknown keys \['a\\x1b'\]"),
        (b"#" * (17 << 20), "has more than 16,777,216 bytes"),
        (b"shard_prefix = '../x'", r"shard_prefix '\.\./x' becomes part of file names"),
        (b"run_id = 'a/b'", r"run_id 'a/b' becomes a file name"),
        (b"run_id = '" + b"a" * 300 + b"'", r"run_id 'a+\.\.\. .* at most 100"),
    ],
)
def test_content_of_another_kind_is_refused_with_the_file(tmp_path, content, message):
    path = tmp_path / "run.toml"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=rf"^config file {path}:? ?.*{message}"):
        load_toml(path)


def test_a_folder_and_a_byte_order_mark(tmp_path):
    with pytest.raises(UsageError, match=r"cannot be read: .*Is a directory"):
        load_toml(tmp_path)
    path = tmp_path / "run.toml"
    path.write_bytes(b"\xef\xbb\xbfworkers = 2\r\nmodel = 'tiny'\r\n")
    assert load_toml(path) == {"workers": 2, "model": "tiny"}


@pytest.mark.parametrize("prefix", ["a b", "é", "a/b", ".a", "_a", "\x1b", "a\n"])
def test_a_shard_prefix_that_is_not_safe_is_refused_before_anything_is_read(prefix):
    with pytest.raises(UsageError, match="becomes part of file names; use letters, digits and"):
        RunConfig(inputs=("in",), out="out", shard_prefix=prefix)


def test_inputs_that_are_not_utf_8_are_kept_as_text():
    config = RunConfig(inputs=("a\udcff%", "percent:///b%FF", "c%"), out="out")
    assert config.inputs == ("percent://a%FF%25", "percent:///b%FF", "c%")
    assert RunConfig.from_json(config.to_json()) == config
