"""What reaches the terminal: figures whole, words cut, nothing that steers it."""

from types import SimpleNamespace

import pytest

from clipsieve.printing import escaped, print_accounts, print_groups

STEERING = "\x1b]0;title\x07 \x9b2J \u202egnp"


def group(**values):
    usual = {
        **{"finding": "wrong_captions", "rows": 1234567, "evidence": 345678.9},
        **{"evidence_per_row": 12.345, "p": 1e-300, "witness": "clip_similarity"},
        **{"witness_mean": 0.12345, "ordinary_low": 0.2125, "ordinary_high": 0.3875},
        "captions": ("a cat",),
    }
    return SimpleNamespace(**{**usual, **values})


def account(**values):
    usual = {"shard": "a", "uri": "a.tar", "source_rows": 3, "ledger_rows": 3, "problems": ()}
    usual["is_shard"] = True
    return SimpleNamespace(**{**usual, "states": {"ok": 2, "decode_error": 1}, **values})


#: How the figures of a usual group are shown.
FIGURES = [
    *("wrong_captions", "1,234,567", "345,679", "12.3", "1e-300", "clip_similarity"),
    *("0.123", "0.212", "to", "0.388"),
]


def shown_lines(groups, capsys):
    """Lines of the table, a list of words each, and all output."""
    print_groups(groups, "out")
    out = capsys.readouterr().out
    lines = [line.split() for line in out.splitlines()]
    return [line for line in lines if line and line[0].isdigit()], out


def test_groups_show_captions_escaped(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    groups = [group(), group(captions=(STEERING,)), group(captions=())]
    lines, out = shown_lines(groups, capsys)
    assert "\\x1b]0;title" in out
    assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(out)
    assert lines[0] == ["1", *FIGURES, "a", "cat"]
    assert lines[2] == ["3", *FIGURES, "NULL"]
    told = [line for line in out.splitlines() if "clipsieve sql out" in line]
    assert [line.split('"')[1].split(" FROM ")[-1] for line in told] == [
        *("FROM audit_groups", "audit_groups", "FROM audit_members", "FROM copies")
    ]
    assert 'all of them: clipsieve sql out "FROM audit_groups"' in out


@pytest.mark.parametrize("columns", ["20", "80", "100", "400"])
@pytest.mark.parametrize("caption", ["short", "a very long caption " * 50, "猫" * 300])
def test_figures_of_groups_stay_whole_and_words_are_cut(capsys, monkeypatch, columns, caption):
    monkeypatch.setenv("COLUMNS", columns)
    given = [group(captions=(caption,)) for _ in range(12)]
    lines, out = shown_lines(given, capsys)
    assert [line[: 1 + len(FIGURES)] for line in lines] == [
        [str(n + 1), *FIGURES] for n in range(12)
    ]
    for name in ("finding", "rows", "evidence", "witness", "ordinary", "caption"):
        assert f" {name} " in out
    beginning = caption.split()[0]
    assert all(line[1 + len(FIGURES)][:3] == beginning[:3] for line in lines)


def test_line_breaks_in_captions_make_no_lines(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "250")
    given = group(captions=("[red]two\nlines\u2028and\ta tab[/red]",))
    (line,), _ = shown_lines([given], capsys)
    assert line == ["1", *FIGURES, "[red]two", "lines", "and", "a", "tab[/red]"]


def test_names_of_columns_are_no_markup_and_steer_nothing(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "250")
    for name, shown in (("a[bold]b", "a[bold]b"), ("\x1b[2J", "\\x1b[2J"), ("列" * 20, "列" * 20)):
        (line,), out = shown_lines([group(witness=name)], capsys)
        assert line[6] == shown
        assert line[7:11] == FIGURES[6:]
        assert "\x1b" not in out


def test_a_group_without_a_range_says_so(capsys):
    nothing = group(ordinary_low=float("nan"), ordinary_high=float("nan"))
    (line,), _ = shown_lines([nothing], capsys)
    assert line[8:11] == ["nan", "to", "nan"]


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
