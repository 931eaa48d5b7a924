"""The settings of every command, each defined once.

The command line, TOML, Python and docs/settings.md have the same names, defaults and checks.
"""

import dataclasses
import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import KW_ONLY, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

from clipsieve.definitions import (
    check_values,
    definitions_of,
    plain_values,
    setting,
    shown,
)
from clipsieve.errors import UsageError
from clipsieve.formats.names import path_uri, safe_name
from clipsieve.ingest.settings import IngestConfig
from clipsieve.redaction import redacted
from clipsieve.runner_names import DASK_RUNNER, LOCAL_RUNNER, SHORT_NAMES, beam_runner
from clipsieve.setting_values import seconds, split_names
from clipsieve.store.lock_terms import LEASE_SECONDS, LockTerms

#: `stall` of workers where none is given.
STALL_SECONDS = 600.0
#: Of settings that become part of file names; file systems allow 255 bytes.
MAX_NAME_CHARACTERS = 100
#: Files with this in their names are removed as left by an interrupted write.
TEMPORARY_MARK = ".tmp-"
#: Of a TOML file.
_MAX_CONFIG_BYTES = 16 << 20
DEFAULT_SCORERS = ("clip", "density", "ood.zero_shot")


def _check_out(out: str) -> str:
    if not out:
        raise UsageError("out is empty, which would mean the current folder; name a folder")
    return out


def _check_inputs(inputs: tuple[str, ...]) -> tuple[str, ...]:
    if not all(inputs) or not inputs:
        raise UsageError("no input was given; name shards, a glob, or a folder")
    return tuple(path_uri(path) for path in inputs)


def _check_scorers(scorers: tuple[str, ...]) -> tuple[str, ...]:
    if not scorers:
        raise UsageError(f"no scorer was named; the default is {','.join(DEFAULT_SCORERS)}")
    return scorers


