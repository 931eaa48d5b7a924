"""The whole job against the same computation in memory, and what a second run does."""

import hashlib
import io
from collections import Counter
from pathlib import Path

import numpy as np
import open_clip
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import clipsieve
from clipsieve.demo import TINY_MERGES, TINY_MODEL
from clipsieve.demo.samples import Kind, Mixture
from clipsieve.demo.shards import write_shards
from clipsieve.errors import UsageError
from clipsieve.job.run import run
from clipsieve.job.status import status_lines
from clipsieve.pipelines.engine import make_engine
from clipsieve.settings import RunConfig
from tests.pipelines.jobs import (
    SETTINGS,
    identities,
    leftovers,
    read,
    run_job,
    tables,
    truncate,
    write_one,
)

ROWS = 90

#: libjpeg-turbo and resizing on bytes differ from Pillow by a grey level here and there.
LEAST_EMBEDDING_COSINE = 0.9995
SIMILARITY_TOLERANCE = 2e-3

#: The state that each kind of demo record must end in; every other kind ends `ok`.
STATE_OF_KIND = {
    "failed_download": "fetch_failed",
    "truncated": "decode_error",
    "corrupt": "decode_error",
    "html": "decode_error",
    "zero_bytes": "decode_error",
    "empty_caption": "empty_caption",
    "null_caption": "empty_caption",
}
PROMPT = "A photo depicts "


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """Three shards that hold every kind of record."""
    folder = tmp_path_factory.mktemp("source")
    kinds = tuple((kind, 2) for kind in Kind if kind is not Kind.MATCHED)
    write_shards(folder, ROWS, 3, seed=5, mixture=Mixture(kinds, size=ROWS))
    return folder


@pytest.fixture(scope="module")
def out(source, tmp_path_factory) -> Path:
    """The output of one run over `source`; tests must not change it."""
    folder = tmp_path_factory.mktemp("out") / "scored"
    assert run_job(source, folder, scorers=("clip", "clip_depicts", "density")).exit_code == 0
    return folder


class Reference:
    """open_clip itself: its own transform, tokenizer and model, one record after the other."""

    def __init__(self) -> None:
        name = f"local-dir:{TINY_MODEL}"
        self.model, _, self.transform = open_clip.create_model_and_transforms(name)
        self.model.eval()
        self.tokenize = open_clip.get_tokenizer(name, bpe_path=str(TINY_MERGES))

    @torch.inference_mode()
    def image(self, data: bytes) -> np.ndarray:
        pixels = self.transform(Image.open(io.BytesIO(data)))
        return self.model.encode_image(pixels[None], normalize=True)[0].double().numpy()

    @torch.inference_mode()
    def text(self, caption: str) -> np.ndarray:
        return self.model.encode_text(self.tokenize([caption]), normalize=True)[0].double().numpy()


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference()


def records_of(source: Path) -> list[dict]:
    return [r for p in sorted(source.glob("*.parquet")) for r in pq.read_table(p).to_pylist()]


def unit(vector: list[float]) -> np.ndarray:
    wide = np.asarray(vector, np.float64)
    return wide / np.linalg.norm(wide)


def test_every_score_is_the_one_open_clip_gives(source, out, reference):
    records = records_of(source)
    wide, stored = read(out, "wide").to_pylist(), read(out, "embeddings").to_pylist()
    assert len(records) == len(wide) == len(stored) == ROWS
    scored = 0
    for record, row, vectors in zip(records, wide, stored, strict=True):
        assert row["uid"] == vectors["uid"] == record["uid"]
        if row["status"] != "ok":
            assert row["clip_similarity"] is None and row["clip_score"] is None
            continue
        image, text = reference.image(record["jpg"]), reference.text(record["caption"])
        assert unit(vectors["image_embedding"]) @ image >= LEAST_EMBEDDING_COSINE, row["uid"]
        assert unit(vectors["text_embedding"]) @ text >= LEAST_EMBEDDING_COSINE, row["uid"]
        cosine, depicted = image @ text, image @ reference.text(PROMPT + record["caption"])
        assert row["clip_similarity"] == pytest.approx(cosine, abs=SIMILARITY_TOLERANCE)
        assert row["clip_score"] == pytest.approx(
            2.5 * max(cosine, 0), abs=2.5 * SIMILARITY_TOLERANCE
        )
        assert row["clip_similarity_depicts"] == pytest.approx(depicted, abs=SIMILARITY_TOLERANCE)
        assert row["clip_score_depicts"] == pytest.approx(
            2.5 * max(depicted, 0), abs=2.5 * SIMILARITY_TOLERANCE
        )
        scored += 1
    assert scored > 60


