"""A small dataset, and the folder as it is before and after each command, ready to be copied."""

import hashlib
import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from clipsieve.demo.shards import write_shards
from tests.faults import contents
from tests.faults.machine import Command, Ended, Machine

SHARDS, ROWS = 3, 36
_MODEL = ("--model", "tiny", "--device", "cpu", "--dtype", "float32", "--run-id", "fixed")
_SCORERS = ("--scorers", "clip,density,duplicates.embedding,ood.class,ood.msp")
RUN = ("run", "src/*.parquet", "out", *_MODEL, *_SCORERS)


@dataclass(frozen=True)
class Stage:
    """A command, and the state of the folder that it begins with."""

    name: str
    words: tuple[str, ...]
    after: str
    processes: int = 1


#: Each command after another; `run` is embed, prompts, neighbours, fit, score, audit and compact.
STAGES = (
    Stage("embed", ("embed", "src/*.parquet", "out", *_MODEL), "nothing"),
    Stage("run", RUN, "nothing"),
    Stage("audit", ("audit", "out"), "run"),
    Stage("remove", ("remove", "out", "list.txt"), "audit"),
    Stage(
        "filter",
        ("filter", "out", "--name", "keep", "--where", "top_fraction(clip_score, 0.5)"),
        "remove",
    ),
    Stage("evaluate", ("evaluate", "out", "--bootstrap", "5"), "filter"),
    Stage("export", ("export", "out", "keep", "--format", "tars", "--to", "exp"), "evaluate"),
    Stage("compact", ("compact", "out"), "export"),
    Stage("embed-2", ("embed", "src/*.parquet", "out", *_MODEL, "--workers", "2"), "nothing", 2),
    Stage(
        "score-2",
        ("score", "out", "--device", "cpu", "--run-id", "s", *_SCORERS, "--workers", "2"),
        "embed",
        2,
    ),
)
BY_NAME = {stage.name: stage for stage in STAGES}
#: State with a file of every kind.
FULL = "compact"


@dataclass
class Recording:
    """Operations of one undisturbed command.

    Attributes:
      points: event, name and occurrence in one process, sorted.
      operations: how often each operation of the shim came, of all processes together.
    """

    points: list[tuple[str, str, int]] = field(default_factory=list)
    operations: dict[str, int] = field(default_factory=dict)


def draw(points: Sequence[tuple[str, str, int]], key: str) -> tuple[str, str, int]:
    """Return a point for a key, all alike; another recording with a point more draws the same.

    >>> draw([("open:w", "a", 0)], "kills:3")
    ('open:w', 'a', 0)
    """
    return min(points, key=lambda point: hashlib.sha256(f"{key}:{point}".encode()).digest())


class Lab:
    """One place to try cases in, one after the other.

    `case` is the current folder of every command and always the same path: output folders record
    where their inputs are.
    """

    def __init__(self, folder: Path, log: Callable[[str], None] = lambda line: None) -> None:
        """Start a fork server and make the dataset; states are made when first asked for."""
        self.folder = folder
        self.case = folder / "case"
        self.machine = Machine(folder / "machine")
        self._log = log
        self._expected: dict[str, dict[str, str]] = {}
        self._recordings: dict[str, Recording] = {}
        shutil.rmtree(folder / "states", ignore_errors=True)
        self._clear()
        write_shards(self.case / "src", ROWS, SHARDS, 0)
        self._save("nothing")

    def close(self) -> None:
        """End the fork server."""
        self.machine.close()

    def run(self, words: Sequence[str | bytes | Path], **details: object) -> Ended:
        """Run a command in the case's folder."""
        return self.machine.run(Command(words, self.case, **details))  # type: ignore[arg-type]

    def restore(self, state: str) -> Path:
        """Make the case's folder as it is in `state`; that folder."""
        self.expected(state)
        self._clear()
        shutil.copytree(self.folder / "states" / state, self.case, dirs_exist_ok=True)
        return self.case

    def fresh(self) -> Path:
        """Make the case's folder empty; that folder."""
        self._clear()
        return self.case

    def expected(self, state: str) -> dict[str, str]:
        """What the folder says in `state`: after the command of that name."""
        if state == "nothing":
            return {}
        if state not in self._expected:
            self._make(BY_NAME[state])
        return self._expected[state]

    def recording(self, stage: str) -> Recording:
        """Operations of the undisturbed command."""
        self.expected(stage)
        return self._recordings[stage]

    def differences(self, state: str) -> list[str]:
        """How the case's folder differs from `state`, temporary files too."""
        wrong = contents.differences(self.expected(state), contents.contents(self.case))
        return wrong + contents.leftovers(self.case / "out")

    def _make(self, stage: Stage) -> None:
        started = time.perf_counter()
        self.restore(stage.after)
        if stage.name == "run" and not (self.folder / "machine" / "cache").exists():
            self.run(stage.words)  # prompts are encoded once on a machine
            self.restore(stage.after)
        if stage.name == "remove":
            self._write_removal_list()
        logs = self.folder / "events.log", self.folder / "operations.log"
        for log in logs:
            log.unlink(missing_ok=True)
        ended = self.run(
            stage.words,
            fault={"root": str(self.case), "log": str(logs[0])},
            shim={"root": str(self.case), "log": str(logs[1])},
            timeout=300.0,
        )
        if ended.code:
            raise RuntimeError(f"{' '.join(stage.words)} ends with {ended.code}: {ended.text}")
        self._save(stage.name)
        self._expected[stage.name] = contents.contents(self.case)
        self._recordings[stage.name] = _recording(*logs)
        seconds = time.perf_counter() - started
        self._log(
            f"{stage.name}: {len(self._recordings[stage.name].points)} points, {seconds:.1f} s"
        )

    def _write_removal_list(self) -> None:
        query = "SELECT uid FROM scores WHERE status = 'ok' ORDER BY uid LIMIT 2"
        answer = self.run(("sql", "out", query, "--format", "json"))
        uids = [json.loads(line)["uid"] for line in answer.out.splitlines()]
        (self.case / "list.txt").write_text("".join(f"{uid}\n" for uid in uids))
        # A list is known by its content; states after this one have the file.

    def _save(self, state: str) -> None:
        target = self.folder / "states" / state
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(self.case, target)

    def _clear(self) -> None:
        if self.case.exists():
            shutil.rmtree(self.case)
        self.case.mkdir(parents=True)


def _recording(events: Path, operations: Path) -> Recording:
    """Read what the hook and the shim have logged; occurrences are counted by process."""
    counts = Counter(events.read_text(errors="surrogateescape").splitlines())
    points: dict[tuple[str, str], int] = {}
    for line, count in counts.items():
        _, event, name = line.split(" ", 2)
        points[event, name] = max(count, points.get((event, name), 0))
    recording = Recording([(*point, at) for point, n in sorted(points.items()) for at in range(n)])
    if operations.exists():
        recording.operations.update(Counter(operations.read_text().splitlines()))
    return recording
