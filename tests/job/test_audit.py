"""The audit of a whole folder: planted groups come first, and the tables say what was printed."""

import dataclasses
import io
import json
import math
import re

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import clipsieve
from clipsieve.audit import describe
from clipsieve.audit.captions import normalised
from clipsieve.audit.describe import Finding
from clipsieve.audit.keys import Kind
from clipsieve.audit.witnesses import parse_column, recorded_direction
from clipsieve.errors import LedgerError, Locked, UsageError
from clipsieve.job.audit import audit
from clipsieve.schemas import footers
from clipsieve.schemas.audits import copies_schema, groups_schema, members_schema
from clipsieve.sql import syntax
from clipsieve.store import names
from clipsieve.store.folder import OutputFolder
from tests.audit.folders import COLUMN, LARGE, REVISION, SIMILARITY, Row, write_folder, write_scores
from tests.pipelines.jobs import exit_code, manifest_of

TABLES = ("groups", "members", "copies")


def ordinary(count, seed=0, prefix="o"):
    """Rows of ordinary scores, different captions and different pictures."""
    rng = np.random.default_rng(seed)
    scores = np.exp(rng.normal(size=count) * 0.2)
    similarity = rng.normal(0.3, 0.03, count)
    letters = [chr(97 + n) for n in range(26)]
    return [
        Row(
            f"{prefix}{n:04}",
            float(scores[n]),
            f"{''.join(rng.choice(letters, 7))} {''.join(rng.choice(letters, 7))}",
            rng.normal(size=8).tolist(),
            f"http://{prefix}{n % 25}.example/{n}",
            float(similarity[n]),
        )
        for n in range(count)
    ]


def but(rows, **changes):
    """Rows with other fields; functions are called with the number of the row."""
    return [
        dataclasses.replace(
            row, **{name: new(n) if callable(new) else new for name, new in changes.items()}
        )
        for n, row in enumerate(rows)
    ]


CAKES = but(
    ordinary(30, 1, "cake"),
    caption=lambda n: "Birthday cake" + "!" * (n % 3),
    similarity=lambda n: 0.05 + n / 1000,
    url=lambda n: f"http://c/{n}",
)
PLACEHOLDERS = but(
    ordinary(20, 2, "gone"),
    vector=[0.0, 1.0, 2.0],
    file="not found",
    similarity=lambda n: 0.1 + n / 1000,
)
FAILED = [Row(f"failed{n}", None, "birthday CAKE", (), f"http://f/{n}") for n in range(5)]
SOLD = but(
    ordinary(15, 3, "sold"), caption="Our shoe", vector=[1.0, 1.0, -1.0], file="shoe", score=1.0
)
ROWS = [*ordinary(500), *CAKES, *PLACEHOLDERS, *FAILED, *SOLD]
#: Uids of the planted groups, the strongest first.
TRUTH = [{row.uid for row in rows} for rows in ([*CAKES, *FAILED], PLACEHOLDERS)]


@pytest.fixture
def folder(tmp_path):
    """Two shards with wrong captions, a placeholder, and honest copies."""
    write_folder(tmp_path / "out", {"a": ROWS[:250], "b": ROWS[250:]})
    return tmp_path / "out"


def view(folder, name):
    """Rows of a view, as mappings."""
    relation = clipsieve.connect(folder).sql(f"FROM {name}")
    return [dict(zip(relation.columns, row, strict=True)) for row in relation.fetchall()]


def as_bytes(path):
    """The content of a Parquet table, without what its file says of itself."""
    table = pq.read_table(path, partitioning=None).combine_chunks()
    buffer = io.BytesIO()
    with pa.ipc.new_stream(buffer, table.schema) as stream:
        stream.write_table(table)
    return buffer.getvalue()


def uids_of(folder, rank):
    return {row["uid"] for row in view(folder, "audit_members") if row["rank"] == rank}


