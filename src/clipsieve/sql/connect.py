"""A DuckDB connection in which an output folder's views are ready.

The only module of the library that imports duckdb.
"""

from pathlib import Path

import duckdb

from clipsieve.errors import UsageError
from clipsieve.sql.views import macros_sql, views_sql
from clipsieve.store import dataset as datasets
from clipsieve.store.layout import Layout


def connect(out: str | Path) -> duckdb.DuckDBPyConnection:
    """Open an in-memory DuckDB over the output folder `out`, from any working directory.

    It has the views `scores` (every column of every sample), `samples`, `embeddings`, one view
    for each score family, `runs` and `shards`, and the macros of `sql/macros.sql`.  The views
    read the files as they are now; nothing is copied.

    Args:
      out: folder of an earlier `clipsieve run`.

    Raises:
      UsageError: if the folder holds no dataset.
    """
    layout = Layout.at(out)
    dataset = datasets.require(layout)
    connection = duckdb.connect()
    # As a parameter-free statement: SET takes no parameters.
    root = str(layout.root).replace("'", "''")
    connection.execute(f"SET file_search_path = '{root}'")
    connection.execute(views_sql(layout, dataset))
    connection.execute(macros_sql())
    return connection


def run_query(out: str | Path, query: str) -> duckdb.DuckDBPyRelation | None:
    """The result of one query over `out`; None if it has none.

    Raises:
      UsageError: if DuckDB refuses the query; the message is DuckDB's.
    """
    connection = connect(out)
    try:
        return connection.sql(query)
    except duckdb.Error as error:
        raise UsageError(f"query failed: {error}") from error
