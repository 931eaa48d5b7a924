"""What the audit finds of planted groups, and what it finds where nothing is planted.

    python benchmarks/audit.py grid FOLDER --seeds 10 11 12
    python benchmarks/audit.py together FOLDER --seeds 10 11 12 13 14 15 16 17 18 19
    python benchmarks/audit.py nothing FOLDER --seeds 10 11 12 13 14 15 16 17 18 19
    python benchmarks/audit.py report FOLDER
    python benchmarks/audit.py cost FOLDER

Seeds 0 to 9 are for development; 10 to 19 were used once, for the report.  `grid` plants one group
at a time (every kind of `audit_plants.py`, 5 to 200 rows) into demo data and takes its rank;
`together` plants the seven cases that first showed what the audit missed into one dataset;
`nothing` audits clean data, the sound rows of demo data, and shuffled scores; `cost` compares the
CPU time of the audit with that of embedding, both through the command line.  What FOLDER holds is
not done again.  One core.
"""

import argparse
import json
import resource
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch
from audit_plants import KINDS
from audit_rows import Encoder, MemoryData, Rows, demo_rows, joined, planted_rows

from clipsieve.audit.describe import Group, describe
from clipsieve.audit.survey import survey
from clipsieve.audit.witnesses import LOW_SIMILARITY, SawData, Witness
from clipsieve.demo.shards import write_shards

SIZES = (5, 20, 60, 200)
#: Rows of the demo data into which groups are planted, and of data without any.
DATASETS, UNPLANTED = (2_000, 6_000), (6_000, 20_000)
TOGETHER = {
    "odd_copies": 60,
    "placeholder_many_captions": 50,
    "one_picture_many_captions": 40,
    "small_patch": 30,
    "large_patch": 60,
    "right_patch": 60,
    "exact_copies": 60,
}
#: What is wrong in demo data by itself: a group of such rows is no false one.
FAULTS = frozenset(
    [
        *("mismatched", "boilerplate", "blank", "repeated_caption", "held_out_class"),
        *("one_pixel", "png_16_bit", "grayscale", "exif_rotated", "mixed_language"),
        *(f"+{name}" for name, kind in KINDS.items() if kind.is_fault),
        "+rare_concept",
    ]
)
WITNESSES = (LOW_SIMILARITY, Witness("density_kdist"), Witness("density_kdist_large"))


@dataclass(frozen=True, slots=True)
class Line:
    """A group of an audit.

    Attributes:
      kinds: rows of each kind in it.
      finding: what it is said to be.
      evidence: nats.
      p: corrected tail.
    """

    kinds: dict[str, int]
    finding: str
    evidence: float
    p: float

    @property
    def is_false(self) -> bool:
        """Whether most of its rows are sound."""
        return 2 * sum(n for kind, n in self.kinds.items() if kind in FAULTS) < sum(
            self.kinds.values()
        )


def lines_of(rows: Rows, shuffled: int | None = None) -> list[Line]:
    """Audit rows as `clipsieve audit` does by default."""
    data = MemoryData(rows, shuffled=shuffled)
    findings = survey(data, WITNESSES)
    groups = describe(data, findings, WITNESSES, SawData.UNKNOWN)
    return [_line(rows, group) for group in groups]


def _line(rows: Rows, group: Group) -> Line:
    kinds = Counter(rows.kinds[group.identities["uid"].to_numpy()].tolist())
    return Line(dict(kinds), str(group.finding), group.evidence, group.p)


def rank_of(lines: Sequence[Line], kind: str, planted: int) -> tuple[int | None, float]:
    """First line that holds at least half of a planted group (a third with three captions)...

    ...and in which at least half of the rows are planted; and the share of the planted rows in all
    lines of which they are half.
    """
    name = f"+{kind}"
    needed = planted / (3 if kind == "large_patch" else 2)
    first, covered = None, 0
    for rank, line in enumerate(lines, 1):
        own = line.kinds.get(name, 0)
        if 2 * own >= sum(line.kinds.values()):
            covered += own
            if first is None and own >= needed * 0.9:
                first = rank
    return first, covered / planted


