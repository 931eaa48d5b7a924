"""Which files were written with a ledger: it is written last, and says their sizes and hashes.

So a ledger that is there tells that the others are, without a look into them, and a file of another
run in the place of one of them is told from it.
"""

from collections.abc import Mapping
from dataclasses import asdict

from clipsieve.schemas import footers
from clipsieve.store.canonical import canonical_json
from clipsieve.store.json_text import parse_json
from clipsieve.store.parquet import Footer
from clipsieve.store.seal import Seal
from clipsieve.store.validation import decode


def siblings_text(seals: Mapping[str, Seal]) -> str:
    """Return the value of the ledger's footer for the seals of the other files, by their names."""
    return canonical_json({name: asdict(seal) for name, seal in seals.items()})


def read_siblings(ledger: Footer) -> Mapping[str, Seal]:
    """Return the seals by name; empty if the footer has none, as earlier versions wrote them."""
    try:
        seals: Mapping[str, Seal] = decode(
            Mapping[str, Seal], parse_json(ledger.get(footers.SIBLINGS, ""))
        )
    except ValueError:
        return {}
    return seals