def test_every_row_ends_in_the_state_that_its_record_was_made_for(source, out):
    truth = [
        row
        for path in sorted((source / "_truth").glob("*.parquet"))
        for row in pq.read_table(path).to_pylist()
    ]
    kinds = {row["uid"]: row["kind"] for row in truth}
    assert set(STATE_OF_KIND) <= set(kinds.values())
    for row in read(out, "samples").to_pylist():
        kind = kinds[row["uid"]]
        assert row["status"] == STATE_OF_KIND.get(kind, "ok"), (kind, row["error"])
        assert (row["error"] is None) == (row["status"] == "ok")


def test_the_ledger_has_the_rows_of_each_shard_in_source_order(source, out):
    for path in sorted(source.glob("*.parquet")):
        ledger = pq.read_table(out / "samples" / path.name, partitioning=None)
        rows = pq.read_table(path)
        assert ledger["uid"].to_pylist() == rows["uid"].to_pylist()
        assert ledger["caption"].to_pylist() == rows["caption"].to_pylist()
        assert ledger["row"].to_pylist() == list(range(rows.num_rows))
        assert ledger["shard"].unique().to_pylist() == [path.stem]


def test_no_table_has_nan_and_no_half_float_is_split_into_byte_streams(out):
    floats, halves = 0, 0
    for path in sorted(out.rglob("*.parquet")):
        table = pq.read_table(path, partitioning=None)
        for name in table.column_names:
            column = table[name].combine_chunks()
            if pa.types.is_list(column.type):
                column = column.flatten()
            if pa.types.is_floating(column.type):
                assert np.isfinite(column.drop_null().to_numpy()).all(), (path, name)
                floats += 1
        metadata = pq.read_metadata(path)
        for group in range(metadata.num_row_groups):
            for at in range(metadata.num_columns):
                chunk = metadata.row_group(group).column(at)
                if metadata.schema.column(at).logical_type.type == "FLOAT16":
                    assert "BYTE_STREAM_SPLIT" not in chunk.encodings, (path, at)
                    halves += 1
    assert floats > 20 and halves == 6


def test_the_result_counts_what_the_ledger_holds(source, tmp_path):
    result = run_job(source, tmp_path / "out")
    ledger = read(tmp_path / "out", "samples")
    states = dict(Counter(ledger["status"].to_pylist()))
    assert dict(result.counts.states) == dict(result.new_counts.states) == states
    assert (result.planned, result.done, result.skipped, result.left) == (3, 3, 0, 0)
    assert result.counts.rows == ledger.num_rows == ROWS


def test_batches_of_any_size_give_the_same_rows(source, out, tmp_path):
    run_job(source, tmp_path / "out", batch_size=7, byte_budget=1)
    one, other = read(out, "wide"), read(tmp_path / "out", "wide")
    for name in ("uid", "status", "error", "caption", "image_width"):
        assert one[name].equals(other[name])
    difference = pc.subtract(one["clip_similarity"], other["clip_similarity"])
    assert one["clip_similarity"].is_valid().equals(other["clip_similarity"].is_valid())
    assert pc.max(pc.abs(difference)).as_py() < 1e-5


def test_a_second_run_does_nothing_and_changes_no_byte(source, out):
    before, files = tables(out), identities(out)
    result = run_job(source, out, scorers=("clip", "clip_depicts"))
    assert (result.exit_code, result.skipped, result.done) == (0, 3, 0)
    assert result.counts.rows == ROWS and result.new_counts.rows == 0
    assert tables(out) == before and identities(out) == files


