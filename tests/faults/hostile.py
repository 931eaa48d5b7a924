"""Folders and weights from a stranger: nothing runs, nothing outside is touched, no traceback."""

import hashlib
import io
import json
import os
import pickle
import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.faults import mutate
from tests.faults.lab import FULL, RUN, Lab
from tests.faults.machine import ROOT
from tests.faults.outcome import DETECTED, LOST, SURVIVED, Outcome
from tests.faults.terminal import check_output

KIND = "hostile"
CANARY = "canary"
TINY = ROOT / "src" / "clipsieve" / "demo" / "tiny"
COMMANDS: tuple[tuple[str, ...], ...] = (
    ("sql", "out", "SELECT count(*) FROM scores"),
    ("status", "out"),
    ("reconcile", "out"),
    ("audit", "out"),
    ("filter", "out", "--name", "new", "--where", "clip_score > 0", "--dry-run"),
    ("export", "out", "keep", "--format", "uids", "--to", "uids.txt"),
    RUN,
)
#: What the commands above may make and change.
_THEIRS = frozenset(["out", "new", "exp", "uids.txt", "uids.txt.export.json"])


class Payload:
    """An object whose unpickling makes a file."""

    def __init__(self, path: Path) -> None:
        """Name the file."""
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """Give pickle the call to make."""
        return open, (str(self.path), "w")


def run(lab: Lab, number: int) -> Outcome:
    """Do one case."""
    started = time.perf_counter()
    rng = random.Random(f"{KIND}:{number}")
    case = lab.restore(FULL)
    commands = COMMANDS
    if number % len(ATTACKS) == 0:
        what, commands = _weights(case, rng)
    else:
        what = ATTACKS[number % len(ATTACKS)](case, rng)
    before = outside(case)
    problems: list[str] = []
    printed: list[str] = []
    refused = False
    for words in commands:
        ended = lab.run(words, timeout=90.0, limits={"AS": 3 << 30})
        wrong = ended.problems((0, 1, 2, 3)) + check_output(ended)
        if words[0] in ("embed",) and ended.code not in (1, 2):
            wrong.append(f"exit code {ended.code} for weights that are none")
        problems += [f"{words[0]}: {line}" for line in wrong]
        refused |= ended.code != 0
        printed.append(f"$ clipsieve {' '.join(words)}\n{ended.text}")
    after = outside(case)
    touched = sorted(name for name in before.keys() | after if before.get(name) != after.get(name))
    if " is a link to " in what:  # links are followed: new files may lie behind them
        touched = [name for name in touched if name in before]
    problems += [f"outside of the folder: {name}" for name in touched]
    seconds = time.perf_counter() - started
    marks = (LOST,) if touched else (SURVIVED, *([DETECTED] if refused else []))
    return Outcome(KIND, number, what, 1, marks, tuple(problems), seconds, tuple(printed))


def outside(case: Path) -> dict[str, str]:
    """Digests of everything in the case's folder that commands on OUT have no business with."""
    found = {}
    for path in sorted(case.rglob("*")):
        name = path.relative_to(case).as_posix()
        if name.split("/")[0] not in _THEIRS and path.is_file():
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def values(rng: random.Random, canary: Path) -> Any:
    """Return a value that does not belong where it is put."""
    copy = f"COPY (SELECT 1 AS a) TO '{canary}'"
    return rng.choice(
        (
            f'x" AS SELECT 1; {copy}; CREATE OR REPLACE VIEW "y',
            f"x' ; {copy}; --",
            f"x$$; {copy}; SELECT $$",
            f"'); {copy}; --",
            "../../src",
            f"../{CANARY}",
            str(canary),
            "/etc/passwd",
            "a/b",
            "..",
            "",
            "\x1b]0;x\x07\u202e",
            "\x00",
            "x" * 1_000_000,
            10**400,
            -1,
            2**63,
            1e308,
            float("nan"),
            float("inf"),
            True,
            None,
            [],
            {},
            [[[[]]]],
            {"a": {"b": {"c": 1}}},
            ["x"] * 1000,
        )
    )


