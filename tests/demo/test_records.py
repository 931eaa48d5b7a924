"""Every kind of record is what its name says, and can be made alone."""

import io
from collections import Counter

import numpy as np
import pytest
from PIL import Image, ImageOps, ImageSequence, UnidentifiedImageError

from clipsieve.demo.classes import (
    CLASSES,
    DENSE_CLASSES,
    DENSE_COLOURS,
    HELD_OUT_CLASSES,
    HELD_OUT_OBJECTS,
    HELD_OUT_SHAPES,
)
from clipsieve.demo.pairs import make_pairs
from clipsieve.demo.records import Record, make_record
from clipsieve.demo.samples import CLEAN, DEMO, MIXTURES, Kind, Mixture, kind_of

SEED = 7


@pytest.fixture(scope="module")
def records() -> list[Record]:
    """Two blocks of the demo mixture."""
    return [make_record(SEED, index) for index in range(2 * DEMO.size)]


def of_kind(records: list[Record], kind: Kind) -> list[Record]:
    found = [record for record in records if record.truth and record.truth.kind is kind]
    assert found, f"no record of kind {kind}"
    return found


def opened(record: Record) -> Image.Image:
    assert record.file is not None
    image = Image.open(io.BytesIO(record.file))
    image.load()
    return image


def pixels(record: Record) -> np.ndarray:
    return np.asarray(opened(record).convert("RGB"), np.float32)


def test_each_block_has_the_exact_counts_of_the_mixture():
    counts = Counter(kind_of(SEED, index, DEMO) for index in range(DEMO.size, 2 * DEMO.size))
    expected = dict(DEMO.flawed)
    expected[Kind.MATCHED] = DEMO.size - sum(expected.values())
    assert counts == expected
    assert set(counts) == set(Kind)


def test_every_fourth_block_has_no_failed_download():
    for block in range(8):
        kinds = [kind_of(SEED, block * DEMO.size + offset, DEMO) for offset in range(DEMO.size)]
        assert (Kind.FAILED_DOWNLOAD in kinds) == (block % 4 != 3)


def test_counts_beyond_the_block_are_refused():
    with pytest.raises(ValueError, match="flawed counts add up to 3, more than the block size 2"):
        Mixture(((Kind.HTML, 3),), size=2)


def test_a_record_does_not_depend_on_what_was_made_before(records):
    for index in np.random.default_rng(0).permutation(len(records))[:80]:
        assert make_record(SEED, int(index)) == records[index]


def test_seeds_share_no_record(records):
    other = [make_record(SEED + 1, index) for index in range(60)]
    assert not {record.uid for record in other} & {record.uid for record in records}
    assert not {r.file for r in other if r.file and len(r.file) > 200} & {r.file for r in records}


def test_uids_and_urls_are_unique(records):
    assert len({record.uid for record in records}) == len(records)
    assert len({record.url for record in records}) == len(records)
    assert all(len(bytes.fromhex(record.uid)) == 16 for record in records)


def test_held_out_classes_appear_only_where_the_kind_says_so(records):
    for record in records:
        assert record.truth is not None
        shown = set(record.truth.class_name.split("+"))
        if record.truth.kind in (Kind.HELD_OUT_CLASS, Kind.REPEATED_CAPTION):
            assert shown <= set(HELD_OUT_CLASSES)
        else:
            assert not shown & set(HELD_OUT_CLASSES)
    shown = {record.truth.class_name for record in of_kind(records, Kind.MATCHED) if record.truth}
    assert set(CLASSES) <= shown


@pytest.mark.parametrize(
    ("kind", "image_format", "mode"),
    [
        (Kind.MATCHED, "JPEG", "RGB"),
        (Kind.CMYK_JPEG, "JPEG", "CMYK"),
        (Kind.PNG_16_BIT, "PNG", "I;16"),
        (Kind.PALETTE_PNG, "PNG", "P"),
        (Kind.GRAYSCALE, "JPEG", "L"),
        (Kind.RGBA, "PNG", "RGBA"),
        (Kind.EXIF_ROTATED, "JPEG", "RGB"),
        (Kind.WEBP, "WEBP", "RGB"),
    ],
)
def test_files_have_the_format_and_mode_of_their_kind(records, kind, image_format, mode):
    for record in of_kind(records, kind):
        image = opened(record)
        assert (image.format, image.mode, image.size) == (image_format, mode, (128, 128))