class Study:
    """Cases and their results in a folder."""

    def __init__(self, folder: Path) -> None:
        """Keep results in `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._encoder = folder, Encoder()
        self._bases: dict[tuple[str, int, int], Rows] = {}

    def base(self, mixture: str, seed: int, count: int) -> Rows:
        """Demo data; the last one is kept."""
        key = mixture, seed, count
        if key not in self._bases:
            self._bases = {key: demo_rows(self._encoder, *key)}
        return self._bases[key]

    def planted(self, kind: str, seed: int, count: int) -> Rows:
        """A planted group."""
        return planted_rows(self._encoder, kind, seed, count)

    def record(self, name: str, result: object) -> None:
        """Write a result whole."""
        path = self._folder / f"{name}.json"
        path.with_suffix(".partial").write_text(json.dumps(result) + "\n")
        path.with_suffix(".partial").replace(path)

    def has(self, name: str) -> bool:
        """Whether a result is there."""
        return (self._folder / f"{name}.json").exists()


def run_grid(study: Study, seeds: Sequence[int], mixtures: Sequence[str]) -> None:
    """Plant one group at a time."""
    for mixture, seed, count in _bases(seeds, mixtures, DATASETS):
        for size in SIZES:
            for kind in KINDS:
                name = f"grid-{mixture}-{count}-{kind}-{size}-{seed}"
                if study.has(name):
                    continue
                base = study.base(mixture, seed, count)
                lines = lines_of(joined([base, study.planted(kind, seed, size)]))
                rank, covered = rank_of(lines, kind, size)
                result = {"mixture": mixture, "rows": count, "kind": kind, "size": size}
                study.record(name, {**result, "seed": seed, "rank": rank, "covered": covered})
        print(mixture, seed, count, flush=True)


def run_together(study: Study, seeds: Sequence[int]) -> None:
    """Plant seven cases into one dataset."""
    for mixture, seed, count in _bases(seeds, ("demo", "clean"), DATASETS[-1:]):
        name = f"together-{mixture}-{count}-{seed}"
        if study.has(name):
            continue
        parts = [study.planted(kind, seed, size) for kind, size in TOGETHER.items()]
        lines = lines_of(joined([study.base(mixture, seed, count), *parts]))
        ranks = {kind: rank_of(lines, kind, size) for kind, size in TOGETHER.items()}
        result = {"mixture": mixture, "seed": seed, "ranks": ranks}
        study.record(name, {**result, "lines": [asdict(line) for line in lines[:15]]})
        print(name, {kind: rank for kind, (rank, _) in ranks.items()}, flush=True)


def run_nothing(study: Study, seeds: Sequence[int]) -> None:
    """Audit data in which nothing is planted."""
    for mixture, seed, count in _bases(seeds, ("clean", "sound", "shuffled"), UNPLANTED):
        name = f"nothing-{mixture}-{count}-{seed}"
        if study.has(name):
            continue
        base = study.base("clean" if mixture == "clean" else "demo", seed, count)
        if mixture == "sound":
            keep = np.array([kind not in FAULTS for kind in base.kinds])
            base = Rows(*(getattr(base, field)[keep] for field in Rows.__slots__))
        lines = lines_of(base, seed if mixture == "shuffled" else None)
        result = {"mixture": mixture, "rows": len(base), "seed": seed, "asked": count}
        study.record(name, {**result, "lines": [asdict(line) for line in lines]})
        print(name, len(lines), flush=True)


def _bases(
    seeds: Sequence[int], mixtures: Sequence[str], counts: Sequence[int]
) -> Iterator[tuple[str, int, int]]:
    for count in counts:
        for seed in seeds:
            for mixture in mixtures:
                yield mixture, seed, count


def run_cost(folder: Path, rows: int = 20_000, repeats: int = 3) -> None:
    """Embed, score and audit demo data, and print CPU seconds and their ratio."""
    shards = folder / "cost-data"
    write_shards(shards, rows, 8, 0)
    for repeat in range(repeats):
        out = folder / f"cost-out-{repeat}"
        embed = _cpu_seconds("embed", f"{shards}/*.parquet", str(out), "--model", "tiny")
        _cpu_seconds("score", str(out), "--scorers", "density")
        audit = _cpu_seconds("audit", str(out))
        start = _cpu_seconds("status", str(out))  # Python and the folder, which both commands pay
        ratio = (audit - start) / (embed - start)
        print(f"embed {embed:.1f} s, audit {audit:.2f} s, start {start:.2f} s: {ratio:.4f}")


def _cpu_seconds(*arguments: str) -> float:
    """User and system time of a clipsieve command and its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-m", "clipsieve.cli", *arguments], check=True, stdout=subprocess.DEVNULL
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def report(folder: Path) -> None:
    """Print the tables."""
    results = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    _report_together([r for n, r in results.items() if n.startswith("together-")])
    _report_nothing([r for n, r in results.items() if n.startswith("nothing-")])
    _report_grid([r for n, r in results.items() if n.startswith("grid-")])


