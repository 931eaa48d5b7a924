"""Kill or stop a command at a named operation, run it again, compare with an undisturbed one."""

import random
import re
import shutil
import signal
import time

from tests.faults.contents import leftovers, lost
from tests.faults.lab import BY_NAME, RUN, STAGES, Lab, Stage, draw
from tests.faults.outcome import LOST, REPAIRED, SURVIVED, Outcome

KIND = "kills"
#: Operations that change something; a kill before one leaves what a kill at any time can leave.
CHANGING = ("open:w", "os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree")
ACTIONS = ("kill-all", "kill", "term", "int", "kill-write")
#: One case in so many has two worker processes: each of their commands takes half a minute.
TWO_WORKERS_EVERY = 40
#: A worker that is stopped (SIGSTOP) is killed by the watchdog, and the command ends well.
#: What a stopped or killed command may end with; 0 if the point is in a worker or at the very end.
_CODES = {
    "kill-all": (-signal.SIGKILL, 0),
    "kill": (-signal.SIGKILL, 0),
    "kill-write": (-signal.SIGKILL, 0),
    "term": (143, -signal.SIGTERM, 0),
    "int": (130, -signal.SIGINT, 0),
    "stop": (0,),
}


def stages(processes: int) -> list[Stage]:
    """Commands with that many worker processes."""
    return [stage for stage in STAGES if stage.processes == processes]


def points(lab: Lab, stage: Stage) -> list[tuple[str, str, int]]:
    """Crash points of a command."""
    return [point for point in lab.recording(stage.name).points if point[0] in CHANGING]


def choose(lab: Lab, number: int, only: str | None = None) -> tuple[Stage, str, dict[str, object]]:
    """Stage, action and fault of a case; all points of a stage are drawn alike."""
    rng = random.Random(f"{KIND}:{number}")
    slow = number % TWO_WORKERS_EVERY == TWO_WORKERS_EVERY - 1
    choices = stages(2 if slow else 1)
    at = number // TWO_WORKERS_EVERY if slow else number
    stage = BY_NAME[only] if only else choices[at % len(choices)]
    action = rng.choice((*ACTIONS, "stop", "stop") if stage.processes > 1 else ACTIONS)
    if action == "kill-write" and lab.machine.shim is None:
        action = "kill"
    if action == "kill-write":
        operation = rng.choice(("write", "write", "fsync", "rename"))
        count = max(1, lab.recording(stage.name).operations.get(operation, 1))
        at = int(rng.random() * count)
        return stage, action, {"op": operation, "at": at, "action": "kill"}
    choices_of_points = points(lab, stage)
    if action == "stop":  # these are written by workers
        choices_of_points = [p for p in choices_of_points if re.match(r"out/(emb|sam|sco)", p[1])]
    event, name, at = draw(choices_of_points, f"{KIND}:{number}")
    return stage, action, {"event": event, "name": name, "at": at, "action": action}


def run(lab: Lab, number: int) -> Outcome:
    """Do one case."""
    started = time.perf_counter()
    stage, action, fault = choose(lab, number)
    lab.expected(stage.name)
    case = lab.restore(stage.after)
    if stage.name == "remove":
        shutil.copy(lab.folder / "states" / "remove" / "list.txt", case)
    once = case / "fault-done"
    fault = {**fault, "root": str(case), "once": str(once)}
    shim = action == "kill-write"
    # On a busy machine the imports of several pairs of workers take minutes.
    timeout = 600.0 if stage.processes > 1 else 120.0
    stall = ("--stall", "20s") if action == "stop" else ()
    first = lab.run(
        (*stage.words, *stall),
        fault=None if shim else fault,
        shim=fault if shim else None,
        patience=20.0,
        timeout=600.0
        if stage.processes > 1
        else 120.0,  # workers import for long on a busy machine
    )
    problems = first.problems(_CODES[action])
    happened = once.exists()
    once.unlink(missing_ok=True)
    if first.orphans:
        problems.append(f"{first.orphans} processes outlived the command by 20 s")
    second = lab.run(stage.words, timeout=timeout)
    problems += [f"run again: {line}" for line in second.problems((0,))]
    reconciled = lab.run(("reconcile", "out"))
    problems += [f"reconcile: {line}" for line in reconciled.problems((0,))]
    different = lab.differences(stage.name)
    if leftovers(lab.case / "out"):  # swept by the next run, as is promised, not by every command
        lab.run(RUN)
        left = leftovers(lab.case / "out")
        different = [line for line in different if not line.endswith("was left")] + left
    problems += different
    where = f"{fault.get('event', fault.get('op'))} {fault.get('name', '')}#{fault['at']}"
    marks = (LOST,) if lost(different) else (SURVIVED, *([REPAIRED] if happened else []))
    return Outcome(
        KIND,
        number,
        f"{action} before {where} in {stage.name}" + ("" if happened else " (not reached)"),
        int(happened),
        marks,
        tuple(problems),
        time.perf_counter() - started,
        (first.text, second.text, reconciled.text),
    )