def _places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON value, as keys from the top."""
    yield at
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _places(item, (*at, key))
    elif isinstance(value, list):
        for position, item in enumerate(value):
            yield from _places(item, (*at, position))


def _json(case: Path, rng: random.Random, only: str = "*.json*") -> str:
    """Put a hostile value, or a hostile key, anywhere in a JSON file."""
    path = rng.choice([p for p in sorted((case / "out").rglob(only)) if _is_filled(p)])
    name = path.relative_to(case)
    lines = path.read_bytes().splitlines() if path.suffix == ".jsonl" else [path.read_bytes()]
    line = rng.randrange(len(lines))
    root = [json.loads(lines[line])]
    place = (0, *rng.choice(list(_places(root[0]))))
    parent: Any = root
    for key in place[:-1]:
        parent = parent[key]
    value = values(rng, case / CANARY)
    how = rng.randrange(4)
    if how == 0 and isinstance(parent, dict):
        text = value if isinstance(value, str) else str(value)
        parent[text] = parent.pop(place[-1])
        what = f"key {place[1:]} of {name} is now {text[:60]!r}"
    elif how == 1 and isinstance(parent, dict):
        del parent[place[-1]]
        what = f"key {place[1:]} of {name} is gone"
    else:
        parent[place[-1]] = value
        what = f"value {place[1:]} of {name} is now {ascii(value)[:60]}"
    text = json.dumps(root[0])
    if rng.random() < 0.05:
        text = "[" * 100_000
        what = f"{name} is nested 100,000 deep"
    lines[line] = text.encode()
    path.write_bytes(b"\n".join(lines))
    return what


def _is_filled(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def _manifest(case: Path, rng: random.Random) -> str:
    """The same of `dataset.json`, which everything begins with."""
    return _json(case, rng, "dataset.json")


def _footer(case: Path, rng: random.Random) -> str:
    """Put a hostile value into a Parquet footer."""
    path = rng.choice(sorted((case / "out").rglob("*.parquet")))
    table = pq.read_table(path, partitioning=None)
    metadata = dict(table.schema.metadata or {})
    key = rng.choice(sorted(metadata) or [b"clipsieve.rows"])
    value = values(rng, case / CANARY)
    text = value if isinstance(value, str) and rng.random() < 0.7 else json.dumps(value)
    metadata[key] = rng.choice((text.encode(), b"\xff\xfe", b"{", b"[" * 100_000))
    pq.write_table(table.replace_schema_metadata(metadata), path, write_page_checksum=True)
    return f"{key.decode()} in the footer of {path.relative_to(case)}: {metadata[key][:60]!r}"


def _column(case: Path, rng: random.Random) -> str:
    """Put hostile values, another type, or other rows into a table."""
    path = rng.choice(sorted((case / "out").rglob("*.parquet")))
    table = pq.read_table(path, partitioning=None)
    at = rng.randrange(table.num_columns)
    name = table.column_names[at]
    text = str(values(rng, case / CANARY))[:2000]
    fills: tuple[Any, ...] = (text, 7, 0.5, None, b"\xff", [text], {"a": 1}, float("nan"))
    column = pa.array([rng.choice(fills)] * table.num_rows)
    how = rng.randrange(4)
    if how == 0:
        table = table.drop_columns([name])
    elif how == 1:
        table = pa.concat_tables([table, table])
    elif how == 2:
        table = table.rename_columns([text if c == name else c for c in table.column_names])
    else:
        table = table.set_column(at, name, column)
    pq.write_table(table, path, write_page_checksum=True)
    changes = ("gone", "with all rows twice", f"called {text[:50]!r}", f"of type {column.type}")
    return f"{name} of {path.relative_to(case)} is {changes[how]}"


def _arrays(case: Path, rng: random.Random) -> str:
    """Replace an array file by pickles, huge claims, other shapes."""
    path = rng.choice(sorted((case / "out").rglob("*.npz")))
    with np.load(path, allow_pickle=False) as found:
        arrays: dict[str, Any] = {name: found[name] for name in found.files}
    name = rng.choice(sorted(arrays))
    how = rng.choice(("pickle", "pickled array", "shape", "nan", "claim", "mutated", "missing"))
    if how == "pickle":
        path.write_bytes(pickle.dumps(Payload(case / CANARY)))
    elif how == "mutated":
        path.write_bytes(mutate.mutate(path.read_bytes(), rng))
    elif how == "claim":
        header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1099511627776, 8), }"
        header = header.ljust(117) + b"\n"
        array = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
        import zipfile

        with zipfile.ZipFile(path, "w") as archive:
            for each in arrays:
                archive.writestr(f"{each}.npy", array)
    else:
        if how == "pickled array":
            arrays[name] = np.array([Payload(case / CANARY)], dtype=object)
        elif how == "shape":
            arrays[name] = np.zeros((3, 5, 7))
        elif how == "nan":
            arrays[name] = np.full_like(np.asarray(arrays[name], np.float64), np.nan)
        else:
            del arrays[name]
        file = io.BytesIO()
        np.savez(file, allow_pickle=True, **arrays)
        path.write_bytes(file.getvalue())
    return f"{name} of {path.relative_to(case)}: {how}"


def _sql(case: Path, rng: random.Random) -> str:
    """Write statements into the files of SQL, which are for people and other programs."""
    path = rng.choice(sorted((case / "out" / "sql").glob("*.sql")))
    text = f"COPY (SELECT 1 AS a) TO '{case / CANARY}';\n"
    path.write_text(text + path.read_text() if rng.random() < 0.5 else text)
    return f"COPY in {path.relative_to(case)}"


def _links(case: Path, rng: random.Random) -> str:
    """Replace a file or folder by a link to something outside."""
    valuables = case / "valuables"
    (valuables / "build=0").mkdir(parents=True)
    (valuables / "build=0" / "thesis.parquet").write_text("x")
    (valuables / f"thesis.tmp-{'0' * 32}").write_text("x")
    (valuables / "thesis.json").write_text("{}")
    # History behind a linked `_runs` may be moved aside, as docs/reliability.md says.
    paths = sorted(p for p in (case / "out").rglob("*") if p.name not in (".lock", "_runs"))
    path = rng.choice(paths)
    name = path.relative_to(case)
    if path.is_dir():
        shutil.rmtree(path)
        target = valuables
    else:
        path.unlink()
        target = rng.choice((valuables / "thesis.json", Path("/etc/hostname"), case / "missing"))
    os.symlink(target, path)
    return f"{name} is a link to {target.name}"


def _weights(case: Path, rng: random.Random) -> tuple[str, tuple[tuple[str, ...], ...]]:
    """Make a model folder that is not what it says; the command that asks for it."""
    import torch
    from safetensors.torch import load_file, save_file

    folder = case / "model"
    shutil.copytree(TINY, folder)
    weights, config = folder / "open_clip_model.safetensors", folder / "open_clip_config.json"
    settings: dict[str, Any] = json.loads(config.read_text())
    how = rng.choice(
        (
            "pickle",
            "torch pickle",
            "nan",
            "mutated",
            "shapes",
            "huge",
            "tokenizer",
            "json",
            "config",
        )
    )
    model = settings["model_cfg"]
    if how == "pickle":
        weights.write_bytes(pickle.dumps(Payload(case / CANARY)))
        if rng.random() < 0.5:
            weights.rename(folder / "open_clip_pytorch_model.bin")
    elif how == "torch pickle":
        file = io.BytesIO()
        torch.save({"state_dict": Payload(case / CANARY)}, file)
        weights.write_bytes(file.getvalue())
    elif how == "nan":
        tensors = load_file(weights)
        for tensor in tensors.values():
            if tensor.is_floating_point():
                tensor.fill_(rng.choice((float("nan"), float("inf"))))
        save_file(tensors, weights)
    elif how == "mutated":
        data = bytearray(weights.read_bytes())
        data[: 1 << 12] = mutate.mutate(bytes(data[: 1 << 12]), rng)
        data[0] ^= 1
        weights.write_bytes(data)
    elif how == "shapes":
        model["embed_dim"] = rng.choice((64, 127, 256, 0, -1, "128", None, 1.5))
    elif how == "huge":
        model["text_cfg"][rng.choice(("width", "vocab_size", "context_length"))] = 10**9
    elif how == "tokenizer":
        model["text_cfg"]["hf_tokenizer_name"] = "somebody/else"
    elif how == "json":
        config.write_text(rng.choice(("", "[" * 100_000, "null", "[]", '{"model_cfg": 3}')))
    else:
        place = rng.choice([p for p in _places(settings) if len(p) > 1])
        parent: Any = settings
        for key in place[:-1]:
            parent = parent[key]
        parent[place[-1]] = rng.choice(([], {}, "../../x", 10**9, "x" * 1000, None))
    if how in ("shapes", "huge", "tokenizer", "config"):
        config.write_text(json.dumps(settings))
    command = ("embed", "src/*.parquet", "new", "--model", f"local-dir:{folder}", "--device", "cpu")
    return f"weights: {how}", ((*command, "--dtype", "float32"),)


Attack = Callable[[Path, random.Random], str]


def _unused(case: Path, rng: random.Random) -> str:
    raise AssertionError("weights are handled by `run`")


ATTACKS: tuple[Attack, ...] = (
    _unused,
    _manifest,
    _json,
    _footer,
    _column,
    _arrays,
    _manifest,
    _sql,
    _links,
    _json,
)
