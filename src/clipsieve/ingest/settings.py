"""The settings of `ingest`."""

import ipaddress
import re
from dataclasses import KW_ONLY, dataclass
from functools import partial
from typing import Any

from clipsieve.definitions import check_values, plain_values, setting, shown
from clipsieve.errors import UsageError
from clipsieve.setting_values import byte_size, seconds, split_names

#: Where a server's owner finds out what asks, if the user names no contact.
DEFAULT_CONTACT = "https://pypi.org/project/clipsieve"
#: Of a first list, as img2dataset has by default.
ROWS_PER_SHARD = 10_000
#: Directives of `X-Robots-Tag` that img2dataset obeys by default.
DISALLOWED_DIRECTIVES = ("noai", "noimageai", "noindex", "noimageindex")


def _check_shards(shards: str) -> str:
    if not shards:
        raise UsageError("shards is empty, which would mean the current folder; name a folder")
    if "://" in shards.removeprefix("file://"):
        raise UsageError(
            f"shards {shown(shards)} is a URL; ingest writes to a disk of this machine: name a "
            "folder, and copy it to the store when it is done"
        )
    return shards


def _check_urls(urls: tuple[str, ...]) -> tuple[str, ...]:
    if not urls or not all(urls):
        raise UsageError("urls is empty; name a list of URLs: a file, glob or folder")
    return urls


def _check_ranges(ranges: tuple[str, ...]) -> tuple[str, ...]:
    try:
        return tuple(str(ipaddress.ip_network(text)) for text in ranges)
    except ValueError as error:
        raise UsageError(
            f"allow_ranges: {error}; give networks such as 10.1.0.0/16 or fd00::/64"
        ) from error


def _check_max_bytes(count: int) -> int:
    if count > 1 << 30:
        raise UsageError(f"max_bytes {count:,} is more than 1G; give 1G at most")
    return count


def _check_contact(contact: str) -> str:
    if not re.fullmatch(r"[!-'*-~]{3,200}", contact):
        raise UsageError(
            f"contact {shown(contact)} is no address; give a URL or a mail address without "
            "blanks and parentheses"
        )
    return contact


@dataclass(frozen=True, slots=True)
class IngestConfig:
    """Settings of `ingest`, which fetches the images of a list of URLs into shards.

    Every setting, with its type, default and meaning: docs/settings.md.
    """

    urls: tuple[str, ...] = setting(
        "lists of URLs: Parquet, CSV, TSV, JSON lines or text, a file, glob or folder",
        check=_check_urls,
    )
    shards: str = setting("folder of the shards", check=_check_shards)
    _: KW_ONLY
    url_col: str | None = setting("column with the URL", None, unset="found by its name")
    caption_col: str | None = setting("column with the caption", None, unset="found by its name")
    carry: tuple[str, ...] = setting(
        "more columns of the list that go into the shards, separated by commas",
        (),
        unset="uid if there is one",
        parse=split_names,
    )
    rows_per_shard: int | None = setting(
        "rows of the list in a shard",
        None,
        unset=f"{ROWS_PER_SHARD}, or those of the shards that are there",
        minimum=1,
    )
    max_bytes: int = setting(
        "larger images fail, and are not read further: bytes, or 500K, 32M",
        32 << 20,
        minimum=1,
        parse=partial(byte_size, name="max_bytes"),
        check=_check_max_bytes,
    )
    timeout_per_url: float = setting(
        "a URL fails after this long in all, redirects and retries included: seconds, or 90s, 2m",
        20.0,
        minimum=0,
        parse=partial(seconds, name="timeout_per_url"),
    )
    processes: int | None = setting(
        "processes that fetch", None, minimum=1, unset="one for each core"
    )
    threads: int = setting("URLs that each process fetches at once", 32, minimum=1)
    per_host: int = setting("URLs of one host that are fetched at once", 8, minimum=1)
    retries: int = setting(
        "further attempts after a lost connection, 429 or an error of the server", 2, minimum=0
    )
    retry_failed: bool = setting(
        "fetch rows of finished shards again that failed for a reason that may pass", False
    )
    extend: bool = setting(
        "take a list other than the one that the shards were made of: fetch its new rows", False
    )
    allow_private: bool = setting("fetch from addresses that are not public too", False)
    allow_ranges: tuple[str, ...] = setting(
        "networks that count as public, such as 10.1.0.0/16, separated by commas",
        (),
        parse=split_names,
        check=_check_ranges,
    )
    robots: bool = setting("obey robots.txt", True)
    contact: str = setting(
        "URL or mail address that the User-Agent names, for owners of servers",
        DEFAULT_CONTACT,
        check=_check_contact,
    )
    deadline: float | None = setting(
        "begin no URL after this long: seconds, or 90s, 30m, 5h", None, minimum=0, parse=seconds
    )
    log_format: str = setting(
        "lines on standard error; auto is text", "auto", choices=("auto", "text", "json")
    )

    def __post_init__(self) -> None:
        """Bring every value to its type, and check what needs no look at files.

        Raises:
          UsageError: for a value of another type or out of range.
        """
        check_values(self)
        if self.timeout_per_url <= 0:
            raise UsageError("timeout_per_url must be more than 0; say 20s")

    def to_json(self) -> dict[str, Any]:
        """The settings as plain JSON values."""
        return plain_values(self)