def test_a_new_shard_alone_is_done(tmp_path):
    source, out = tmp_path / "source", tmp_path / "out"
    write_one(source, "a", 20, seed=1)
    run_job(source, out)
    before = identities(out)
    write_one(source, "b", 30, seed=2)
    result = run_job(source, out)
    assert (result.done, result.skipped) == (1, 1)
    assert before.items() <= identities(out).items()
    assert read(out, "wide").num_rows == 50


def test_a_shard_with_other_rows_alone_is_done_again(tmp_path):
    source, out = tmp_path / "source", tmp_path / "out"
    write_one(source, "a", 20, seed=1)
    write_one(source, "b", 30, seed=2)
    run_job(source, out)
    before = identities(out)
    rows = pq.read_table(write_one(source, "b", 25, seed=3))
    result = run_job(source, out)
    assert (result.done, result.skipped) == (1, 1)
    after = identities(out)
    assert {name for name in before if before[name] != after[name]} == {
        name for name in before if name.endswith("/b.parquet")
    }
    assert read(out, "wide")["uid"].to_pylist()[20:] == rows["uid"].to_pylist()


def test_a_corrupt_shard_fails_with_its_reason_until_it_is_repaired(tmp_path):
    source, out = tmp_path / "source", tmp_path / "out"
    for name, seed in (("a", 1), ("b", 2), ("c", 3)):
        write_one(source, name, 20, seed)
    whole = truncate(source / "b.parquet")
    result = run_job(source, out)
    assert (result.exit_code, result.done) == (3, 2)
    (failed,) = result.failed
    assert failed.shard == "b" and failed.error is not None
    assert str(source / "b.parquet") in failed.error
    assert read(out, "wide").num_rows == 40
    said = list(status_lines(str(out)))
    assert "done: 2 of 3 shards, 40 rows" in said
    assert "failed: 1 shards" in said and f"  b: {failed.error}" in said

    (source / "b.parquet").write_bytes(whole)
    result = run_job(source, out)
    assert (result.exit_code, result.done, result.skipped) == (0, 1, 2)
    said = list(status_lines(str(out)))
    assert "done: 3 of 3 shards, 60 rows" in said and "failed: 0 shards" in said


def test_a_shard_that_was_done_and_is_now_corrupt_counts_as_failed(tmp_path):
    source, out = tmp_path / "source", tmp_path / "out"
    for name, seed in (("a", 1), ("b", 2)):
        write_one(source, name, 20, seed)
    run_job(source, out)
    truncate(source / "b.parquet")
    assert any(line.startswith("left: 1 shards, from b") for line in status_lines(str(out)))
    assert run_job(source, out).exit_code == 3
    said = list(status_lines(str(out)))
    assert "done: 1 of 2 shards, 20 rows" in said
    assert "failed: 1 shards" in said and any(line.startswith("  b: cannot read") for line in said)


def test_more_failed_shards_than_allowed_decide_the_exit_code(tmp_path):
    source, out = tmp_path / "source", tmp_path / "out"
    for name, seed in (("a", 1), ("b", 2)):
        write_one(source, name, 20, seed)
    truncate(source / "b.parquet")
    assert run_job(source, out, max_failed_shards=1).exit_code == 0
    assert run_job(source, out, max_failed_shards=0).exit_code == 3


def test_a_run_id_used_twice_does_not_bring_back_old_failures(tmp_path):
    source, out = tmp_path / "source", tmp_path / "out"
    for name, seed in (("a", 1), ("b", 2)):
        write_one(source, name, 20, seed)
    whole = truncate(source / "b.parquet")
    assert run_job(source, out, run_id="nightly").exit_code == 3
    # A record of the same run that sorts after all others, as of a killed process elsewhere.
    (records,) = (out / "_runs").glob("*.shards.jsonl")
    (out / "_runs" / "nightly.shards").mkdir()
    records.rename(out / "_runs" / "nightly.shards" / "zzz.json")
    (source / "b.parquet").write_bytes(whole)
    assert run_job(source, out, run_id="nightly").exit_code == 0
    assert "failed: 0 shards" in status_lines(str(out))
    write_one(source, "b", 25, seed=4)
    result = run_job(source, out, run_id="nightly", deadline=0.0)
    assert (result.exit_code, result.left) == (3, 1)


