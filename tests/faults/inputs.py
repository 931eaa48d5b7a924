"""Embed shards of mutated pictures, Parquet files and tars beside a sound one: no row is lost."""

import random
import re
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.faults import bombs, pages, pictures, tars
from tests.faults.lab import Lab
from tests.faults.outcome import LOST, SURVIVED, Outcome

KIND = "inputs"
#: Pictures of a case of them, and files of a case of files.
PICTURES, FILES = 2000, 16
#: One case in so many is a bomb.
BOMBS_EVERY = 20
#: Memory that a command may take beyond what it has mapped when it starts; and may have used.
ROOM, PEAK = 2 << 30, 3 << 30
_SOUND = "zz-sound"
_EMBED = ("--model", "tiny", "--device", "cpu", "--dtype", "float32", "--run-id", "fixed")
_DONE = re.compile(r"done: ([\d,]+) of ([\d,]+) shards")
_FAILED = re.compile(r"failed: ([\d,]+) shards?")


def run(lab: Lab, number: int, count: int = PICTURES) -> Outcome:
    """Do one case; `count` pictures if it is of pictures."""
    started = time.perf_counter()
    rng = random.Random(f"{KIND}:{number}")
    source = lab.fresh() / "src"
    source.mkdir()
    details: dict[str, object] = {"timeout": 300.0}
    if number % BOMBS_EVERY == BOMBS_EVERY - 1:
        details["limits"] = {"AS": ROOM}
        what, faults, suffix = _bomb(source, rng, number // BOMBS_EVERY)
    else:
        what, faults, suffix = MAKERS[number % len(MAKERS)](source, rng, count)
    sound = source / f"{_SOUND}{suffix}"
    _write_sound(sound)
    embed = lab.run(("embed", f"src/*{suffix}*", "out", *_EMBED), **details)
    problems = embed.problems((0, 3))
    if embed.peak > PEAK:
        problems.append(f"took {embed.peak >> 20} MiB of memory")
    status = lab.run(("status", "out"))
    problems += [f"status: {line}" for line in status.problems((0,))]
    reconciled = lab.run(("reconcile", "out"))
    problems += [f"reconcile: {line}" for line in reconciled.problems((0, 1))]
    lost = account(lab.case, status.text, len(list(source.iterdir())))
    lost += check_sound(lab.case / "out" / "samples" / f"{_SOUND}.parquet", suffix)
    if suffix == ".parquet" and what.startswith("pictures"):
        lost += _check_rows(lab.case, count)
    seconds = time.perf_counter() - started
    marks = (LOST,) if lost else (SURVIVED,)
    texts = (embed.text, status.text, reconciled.text)
    return Outcome(KIND, number, what, faults, marks, (*problems, *lost), seconds, texts)


def account(case: Path, status: str, shards: int) -> list[str]:
    """What is wrong with the sums: every shard is done, or failed with a reason."""
    done, failed = _DONE.search(status), _FAILED.search(status)
    if done is None or failed is None:
        return ["status does not say what is done and failed"]
    finished, planned, broken = (
        int(text.replace(",", "")) for text in (*done.groups(), failed.group(1))
    )
    if planned != shards or finished + broken != planned:
        return [f"{shards} shards, {planned} planned, {finished} done and {broken} failed"]
    return []


def check_sound(ledger: Path, suffix: str) -> list[str]:
    """What is wrong with the ledger of the sound shard."""
    if not ledger.exists():
        return ["the sound shard beside them was not done"]
    table = pq.read_table(ledger, columns=["status"])
    states = set(table["status"].to_pylist())
    if table.num_rows != 8 or states != {"ok"}:
        return [f"the sound shard has {table.num_rows} rows of {sorted(states)}"]
    return []


def _check_rows(case: Path, count: int) -> list[str]:
    ledger = case / "out" / "samples" / "mutated.parquet"
    if not ledger.exists():
        return ["the shard of mutated pictures was not done"]
    uids = pq.read_table(ledger, columns=["uid"])["uid"].to_pylist()
    expected = [f"u{row}" for row in range(count)]
    return [] if uids == expected else [f"{len(uids)} rows of {count}, or another order"]


def _pictures(source: Path, rng: random.Random, count: int) -> tuple[str, int, str]:
    table = pa.table(
        {
            "uid": [f"u{row}" for row in range(count)],
            "jpg": pa.array([pictures.mutated(rng) for _ in range(count)], pa.binary()),
            "caption": [f"picture {row % 50}" for row in range(count)],
        }
    )
    pq.write_table(table, source / "mutated.parquet", row_group_size=100)
    return f"pictures: {count} mutated", count, ".parquet"


def _parquet(source: Path, rng: random.Random, count: int) -> tuple[str, int, str]:
    ways = []
    for at in range(FILES):
        way, data = pages.mutated(rng)
        (source / f"{at:05}.parquet").write_bytes(data)
        ways.append(way)
    return f"Parquet files: {', '.join(sorted(set(ways)))}", FILES, ".parquet"


def _tars(source: Path, rng: random.Random, count: int) -> tuple[str, int, str]:
    ways = []
    for at in range(FILES):
        way, suffix, data = tars.mutated(rng)
        (source / f"{at:05}{suffix}").write_bytes(data)
        ways.append(way)
    return f"tars: {', '.join(sorted(set(ways)))}", FILES, ".tar"


def _bomb(source: Path, rng: random.Random, number: int) -> tuple[str, int, str]:
    make = bombs.ALL[number % len(bombs.ALL)]
    make(source / "bomb", rng)
    suffix = ".parquet" if (source / "bomb.parquet").exists() else ".tar"
    return f"bomb: {make.__name__}", 1, suffix


def _write_sound(path: Path) -> None:
    """Write eight sound rows."""
    sound = [pictures.sound()[0]] * 8
    if path.suffix == ".parquet":
        table = pa.table({"uid": [f"s{n}" for n in range(8)], "jpg": sound, "caption": ["a"] * 8})
        pq.write_table(table, path)
        return
    import tarfile

    with tarfile.open(path, "w") as tar:
        for key, picture in enumerate(sound):
            tars.add(tar, f"{key:06}.jpg", picture)
            tars.add(tar, f"{key:06}.txt", b"a red square")


Maker = Callable[[Path, random.Random, int], tuple[str, int, str]]
MAKERS: tuple[Maker, ...] = (_pictures, _parquet, _pictures, _tars)
