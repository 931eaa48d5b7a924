"""Names of what is in a folder of shards."""

import math
import re

#: Folder of everything that is not a shard; readers pass over it for the `_`.
ROOM = "_ingest"
RECORD = f"{ROOM}/list.json"
RETRY_RECORD = f"{ROOM}/retry.json"
#: Digits of a shard's number, as img2dataset has by default.
DIGITS = 5
SHARD = re.compile(r"(\d{5,})\.parquet")


def shard_name(shard: int) -> str:
    """Return the name of a shard's file."""
    return f"{shard:0{DIGITS}}.parquet"


def stats_name(shard: int) -> str:
    """Return the name of the file with a shard's counts."""
    return f"{shard:0{DIGITS}}_stats.json"


def rows_name(shard: int, is_retry: bool = False) -> str:
    """Return the name of the file with the rows to fetch of a shard."""
    return f"{ROOM}/{shard:0{DIGITS}}.{'retry-rows' if is_retry else 'rows'}"


def spool_name(shard: int, is_retry: bool = False) -> str:
    """Return the name of the spool of a shard in work."""
    return f"{ROOM}/{shard:0{DIGITS}}.{'retry-spool' if is_retry else 'spool'}"


def sample_key(shard: int, row: int, rows_per_shard: int) -> str:
    """Return the key of a row, as img2dataset makes it.

    >>> sample_key(3, 17, 10_000)
    '000030017'
    """
    digits = math.ceil(math.log10(rows_per_shard))
    return f"{10**digits * shard + row:0{digits + DIGITS}}"
