"""What a ledger says of the files that were written with it."""

import pytest

from clipsieve.schemas import footers
from clipsieve.store.seal import Seal
from clipsieve.store.siblings import read_siblings, siblings_text

SEALS = {
    "scores/clip/rev=0a/a.parquet": Seal(7, "0" * 64),
    "embeddings/é.parquet": Seal(9, "f" * 64),
}


def test_seals_come_back_by_name():
    assert read_siblings({footers.SIBLINGS: siblings_text(SEALS)}) == SEALS


@pytest.mark.parametrize("text", ["", "{", "[]", '{"a": 1}', '{"a": {"bytes": "x"}}', "null"])
def test_a_footer_without_seals_names_nothing(text):
    assert read_siblings({footers.SIBLINGS: text}) == {}
    assert read_siblings({}) == {}