def test_exif_orientation_turns_the_stored_picture(records):
    for record in of_kind(records, Kind.EXIF_ROTATED):
        image = opened(record)
        upright = ImageOps.exif_transpose(image)
        assert np.array_equal(np.asarray(upright), np.rot90(np.asarray(image), k=-1))


def test_animated_gifs_have_several_different_frames(records):
    for record in of_kind(records, Kind.ANIMATED_GIF):
        assert record.file is not None
        with Image.open(io.BytesIO(record.file)) as image:
            assert image.format == "GIF"
            frames = [
                np.asarray(frame.convert("RGB"), np.float32).mean()
                for frame in ImageSequence.Iterator(image)
            ]
        assert len(frames) == 3
        assert frames[0] > frames[1] > frames[2]


def test_one_pixel_pictures_decode(records):
    assert all(opened(record).size == (1, 1) for record in of_kind(records, Kind.ONE_PIXEL))


def test_rgba_pictures_are_partly_transparent(records):
    for record in of_kind(records, Kind.RGBA):
        assert np.ptp(np.asarray(opened(record))[..., 3]) > 100


@pytest.mark.parametrize("kind", [Kind.CORRUPT, Kind.ZERO_BYTES, Kind.HTML])
def test_files_that_are_no_picture_are_not_recognised(records, kind):
    for record in of_kind(records, kind):
        with pytest.raises(UnidentifiedImageError):
            opened(record)
        assert record.size is None
    if kind is Kind.ZERO_BYTES:
        assert {record.file for record in of_kind(records, kind)} == {b""}


def test_truncated_files_fail_to_decode(records):
    for record in of_kind(records, Kind.TRUNCATED):
        assert record.file is not None
        assert record.file.startswith(b"\xff\xd8")
        with pytest.raises(OSError, match=r"(?i)truncated|cannot identify"):
            opened(record)


def test_failed_downloads_have_an_error_and_no_file(records):
    failed = of_kind(records, Kind.FAILED_DOWNLOAD)
    assert all(record.file is None and record.error_message for record in failed)
    others = [record for record in records if record.error_message is None]
    assert len(failed) + len(others) == len(records)
    assert all(record.file is not None for record in others)


def test_caption_kinds(records):
    assert {record.caption for record in of_kind(records, Kind.NULL_CAPTION)} == {None}
    for record in of_kind(records, Kind.EMPTY_CAPTION):
        assert record.caption is not None
        assert not record.caption.strip()
    for record in of_kind(records, Kind.LONG_CAPTION):
        assert record.caption is not None
        assert len(record.caption.encode()) == 4096
    for record in of_kind(records, Kind.MIXED_LANGUAGE):
        assert record.caption is not None
        assert not record.caption.isascii()
    blank = {record.caption for record in of_kind(records, Kind.BOILERPLATE)}
    assert not any(word in str(caption) for caption in blank for word in CLASSES)


def test_placeholders_are_nearly_flat(records):
    for record in of_kind(records, Kind.BLANK):
        image = pixels(record)
        usual = np.median(image)
        assert (np.abs(image - usual) < 12).mean() > 0.8


def test_exact_duplicates_share_bytes_and_caption_with_an_earlier_record(records):
    place = {record.uid: index for index, record in enumerate(records)}
    for record in of_kind(records, Kind.EXACT_DUPLICATE):
        assert record.truth is not None
        original = place[str(record.truth.duplicate_of)]
        assert original < place[record.uid]
        assert (record.file, record.caption) == (records[original].file, records[original].caption)
        assert record.url != records[original].url


