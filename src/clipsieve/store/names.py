"""Where everything lies in an output folder: names relative to its root."""

import re
from functools import cache
from importlib.resources import files

from clipsieve.schemas import __name__ as SCHEMAS

MANIFEST = "dataset.json"
#: Not `*.json`, which the view of runs reads.
MANIFEST_COPY = "_runs/dataset.copy"
#: Files as they were when they were last verified.
FILES = "_runs/files.parquet"
#: Footers of files in an object store, as they were when they were last read.
FOOTERS = "_runs/footers.parquet"
#: What is only kept to save reading: a file that is missing or damaged costs time.
CACHES = (FILES, FOOTERS)
#: Folders in which files are written, and so temporary ones may be left.
FOLDERS = (
    "_runs",
    "audits",
    "embeddings",
    "fits",
    "metrics",
    "neighbours",
    "prompts",
    "removals",
    "samples",
    "scores",
    "sql",
    "subsets",
    "wide",
)
SAMPLES = "samples"
RUN_METRICS_ENDING = ".metrics.parquet"
RUNS = "_runs"
#: Of parts of a run that write at once: a folder for each, with its lock.
PARTS = "_runs/parts"
SQL = "sql"
SUBSETS = "subsets"
CATALOG = "catalog.duckdb"
REMOVALS = "removals"
DATASET_METRICS = "metrics/dataset.parquet"
DETECTORS = "metrics/detectors.parquet"
METRICS = "metrics"
AUDITS = "audits"
WIDE = "wide"

#: A short hash in hexadecimal digits, as a regular expression.
HASH = "[0-9a-f]{8,64}"
#: Names of all sealed files that clipsieve writes, in regular expressions; other files below its
#: folders are their owner's.
_SEALED = tuple(
    re.compile(form)
    for form in (
        r"dataset\.json",
        r"samples/[^/]+\.parquet",
        rf"embeddings/[^/]+/rev={HASH}/[^/]+\.parquet",
        rf"scores/[a-z0-9_]+/rev={HASH}/[^/]+\.parquet",
        rf"wide/build={HASH}/part-[^/]+\.parquet",
        rf"fits/[a-z0-9_.]+/{HASH}(\.pass[0-9]+)?\.(npz|json)",
        rf"prompts/[^/]+/rev={HASH}/{HASH}\.npz",
        rf"neighbours/{HASH}/((image|text)/[^/]+\.parquet|set\.json)",
        r"audits/(groups|members|copies)\.parquet",
        r"metrics/(dataset|detectors)\.parquet",
        r"subsets/[^/]+/subset\.json",
        rf"subsets/[^/]+/rev={HASH}/((kept|dropped)/[^/]+|funnel|overlaps|thresholds)\.parquet",
        r"removals/[^/]+/(list\.json|ids\.parquet)",
        rf"removals/rev={HASH}/[^/]+\.parquet",
        r"_runs/([^/]+\.json|[^/]+\.shards\.jsonl|dataset\.copy|(files|footers)\.parquet)",
        r"_runs/[^/]+\.metrics\.parquet",
        r"_runs/[^/]+\.shards/([a-z]+-[0-9]+-[0-9]+-[0-9a-f]{16}-)?[0-9a-f]{32}\.json",
    )
)


