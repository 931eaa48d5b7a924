"""Settings are checked before anything is read."""

import pytest

from clipsieve.config import RunConfig, load_toml, parse_options, seconds
from clipsieve.errors import UsageError


@pytest.mark.parametrize(
    ("settings", "message"),
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
        ({"scorers": ("clip_ref",)}, "clip_ref needs --references-col"),
        ({"workers": 2, "runner": "DaskRunner"}, "workers=2 .* give one of the two"),
        ({"run_id": "a/b"}, "run_id 'a/b' becomes a file name"),
        ({"run_id": ""}, "run_id '' becomes a file name"),
    ],
)
def test_value_out_of_range_is_refused(settings, message):
    with pytest.raises(UsageError, match=message):
        RunConfig(**{"inputs": ("in",), "out": "out", **settings})


def test_json_gives_the_settings_back():
    config = RunConfig(("a", "b"), "out", scorers=("clip", "clip_depicts"), beam_args=("--x",))
    assert RunConfig.from_json(config.to_json()) == config


def write(tmp_path, text):
    path = tmp_path / "run.toml"
    path.write_text(text)
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


def test_unknown_key_is_refused_with_the_known_ones(tmp_path):
    message = r"run\.toml has unknown keys \['modell'\]; known: \['batch_size'"
    with pytest.raises(UsageError, match=message):
        load_toml(write(tmp_path, 'modell = "tiny"'))


@pytest.mark.parametrize("text", ["model = ", "\x00", "[["])
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
