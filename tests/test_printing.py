"""What reaches the terminal: figures whole, words cut, nothing that steers it."""

from types import SimpleNamespace

import pytest

from clipsieve.printing import escaped, print_accounts, print_groups

STEERING = "\x1b]0;title\x07 \x9b2J \u202egnp"


def group(**values):
    usual = {"size": 1, "rows": 2, "share": 0.5, "score_mean": 1.0, "evidence": 3.0, "n_images": 1}
    return SimpleNamespace(**{**usual, "caption": "a cat", "uids": ["u"], "urls": [None], **values})


def account(**values):
    usual = {"shard": "a", "uri": "a.tar", "source_rows": 3, "ledger_rows": 3, "problems": ()}
    usual["is_shard"] = True
    return SimpleNamespace(**{**usual, "states": {"ok": 2, "decode_error": 1}, **values})


def test_groups_show_captions_and_urls_escaped(capsys):
    print_groups([group(), group(caption=STEERING, urls=[STEERING]), group(caption=None)], "out")
    out = capsys.readouterr().out
    assert "a cat" in out and "NULL" in out and "\\x1b]0;title" in out
    assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(out)
    assert out.endswith('all of them: clipsieve sql out "FROM density_groups"\n')


def test_accounts_that_add_up_end_in_one_sentence(capsys):
    print_accounts([account(), account(shard="b")])
    shown = capsys.readouterr()
    assert shown.out.endswith("all 6 input rows of 2 shards are in the ledger exactly once\n")
    assert shown.err == ""


def test_problems_of_accounts_are_named_and_escaped(capsys):
    print_accounts([account(), account(uri=STEERING, problems=("source has 4 rows",))])
    err = capsys.readouterr().err
    assert err.startswith("a (\\x1b]0;title\\x07 \\x9b2J \\u202egnp): source has 4 rows\n")
    assert err.endswith("1 of 2 shards do not add up\n")


def test_damaged_files_are_not_counted_as_shards(capsys):
    damaged = account(shard="fits/a.npz", states={}, problems=("is damaged",), is_shard=False)
    print_accounts([account(), damaged])
    assert capsys.readouterr().err.endswith("1 files or subsets beside shards are damaged\n")


@pytest.mark.parametrize("text", ["two\nlines\tand a tab", "é → 猫", "[red]"])
def test_other_text_stays_as_it_is(text):
    assert escaped(text) == text