def test_planted_groups_are_found_the_strongest_first(folder):
    result = audit(folder)
    assert [(group.kind, group.finding) for group in result.groups] == [
        (Kind.CAPTION, Finding.WRONG_CAPTIONS),
        (Kind.IMAGE_BYTES, Finding.ODD_COPIES),
    ]
    assert [uids_of(folder, rank) for rank in (1, 2)] == TRUTH
    assert result.rows == len(ROWS)
    assert result.summary() == (
        "audit: 55 of 570 rows in 2 groups; first: 35 rows, wrong_captions, 'Birthday cake'"
    )


def test_the_table_of_groups_holds_what_the_result_says(folder):
    result = audit(folder)
    found = view(folder, "audit_groups")
    assert [row["rank"] for row in found] == [1, 2]
    assert list(found[0]) == groups_schema(pa.string()).names
    for row, group in zip(found, result.groups, strict=True):
        for name in set(row) - {"rank"}:
            value = getattr(group, name)
            expected = list(value) if isinstance(value, tuple) else value
            if isinstance(value, float):
                expected = pytest.approx(value, rel=1e-6)
            assert row[name] == expected, name


def test_what_is_said_of_a_group_is_right(folder):
    audit(folder)
    cake, gone = view(folder, "audit_groups")
    assert (cake["rows"], cake["share"]) == (35, pytest.approx(35 / 570))
    assert (cake["witness"], cake["kind"]) == (SIMILARITY, "caption")
    mean = np.mean([row.similarity for row in CAKES])
    assert cake["witness_mean"] == pytest.approx(mean, abs=1e-5)
    assert mean < cake["ordinary_low"] < 0.3 < cake["ordinary_high"]
    assert cake["evidence_per_row"] == pytest.approx(cake["evidence"] / 35)
    assert 0 < cake["p"] <= 0.05
    assert (cake["captions"], cake["caption_rows"]) == (["Birthday cake"], [35])
    assert (cake["n_captions"], cake["n_images"], cake["copies"]) == (1, 35, 1)
    assert (cake["hosts"], cake["n_hosts"]) == (["c", "f"], 2)
    # Of the lowest similarity first.
    assert cake["uids"] == [f"cake000{n}" for n in range(5)]
    assert cake["urls"] == [f"http://c/{n}" for n in range(5)]
    assert (gone["n_captions"], gone["n_images"], gone["copies"]) == (20, 1, 20)
    assert gone["similarity"] == pytest.approx(1, abs=1e-3)
    assert len(gone["captions"]) == 3 and gone["caption_rows"] == [1, 1, 1]
    assert gone["why"].startswith(
        "20 rows of the same file, 1 picture, 20 captions; one picture 20 times"
    )


def test_similarity_of_a_group_is_the_mean_cosine_of_its_pictures(folder):
    (cake, _) = audit(folder).groups
    units = [row.picture / np.linalg.norm(row.picture) for row in CAKES]
    cosines = [float(a @ b) for n, a in enumerate(units) for b in units[n + 1 :]]
    assert cake.similarity == pytest.approx(np.mean(cosines), abs=1e-3)


def test_members_are_every_row_of_each_group_with_values_and_tails(folder):
    audit(folder)
    members = view(folder, "audit_members")
    witnesses = [SIMILARITY, COLUMN, LARGE]
    assert list(members[0]) == members_schema(pa.string(), witnesses).names
    places = [(row["rank"], row["shard"], row["row"]) for row in members]
    assert places == sorted(places)
    assert [sum(rank == r for r, _, _ in places) for rank in (1, 2)] == [35, 20]
    given = {row.uid: row for row in ROWS}
    shards = {"a": ROWS[:250], "b": ROWS[250:]}
    tails = {}
    for row in members:
        known = given[row["uid"]]
        assert shards[row["shard"]][row["row"]] is known
        if not known.picture.any():
            assert [row[name] for name in witnesses] == [None] * 3
            assert [row[f"{name}_p"] for name in witnesses] == [None] * 3
            continue
        assert row[SIMILARITY] == pytest.approx(known.similarity, abs=1e-5)
        assert row[COLUMN] == row[LARGE] == pytest.approx(known.score)
        # By rank, of all rows with a score.
        scores = [other.score for other in ROWS if other.score is not None]
        beyond = sum(score > known.score for score in scores) / len(scores)
        assert row[f"{COLUMN}_p"] == pytest.approx(beyond, abs=2 / len(scores) + 0.005)
        tails[row[SIMILARITY]] = row[f"{SIMILARITY}_p"]
    rising = [tails[value] for value in sorted(tails)]
    assert rising == sorted(rising) and rising[0] < 1e-6