def test_near_duplicates_look_like_an_earlier_record_but_differ_in_bytes(records):
    place = {record.uid: index for index, record in enumerate(records)}
    differences = []
    for record in of_kind(records, Kind.NEAR_DUPLICATE):
        assert record.truth is not None
        original = records[place[str(record.truth.duplicate_of)]]
        assert place[original.uid] < place[record.uid]
        assert record.file != original.file
        differences.append(np.abs(pixels(record) - pixels(original)).mean())
    strangers = [
        np.abs(pixels(one) - pixels(other)).mean()
        for one, other in zip(records[:40], records[40:80], strict=True)
        if one.truth and other.truth and one.truth.kind is other.truth.kind is Kind.MATCHED
    ]
    assert max(differences) < np.median(strangers) / 2


def test_repeated_captions_are_one_caption_over_near_copies(records):
    repeated = of_kind(records, Kind.REPEATED_CAPTION)
    assert len(repeated) == 20
    assert len({record.caption for record in repeated}) == 1
    first = pixels(repeated[0])
    copies = [np.abs(pixels(record) - first).mean() for record in repeated]
    others = [np.abs(pixels(record) - first).mean() for record in of_kind(records, Kind.MATCHED)]
    assert max(copies) < 0.75 * min(others)
    assert len({record.file for record in repeated}) > 10


def test_a_copy_with_nothing_to_copy_is_a_matched_pair():
    copies_only = Mixture(((Kind.EXACT_DUPLICATE, 10),), size=10)
    truth = make_record(0, 0, copies_only).truth
    assert truth is not None
    assert (truth.kind, truth.duplicate_of) == (Kind.MATCHED, None)


@pytest.mark.parametrize(
    ("name", "kind", "shown"),
    [
        ("single", Kind.MATCHED, CLASSES),
        ("held_out", Kind.HELD_OUT_CLASS, HELD_OUT_CLASSES),
        ("dense", Kind.MATCHED, DENSE_CLASSES),
        ("dense_held_out", Kind.HELD_OUT_CLASS, HELD_OUT_SHAPES + HELD_OUT_OBJECTS),
    ],
)
def test_mixtures_for_detectors_show_their_classes_and_no_others(name, kind, shown):
    truths = [make_record(SEED, index, MIXTURES[name]).truth for index in range(200)]
    assert {truth.kind for truth in truths if truth} == {kind}
    assert {truth.class_name for truth in truths if truth} == set(shown)
    colours = {truth.colour for truth in truths if truth}
    assert (colours == set(DENSE_COLOURS)) == name.startswith("dense")


def test_dense_pictures_have_a_large_thing_in_the_middle():
    for index in range(40):
        record = make_record(SEED, index, MIXTURES["dense"])
        image = pixels(record)
        different = np.abs(image - image[:4, :4].mean(axis=(0, 1))).max(axis=2) > 60
        rows, columns = np.nonzero(different)
        assert 64 <= max(np.ptp(rows), np.ptp(columns)) <= 118
        assert abs((columns.min() + columns.max()) / 2 - 63.5) < 12


def test_pairs_show_what_the_records_of_a_mixture_show():
    dense = MIXTURES["dense"]
    truths = [make_record(SEED, index, dense).truth for index in range(20)]
    pairs = make_pairs(SEED, 20, dense)
    assert pairs.class_names == [truth.class_name for truth in truths if truth]


def test_copies_in_dense_data_are_dense():
    copies = Mixture(((Kind.NEAR_DUPLICATE, 50),), size=100, scenes=MIXTURES["dense"].scenes)
    truths = [make_record(SEED, index, copies).truth for index in range(100)]
    assert {truth.kind for truth in truths if truth} == {Kind.MATCHED, Kind.NEAR_DUPLICATE}
    assert {truth.class_name for truth in truths if truth} <= set(DENSE_CLASSES)


def test_pictures_can_be_larger():
    assert make_record(0, 0, CLEAN, size=200).size == (200, 200)
