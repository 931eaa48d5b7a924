"""Let storage fail under a command: full, broken, read-only, gone; then run again with room."""

import ctypes
import os
import random
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.contents import lost
from tests.faults.kills import stages
from tests.faults.lab import Lab, Stage, draw
from tests.faults.machine import Ended
from tests.faults.outcome import LOST, REPAIRED, SURVIVED, Outcome

KIND = "storage"
ERRORS = ("ENOSPC", "EDQUOT", "EIO", "EACCES", "EROFS", "EFBIG")
NUMBERS = {"ENOSPC": 28, "EDQUOT": 122, "EIO": 5, "EACCES": 13, "EROFS": 30, "EMFILE": 24}
NOBODY = 65534
libc = ctypes.CDLL(None, use_errno=True)


@dataclass
class Trouble:
    """What goes wrong, how the command is run for it, and what puts it right again.

    Attributes:
      what: in words.
      details: for `Lab.run`.
      mend: called when the command has ended.
      lasting: what the user did cannot be put right: the folder is gone.
    """

    what: str
    details: dict[str, Any] = field(default_factory=dict)
    mend: Callable[[], object] = lambda: None
    lasting: bool = False


def run(lab: Lab, number: int) -> Outcome:
    """Do one case."""
    started = time.perf_counter()
    rng = random.Random(f"{KIND}:{number}")
    choices = stages(1)
    stage = choices[rng.randrange(len(choices))]
    lab.expected(stage.name)
    case = lab.restore(stage.after)
    if stage.name == "remove":
        shutil.copy(lab.folder / "states" / "remove" / "list.txt", case)
    makers = TROUBLES if lab.machine.shim is not None else TROUBLES_WITHOUT_SHIM
    trouble = makers[number % len(makers)](lab, stage, rng)
    try:
        first = lab.run(stage.words, **trouble.details)
    finally:
        trouble.mend()
    problems = check(first)
    texts = [first.text]
    different: list[str] = []
    if not trouble.lasting:
        second = lab.run(stage.words)
        problems += [f"run again: {line}" for line in second.problems((0,))]
        reconciled = lab.run(("reconcile", "out"))
        problems += [f"reconcile: {line}" for line in reconciled.problems((0,))]
        different = lab.differences(stage.name)
        problems += different
        texts += [second.text, reconciled.text]
    marks = (LOST,) if lost(different) else (SURVIVED, *([REPAIRED] if first.code else []))
    return Outcome(
        KIND,
        number,
        f"{trouble.what} in {stage.name}",
        1,
        marks,
        tuple(problems),
        time.perf_counter() - started,
        tuple(texts),
    )


def check(ended: Ended) -> list[str]:
    """What is wrong with how a command ended: one line that says what and where is wanted."""
    problems = ended.problems((0, 1, 2))
    if ended.code and not problems and not ended.last_line.startswith(("clipsieve: ", "Error: ")):
        problems.append(f"unexplained exit code {ended.code}: {ended.last_line[:200]}")
    return problems


def _at_a_point(lab: Lab, stage: Stage, rng: random.Random) -> Trouble:
    """An error of one operation that Python does, once or from then on."""
    event, name, at = draw(lab.recording(stage.name).points, f"{KIND}:{rng.random()}")
    error = rng.choice(ERRORS)
    always = rng.random() < 0.5
    fault = {"root": str(lab.case), "event": event, "name": name, "at": at, "action": error}
    words = f"{error} at {event} {name}#{at}{' and after' if always else ''}"
    return Trouble(words, {"fault": {**fault, "always": always}})


def _in_native_code(lab: Lab, stage: Stage, rng: random.Random) -> Trouble:
    """An error of any operation, of native libraries too."""
    counts = lab.recording(stage.name).operations
    operation = rng.choice(sorted(counts))
    error = rng.choice(sorted(NUMBERS))
    at = int(rng.random() * counts[operation])
    shim = {"root": str(lab.case), "op": operation, "at": at, "action": NUMBERS[error]}
    if always := rng.random() < 0.5:
        shim["always"] = 1
    return Trouble(f"{error} at {operation} {at}{' and after' if always else ''}", {"shim": shim})