def test_copies_are_counts_of_all_rows(folder):
    audit(folder)
    copies = view(folder, "copies")
    assert list(copies[0]) == copies_schema().names
    captions = [row for row in copies if row["kind"] == "caption"]
    forms = [normalised(row.caption) for row in ROWS]
    counts = {form: forms.count(form) for form in set(forms)}
    assert {normalised(row["caption"]): row["rows"] for row in captions} == {
        form: count for form, count in counts.items() if count > 1
    }
    assert [row["rows"] for row in captions] == sorted((r["rows"] for r in captions), reverse=True)
    shoe = next(row for row in captions if row["caption"] == "Our shoe")
    assert (shoe["rows"], shoe["n_captions"], shoe["n_images"]) == (15, 1, 1)
    assert shoe["n_hosts"] == len({row.url.split("/")[2] for row in SOLD})
    assert shoe["similarity"] == pytest.approx(1, abs=1e-3)
    assert shoe["density_mean"] == pytest.approx(1)
    expected = np.mean([2.5 * row.similarity for row in SOLD])
    assert shoe["clip_score_mean"] == pytest.approx(expected, abs=1e-5)
    first = SOLD[0]
    assert (shoe["url"], shoe["image_sha256"]) == (first.url, first.digest.hex())
    for kind in ("image_bytes", "image_hash"):
        of_kind = [row for row in copies if row["kind"] == kind]
        assert [(row["rows"], row["n_captions"]) for row in of_kind] == [(20, 20), (15, 1)]


def test_the_most_frequent_copies_of_each_kind_come_first(tmp_path):
    # Captions of 2, 3, ... 9 rows.
    names_of = [number for number in range(2, 10) for _ in range(number)]
    rows = but(
        ordinary(len(names_of)),
        caption=lambda n: "caption " + "x" * names_of[n],
        file=lambda n: str(names_of[n]),
    )
    made = write_folder(tmp_path / "out", {"a": rows[::2], "b": rows[1::2]})
    audit(made.root)
    found = [(row["kind"], row["rows"]) for row in view(made.root, "copies")]
    falling = range(9, 1, -1)
    kinds = ("caption", "image_bytes", "image_hash")
    assert found == [(kind, count) for kind in kinds for count in falling]


def test_footers_say_how_the_tables_were_made(folder):
    result = audit(folder, columns=("n:high",), model_saw_data="no", near_cosine=0.9)
    assert result.path == str(folder / "audits" / "groups.parquet")
    wide = manifest_of(folder).wide
    assert wide is not None
    for name in TABLES:
        footer = OutputFolder.open(folder).read_footer(names.audit(name))
        assert footer[footers.FAMILY] == f"audit_{name}"
        assert footer[footers.BUILD] == wide.build
        rows = pq.read_metadata(folder / "audits" / f"{name}.parquet").num_rows
        assert footer[footers.ROWS] == str(rows)
        parameters = json.loads(footer[footers.PARAMETERS])
        assert (parameters["model_saw_data"], parameters["near_cosine"]) == ("no", 0.9)
        assert (parameters["line"], parameters["rows"]) == (0.05, len(ROWS))
        assert [w["column"] for w in parameters["witnesses"]] == [SIMILARITY, COLUMN, LARGE, "n"]
        assert [w["suspicious"] for w in parameters["witnesses"]] == ["low", "high", "high", "high"]
        assert [w["tail"] for w in parameters["witnesses"]] == ["centre", "rank", "rank", "rank"]
        assert parameters["families"]["density"] == REVISION


