"""Thousands of faults: kills, failing storage, rotten files, mutated inputs, hostile names.

    python benchmarks/faults.py --jobs 2 --results faults.jsonl
    python benchmarks/faults.py --kind rot --cases 100 --minutes 10
    python benchmarks/faults.py --kind kills --case 417

Cases are drawn from their numbers: the last form does one again and prints what was said.  Commands
are `clipsieve`'s own, each in a process forked from one that has everything imported; workers are
started as always.  With --results every outcome is a JSON line of that file, and cases that are in
it are not done again, so an interrupted run goes on.  Ctrl-C prints the sums so far.  Exit code 1
if any case had a problem.  Linux only; tmpfs and other users' files need root, native faults a C
compiler.
"""

import argparse
import json
import queue
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.faults import inputs, storage
from tests.faults.kinds import KINDS
from tests.faults.lab import Lab
from tests.faults.outcome import Outcome, commonest_problems, markdown, totals

#: Cases of a whole run: 1,000 kills, 500 rotten files, 100,000 mutated pictures and more.
PLAN = {
    "kills": 1000,
    "storage": 400,
    "rot": 500,
    "inputs": 108,
    "names": 200,
    "terminal": 45,
    "hostile": 400,
}


def main() -> int:
    """Do the cases asked for, print the sums and the commonest problems."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kind", choices=tuple(KINDS), action="append", help="may be repeated")
    parser.add_argument("--case", type=int, help="do this one only, and print what was said")
    parser.add_argument("--cases", type=int, help="of each kind  [default: those of the plan]")
    parser.add_argument("--pictures", type=int, default=inputs.PICTURES, help="of a case of them")
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--minutes", type=float, help="begin no case after this time")
    parser.add_argument("--jobs", type=int, default=1, help="cases at a time")
    parser.add_argument("--results", type=Path, help="file of JSON lines to write and go on from")
    parser.add_argument("--folder", type=Path, help="for scratch data  [default: a temporary one]")
    options = parser.parse_args()
    kinds = options.kind or list(KINDS)
    with tempfile.TemporaryDirectory(prefix="clipsieve-faults-") as temporary:
        folder = options.folder or Path(temporary)
        Path(temporary).chmod(0o755)  # other users read it in some cases
        if options.case is not None:
            return replay(folder, kinds[0], options.case, options.pictures)
        plan = {kind: options.cases or PLAN[kind] for kind in kinds}
        until = time.monotonic() + options.minutes * 60 if options.minutes else float("inf")
        run = Run(folder, options.results, until)
        return run.all(list(mixed(plan, options.first)), options.jobs)


def mixed(plan: dict[str, int], first: int) -> Iterator[tuple[str, int]]:
    """Cases of all kinds, each kind spread evenly, so that a part of a run is a sample of it."""
    order = [((at + 0.5) / n, kind, first + at) for kind, n in plan.items() for at in range(n)]
    for _, kind, number in sorted(order):
        yield kind, number


def replay(folder: Path, kind: str, number: int, pictures: int) -> int:
    """Do one case and print all about it; its folder stays where --folder says."""
    lab = Lab(folder / "lab-0", report)
    try:
        if kind == inputs.KIND:
            outcome = inputs.run(lab, number, pictures)
        else:
            outcome = KINDS[kind](lab, number)
    finally:
        storage.unmount_all(lab.folder)
        lab.close()
    print(f"{kind} {number}: {outcome.what}")
    for note in outcome.notes:
        print("-" * 80)
        print(note.rstrip())
    print("-" * 80)
    print(f"{', '.join(outcome.marks)}; {outcome.seconds:.1f} s")
    for problem in outcome.problems:
        print(f"problem: {problem}")
    return 1 if outcome.problems else 0


def report(line: str) -> None:
    """Say how it goes on standard error."""
    print(line, file=sys.stderr, flush=True)


class Run:
    """Cases done by several threads, each with a place and a fork server of its own."""

    def __init__(self, folder: Path, results: Path | None, until: float) -> None:
        """Read the outcomes that `results` has already."""
        self._folder = folder
        self._results = results
        self._until = until
        self._lock = threading.Lock()
        self._outcomes: list[Outcome] = []
        self._stop = threading.Event()
        self._error: BaseException | None = None
        if results is not None and results.exists():
            text = results.read_text(encoding="utf-8")
            complete = text[: text.rfind("\n") + 1]  # a kill may have cut the last line
            if complete != text:
                results.write_text(complete, encoding="utf-8")
            for line in complete.splitlines():
                values = json.loads(line)
                for key in ("marks", "problems", "notes"):
                    values[key] = tuple(values[key])
                self._outcomes.append(Outcome(**values))

    def all(self, cases: list[tuple[str, int]], jobs: int) -> int:
        """Do the cases that have no outcome yet; the exit code."""
        done = {(outcome.kind, outcome.number) for outcome in self._outcomes}
        left: queue.SimpleQueue[tuple[str, int]] = queue.SimpleQueue()
        for case in cases:
            if case not in done:
                left.put(case)
        report(f"{len(cases)} cases, {len(done)} done before, {jobs} at a time")
        threads = [
            threading.Thread(target=self._work, args=(self._folder / f"lab-{at}", left))
            for at in range(jobs)
        ]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                while thread.is_alive():
                    thread.join(0.2)
        except KeyboardInterrupt:
            report("stopping after the cases in hand")
            self._stop.set()
            for thread in threads:
                thread.join()
        self._print()
        if self._error is not None:
            raise self._error
        return 1 if any(outcome.problems for outcome in self._outcomes) else 0

    def _work(self, folder: Path, left: "queue.SimpleQueue[tuple[str, int]]") -> None:
        """Do cases until there are none, or it is time to stop."""
        lab = None
        try:
            lab = Lab(folder, report)
            while not self._stop.is_set() and time.monotonic() < self._until:
                try:
                    kind, number = left.get_nowait()
                except queue.Empty:
                    return
                self._keep(KINDS[kind](lab, number), left.qsize())
        except BaseException as error:  # raised again by the main thread
            self._error = error
            self._stop.set()
        finally:
            if lab is not None:
                storage.unmount_all(lab.folder)
                lab.close()

    def _keep(self, outcome: Outcome, left: int) -> None:
        """Record an outcome and say how it goes."""
        verdict = "; ".join(outcome.problems) or ", ".join(outcome.marks)
        with self._lock:
            self._outcomes.append(outcome)
            if self._results is not None:
                with open(self._results, "a", encoding="utf-8") as file:
                    file.write(json.dumps({**outcome.to_json(), "notes": []}) + "\n")
            report(
                f"{left:5} left  {outcome.kind} {outcome.number}: {outcome.what}: {verdict}"[:300]
            )

    def _print(self) -> None:
        """Print the sums as Markdown, and the commonest problems."""
        print(markdown(totals(self._outcomes)))
        problems = commonest_problems(self._outcomes)
        if problems:
            print("\ncommonest problems:")
            print("\n".join(problems))


if __name__ == "__main__":
    sys.exit(main())
