"""What footers say of the source of a shard's rows."""

from dataclasses import asdict

from clipsieve.formats.base import WorkItem
from clipsieve.schemas import footers
from clipsieve.store.canonical import canonical_json


def fingerprint_text(item: WorkItem) -> str:
    """Return the source's fingerprint as it is recorded: JSON of size, version and rows."""
    return canonical_json(asdict(item.fingerprint))


def source_footer(item: WorkItem, rows: int | None) -> dict[str, str]:
    """Return the footer values that say where a shard's rows came from.

    Args:
      item: what was planned.
      rows: rows read; None leaves the count out.
    """
    covered = {"start": item.start, "row_groups": item.row_groups, "files": item.files}
    footer = {
        footers.SHARD: item.shard,
        footers.SOURCE_URI: item.uri,
        footers.SOURCE_FINGERPRINT: fingerprint_text(item),
        footers.SOURCE_RANGE: canonical_json(covered),
    }
    return footer if rows is None else footer | {footers.ROWS: str(rows)}