def test_split_into_shards_and_order_of_rows_change_no_group(tmp_path):
    rng = np.random.default_rng(0)
    groups = set()
    for count in (1, 2, 7):
        rows = [ROWS[n] for n in rng.permutation(len(ROWS))]
        made = write_folder(
            tmp_path / f"out{count}", {f"s{n}": rows[n::count] for n in range(count)}
        )
        audit(made.root)
        groups.add(as_bytes(tmp_path / f"out{count}" / "audits" / "groups.parquet"))
        assert [uids_of(made.root, rank) for rank in (1, 2)] == TRUTH
    assert len(groups) == 1


def test_uids_stay_in_the_type_of_the_source(tmp_path):
    rows = but(ROWS, uid=lambda n: 7 * n)
    made = write_folder(tmp_path / "out", {"a": rows})
    result = audit(made.root)
    assert result.groups[1].uids == tuple(7 * (530 + n) for n in range(5))
    schema = pq.read_schema(tmp_path / "out" / "audits" / "groups.parquet")
    assert schema.field("uids").type == pa.list_(pa.int64())
    assert view(made.root, "audit_members")[0]["uid"] == 3500


def test_a_source_without_urls_has_null_ones_and_no_hosts(tmp_path):
    made = write_folder(tmp_path / "out", {"a": ROWS}, urls=False)
    assert audit(made.root).groups[0].urls == (None,) * 5
    cake = view(made.root, "audit_groups")[0]
    assert (cake["urls"], cake["hosts"], cake["n_hosts"]) == ([None] * 5, [], 0)


def test_copies_without_captions_are_a_group_by_density(tmp_path):
    # Without a caption a picture has no similarity.
    rows = but(PLACEHOLDERS, caption=None, score=lambda n: 5.0 + n / 10)
    rows = but(rows, file=lambda n: f"file {n}", url="http://gone.example/x")
    made = write_folder(tmp_path / "out", {"a": [*ordinary(600), *rows]})
    result = audit(made.root)
    assert [(g.kind, g.finding, g.captions, g.rows) for g in result.groups] == [
        (Kind.HOST, Finding.ODD_PICTURES, (), 20)
    ]
    assert result.groups[0].n_captions == 0 and result.groups[0].n_images == 20
    assert "no caption" in result.summary()
    assert view(made.root, "audit_groups")[0]["captions"] == []


def test_nothing_out_of_the_ordinary_is_empty_tables_and_a_clear_line(tmp_path):
    made = write_folder(tmp_path / "out", {"a": ordinary(300)})
    result = audit(made.root)
    assert result.groups == () and result.copied == 0
    assert result.summary() == "audit: no group of the 300 rows is out of the ordinary"
    for name in ("audit_groups", "audit_members", "copies"):
        assert view(made.root, name) == []


@pytest.mark.parametrize("rows", [FAILED, ordinary(1)], ids=["failed", "one"])
def test_rows_without_any_picture_and_a_single_row_are_audited(tmp_path, rows):
    made = write_folder(tmp_path / "out", {"a": rows})
    assert audit(made.root).groups == ()
    copies = view(made.root, "copies")
    assert [(row["kind"], row["rows"]) for row in copies] == [("caption", 5)][: len(rows) // 5]


def test_a_shard_of_failed_rows_may_come_first(tmp_path):
    made = write_folder(
        tmp_path / "out", {"a": but(FAILED, uid=lambda n: f"lost{n}", caption="lost"), "b": ROWS}
    )
    assert audit(made.root).groups[0].rows == 35


def test_an_audit_replaces_the_one_before(folder):
    audit(folder)
    before = [as_bytes(folder / "audits" / f"{name}.parquet") for name in TABLES]
    audit(folder)
    assert [as_bytes(folder / "audits" / f"{name}.parquet") for name in TABLES] == before
    audit(folder, columns=("n:high",))
    assert "n_p" in view(folder, "audit_members")[0]


def test_tables_of_an_earlier_version_are_removed_and_files_of_the_user_stay(folder):
    old = folder / "audits" / "density" / f"rev={REVISION}" / "groups.parquet"
    mine = [old.with_name("mine.parquet"), folder / "audits" / "notes" / "groups.parquet"]
    for path in (old, *mine):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"content")
    audit(folder)
    assert not old.exists()
    assert [path.read_bytes() for path in mine] == [b"content"] * 2


