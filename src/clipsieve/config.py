"""The settings of a run: one frozen value; Python, TOML and command line share its keys."""

import dataclasses
import json
import math
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clipsieve.errors import UsageError

LOG_FORMATS = ("auto", "text", "json")


@dataclass(frozen=True, slots=True)
class RunConfig:
    """What to read, with which model to score it, and where the tables go.

    Attributes:
      inputs: paths, globs, brace ranges or URLs of shards, or one folder.
      out: output folder.
      model: open_clip model, `hf-hub:org/name`, `local-dir:PATH`, or `tiny`.
      pretrained: open_clip tag or weights file.
      device: `auto`, `cpu`, `cuda`, `cuda:N`.
      dtype: `auto`, `float32`, `bfloat16`, `float16`.
      batch_size: images a forward pass; None is 32 on a CPU and 256 on a GPU.
      threads: decoding threads; None is one for each core.
      scorers: names of `clipsieve.scorers.registry`.
      scorer_options: options of scorers, by name: `{"density": {"k": 32}}`.  Those that are not
        given are as this folder had them before.
      refit: fit scorers again, to all rows that are there then.
      input_format: `auto`, `parquet`, `webdataset` or `folder`.
      image_col: column with the pixels; None finds it. Likewise the next three.
      caption_col: column with the caption.
      uid_col: column with the identity.
      references_col: column with reference captions, for RefCLIPScore.
      byte_budget: bytes of encoded images read at once.
      rows_per_item: rows over which one Parquet file becomes several work items.
      shard_prefix: put before the output name of every shard.
      max_image_bytes: larger images are `image_too_large`; likewise the next two.
      max_image_side: pixels.
      max_image_pixels: pixels in all.
      workers: processes on this machine.
      runner: Beam runner; `FnApiRunner` runs in this process.
      run_id: name of the run; None makes one from the time.
      reprocess: write shards again that are done.
      max_failed_shards: more failed shards than this end the run with exit code 3.
      deadline: seconds after which no new shard is begun; None is never.
      log_format: `text`, `json`, or `auto`, which is text.
    """

    inputs: tuple[str, ...]
    out: str
    model: str = "tiny"
    pretrained: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    batch_size: int | None = None
    threads: int | None = None
    scorers: tuple[str, ...] = ("clip", "density")
    scorer_options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    refit: bool = False
    input_format: str = "auto"
    image_col: str | None = None
    caption_col: str | None = None
    uid_col: str | None = None
    references_col: str | None = None
    byte_budget: int = 16 << 20
    rows_per_item: int = 50_000
    shard_prefix: str = ""
    max_image_bytes: int = 64 << 20
    max_image_side: int = 16_384
    max_image_pixels: int = 89_478_485
    workers: int = 1
    runner: str = "FnApiRunner"
    run_id: str | None = None
    reprocess: bool = False
    max_failed_shards: int = 0
    deadline: float | None = None
    log_format: str = "auto"
    beam_args: tuple[str, ...] = field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        """Take single values where several may be given, and check what needs no look at files.

        Raises:
          UsageError: for a value out of range.
        """
        if isinstance(self.inputs, str | os.PathLike):
            object.__setattr__(self, "inputs", (self.inputs,))
        object.__setattr__(self, "inputs", tuple(os.fspath(path) for path in self.inputs))
        object.__setattr__(self, "out", os.fspath(self.out))
        if isinstance(self.scorers, str):
            names = tuple(name.strip() for name in self.scorers.split(",") if name.strip())
            object.__setattr__(self, "scorers", names)
        if isinstance(self.deadline, str):
            object.__setattr__(self, "deadline", seconds(self.deadline))
        if self.deadline is not None and not 0 <= self.deadline < math.inf:
            raise UsageError(
                f"deadline must be a time of at least 0 seconds, got {self.deadline!r}"
            )
        if not self.inputs:
            raise UsageError("no input was given; name shards, a glob, or a folder")
        for name in ("byte_budget", "rows_per_item", "workers"):
            _at_least(name, getattr(self, name), 1)
        for name in ("max_image_bytes", "max_image_side", "max_image_pixels"):
            _at_least(name, getattr(self, name), 1)
        for name in ("batch_size", "threads"):
            if getattr(self, name) is not None:
                _at_least(name, getattr(self, name), 1)
        _at_least("max_failed_shards", self.max_failed_shards, 0)
        _one_of("dtype", self.dtype, ("auto", "float32", "bfloat16", "float16"))
        _one_of("input_format", self.input_format, ("auto", "parquet", "webdataset", "folder"))
        _one_of("log_format", self.log_format, LOG_FORMATS)
        if self.run_id is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.run_id):
            raise UsageError(
                f"run_id {self.run_id!r} becomes a file name; use letters, digits, '.', '_', '-'"
            )
        if not self.scorers:
            raise UsageError("no scorer was named; the default is clip,density")
        for name, options in dict(self.scorer_options).items():
            if not isinstance(options, Mapping):
                raise UsageError(
                    f"scorer_options of {name} must be a table of options, got {options!r}"
                )
        if "clip_ref" in self.scorers and self.references_col is None:
            raise UsageError("scorer clip_ref needs --references-col, the column of references")
        if self.workers > 1 and self.runner != "FnApiRunner":
            raise UsageError(
                f"workers={self.workers} starts processes on this machine and runner="
                f"{self.runner!r} brings its own; give one of the two"
            )

    def to_json(self) -> dict[str, Any]:
        """The settings as plain JSON values."""
        return {**dataclasses.asdict(self), "inputs": list(self.inputs)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "RunConfig":
        """The settings that `to_json` gave."""
        tuples = {"inputs", "scorers", "beam_args"}
        settings: dict[str, Any] = {k: tuple(v) if k in tuples else v for k, v in value.items()}
        return cls(**settings)


def seconds(text: str) -> float:
    """A length of time: a number with s, m or h, seconds if it has none.

    Raises:
      UsageError: if it is something else.

    >>> seconds("90"), seconds("1.5m"), seconds("5h")
    (90.0, 90.0, 18000.0)
    """
    units = {"s": 1, "m": 60, "h": 3600}
    number, unit = (text[:-1], text[-1]) if text[-1:] in units else (text, "s")
    try:
        return float(number) * units[unit]
    except ValueError as error:
        raise UsageError(f"deadline {text!r} is not a time; say 90s, 30m or 5h") from error


def parse_options(words: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Options of scorers from words such as `density.k=32`, by scorer.

    Values are read as JSON where they are JSON, else as text.

    Raises:
      UsageError: if a word has another form.

    >>> parse_options(["density.k=32", "density.metric=cosine"])
    {'density': {'k': 32, 'metric': 'cosine'}}
    """
    options: dict[str, dict[str, Any]] = {}
    for word in words:
        form = re.fullmatch(r"(\w+)\.(\w+)=(.*)", word, flags=re.DOTALL)
        if form is None:
            raise UsageError(f"option {word!r} is not SCORER.NAME=VALUE; say density.k=32")
        scorer, name, text = form.groups()
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        options.setdefault(scorer, {})[name] = value
    return options


def merged_options(
    held: Mapping[str, Mapping[str, Any]], given: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Options of scorers by name: those given, and where one is not given, the one held."""
    return {name: {**held.get(name, {}), **given.get(name, {})} for name in {*held, *given}}


def load_toml(path: str | Path) -> dict[str, Any]:
    """Settings from a TOML file, to be overridden by the command line.

    Raises:
      UsageError: if it cannot be read, or has a key that is not a setting.
    """
    try:
        with open(path, "rb") as file:
            values = tomllib.load(file)
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"config file {path} cannot be read: {error}") from error
    known = {f.name for f in dataclasses.fields(RunConfig)}
    values = {key.replace("-", "_"): value for key, value in values.items()}
    unknown = sorted(set(values) - known)
    if unknown:
        raise UsageError(f"config file {path} has unknown keys {unknown}; known: {sorted(known)}")
    for name in ("inputs", "scorers"):
        if isinstance(values.get(name), str):
            values[name] = [values[name]]
        if name in values:
            values[name] = tuple(values[name])
    return values


def _at_least(name: str, value: int, least: int) -> None:
    if not isinstance(value, int) or value < least:
        raise UsageError(f"{name} must be an int of at least {least}, got {value!r}")


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UsageError(f"{name} must be one of {', '.join(allowed)}; got {value!r}")
