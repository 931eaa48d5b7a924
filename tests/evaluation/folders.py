"""Output folders with made-up embeddings, classes, labels and scores, as `evaluate` reads them."""

import dataclasses

import numpy as np
import pyarrow as pa

from clipsieve.clip.class_lists import class_prompt_set
from clipsieve.schemas import footers
from clipsieve.scorers.base import score_column, unit_rows
from clipsieve.scorers.columns import REVISION, SCORER
from clipsieve.sql.views import write_sql
from clipsieve.store import names
from clipsieve.store.manifest import FamilyEntry, ScorerEntry
from clipsieve.store.parquet import nullable
from tests.scoring.folders import DIM, MODEL, make_folder, make_shard

CLASSES = ["cat", "dog", "fox"]
FAMILY_REVISION = "0a" * 4
#: Scorer, direction and type of the columns; those of the third and later are no detectors.
COLUMNS = {
    "ood_msp": ("ood.msp", "higher is more out of distribution", pa.float32()),
    "ood_vim": ("ood.vim", "higher is more out of distribution", pa.float32()),
    "ood_class": ("ood.msp", "", pa.string()),
    "ood_other": ("ood.msp", "higher is better", pa.float32()),
}
TEXTS = np.random.default_rng(99).normal(size=(len(CLASSES), DIM)).astype(np.float32)


def prompt_set():
    return class_prompt_set(CLASSES, "simple")


def columns_of(name, rows, seed):
    """Labels, kinds and flags of the rows of a shard; some are NULL."""
    rng = np.random.default_rng(seed + 100)

    def drawn(values):
        return [values[at] for at in rng.integers(0, len(values), rows)]

    labels = drawn(["cat", "dog", "fox", "cow", None])
    return pa.table(
        {
            "class": pa.array(labels, pa.string()),
            "number": pa.array(rng.integers(0, 3, rows)),
            "kind": pa.array(drawn(["a", "b", None]), pa.string()),
            "is_ood": pa.array(drawn([True, False, None]), pa.bool_()),
        }
    )


def shard(name, rows, seed):
    carried = columns_of(name, rows, seed)
    missing = [1, 5] if rows > 5 else []
    return make_shard(name, rows, seed, no_image=missing, carried=carried)


def evaluated_folder(
    root, shards=(("a", 40), ("b", 1), ("c", 25)), seed=0, shift=0.0, learned="1a" * 4, model=MODEL
):
    """A folder with ood scores; `shift` is added to them, `learned` is what ood.vim learnt."""
    made = [shard(name, rows, seed + at) for at, (name, rows) in enumerate(shards)]
    folder = make_folder(root, made, model)
    manifest = folder.require_manifest()
    entry = manifest.embeddings
    prompts = names.prompts(entry.model, entry.revision, prompt_set().key)
    folder.write_arrays(prompts, {"means": unit_rows(TEXTS), "cut": np.array(0)})
    options = {"classes": CLASSES, "templates": "simple"}
    scorers = {
        "ood.msp": ScorerEntry("5a" * 4, options),
        "ood.vim": ScorerEntry(learned, options, learned=learned),
    }
    for at, (name, _) in enumerate(shards):
        write_ood(folder, name, scorers, seed + at, shift)
    families = {**manifest.families, "ood": FamilyEntry(FAMILY_REVISION, scorers)}
    manifest = dataclasses.replace(manifest, families=families)
    folder.save_manifest(manifest)
    write_sql(folder, manifest)
    return folder


def write_ood(folder, name, scorers, seed, shift):
    """Write the ood scores of a shard: normal ones; every seventh row has none."""
    ledger = folder.read_footer(names.samples(name))
    uids = folder.read_table(names.samples(name), ["uid"])["uid"].combine_chunks()
    rng = np.random.default_rng(seed + 1000)
    fields, values = [pa.field("uid", uids.type)], [uids]
    for column, (scorer, direction, kind) in COLUMNS.items():
        made_by = {SCORER: scorer.encode(), REVISION: scorers[scorer].revision.encode()}
        field = score_column(column, "a score", direction, "", "", kind)
        fields.append(field.with_metadata({**field.metadata, **made_by}))
        scores = (rng.normal(size=len(uids)) + shift).astype(np.float32)
        scores[::7] = np.nan
        values.append(nullable(scores) if kind == pa.float32() else pa.array(["x"] * len(uids)))
    footer = {**ledger, footers.FAMILY: "ood", footers.REVISION: FAMILY_REVISION}
    table = pa.Table.from_arrays(values, schema=pa.schema(fields))
    folder.write_table(names.scores("ood", FAMILY_REVISION, name), table, footer)


def stored_column(folder, table, column):
    """All values of a column of `samples`, or of the ood scores, in the order of shards."""
    place = {"samples": names.samples, "ood": lambda s: names.scores("ood", FAMILY_REVISION, s)}
    tables = [folder.read_table(place[table](s), [column]) for s in folder.shards()]
    return [value for each in tables for value in each[column].to_pylist()]
