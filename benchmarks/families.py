"""Time of adding one scorer to a family of five, against computing six.

    python benchmarks/families.py --shards 50 --rows 2000 --rounds 3

Writes an output folder of random embeddings with the library itself, and a package of six equal
scorers of one family, each a product with 1,000 vectors of its own and a sort.  In every round a
copy of the folder gets all six at once, and another, that has five, gets the sixth.
"""

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

import clipsieve
from clipsieve.clip.identity import ModelIdentity
from clipsieve.embed.commit import Revisions, ShardWriter, embedded_family, embeddings_entry
from clipsieve.embed.shard import EmbeddedShard
from clipsieve.formats.base import InputFormat, SourceFingerprint, WorkItem
from clipsieve.schemas import footers
from clipsieve.schemas.states import RowState
from clipsieve.scorers.base import Embedded, PairBatch
from clipsieve.store.folder import OutputFolder
from clipsieve.store.manifest import Manifest

DIM = 512
MODULE = """
import numpy as np
import pyarrow as pa
from clipsieve import Scorer, score_column

class Product(Scorer):
    family = "bench"
    number = 0
    @property
    def name(self): return f"bench.s{self.number}"
    @property
    def columns(self):
        return pa.schema([score_column(f"bench_{self.number}", "mean of the ten", "", "", "")])
    def load(self, known, context):
        return np.random.default_rng(self.number).normal(size=(context.dim, 1000))
    def score(self, batch, loaded):
        products = np.sort(batch.image.unit() @ loaded, axis=1)
        return {f"bench_{self.number}": products[:, -10:].mean(axis=1)}

for n in range(1, 7):
    globals()[f"S{n}"] = type(f"S{n}", (Product,), {"number": n})
"""


def main() -> None:
    """Print the seconds of every round and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards", type=int, default=50)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="clipsieve-families-") as folder:
        root = Path(folder)
        install(root / "site")
        write_folder(root / "empty", options.shards, options.rows)
        shutil.copytree(root / "empty", root / "five")
        five = ",".join(f"bench.s{n}" for n in range(1, 6))
        score(root / "five", five)
        sixes, ones = [], []
        for number in range(options.rounds):
            six, one = root / f"six-{number}", root / f"one-{number}"
            shutil.copytree(root / "empty", six)
            shutil.copytree(root / "five", one)
            sixes.append(score(six, "bench"))
            ones.append(score(one, "bench.s6"))
            shutil.rmtree(six)
            shutil.rmtree(one)
        rows = options.shards * options.rows
        print(f"{rows:,} rows of {DIM} components in {options.shards} shards, seconds")
        print(f"six at once    {statistics.median(sixes):6.2f}  {rounded(sixes)}")
        print(f"one to five    {statistics.median(ones):6.2f}  {rounded(ones)}")
        ratios = [one / six for one, six in zip(ones, sixes, strict=True)]
        print(f"one / six      {statistics.median(ratios):6.2f}  {rounded(ratios)}")


def rounded(values: list[float]) -> list[float]:
    """Return values to two digits."""
    return [round(value, 2) for value in values]


def score(out: Path, scorers: str) -> float:
    """Score a folder; the seconds it takes, compaction included."""
    started = time.perf_counter()
    result = clipsieve.score(out, scorers, device="cpu")
    assert result.exit_code == 0
    return time.perf_counter() - started


def install(site: Path) -> None:
    """Make a package of scorers that this process finds."""
    info = site / "clipsieve_bench-0.1.dist-info"
    info.mkdir(parents=True)
    (site / "clipsieve_bench.py").write_text(MODULE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: clipsieve-bench\nVersion: 0.1\n")
    lines = [f"bench.s{n} = clipsieve_bench:S{n}" for n in range(1, 7)]
    (info / "entry_points.txt").write_text("[clipsieve.scorers]\n" + "\n".join(lines) + "\n")
    sys.path.insert(0, str(site))


def write_folder(out: Path, shards: int, rows: int) -> None:
    """Write an output folder of random embeddings."""
    model = ModelIdentity("tiny", None, "0" * 64, False, DIM, 24, {}, "float32")
    folder = OutputFolder.open(out)
    provenance = {footers.LAYOUT: footers.LAYOUT_VERSION, footers.RUN_ID: "made"}
    writer = ShardWriter(folder, model, Revisions.from_settings(model, {}), provenance)
    rng = np.random.default_rng(0)
    for number in range(shards):
        writer.commit(random_shard(rng, f"{number:05}", rows))
    entry = embeddings_entry(model)
    families = {"clip": embedded_family(entry.revision)}
    folder.save_manifest(Manifest(model=model, embeddings=entry, families=families))


def random_shard(rng: np.random.Generator, name: str, rows: int) -> EmbeddedShard:
    """Return one shard of normal vectors."""
    valid = np.ones(rows, bool)
    image, text = (
        Embedded(rng.normal(size=(rows, DIM)).astype(np.float32), valid) for _ in range(2)
    )
    fingerprint = SourceFingerprint(rows, "1", rows)
    uids = pa.array([f"{name}-{row}" for row in range(rows)])
    sizes = np.full(rows, 64, np.int32)
    return EmbeddedShard(
        item=WorkItem(name, f"/in/{name}.parquet", InputFormat.PARQUET, 0, None, fingerprint),
        pairs=PairBatch(
            uids, image, {"": text}, captions=[f"caption {row}" for row in range(rows)]
        ),
        states=[RowState.OK] * rows,
        errors=[None] * rows,
        widths=sizes,
        heights=sizes,
        digests=[None] * rows,
        phashes=np.ma.masked_all(rows, np.uint64),
        carried=pa.table({"n": pa.array(range(rows))}),
    )


if __name__ == "__main__":
    main()
