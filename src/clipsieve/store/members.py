"""The shards of a dataset as a whole: their rows numbered through, and what identifies them."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from clipsieve.schemas import footers
from clipsieve.schemas.states import RowState
from clipsieve.store import names
from clipsieve.store.canonical import short_hash
from clipsieve.store.documents import footer_rows, footer_states
from clipsieve.store.folder import OutputFolder
from clipsieve.store.parquet import Footer
from clipsieve.store.validation import Count, ShardName

#: Footer values of a ledger that change when a shard's rows or their embeddings do.
LEDGER_KEYS = (
    footers.UID_HASH,
    footers.SOURCE_FINGERPRINT,
    footers.REVISION,
    footers.STATES,
)


@dataclass(frozen=True, slots=True)
class ShardRange:
    """One shard of a dataset, and where its rows stand when all shards' rows are numbered.

    Attributes:
      shard: its name.
      first: number of its first row.
      rows: how many it has.
      ok: rows in state `ok`.
      key: hash of what its ledger's footer says of its content.
    """

    shard: ShardName
    first: Count
    rows: Count
    ok: Count
    key: str


def read_members(folder: OutputFolder) -> tuple[ShardRange, ...]:
    """Return all shards in the ledger in name order, their rows numbered through.

    Raises:
      LedgerError: if a ledger file is damaged.
    """
    shards = folder.shards()
    members: list[ShardRange] = []
    first = 0
    for shard, footer in zip(shards, folder.read_footers(map(names.samples, shards)), strict=True):
        require_footer(folder, names.samples(shard), footer)
        place = folder.files.url(names.samples(shard))
        rows = footer_rows(footer, footers.ROWS, place)
        ok = footer_states(footer, footers.STATES, place).get(RowState.OK, 0)
        members.append(ShardRange(shard, first, rows, ok, ledger_key(footer)))
        first += rows
    return tuple(members)


def ledger_key(footer: Footer) -> str:
    """Return the hash of what a ledger's footer says of its rows and their embeddings."""
    return short_hash([footer.get(key) for key in LEDGER_KEYS])


def require_footer(folder: OutputFolder, name: str, footer: Footer) -> None:
    """Raise `LedgerError` for the empty footer of a file that is missing or damaged."""
    if not footer:
        with folder.open_table(name):
            pass  # raises with the reason


def members_key(members: Sequence[ShardRange]) -> str:
    """Return the hash of a set of shards and their content."""
    return short_hash([asdict(member) for member in members])


def ok_rows(members: Sequence[ShardRange]) -> int:
    """Return the rows in state `ok` of all members."""
    return sum(member.ok for member in members)
