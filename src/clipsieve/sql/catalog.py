"""`catalog.duckdb`: the views and macros of an output folder as a database file."""

import errno
import os
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb

from clipsieve.errors import StorageError, UsageError
from clipsieve.sql.connect import register_store
from clipsieve.sql.create_views import create_views, report_left_out
from clipsieve.sql.literals import literal, without_wildcards
from clipsieve.sql.views import macros_sql, views_sql
from clipsieve.store import names
from clipsieve.store.files import LocalFiles
from clipsieve.store.folder import OutputFolder

#: Format of the file: the default of DuckDB 2.0 cannot be opened by 1.5, this one by every 1.x too.
STORAGE_VERSION = "v1.0.0"

#: Errors of the name that was given, not of the disk.
_OF_NAMES = (errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG)


def write_catalog(out: str | Path, path: str | Path | None = None) -> str:
    """Write views and macros of the output folder `out` to a database file; return its path.

    The views read the folder's files by absolute path: they work from any working directory, and
    no longer when the folder is moved, or when a later run has made another build or revision.
    Write the catalog again then.

    Args:
      out: folder of an earlier `clipsieve run`.
      path: of the file; None is `catalog.duckdb` in the folder.  A catalog is replaced at once.

    Raises:
      UsageError: if the folder holds no dataset, or is in an object store and `path` is not given,
        or `path` is a folder, a file that is no
        database, or a database with tables.
    """
    folder = OutputFolder.open(out)
    manifest = folder.require_manifest()
    if path is None and folder.files.is_remote:
        raise UsageError(
            f"{folder.root} is in an object store, and DuckDB opens catalogs on disks only; name a "
            "file of this machine for it"
        )
    place = Path(os.path.abspath(folder.files.url(names.CATALOG) if path is None else path))
    _check_replaceable(place)
    root = without_wildcards(folder.files.url()) + "/"
    views = views_sql(folder, manifest, root)
    # Built elsewhere: DuckDB puts a log beside a database, which a kill would leave in the folder.
    with TemporaryDirectory(prefix="clipsieve-") as scratch:
        built = Path(scratch) / names.CATALOG
        with duckdb.connect() as connection:
            register_store(connection, folder)
            connection.execute(
                f"ATTACH {literal(str(built))} AS catalog (STORAGE_VERSION '{STORAGE_VERSION}')"
            )
            connection.execute("USE catalog")
            report_left_out(create_views(connection, folder, views, root))
            connection.execute(macros_sql())
            connection.execute("USE memory")
            connection.execute("DETACH catalog")  # writes the log into the database
        try:
            with LocalFiles(place.parent).writing(place.name) as temporary:
                shutil.copyfile(built, temporary)
        except StorageError as error:
            cause = error.__cause__
            if not isinstance(cause, OSError) or cause.errno not in _OF_NAMES:
                raise
            raise UsageError(
                f"catalog {place} cannot be written ({cause.strerror}); name another file"
            ) from error
    return str(place)


def _check_replaceable(place: Path) -> None:
    """Refuse to replace what is no catalog."""
    if not os.path.exists(place):  # False for a name that is too long
        return
    try:
        with duckdb.connect(str(place), read_only=True) as connection:
            tables = connection.execute("SELECT count(*) FROM duckdb_tables()").fetchone()
    except duckdb.Error as error:
        if not _is_database(place):
            raise UsageError(
                f"catalog {place} is there, and no database of clipsieve's; choose another path"
            ) from error
        raise UsageError(
            f"catalog {place} is a DuckDB database that cannot be opened ({error}); choose another "
            "path, or remove it"
        ) from error
    if tables != (0,):
        raise UsageError(
            f"catalog {place} is a database with tables, not one that clipsieve wrote; choose "
            "another path"
        )


def _is_database(place: Path) -> bool:
    """Whether a file can be read, and begins as DuckDB's databases do."""
    try:
        with place.open("rb") as file:
            return file.read(12)[8:] == b"DUCK"
    except OSError:
        return False