def _check_scorer_options(options: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Tables of plain JSON values, as they come back from `to_json`."""
    kept = {}
    for scorer, table in options.items():
        if not isinstance(table, Mapping):
            raise UsageError(
                f"scorer_options of {scorer} must be a table of options, got {shown(table)}"
            )
        try:
            kept[scorer] = json.loads(json.dumps(dict(table), allow_nan=False))
        except (TypeError, ValueError, RecursionError) as error:
            raise UsageError(
                f"scorer_options of {scorer} must be text, finite numbers, true or false, or "
                f"lists or tables of them, got {shown(dict(table))}"
            ) from error
    return kept


def _check_shard_prefix(prefix: str) -> str:
    is_safe = not prefix or safe_name(prefix) == prefix
    if not is_safe or len(prefix) > MAX_NAME_CHARACTERS or TEMPORARY_MARK in prefix:
        raise UsageError(
            f"shard_prefix {shown(prefix)} becomes part of file names; use letters, digits and "
            f"._=@+-, at most {MAX_NAME_CHARACTERS}, no . or _ first, and no {TEMPORARY_MARK!r}"
        )
    return prefix


def _check_run_id(run_id: str) -> str:
    form = r"[A-Za-z0-9][A-Za-z0-9._-]*"
    if (
        not re.fullmatch(form, run_id)
        or len(run_id) > MAX_NAME_CHARACTERS
        or TEMPORARY_MARK in run_id
    ):
        raise UsageError(
            f"run_id {shown(run_id)} becomes a file name; use letters, digits, '.', '_', '-', "
            f"at most {MAX_NAME_CHARACTERS}, and no {TEMPORARY_MARK!r}"
        )
    return run_id


def _check_part(part: str) -> str:
    form = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", part)
    if form is None or not 1 <= int(form[1]) <= int(form[2]):
        raise UsageError(
            f"part {shown(part)} is not one of 1/N to N/N, such as 3/8; an array that counts from "
            "0 adds 1"
        )
    return f"{int(form[1])}/{int(form[2])}"


def _check_metrics_file(path: str) -> str:
    if not path.endswith(".prom"):
        raise UsageError(
            f"metrics_file {shown(path)} does not end in .prom, and node_exporter reads no other"
        )
    return _check_result_file(path, "metrics_file")


def _check_result_file(path: str, name: str = "result_file") -> str:
    if not Path(path).absolute().parent.is_dir():
        raise UsageError(f"{name} {shown(path)} is in a folder that does not exist; make it first")
    return path


def _out() -> Any:
    """The definition of `out`, a positional field of each class of settings."""
    return setting("output folder", check=_check_out)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionSettings:
    """Where and how long a job runs, and what it tells; see docs/settings.md."""

    device: str = setting("auto, cpu, cuda, cuda:N", "auto")
    workers: int | None = setting(
        "processes on this machine",
        None,
        unset="1; of runner dask one for each GPU, or for 4 cores",
        minimum=1,
    )
    runner: str = setting(
        f"engine: {', '.join(SHORT_NAMES)}, or another Beam runner; its options follow --; "
        "FnApiRunner runs in this process",
        LOCAL_RUNNER,
    )
    beam_args: tuple[str, ...] = setting("options of the Beam runner", (), option=None)
    run_id: str | None = setting(
        "name of the run", None, unset="made from the time", check=_check_run_id
    )
    deadline: float | None = setting(
        "begin no shard after this long: seconds, or 90s, 30m, 5h", None, minimum=0, parse=seconds
    )
    stall: float | None = setting(
        "a worker that neither makes progress nor computes for this long is killed, and its shard "
        "tried once more: seconds, or 90s, 30m, 5h; given, it also watches the one of workers=1",
        None,
        unset="10m with several workers",
        minimum=1,
        parse=partial(seconds, name="stall"),
    )
    lock: bool = setting(
        "refuse an object store that cannot lock the output folder; --no-lock goes on without a "
        "lock there, and two runs at once are not told apart",
        True,
    )
    lease: float = setting(
        "in an object store the lock of a run that died is free after this long: seconds, or 90s, "
        "30m, 5h",
        LEASE_SECONDS,
        minimum=1,
        parse=partial(seconds, name="lease"),
    )
    log_format: str = setting(
        "lines on standard error; auto is text", "auto", choices=("auto", "text", "json")
    )
    fail_if: tuple[str, ...] = setting(
        "exit code 4 if this holds once all is written: a condition, such as "
        "share_of('fetch_failed') > 0.1, or a query that has rows; may be repeated",
        (),
    )
    metrics_file: str | None = setting(
        "file for Prometheus to write at the end, in the textfile format; it ends in .prom",
        None,
        check=_check_metrics_file,
    )
    result_file: str | None = setting(
        "file of JSON to write at the end: how the command ended", None, check=_check_result_file
    )

    def __post_init__(self) -> None:
        """Bring every value to its type, and check what needs no look at files.

        Raises:
          UsageError: for a value of another type or out of range.
        """
        check_values(self)
        runner = beam_runner(self.runner)
        if (self.workers or 1) > 1 and runner not in (LOCAL_RUNNER, DASK_RUNNER):
            raise UsageError(
                f"workers={self.workers} starts processes on this machine and runner="
                f"{self.runner!r} brings its own; give one of the two"
            )
        if self.stall is not None and runner != LOCAL_RUNNER:
            raise UsageError(
                f"stall={self.stall:g} watches processes on this machine and runner="
                f"{self.runner!r} brings its own; give one of the two"
            )

    def lock_terms(self) -> LockTerms:
        """How the output folder is locked if it is in an object store."""
        return LockTerms(self.lease, is_required=self.lock)

    def to_json(self) -> dict[str, Any]:
        """The settings as plain JSON values, without credentials among options of the runner."""
        return {**plain_values(self), "beam_args": list(redacted(self.beam_args))}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The settings that `to_json` gave."""
        return cls(**value)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScorerSettings(ExecutionSettings):
    """Which scores are computed; see docs/settings.md."""

    scorers: tuple[str, ...] = setting(
        "names of scorers, separated by commas",
        DEFAULT_SCORERS,
        parse=split_names,
        check=_check_scorers,
    )
    scorer_options: Mapping[str, Mapping[str, Any]] = setting(
        "option of a scorer, SCORER.NAME=VALUE, may be repeated; one that is not given is as the "
        "output folder had it before",
        {},
        option="--option",
        check=_check_scorer_options,
    )
    classes: str | None = setting(
        "classes of ood scores: imagenet, demo, or a file with names, or texts of each (.json, "
        ".toml)",
        None,
        unset="imagenet; demo for the model tiny",
    )
    templates: str | None = setting(
        "templates of the classes' prompts: simple, openai, or a file with one a line",
        None,
        unset="simple",
    )
    learn_on: str | None = setting(
        "output folder that the scorers named learn of, of the same model", None, unset="OUT"
    )
    refit: bool = setting("fit scorers again, to all rows that are there then", False)

    def all_options(self) -> dict[str, dict[str, Any]]:
        """Return the options of scorers, the classes and templates among them."""
        values = {"classes": self.classes, "templates": self.templates}
        shared = {name: value for name, value in values.items() if value is not None}
        return merged_options(self.scorer_options, {"ood": shared} if shared else {})


@dataclass(frozen=True, slots=True)
class RunConfig(ScorerSettings):
    """Settings of `run` and `embed`: what to read, with which model to score it, and where to.

    Every setting, with its type, default and meaning: docs/settings.md.
    """

    inputs: tuple[str, ...] = setting(
        "paths, globs, brace ranges or URLs of shards, or one folder", check=_check_inputs
    )
    out: str = _out()
    _: KW_ONLY
    model: str = setting("open_clip model, hf-hub:org/name, local-dir:PATH, or tiny", "tiny")
    pretrained: str | None = setting("open_clip tag, or a weights file", None)
    dtype: str = setting(
        "number format of the model", "auto", choices=("auto", "float32", "bfloat16", "float16")
    )
    batch_size: int | None = setting(
        "images a forward pass", None, minimum=1, unset="32 on a CPU, 256 on a GPU"
    )
    threads: int | None = setting("decoding threads", None, minimum=1, unset="one for each core")
    input_format: str = setting(
        "of the shards; auto looks at them",
        "auto",
        choices=("auto", "parquet", "webdataset", "folder"),
    )
    image_col: str | None = setting("column with the pixels", None, unset="found by looking")
    caption_col: str | None = setting("column with the caption", None, unset="found by looking")
    uid_col: str | None = setting("column with the identity", None, unset="found by looking")
    references_col: str | None = setting("column with reference captions", None)
    leave_out: tuple[str, ...] = setting(
        "columns of the source that are not carried into samples/, separated by commas",
        (),
        parse=split_names,
    )
    byte_budget: int = setting("bytes of encoded images read at once", 16 << 20, minimum=1)
    rows_per_item: int = setting(
        "rows over which one Parquet file becomes several work items", 50_000, minimum=1
    )
    shard_prefix: str = setting(
        "put before the output name of every shard", "", check=_check_shard_prefix
    )
    max_caption_bytes: int = setting(
        "captions of more bytes are caption_too_long; the default is far over what any CLIP reads",
        64 << 10,
        minimum=1,
    )
    max_image_bytes: int = setting(
        "encoded images of more bytes are image_too_large", 64 << 20, minimum=1
    )
    max_image_side: int = setting(
        "images of more pixels in width or height are image_too_large", 16_384, minimum=1
    )
    max_image_pixels: int = setting(
        "images of more pixels in all are image_too_large", 89_478_485, minimum=1
    )
    reprocess: bool = setting("write shards again that are done", False)
    part: str | None = setting(
        "only one of several parts of the shards, such as 3/8: for arrays of jobs that write to "
        "one OUT at once; the last one to end computes what needs all shards",
        None,
        check=_check_part,
    )
    max_failed_shards: int = setting(
        "more failed shards than this end the run with exit code 3", 0, minimum=0
    )

    def part_of(self) -> tuple[int, int] | None:
        """Number of the part, from 1, and how many there are; None without parts."""
        if self.part is None:
            return None
        number, _, count = self.part.partition("/")
        return int(number), int(count)


@dataclass(frozen=True, slots=True)
class WatchConfig(RunConfig):
    """Settings of `watch`, which repeats `run` over inputs that grow.

    Every setting, with its type, default and meaning: docs/settings.md.
    """

    _: KW_ONLY
    every: float = setting(
        "look for new shards this long after the last look: seconds, or 90s, 10m, 5h",
        600.0,
        minimum=1,
        parse=partial(seconds, name="every"),
    )
    until: float | None = setting(
        "end this long after the start: seconds, or 90s, 30m, 6h",
        None,
        unset="at a signal",
        minimum=0,
        parse=partial(seconds, name="until"),
    )

    def run_config(self, deadline: float | None) -> RunConfig:
        """Return the settings of one run, with this deadline."""
        names = {field.name for field in dataclasses.fields(RunConfig)}
        values = {name: getattr(self, name) for name in names}
        return RunConfig(**{**values, "deadline": deadline})


@dataclass(frozen=True, slots=True)
class ScoreConfig(ScorerSettings):
    """Settings of `score`, which computes scores from an output folder without decoding images.

    Every setting, with its type, default and meaning: docs/settings.md.
    """

    out: str = _out()


#: Classes of settings by the commands that take them.
CONFIGS: Mapping[str, type] = {
    "run, embed": RunConfig,
    "watch": WatchConfig,
    "score": ScoreConfig,
    "ingest": IngestConfig,
}


def parse_options(words: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Options of scorers from words such as `knn.k=32`, by scorer.

    The option's name follows the last dot before `=`.  Values are read as JSON where they are
    JSON, else as text.

    Raises:
      UsageError: if a word has another form.

    >>> parse_options(["knn.fast.k=32", "knn.fast.metric=cosine", "knn.sizes=2048,all"])
    {'knn.fast': {'k': 32, 'metric': 'cosine'}, 'knn': {'sizes': '2048,all'}}
    """
    options: dict[str, dict[str, Any]] = {}
    for word in words:
        form = re.fullmatch(r"(\w[\w.-]*)\.(\w+)=(.*)", word, flags=re.DOTALL)
        if form is None:
            raise UsageError(
                f"option {shown(word)} is not SCORER.NAME=VALUE, such as --option knn.k=32"
            )
        scorer, name, text = form.groups()
        try:
            value = json.loads(text, parse_constant=_no_constant)
        except (ValueError, RecursionError):
            value = text
        options.setdefault(scorer, {})[name] = value
    return options


def _no_constant(name: str) -> None:
    """NaN and Infinity, which Python reads, are not JSON."""
    raise ValueError(name)


def merged_options(
    held: Mapping[str, Mapping[str, Any]], given: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Options of scorers by name: those given, and where one is not given, the one held."""
    return {name: {**held.get(name, {}), **given.get(name, {})} for name in {*held, *given}}


def load_toml(path: str | Path, config: type = RunConfig) -> dict[str, Any]:
    """Settings for `config` from a TOML file, to be overridden by the command line.

    One file serves all commands: settings of other commands are checked and left out.

    Raises:
      UsageError: if it cannot be read, or has a key that is not a setting or a wrong value.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(_MAX_CONFIG_BYTES + 1)
        if len(content) > _MAX_CONFIG_BYTES:
            raise ValueError(f"it has more than {_MAX_CONFIG_BYTES:,} bytes")
        table = tomllib.loads(content.decode("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"config file {path} cannot be read: {error}") from error
    known = {d.name: d for part in (*CONFIGS.values(), config) for d in definitions_of(part)}
    values = {key.replace("-", "_"): value for key, value in table.items()}
    if len(values) < len(table):
        raise UsageError(f"config file {path} gives a key twice, once with '-' and once with '_'")
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise UsageError(f"config file {path} has unknown keys {unknown}; known: {sorted(known)}")
    try:
        values = {name: known[name].checked(value) for name, value in values.items()}
    except UsageError as error:
        raise UsageError(f"config file {path}: {error}") from error
    own = {definition.name for definition in definitions_of(config)}
    return {name: value for name, value in values.items() if name in own}


def settings_page() -> str:
    """The text of docs/settings.md."""
    lines = [
        "# Settings",
        "",
        "Generated from `src/clipsieve/settings.py` by `make settings-page`.",
        "",
        "The names are the same on the command line (`--batch-size 8`), in a TOML file given with",
        "`--config` (`batch_size = 8`, or `batch-size`) and in Python",
        "(`clipsieve.run(inputs, out, batch_size=8)`). The command line goes before the file, and",
        "switches have a form for no: `--no-refit`. One file serves all commands: each takes the",
        "settings it has.",
        "",
        "Options of a scorer are a table in TOML; a name with a dot in it is quoted:",
        "",
        "```toml",
        '[scorer_options."knn.fast"]',
        "k = 32",
        "```",
        "",
        "| setting | command line | a value is | default | meaning | of |",
        "|---|---|---|---|---|---|",
    ]
    commands: dict[tuple[str, ...], list[str]] = {}
    definitions = {}
    for names, config in CONFIGS.items():
        for definition in definitions_of(config):
            key = definition.name, definition.help, definition.default_text
            commands.setdefault(key, []).append(names)
            definitions[key] = definition
    for key, definition in definitions.items():
        name = definition.name
        place = f"`{definition.option}`" if definition.option else "argument"
        if not definition.required and definition.option is None:
            place = "after `--`"
        cells = [definition.expected, definition.default_text, definition.help]
        lines.append(f"| `{name}` | {place} | {' | '.join(cells)} | {', '.join(commands[key])} |")
    return "\n".join(lines) + "\n"