def test_a_folder_without_density_is_audited_by_similarity_alone(tmp_path):
    made = write_folder(tmp_path / "out", {"a": ROWS}, density=False)
    result = audit(made.root)
    assert [uids_of(made.root, rank) for rank in (1, 2)] == TRUTH
    assert {group.witness for group in result.groups} == {SIMILARITY}
    assert list(view(made.root, "audit_members")[0])[4:] == [SIMILARITY, f"{SIMILARITY}_p"]
    assert {row["density_mean"] for row in view(made.root, "copies")} == {None}


def test_a_column_that_the_user_names_finds_groups(folder, tmp_path):
    # Rows without a picture: nothing but the column speaks against them.
    rows = but(ordinary(25, 7, "p"), caption="seen before", url="http://p/x")
    made = write_folder(tmp_path / "named", {"a": [*ordinary(400), *rows]})
    assert audit(made.root).groups == ()
    for text, finding in (("n:high", Finding.COLUMN), ("n:low", None)):
        groups = audit(made.root, columns=(text,)).groups
        assert [group.finding for group in groups] == ([finding] if finding else [])
        for group in groups:
            assert (group.witness, group.rows) == ("n", 25)
            assert group.witness_mean == pytest.approx(412)


def test_a_score_has_its_own_direction_and_a_column_of_the_source_has_none(folder):
    audit(folder, columns=("clip_score",))
    parameters = json.loads(
        OutputFolder.open(folder).read_footer(names.audit("groups"))[footers.PARAMETERS]
    )
    assert parameters["witnesses"][-1] == {
        "column": "clip_score",
        "suspicious": "low",
        "tail": "rank",
    }
    with pytest.raises(
        UsageError, match=r"'n' does not say which values are suspicious; .* n:high or n:low"
    ):
        audit(folder, columns=("n",))


def test_a_column_named_twice_is_one_witness(folder):
    audit(folder, columns=("n:high", "n:high", SIMILARITY, f"{COLUMN}:high"))
    assert list(view(folder, "audit_members")[0])[4:8] == [SIMILARITY, COLUMN, LARGE, "n"]


@pytest.mark.parametrize(
    "columns", [("n:high", "n:low"), (f"{SIMILARITY}:high",), (f"{COLUMN}:low",)]
)
def test_a_column_with_two_directions_is_refused(folder, columns):
    with pytest.raises(UsageError, match=r"is asked for with (high|low) values .* take one"):
        audit(folder, columns=columns)


@pytest.mark.parametrize("column", ["density_x", "caption", "density_x:high"])
def test_an_unknown_column_is_refused_with_those_there_are(folder, column):
    with pytest.raises(
        UsageError, match=r"is not among the numeric columns of .*; there are clip_"
    ):
        audit(folder, columns=(column,))
    assert not (folder / "audits").exists()


def test_another_direction_than_high_and_low_is_refused(folder):
    message = r"'n:up' ends in 'up'; end it in :high or :low, which values are suspicious"
    with pytest.raises(UsageError, match=message):
        audit(folder, columns=("n:up",))


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a", ("a", None)), ("a:high", ("a", True)), ("a:b:low", ("a:b", False))],
)
def test_a_column_and_its_direction_are_told_apart(text, expected):
    assert parse_column(text) == expected


@pytest.mark.parametrize(
    ("text", "is_high"),
    [
        ("higher is better", False),
        ("lower is better", True),
        ("higher is more suspicious", True),
        ("lower is more suspicious", False),
        ("higher is closer", None),
        (None, None),
    ],
)
def test_the_direction_of_a_score_says_which_values_are_suspicious(text, is_high):
    assert recorded_direction(text) is is_high


@pytest.mark.parametrize("near_cosine", [0.0, -0.5, 1.01, math.nan])
def test_a_cosine_out_of_range_is_refused(folder, near_cosine):
    with pytest.raises(UsageError, match="cosine must be above 0 and at most 1, got"):
        audit(folder, near_cosine=near_cosine)
    assert not (folder / "audits").exists()