def _report_together(results: Sequence[dict]) -> None:
    for mixture in ("demo", "clean"):
        own = [result for result in results if result["mixture"] == mixture]
        if not own:
            continue
        print(f"\nSeven cases in one dataset ({mixture}), {len(own)} seeds\n")
        print("| case | rows | median rank | worst | in the first 5 | in the first 10 |")
        print("| --- | --: | --: | --: | --: | --: |")
        for kind, size in TOGETHER.items():
            ranks = [result["ranks"][kind][0] for result in own]
            print(f"| {kind} | {size} | {_rank_cells(ranks)} |")


def _rank_cells(ranks: Sequence[int | None]) -> str:
    """Median and worst rank, and how many are among the first five and ten."""
    known = [rank if rank is not None else 10**9 for rank in ranks]

    def text(rank: float) -> str:
        return f"{rank:g}" if rank < 10**8 else "-"

    shares = [f"{sum(rank <= limit for rank in known)} of {len(known)}" for limit in (5, 10)]
    return " | ".join([text(median(known)), text(max(known)), *shares])


def _report_nothing(results: Sequence[dict]) -> None:
    if not results:
        return
    print("\nNothing planted\n")
    print("| data | rows | seeds | false groups per 10,000 rows | most in the first 10 lines |")
    print("| --- | --: | --: | --: | --: |")
    for mixture in ("clean", "sound", "shuffled"):
        for count in UNPLANTED:
            own = [r for r in results if (r["mixture"], r["asked"]) == (mixture, count)]
            if not own:
                continue
            # With shuffled scores no group has a reason.
            false = [
                [mixture == "shuffled" or Line(**line).is_false for line in result["lines"]]
                for result in own
            ]
            rate = sum(map(sum, false)) / sum(result["rows"] for result in own) * 10_000
            most = max(sum(each[:10]) for each in false)
            print(f"| {mixture} | {count:,} | {len(own)} | {rate:.2f} | {most} |")


def _report_grid(results: Sequence[dict]) -> None:
    for mixture in sorted({result["mixture"] for result in results}):
        for count in DATASETS:
            own = [r for r in results if (r["mixture"], r["rows"]) == (mixture, count)]
            if not own:
                continue
            seeds = sorted({result["seed"] for result in own})
            print(f"\nOne group at a time, {mixture} data, {count:,} rows, seeds {seeds}: ranks\n")
            print(f"| kind | {' | '.join(f'{size} rows' for size in SIZES)} |")
            print(f"| --- |{' --: |' * len(SIZES)}")
            for kind in KINDS:
                cells = []
                for size in SIZES:
                    ranks = [r["rank"] for r in own if (r["kind"], r["size"]) == (kind, size)]
                    cells.append(", ".join("-" if rank is None else str(rank) for rank in ranks))
                print(f"| {kind} | {' | '.join(cells)} |")
            faults = [r for r in own if KINDS[r["kind"]].is_fault]
            for size in SIZES:
                ranks = [r["rank"] for r in faults if r["size"] == size]
                shares = [
                    f"{sum(rank is not None and rank <= limit for rank in ranks) / len(ranks):.2f}"
                    for limit in (1, 5, 10)
                ]
                print(f"recall of faults of {size} rows at 1, 5, 10: {', '.join(shares)}")


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("grid", "together", "nothing", "cost", "report"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--mixtures", nargs="+", choices=("demo", "clean"), default=["demo"])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.what == "report":
        report(arguments.folder)
        return
    if arguments.what == "cost":
        run_cost(arguments.folder)
        return
    study = Study(arguments.folder)
    if arguments.what == "grid":
        run_grid(study, arguments.seeds, arguments.mixtures)
    elif arguments.what == "together":
        run_together(study, arguments.seeds)
    else:
        run_nothing(study, arguments.seeds)


if __name__ == "__main__":
    main()
