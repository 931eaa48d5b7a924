"""The views of subsets: which there are, and their rows, reasons and funnels in one table each."""

import json
from collections.abc import Callable, Iterator

from clipsieve.sql.literals import literal
from clipsieve.store import names
from clipsieve.store.folder import OutputFolder
from clipsieve.store.subsets import require_subset, subset_names

#: Files of a revision, by the view that shows them.
_TABLES = {
    "kept": "kept/*",
    "dropped": "dropped/*",
    "funnel": "funnel",
    "funnel_overlaps": "overlaps",
    "thresholds": "thresholds",
}


def subset_views(folder: OutputFolder, filled: Callable[..., str], root: str) -> Iterator[str]:
    """Yield the statements of the views of subsets, if there are any.

    Args:
      folder: the output folder.
      filled: fills a block of `views.sql`, by its name, with values.
      root: stands before every path, inside its quotes.
    """
    subsets = [require_subset(folder, name) for name in subset_names(folder)]
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
            place = f"{root}{names.subset_folder(subset.name, subset.revision)}/{files}.parquet"
            selects.append(
                f"SELECT {literal(subset.name)} AS subset, * "
                f"FROM read_parquet('{place}', hive_partitioning = false)"
            )
        yield filled("subset_rows", view=view, selects="\n  UNION ALL BY NAME ".join(selects))