def test_what_a_killed_writer_left_is_swept(source, out):
    left = [
        out / "samples" / f"00000.parquet.tmp-{'0' * 32}",
        out / "_runs" / f"x.json.tmp-{'1' * 32}",
    ]
    for path in left:
        path.write_bytes(b"half")
    run_job(source, out)
    assert not any(path.exists() for path in left)
    assert leftovers(out) == []


def test_another_model_in_the_way_is_refused_by_both_names_until_told_to_replace(tmp_path):
    source, out = tmp_path / "source", tmp_path / "out"
    write_one(source, "a", 20, seed=1)
    run_job(source, out)
    before = tables(out)
    with pytest.raises(UsageError, match=r"output of tiny .*float32.*would write tiny .*bfloat16"):
        run_job(source, out, dtype="bfloat16")
    assert UsageError.exit_code == 2
    assert tables(out) == before
    result = run_job(source, out, dtype="bfloat16", reprocess=True)
    assert (result.exit_code, result.done) == (0, 1)
    new = read(out, "wide")["clip_similarity"].drop_null().to_numpy()
    old = pq.read_table(
        pa.BufferReader(next(b for p, b in before.items() if p.startswith("wide")))
    )["clip_similarity"]
    assert 0 < np.abs(new - old.drop_null().to_numpy()).max() < 0.05
    assert run_job(source, out, dtype="bfloat16").skipped == 1


@pytest.mark.parametrize(
    ("name", "value"), [("rows_per_item", 7), ("shard_prefix", "again-")], ids=str
)
def test_a_naming_option_that_would_write_rows_twice_is_refused(source, out, name, value):
    with pytest.raises(UsageError, match=f"{name} is {value!r}, this output folder was made with"):
        run_job(source, out, **{name: value})


def test_a_second_source_of_the_same_name_is_refused(tmp_path):
    write_one(tmp_path / "one", "a", 20, seed=1)
    write_one(tmp_path / "two", "a", 20, seed=2)
    run_job(tmp_path / "one", tmp_path / "out")
    with pytest.raises(UsageError, match=r"would be written as shard 'a', which is the output of"):
        run_job(tmp_path / "two", tmp_path / "out")
    assert run_job(tmp_path / "two", tmp_path / "out", shard_prefix="two-").done == 1
    assert read(tmp_path / "out", "wide").num_rows == 40


def test_one_file_in_several_items_has_each_row_once(tmp_path):
    source = tmp_path / "source"
    path = write_one(source, "a", 210, seed=1)
    result = run_job(source, tmp_path / "out", rows_per_item=100)
    assert result.planned == 3
    wide = read(tmp_path / "out", "samples")
    assert wide["uid"].to_pylist() == pq.read_table(path)["uid"].to_pylist()
    assert wide["row"].to_pylist() == list(range(210))


def test_a_run_that_scores_nothing_is_a_usage_error(tmp_path):
    path = write_one(tmp_path / "source", "a", 20, seed=1)
    table = pq.read_table(path)
    at = table.schema.get_field_index("jpg")
    pq.write_table(table.set_column(at, "jpg", pa.nulls(20, pa.binary())), path)
    with pytest.raises(UsageError, match="none of 20 rows could be scored"):
        run_job(tmp_path / "source", tmp_path / "out")
    assert read(tmp_path / "out", "samples").num_rows == 20


def with_references(path: Path) -> list[list[str] | None]:
    """Add a column of reference captions to a shard: none, NULL, one, two, and a blank one."""
    table = pq.read_table(path)
    captions = table["caption"].to_pylist()
    kinds = [
        lambda at: [],
        lambda at: None,
        lambda at: [captions[at - 1] or "a dog"],
        lambda at: ["a red circle", captions[at] or "a cat"],
        lambda at: ["", "a blue square"],
    ]
    lists = [kinds[at % 5](at) for at in range(len(captions))]
    column = pa.array(lists, pa.list_(pa.string()))
    pq.write_table(table.append_column("references", column), path)
    return lists


