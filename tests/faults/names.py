"""Shards and folders of hostile names: done, or refused in one line; nothing raw, nothing twice."""

import os
import random
import shutil
import time
from pathlib import Path

from tests.faults.inputs import _write_sound
from tests.faults.lab import Lab
from tests.faults.outcome import LOST, SURVIVED, Outcome
from tests.faults.terminal import check_output
from tests.faults.texts import file_name

KIND = "names"
_EMBED = ("--model", "tiny", "--device", "cpu", "--dtype", "float32", "--scorers", "clip")
OUT_NAMES = ("out", "out", "o,u t", "o'u\"t", "out[1]*", "出力", "-out", "o=ut", "#out", "o%20ut")


def run(lab: Lab, number: int) -> Outcome:
    """Do one case."""
    started = time.perf_counter()
    rng = random.Random(f"{KIND}:{number}")
    case = lab.fresh()
    source = case / "src"
    source.mkdir()
    folder = os.fsencode(source)
    if rng.random() < 0.3:  # deep: no component is long, the path is
        for _ in range(rng.randrange(2, 8)):
            folder = os.path.join(folder, file_name(rng, "")[:100] or b"d")
    os.makedirs(folder, exist_ok=True)
    suffix = rng.choice((".parquet", ".parquet", ".tar"))
    sound = case / f"sound{suffix}"
    _write_sound(sound)
    paths = {os.path.join(folder, file_name(rng, suffix)) for _ in range(rng.randrange(1, 4))}
    paths.add(os.path.join(os.fsencode(source), b"plain" + suffix.encode()))
    for path in paths:
        shutil.copy(os.fsencode(sound), path)
    out = rng.choice(OUT_NAMES)
    target = f"./{out}"
    problems: list[str] = []
    lost: list[str] = []
    texts: list[str] = []
    inputs: tuple[bytes | str, ...] = tuple(sorted(paths)) if rng.random() < 0.5 else ("src",)
    words = ("run", *inputs, target, *_EMBED)
    first = lab.run(words)
    problems += first.problems((0, 2, 3)) + check_output(first)
    texts.append(first.text)
    if first.code in (0, 3):
        again = lab.run(words)
        problems += [f"run again: {line}" for line in again.problems((first.code,))]
        problems += check_output(again)
        if first.code == 0 and "0 shards to do" not in again.text:
            problems.append("the second run did shards again")
        texts.append(again.text)
        for command in (("status", target), ("reconcile", target)):
            ended = lab.run(command)
            problems += [f"{command[0]}: {line}" for line in ended.problems((0, 1))]
            problems += check_output(ended)
            texts.append(ended.text)
        query = "SELECT count(*) AS rows, count(DISTINCT shard) AS shards FROM samples"
        counted = lab.run(("sql", target, query, "--format", "csv"))
        problems += [f"sql: {line}" for line in counted.problems((0,))]
        texts.append(counted.text)
        read = [path for path in paths if inputs != ("src",) or _is_listed(source, path)]
        expected = f"{8 * len(read)},{len(read)}".encode()
        if first.code == 0 and counted.code == 0 and expected not in counted.out:
            lost.append(f"{counted.out.decode(errors='replace').split()} for {expected.decode()}")
    elif not first.last_line.startswith(("clipsieve: ", "Error: ")):
        problems.append(f"unexplained exit code {first.code}: {first.last_line[:200]}")
    names = " ".join(ascii(os.path.relpath(os.fsdecode(p), source))[:60] for p in sorted(paths))
    marks = (LOST,) if lost else (SURVIVED,)
    seconds = time.perf_counter() - started
    what = f"names {names} into {out}"
    return Outcome(KIND, number, what, len(paths), marks, (*problems, *lost), seconds, tuple(texts))


def _is_listed(source: Path, path: bytes) -> bool:
    """Whether a folder that is given as input holds a file: hidden ones and `_x` are left out."""
    parts = os.path.relpath(path, os.fsencode(source)).split(b"/")
    return not any(part.startswith((b".", b"_")) for part in parts)
