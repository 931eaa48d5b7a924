"""Hostile captions and shard names through every command that prints, in three encodings."""

import json
import random
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.faults import pictures, texts
from tests.faults.lab import Lab
from tests.faults.machine import Ended, printable
from tests.faults.outcome import SURVIVED, Outcome

KIND = "terminal"
ENCODINGS = ("utf-8", "ascii", "latin-1")
_RUN = (
    "--model",
    "tiny",
    "--device",
    "cpu",
    "--dtype",
    "float32",
    "--scorers",
    "clip,density,ood.class",
)


def check_output(ended: Ended, exact: bool = False, encoding: str = "utf-8") -> list[str]:
    """What is wrong with what was printed.

    Args:
      ended: of the command.
      exact: standard output is CSV or JSON, whose bytes are those of the data.
      encoding: of standard output and error.
    """
    data = ended.err if exact else ended.out + ended.err
    text = data.decode(encoding, "replace").encode()
    found = Ended(0, text, b"", 0, 0, False, 0).control_bytes
    wrong = [f"raw {printable(found[0])!r} printed"] if found else []
    if "UnicodeEncodeError" in ended.text:
        wrong.append(f"died of the encoding: {ended.last_line[:160]}")
    return wrong


def run(lab: Lab, number: int) -> Outcome:
    """Do one case."""
    started = time.perf_counter()
    rng = random.Random(f"{KIND}:{number}")
    encoding = ENCODINGS[number % len(ENCODINGS)]
    case = lab.fresh()
    captions = write_source(case / "src", rng)
    printed: list[str] = []
    problems: list[str] = []

    def do(words: tuple[str, ...], allowed: tuple[int, ...], exact: bool = False) -> Ended:
        ended = lab.run(words, encoding=encoding)
        wrong = ended.problems(allowed) + check_output(ended, exact, encoding)
        problems.extend(f"{words[0]}: {line}" for line in wrong)
        printed.append(ended.text)
        return ended

    hostile = rng.choice(texts.CONTROL).replace("\x00", "0")
    select = "SELECT caption, shard, error FROM samples ORDER BY shard, row"
    do(("run", "src", "out", *_RUN), (0, 3))
    do(("status", "out"), (0,))
    do(("reconcile", "out"), (0, 1))
    do(("audit", "out", "--column", "density_kdist", "--model-saw-data", "yes"), (0, 1))
    do(("sql", "out", select), (0,))
    do(("sql", "out", f'SELECT * FROM "{hostile}"'), (1, 2))
    do(("sql", "out", f"SELECT '{hostile.replace(chr(39), '')}' AS \"{hostile}\""), (0, 1, 2))
    do(("run", f"nowhere-{hostile}", "out"), (2,))
    do(("filter", "out", "--name", "k", "--where", f"caption != '{hostile}'"), (0, 1, 2))
    do(("filter", "out", "--name", hostile, "--where", "clip_score > 0"), (0, 1, 2))
    do(("score", "out", "--scorers", hostile), (2,))
    do(("export", "out", hostile, "--format", "npy", "--to", "x"), (1, 2))
    answer = do(("sql", "out", select, "--format", "json"), (0,), exact=True)
    if answer.code == 0:
        problems += _check_exact(answer.out, captions)
    do(("sql", "out", select, "--format", "csv"), (0,), exact=True)
    what = f"{encoding}, with {printable(hostile.encode())} in errors"
    seconds = time.perf_counter() - started
    return Outcome(
        KIND, number, what, len(captions), (SURVIVED,), tuple(problems), seconds, tuple(printed)
    )


def write_source(folder: Path, rng: random.Random) -> list[str]:
    """Write a shard of hostile name with hostile captions; the captions, in order."""
    folder.mkdir()
    captions = [texts.caption(rng) for _ in range(24)]
    captions[1::3] = captions[0::3]  # groups for the audit
    images = [rng.choice(pictures.sound()[:6]) for _ in captions]
    images[1::3] = images[0::3]
    images[2] = pictures.mutated(rng)
    table = pa.table(
        {"uid": [f"u{n}\x1b[1m" for n in range(24)], "jpg": images, "caption": captions}
    )
    name = rng.choice(texts.CONTROL).replace("/", "_").replace("\x00", "0")
    pq.write_table(table, folder / f"{name}.parquet")
    return captions


def _check_exact(data: bytes, captions: list[str]) -> list[str]:
    """What is wrong with JSON lines: captions come as they are, in UTF-8."""
    try:
        found = [json.loads(line)["caption"] for line in data.decode("utf-8").splitlines() if line]
    except (ValueError, KeyError) as error:
        return [f"JSON output is not JSON lines in UTF-8: {error}"]
    return [] if found == captions else ["captions in JSON are not those of the source"]