def test_reference_captions_are_scored_as_in_the_paper(tmp_path, reference):
    path = write_one(tmp_path / "source", "a", 60, seed=1)
    lists = with_references(path)
    out = tmp_path / "out"
    run_job(tmp_path / "source", out, scorers=("clip", "clip_ref"), references_col="references")
    checked = 0
    rows = zip(read(out, "wide").to_pylist(), pq.read_table(path).to_pylist(), lists, strict=True)
    for row, record, references in rows:
        usable = [text for text in references or [] if text.strip()]
        # The caption of a row that the source itself gave up is not encoded.
        encoded = row["status"] != "fetch_failed" and (record["caption"] or "").strip()
        if not usable or not encoded:
            assert row["clip_reference_similarity"] is None and row["ref_clip_score"] is None
            continue
        caption = reference.text(PROMPT + record["caption"])
        best = max(caption @ reference.text(PROMPT + text) for text in usable)
        assert row["clip_reference_similarity"] == pytest.approx(best, abs=SIMILARITY_TOLERANCE)
        if row["status"] != "ok":
            assert row["ref_clip_score"] is None
            continue
        image = reference.image(record["jpg"])
        own, other = 2.5 * max(image @ caption, 0), max(best, 0)
        expected = 2 * own * other / (own + other) if own + other > 0 else 0.0
        assert row["ref_clip_score"] == pytest.approx(expected, abs=0.01)
        checked += 1
    assert checked > 20


def test_scores_added_later_are_those_of_a_run_that_had_them_from_the_start(source, out, tmp_path):
    own = tmp_path / "source"
    own.mkdir()
    first, second, third = sorted(source.glob("*.parquet"))
    for path in (first, second):
        (own / path.name).symlink_to(path)
    later = tmp_path / "later"
    run_job(own, later)
    assert clipsieve.score(str(later), ["clip_depicts"], device="cpu").done == 2
    assert clipsieve.score(str(later), ["clip_depicts"], device="cpu").done == 0
    (own / third.name).symlink_to(third)
    assert run_job(own, later).done == 1  # brings clip_depicts along unasked
    first, second = read(out, "wide"), read(later, "wide")
    for name in ("uid", "clip_similarity_depicts", "clip_score_depicts"):
        assert first[name].combine_chunks().equals(second[name].combine_chunks())


def test_scores_of_full_precision_are_not_replaced_by_stored_ones(out, capsys):
    before, files = tables(out), identities(out)
    assert clipsieve.score(str(out), ["clip"], device="cpu", refit=True).done == 0
    assert "clip: written with the embeddings; left as it is" in capsys.readouterr().err
    assert clipsieve.score(str(out), ["clip_depicts"], device="cpu").done == 0
    assert tables(out) == before and identities(out) == files


def test_reference_scores_from_storage_need_the_column_of_references(out):
    with pytest.raises(UsageError, match="references"):
        clipsieve.score(str(out), ["clip_ref"], device="cpu")


def test_reference_scores_can_be_added_from_storage(tmp_path):
    path = write_one(tmp_path / "source", "a", 40, seed=1)
    with_references(path)
    both, later = tmp_path / "both", tmp_path / "later"
    run_job(tmp_path / "source", both, scorers=("clip", "clip_ref"), references_col="references")
    run_job(tmp_path / "source", later, references_col="references")
    assert clipsieve.score(str(later), ["clip_ref"], device="cpu").done == 1
    first, second = read(both, "wide")["ref_clip_score"], read(later, "wide")["ref_clip_score"]
    assert first.null_count < 40
    assert first.combine_chunks().equals(second.combine_chunks())


def test_equal_inputs_and_run_ids_give_equal_bytes(source, tmp_path):
    digests = []
    for name in ("one", "two"):
        run_job(source, tmp_path / name, run_id="fixed")
        files = tables(tmp_path / name)
        digests.append({path: hashlib.sha256(data).hexdigest() for path, data in files.items()})
    assert digests[0] == digests[1]


def test_a_failing_input_pattern_writes_no_dataset(tmp_path):
    config = RunConfig(inputs=(f"{tmp_path}/none/*.parquet",), out=f"{tmp_path}/out", **SETTINGS)
    with pytest.raises(UsageError, match="none"):
        run(config, make_engine(config))
    assert not (tmp_path / "out" / "dataset.json").exists()