def is_sealed(name: str) -> bool:
    """Whether a file of this name is one that clipsieve writes with a seal.

    >>> is_sealed("samples/00000.parquet"), is_sealed("samples/._0.parquet"), is_sealed("sql/a.sql")
    (True, False, False)
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    if name.startswith(f"{SQL}/"):
        return name in _sql_names()
    return "/." not in name and any(form.fullmatch(name) for form in _SEALED)


@cache
def _sql_names() -> frozenset[str]:
    """Return the names of the statements that clipsieve writes into a folder."""
    recipes = (files(SCHEMAS) / "sql" / "recipes").iterdir()
    stems = [recipe.name for recipe in recipes if recipe.name.endswith(".sql")]
    return frozenset(f"{SQL}/{name}" for name in ("views.sql", "macros.sql", *stems))


def parent(name: str) -> str:
    """Name the folder of a file.

    >>> parent("scores/clip/rev=0a1b2c3d/00000.parquet")
    'scores/clip/rev=0a1b2c3d'
    """
    return name.rpartition("/")[0]


def is_own(name: str, ending: str) -> bool:
    """Whether a file can be one of clipsieve's: hidden ones are of other programs, as `._a.json`.

    >>> is_own("a.json", ".json"), is_own("._a.json", ".json")
    (True, False)
    """
    return name.endswith(ending) and not name.startswith(".")


def marked_hash(folder: str, mark: str) -> str | None:
    """Return the hash in a folder's name behind a mark; None for a folder of another name.

    >>> marked_hash("rev=0a1b2c3d", "rev="), marked_hash("mine", "rev=")
    ('0a1b2c3d', None)
    """
    match = re.fullmatch(f"{mark}({HASH})", folder)
    return match[1] if match else None


def is_history(name: str) -> bool:
    """Whether a file under `_runs/` only tells of runs and shards: nothing depends on it."""
    return name.startswith(f"{RUNS}/") and name not in (MANIFEST_COPY, *CACHES)


def slug(name: str) -> str:
    """Make `name` a safe file name: runs of other characters than `A-Za-z0-9.-` become `_`.

    >>> slug("hf-hub:org/name")
    'hf-hub_org_name'
    """
    return re.sub(r"[^A-Za-z0-9.-]+", "_", name).strip("._") or "_"


def run_metrics(run_id: str) -> str:
    """Name the table of what a run has measured.

    >>> run_metrics("nightly-1")
    '_runs/nightly-1.metrics.parquet'
    """
    return f"{RUNS}/{run_id}{RUN_METRICS_ENDING}"


def samples(shard: str) -> str:
    """Name the ledger of one shard.

    >>> samples("00000")
    'samples/00000.parquet'
    """
    return f"{SAMPLES}/{shard}.parquet"


def embeddings_folder(model: str, revision: str) -> str:
    """Name the folder of the embeddings of one model; `model` is a slug."""
    return f"embeddings/{model}/rev={revision}"


def embeddings(model: str, revision: str, shard: str) -> str:
    """Name the embeddings of one shard; `model` is a slug.

    >>> embeddings("tiny", "fa2fc97e", "00000")
    'embeddings/tiny/rev=fa2fc97e/00000.parquet'
    """
    return f"{embeddings_folder(model, revision)}/{shard}.parquet"


def family_folder(family: str, revision: str) -> str:
    """Name the folder of one revision of a score family."""
    return f"scores/{family}/rev={revision}"


def scores(family: str, revision: str, shard: str) -> str:
    """Name the scores of one family for one shard."""
    return f"{family_folder(family, revision)}/{shard}.parquet"


def wide_folder(build: str) -> str:
    """Name the folder of one build of the wide table."""
    return f"wide/build={build}"


def audit(table: str) -> str:
    """Name a table of the audit: `groups`, `members` or `copies`."""
    return f"{AUDITS}/{table}.parquet"


def fit(scorer: str, identifier: str, passes: int | None = None) -> str:
    """Name the arrays that a scorer learnt of a dataset; with `passes`, those made so far."""
    suffix = "" if passes is None else f".pass{passes}"
    return f"fits/{scorer}/{identifier}{suffix}.npz"


def fit_description(scorer: str, identifier: str) -> str:
    """Name the description of what a scorer learnt from."""
    return f"fits/{scorer}/{identifier}.json"


def prompts(model: str, revision: str, key: str) -> str:
    """Name the encoded texts of a prompt set, for one model; `model` is a slug."""
    return f"prompts/{model}/rev={revision}/{key}.npz"


def neighbours_folder(identifier: str) -> str:
    """Name the folder of the neighbour lists among one set of shards."""
    return f"neighbours/{identifier}"


def neighbour_lists(identifier: str, side: str, shard: str) -> str:
    """Name the lists of the rows of one shard; `side` is "image" or "text"."""
    return f"{neighbours_folder(identifier)}/{side}/{shard}.parquet"


def neighbours_description(identifier: str) -> str:
    """Name the description of a set of lists: its specification, and the shards it is among."""
    return f"{neighbours_folder(identifier)}/set.json"


def subset_manifest(name: str) -> str:
    """Name the description of a subset, which says which revision is active."""
    return f"{SUBSETS}/{name}/subset.json"


def subset_folder(name: str, revision: str) -> str:
    """Name the folder of one revision of a subset."""
    return f"{SUBSETS}/{name}/rev={revision}"


def kept(subset: str, revision: str, shard: str) -> str:
    """Name the rows of a shard that a subset keeps.

    >>> kept("keep", "0a1b2c3d", "00000")
    'subsets/keep/rev=0a1b2c3d/kept/00000.parquet'
    """
    return f"{subset_folder(subset, revision)}/kept/{shard}.parquet"


def dropped(subset: str, revision: str, shard: str) -> str:
    """Name the rows of a shard that a subset drops, with their reasons."""
    return f"{subset_folder(subset, revision)}/dropped/{shard}.parquet"


def subset_table(subset: str, revision: str, table: str) -> str:
    """Name a table of a whole subset: "funnel", "overlaps" or "thresholds"."""
    return f"{subset_folder(subset, revision)}/{table}.parquet"


def removal_list(name: str) -> str:
    """Name the description of a removal list: it is active while this file is there."""
    return f"{REMOVALS}/{name}/list.json"


def removal_ids(name: str) -> str:
    """Name the ids of a removal list."""
    return f"{REMOVALS}/{name}/ids.parquet"


def removals_folder(identifier: str) -> str:
    """Name the folder of the rows that one set of removal lists names."""
    return f"{REMOVALS}/rev={identifier}"


def removed(identifier: str, shard: str) -> str:
    """Name the rows of a shard that a set of removal lists names.

    >>> removed("0a1b2c3d", "00000")
    'removals/rev=0a1b2c3d/00000.parquet'
    """
    return f"{removals_folder(identifier)}/{shard}.parquet"