def test_an_unknown_answer_about_the_model_is_refused(folder):
    with pytest.raises(UsageError, match="must be one of yes, no, unknown, got 'maybe'"):
        audit(folder, model_saw_data="maybe")


def learnt_rows():
    """Forty captions of ten rows; five are sparse, and one of these the model knows too well."""
    rows = but(
        ordinary(400, 11, "k"), caption=lambda n: "concept " + chr(97 + n // 20) * (2 + n // 10 % 2)
    )
    rows = but(rows, score=lambda n: rows[n].score * (2.2 if n < 50 else 1.0))
    return but(rows, similarity=lambda n: 0.6 if n < 10 else rows[n].similarity)


@pytest.mark.parametrize("answer", ["yes", "unknown", "no"])
def test_learnt_concepts_come_first_only_if_the_model_saw_the_data(tmp_path, answer):
    made = write_folder(tmp_path / "out", {"a": [*learnt_rows(), *ordinary(1200), *CAKES]})
    findings = [group.finding for group in audit(made.root, model_saw_data=answer).groups]
    wrong, learnt = Finding.WRONG_CAPTIONS, Finding.RARE_AND_LEARNT
    expected = {"yes": [learnt, wrong], "unknown": [wrong, learnt], "no": [wrong]}
    assert findings == expected[answer]


def test_a_predicate_that_would_be_too_long_is_not_given(folder, monkeypatch):
    assert all(group.keep for group in audit(folder).groups)
    monkeypatch.setattr(describe, "MOST_CHARACTERS", 60)
    cake, gone = audit(folder).groups
    assert (cake.keep, gone.keep) == (None, None)
    assert [row["keep"] for row in view(folder, "audit_groups")] == [None, None]


def test_no_predicate_is_longer_than_a_filter_takes():
    assert describe.MOST_CHARACTERS <= syntax.MAX_CHARACTERS


def test_predicates_keep_all_rows_but_those_of_their_group(folder):
    result = audit(folder)
    connection = clipsieve.connect(folder)
    for group, truth in zip(result.groups, TRUTH, strict=True):
        query = f"SELECT uid FROM samples WHERE NOT ({group.keep})"
        assert {uid for (uid,) in connection.sql(query).fetchall()} == truth


def test_a_predicate_spares_rows_of_the_caption_that_are_in_another_group(tmp_path):
    # Ten of the placeholders have the caption of the other group.
    rows = [
        *ordinary(500),
        *CAKES,
        *but(PLACEHOLDERS[:10], caption="birthday cake"),
        *PLACEHOLDERS[10:],
    ]
    made = write_folder(tmp_path / "out", {"a": rows})
    result = audit(made.root)
    connection = clipsieve.connect(made.root)
    for rank, group in enumerate(result.groups, 1):
        query = f"SELECT uid FROM samples WHERE NOT ({group.keep})"
        dropped = {uid for (uid,) in connection.sql(query).fetchall()}
        assert dropped == uids_of(made.root, rank), group.kind


def test_captions_with_quotes_and_breaks_are_quoted_in_predicates(tmp_path):
    rows = but(CAKES, caption=lambda n: f'It\'s a "cake";\n-- no{"!" * (n % 2)}')
    made = write_folder(tmp_path / "out", {"a": [*ordinary(500), *rows]})
    (group,) = audit(made.root).groups
    query = f"SELECT count(*) FROM samples WHERE NOT ({group.keep})"
    assert clipsieve.connect(made.root).sql(query).fetchall() == [(30,)]


def test_folder_without_a_dataset_is_refused_and_not_made(tmp_path):
    with pytest.raises(UsageError, match="holds no clipsieve dataset"):
        audit(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def test_folder_without_scores_is_refused_with_the_command(folder):
    out = OutputFolder.open(folder)
    out.save_manifest(dataclasses.replace(manifest_of(folder), families={}))
    cure = re.escape(f"clipsieve score {folder} --scorers density")
    with pytest.raises(UsageError, match=f"has no CLIP or density scores to audit; .*{cure}"):
        audit(folder)
    with pytest.raises(duckdb.CatalogException, match="audit_groups does not exist"):
        view(folder, "audit_groups")


def test_shard_without_scores_is_refused(folder):
    (folder / names.scores("density", REVISION, "b")).unlink()
    with pytest.raises(LedgerError, match=r"b\.parquet is missing or damaged"):
        audit(folder)


def test_scores_of_other_rows_are_refused(folder):
    out, name = OutputFolder.open(folder), names.scores("density", REVISION, "b")
    out.write_table(name, out.read_table(name), {**out.read_footer(name), footers.UID_HASH: "0"})
    with pytest.raises(LedgerError, match="has other uids than"):
        audit(folder)


def test_a_score_of_one_shard_alone_is_refused(folder):
    scores = [row.score for row in ROWS[250:]]
    write_scores(OutputFolder.open(folder), "b", {COLUMN: scores})
    with pytest.raises(LedgerError, match=r"b\.parquet has no column 'density_kdist_large'"):
        audit(folder)


def test_folder_that_is_being_written_is_left_alone(folder):
    with OutputFolder.open(folder).lock(), pytest.raises(Locked):
        audit(folder)


def test_command_prints_the_summary_and_one_line_a_group(folder, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert exit_code(["audit", str(folder), "--top", "1"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("audit: 55 of 570 rows in 2 groups; first: 35 rows, wrong_captions, ")
    (line,) = [line for line in out.splitlines()[1:] if "Birthday" in line]
    assert line.split()[:3] == ["1", "wrong_captions", "35"]
    assert "odd_copies" not in out
    for name in ("audit_groups", "audit_members", "copies"):
        assert f'"FROM {name}"' in out


def test_command_takes_columns_and_what_is_known_of_the_model(folder, capsys):
    words = ["audit", str(folder), "--column", "n:high", "--column", "clip_score"]
    assert exit_code([*words, "--model-saw-data", "no"]) == 0
    footer = OutputFolder.open(folder).read_footer(names.audit("groups"))
    parameters = json.loads(footer[footers.PARAMETERS])
    assert [w["column"] for w in parameters["witnesses"]][3:] == ["n", "clip_score"]
    assert parameters["model_saw_data"] == "no"
    capsys.readouterr()
    for wrong, told in (
        (["--column", "none"], "'none' is not among"),
        (["--column", "n"], "n:high or n:low"),
        (["--column", "n:up"], "ends in 'up'"),
        (["--model-saw-data", "maybe"], "maybe"),
    ):
        assert exit_code(["audit", str(folder), *wrong]) == 2
        assert told in capsys.readouterr().err


def test_command_says_so_when_there_is_no_group(tmp_path, capsys):
    made = write_folder(tmp_path / "out", {"a": ordinary(50)})
    assert exit_code(["audit", str(made.root)]) == 0
    assert capsys.readouterr().out == "audit: no group of the 50 rows is out of the ordinary\n"


@pytest.mark.parametrize("value", [1.7e12, -1.7e12, 3e38, math.inf, -math.inf])
def test_values_of_any_size_are_told_as_they_are(tmp_path, value):
    rows = but(ordinary(25, 7, "p"), caption="seen before")
    rows = [*ordinary(400), *rows]
    made = write_folder(tmp_path / "out", {"a": rows})
    name = names.samples("a")
    table, footer = made.read_table(name), made.read_footer(name)
    sizes = [1.0 + n / 400 for n in range(400)] + [value] * 25
    made.write_table(name, table.append_column("size", pa.array(sizes, pa.float64())), footer)
    (group,) = audit(made.root, columns=("size:high" if value > 0 else "size:low",)).groups
    most = float(np.finfo(np.float32).max)
    expected = max(-most, min(most, value))
    assert (group.witness, group.rows) == ("size", 25)
    assert group.witness_mean == pytest.approx(expected, rel=1e-6)
    assert 1 <= group.ordinary_low < 2
