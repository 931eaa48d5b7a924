"""Damage one file of a finished folder: `reconcile` names it, the next run makes it again."""

import os
import random
import time
from pathlib import Path

from tests.faults.contents import lost
from tests.faults.lab import BY_NAME, FULL, RUN, Lab
from tests.faults.outcome import DETECTED, LOST, REPAIRED, SURVIVED, Outcome

KIND = "rot"
DAMAGES = ("bit", "bit", "bit", "footer bit", "tail bit", "zeroed", "cut", "emptied")
#: Kinds of files that another command than `run` makes.
MAKERS = {
    "audits": "audit",
    "subsets": "filter",
    "removals": "remove",
    "metrics": "evaluate",
    "exp": "export",
}
#: One case in so many has lost what is below the damaged file too.
WITHOUT_SOURCE_EVERY = 9
_UNSEALED = (".lock", ".lock-holder")


def files(folder: Path) -> dict[str, list[str]]:
    """Names of all files of an output folder by kind, which is the first part of the name."""
    kinds: dict[str, list[str]] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.stat().st_size):
        name = path.relative_to(folder).as_posix()
        if name not in _UNSEALED:
            kinds.setdefault(name.split("/")[0], []).append(name)
    return kinds


def damage(path: Path, how: str, rng: random.Random) -> str:
    """Damage a file, in some cases without a trace in its time, and say what was done."""
    data = bytearray(path.read_bytes())
    size = len(data)
    if how == "emptied":
        data.clear()
    elif how == "cut":
        del data[rng.randrange(1, size) if size > 1 else 0 :]
    elif how == "zeroed":
        start = rng.randrange(size) // 512 * 512
        block = data[start : start + 512]
        if not any(block):
            return damage(path, "bit", rng)
        data[start : start + len(block)] = bytes(len(block))
    else:
        low = 0
        if path.suffix == ".parquet" and how != "bit" and size > 12:
            footer = int.from_bytes(data[-8:-4], "little")
            low = max(0, size - 8 - footer) if how == "footer bit" else size - 8
        at = rng.randrange(low, size)
        data[at] ^= 1 << rng.randrange(8)
        how = f"bit of byte {at} of {size} flipped"
    times = path.stat()
    path.write_bytes(data)
    if len(data) == size and rng.random() < 0.5:  # as a disk damages it
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        how += ", unseen by its time"
    return how


def run(lab: Lab, number: int) -> Outcome:
    """Do one case."""
    started = time.perf_counter()
    rng = random.Random(f"{KIND}:{number}")
    case = lab.restore(FULL)
    kinds = files(case / "out")
    kind = sorted(kinds)[number % len(kinds)]
    name = rng.choice(kinds[kind])
    how = damage(case / "out" / name, rng.choice(DAMAGES), rng)
    problems: list[str] = []
    marks: list[str] = []

    found = lab.run(("reconcile", "out"))
    problems += found.problems((0, 1, 2) if name == "dataset.json" else (0, 1))
    detected = found.code in (1, 2) and name in found.text
    if detected:
        marks.append(DETECTED)
    else:
        problems.append(f"undetected in {kind}" if not found.code else f"unnamed in {kind}")
    texts = [found.text]
    orphaned = number % WITHOUT_SOURCE_EVERY == 0 and kind in ("samples", "embeddings")
    if orphaned:
        (case / "src" / Path(name).name).unlink()
        without = lab.run(RUN)
        problems += without.problems((0, 1, 2, 3))
        again = lab.run(("reconcile", "out"))
        problems += again.problems((0, 1))
        if name not in without.text + again.text:
            problems.append(f"damaged {kind} without its source are not named")
        marks.append(SURVIVED)
        texts += [without.text, again.text]
    else:
        problems += _repair(lab, kind, name, texts, marks)
    what = f"{how}: {name}" + (", and the source is gone" if orphaned else "")
    seconds = time.perf_counter() - started
    return Outcome(KIND, number, what, 1, tuple(marks), tuple(problems), seconds, tuple(texts))


def _repair(lab: Lab, kind: str, name: str, texts: list[str], marks: list[str]) -> list[str]:
    """Run again, and with it the command whose file it is; what is wrong afterwards."""
    problems: list[str] = []
    said = False
    for words in (RUN, *((BY_NAME[MAKERS[kind]].words,) if kind in MAKERS else ())):
        ended = lab.run(words)
        texts.append(ended.text)
        problems += [f"{words[0]}: {line}" for line in ended.problems((0, 1, 2))]
        said = said or name in ended.text or "damaged" in ended.text
        by_maker = words is RUN and kind in MAKERS and not name.startswith("removals/list/")
        if ended.code and not problems and not by_maker:
            if "clipsieve " in ended.last_line and name in ended.text:
                marks.append(SURVIVED)  # refused, with the command that mends it
                return problems
            problems.append(f"{words[0]} refuses without naming the file and the cure: {kind}")
    if not said and name != "_runs/files.parquet":  # which `reconcile` itself writes again
        problems.append(f"made again in silence, or not: {kind}")
    after = lab.run(("reconcile", "out"))
    texts.append(after.text)
    problems += [f"reconcile after the repair: {line}" for line in after.problems((0,))]
    different = lab.differences(FULL)
    if name.endswith(".shards.jsonl"):  # history, which is moved aside, has a view
        different = [line for line in different if not line.startswith("sql/views.sql")]
    problems += [f"after the repair {line}" for line in different]
    marks.append(LOST if lost(different) else SURVIVED)
    if not different and not after.code:
        marks.append(REPAIRED)
    return problems