def _full_disk(lab: Lab, stage: Stage, rng: random.Random) -> Trouble:
    """No byte more after some write, the last of them cut short."""
    count = lab.recording(stage.name).operations.get("write", 1)
    at = int(rng.random() * count)
    shim = {"root": str(lab.case), "op": "write", "at": at, "action": "short", "always": 1}
    return Trouble(f"disk full at write {at}, in the middle of it", {"shim": shim})


def _file_limit(lab: Lab, stage: Stage, rng: random.Random) -> Trouble:
    """RLIMIT_FSIZE of 1 kB to 64 kB."""
    size = int(2 ** rng.uniform(10, 16))
    return Trouble(f"RLIMIT_FSIZE {size}", {"limits": {"FSIZE": size}})


def _small_file_system(lab: Lab, stage: Stage, rng: random.Random) -> Trouble:
    """OUT is on a tmpfs with little room left; a limit on files where nothing can be mounted."""
    out, aside = lab.case / "out", lab.case / "aside"
    out.mkdir(exist_ok=True)
    room = int(2 ** rng.uniform(12, 20))
    used = sum(4096 + (p.stat().st_size + 4095) // 4096 * 4096 for p in out.rglob("*"))
    shutil.move(out, aside)
    out.mkdir()
    if libc.mount(b"tmpfs", os.fsencode(out), b"tmpfs", 0, f"size={used + room}".encode()):
        out.rmdir()
        shutil.move(aside, out)
        return _file_limit(lab, stage, rng)
    shutil.copytree(aside, out, dirs_exist_ok=True)
    shutil.rmtree(aside)

    def mend() -> None:
        shutil.copytree(out, aside)
        if libc.umount2(os.fsencode(out), 2):
            raise OSError(ctypes.get_errno(), f"umount {out}")
        out.rmdir()
        shutil.move(aside, out)

    return Trouble(f"tmpfs with {room} bytes of room", mend=mend)


def _permissions(lab: Lab, stage: Stage, rng: random.Random) -> Trouble:
    """Another user's folder or file: unreadable, or not to be written."""
    if os.getuid():
        return _file_limit(lab, stage, rng)
    case = lab.case
    for path in (case, *case.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    for path in (lab.folder / "machine", *(lab.folder / "machine").rglob("*")):
        path.chmod(0o777)
    out = case / "out"
    paths = [case, *sorted(out.rglob("*"))] if out.exists() else [case, case / "src"]
    folders = [path for path in paths if path.is_dir()]
    target = rng.choice(paths if rng.random() < 0.5 else folders)
    mode = rng.choice((0o555, 0o000, 0o444))
    was = target.stat().st_mode & 0o777
    target.chmod(mode)

    def mend() -> None:
        target.chmod(was)

    name = target.relative_to(case)
    return Trouble(f"mode {mode:03o} of {name} for another user", {"user": NOBODY}, mend)


def _moved(lab: Lab, stage: Stage, rng: random.Random) -> Trouble:
    """OUT is renamed or removed while the command runs."""
    points = [p for p in lab.recording(stage.name).points if p[1].startswith("out/")]
    event, name, at = draw(points, f"{KIND}:{rng.random()}")
    action = rng.choice(("rename-root", "remove-root"))
    fault = {
        "root": str(lab.case),
        "target": "out",
        "event": event,
        "name": name,
        "at": at,
        "action": action,
    }
    out, renamed = lab.case / "out", lab.case / "out-renamed"

    def mend() -> None:
        if renamed.exists():
            shutil.rmtree(out, ignore_errors=True)
            renamed.rename(out)

    gone = action == "remove-root" and stage.after != "nothing"
    return Trouble(f"{action} at {event} {name}#{at}", {"fault": fault}, mend, lasting=gone)


Maker = Callable[[Lab, Stage, random.Random], Trouble]
TROUBLES_WITHOUT_SHIM: tuple[Maker, ...] = (
    _at_a_point,
    _small_file_system,
    _permissions,
    _file_limit,
    _moved,
)
TROUBLES: tuple[Maker, ...] = (*TROUBLES_WITHOUT_SHIM, _in_native_code, _full_disk)


def unmount_all(folder: Path) -> None:
    """Unmount what an interrupted case has left mounted."""
    while not libc.umount2(os.fsencode(folder / "case" / "out"), 2):
        pass
