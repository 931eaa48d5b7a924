"""Every predicate that could do more than test a row is refused, with the reason."""

import pyarrow as pa
import pytest

from clipsieve.errors import UsageError
from clipsieve.sql.predicate import read_predicate
from tests.sql.attacks import ATTACKS

SCHEMA = pa.schema(
    [
        ("uid", pa.string()),
        ("caption", pa.string()),
        ("clip_score", pa.float32()),
        ("k", pa.int64()),
        ("ok", pa.bool_()),
        ("taken", pa.date32()),
        ("words", pa.list_(pa.string())),
        ("box", pa.struct([("a", pa.int32())])),
        ("duplicate_group", pa.string()),
        ("duplicate_first", pa.bool_()),
    ]
)


@pytest.fixture(scope="module")
def empty_folder(tmp_path_factory):
    """Make an empty folder the current one, in which files of relative names would come up."""
    folder = tmp_path_factory.mktemp("empty")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


def test_there_are_enough_attacks():
    texts = [text for text, _ in ATTACKS]
    assert len(set(texts)) == len(texts) >= 200


@pytest.mark.parametrize(("text", "reason"), ATTACKS, ids=lambda text: ascii(text[:50]))
def test_an_attack_is_refused_with_the_reason(text, reason, empty_folder):
    secret_df = pa.table({"x": [1]})  # what DuckDB would find in its caller's variables
    with pytest.raises(UsageError) as error:
        read_predicate(text, SCHEMA)
    assert reason in str(error.value)
    assert len(str(error.value)) < 1000 or len(text) > 300
    assert list(empty_folder.iterdir()) == []
    del secret_df
