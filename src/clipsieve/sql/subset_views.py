"""The views of subsets: which there are, and their rows, reasons and funnels in one table each."""

import json
from collections.abc import Callable, Iterator

from clipsieve.errors import UsageError
from clipsieve.sql.literals import literal
from clipsieve.store import names
from clipsieve.store.folder import OutputFolder
from clipsieve.store.subsets import Subset, require_subset, subset_names

#: Files of a revision, by the view that shows them.
_TABLES = {
    "kept": "kept/[!.]*",
    "dropped": "dropped/[!.]*",
    "funnel": "funnel",
    "funnel_overlaps": "overlaps",
    "thresholds": "thresholds",
}
#: All views of subsets.
SUBSET_VIEWS = ("subsets", *_TABLES)


def subset_views(folder: OutputFolder, filled: Callable[..., str], root: str) -> Iterator[str]:
    """Yield the statements of the views of subsets, if there are any.

    Args:
      folder: the output folder.
      filled: fills a block of `views.sql`, by its name, with values.
      root: stands before every path, inside its quotes.
    """
    subsets = list(_readable_subsets(folder))
    if not subsets:
        return
    rows = []
    for subset in subsets:
        definition = json.dumps(dict(subset.definition))
        counts = (subset.rows, subset.kept, subset.dropped)
        values = [literal(subset.name), literal(subset.revision)]
        values += [f"{count}::BIGINT" for count in counts]
        values += [literal(definition), literal(subset.run_id)]
        rows.append(f"({', '.join([*values, f'to_timestamp({subset.created_at!r})'])})")
    yield filled("subsets", rows=",\n    ".join(rows))
    for view, files in _TABLES.items():
        selects = []
        for subset in subsets:
            below = names.subset_folder(subset.name, subset.revision)
            if not _has_files(folder, f"{below}/{files}"):
                continue  # reconcile says so
            place = f"{root}{below}/{files}.parquet"
            selects.append(
                f"SELECT {literal(subset.name)} AS subset, * "
                f"FROM read_parquet('{place}', union_by_name = true, hive_partitioning = false)"
            )
        if selects:
            yield filled("subset_rows", view=view, selects="\n  UNION ALL BY NAME ".join(selects))


def _readable_subsets(folder: OutputFolder) -> Iterator[Subset]:
    """Yield the subsets whose descriptions are sound; reconcile names the others."""
    for name in subset_names(folder):
        try:
            yield require_subset(folder, name)
        except UsageError:
            continue


def _has_files(folder: OutputFolder, pattern: str) -> bool:
    """Whether there is a table of this name; one at least below a folder that ends in `/[!.]*`."""
    if pattern.endswith("/[!.]*"):
        return bool(folder.tables(pattern.removesuffix("/[!.]*")))
    return folder.files.exists(f"{pattern}.parquet")
