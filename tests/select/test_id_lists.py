"""Lists of ids: read from every kind of file, refused with the place, matched as a loop does."""

import gzip
import hashlib

import mmh3
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipsieve.errors import UsageError
from clipsieve.select.id_lists import IdKind, IdList, read_folder_list, read_id_list
from clipsieve.store.id_values import laion_hash, needed_columns
from tests.store.folders import make_folder, shard_of

UIDS = ["0123456789abcdef0123456789abcdef", "f" * 32, "0" * 31 + "1"]
DIGESTS = [hashlib.sha256(bytes([n])).hexdigest() for n in range(4)]
URLS = ["https://a.example/1.jpg", "http://b.example/ü?q=1#x", "HTTPS://c.example/"]
HASHES = [-(2**63), -5, 0, 2**63 - 1]
BY_KIND = {
    IdKind.UID: UIDS,
    IdKind.SHA256: DIGESTS,
    IdKind.URL: URLS,
    IdKind.LAION_HASH: [str(number) for number in HASHES],
}
MASK = (1 << 64) - 1


def murmur(data):
    """First 64 bits, signed, of MurmurHash3 x64 128 with seed 0, as its author defines it."""

    def rotated(word, bits):
        return (word << bits | word >> (64 - bits)) & MASK

    def mixed(word):
        for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
            word = (word ^ word >> 33) * factor & MASK
        return word ^ word >> 33

    one, two = 0x87C37B91114253D5, 0x4CF5AD432745937F
    first = second = 0
    whole = len(data) // 16 * 16
    for at in range(0, len(data), 16):
        low = int.from_bytes(data[at : at + 8], "little")
        high = int.from_bytes(data[at + 8 : at + 16], "little")
        first ^= rotated(low * one & MASK, 31) * two & MASK
        if at < whole:
            first = (rotated(first, 27) + second) * 5 + 0x52DCE729 & MASK
        second ^= rotated(high * two & MASK, 33) * one & MASK
        if at < whole:
            second = (rotated(second, 31) + first) * 5 + 0x38495AB5 & MASK
    first, second = first ^ len(data), second ^ len(data)
    first = first + second & MASK
    second = second + first & MASK
    value = mixed(first) + mixed(second) & MASK
    return value - (1 << 64) if value >> 63 else value


def ids_of(ids):
    return sorted(ids.text(np.arange(len(ids))).to_pylist())


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("size", [*range(40), 100])
def test_laion_hash_is_murmur3_of_url_and_text(size):
    text = "".join(chr(97 + 31 * n % 26) for n in range(size)) + "grün"[:size]
    expected = murmur(("https://x.example/" + text).encode())
    assert laion_hash("https://x.example/", text) == expected
    assert mmh3.hash64("https://x.example/" + text)[0] == expected


def test_laion_hash_of_a_known_pair():
    assert laion_hash("https://example.org/cat.jpg", "a cat") == -591802334549289733
    assert laion_hash("https://example.org/cat.jpga cat", None) == -591802334549289733


@pytest.mark.parametrize("kind", list(IdKind))
@pytest.mark.parametrize("by", [True, False])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_text_is_read_line_by_line(tmp_path, kind, by, end):
    ids = BY_KIND[kind]
    lines = ["\ufeff# taken down", "", ids[0], "  " + ids[1] + "\t", "#", *ids[1:], "   "]
    path = write(tmp_path, "ids.txt", end.join(lines))
    read = read_id_list(path, kind if by else None)
    assert (read.kind, read.source, read.column) == (kind, "ids.txt", "")
    assert read.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (len(read), read.read, read.duplicates) == (len(ids), len(ids) + 1, 1)
    assert ids_of(read) == sorted(ids)


def test_compressed_text_is_read(tmp_path):
    path = write(tmp_path, "ids.txt.gz", gzip.compress("\n".join(UIDS).encode()))
    assert ids_of(read_id_list(str(path))) == sorted(UIDS)
    path = write(tmp_path, "ids.csv.gz", gzip.compress(b"uid\n" + UIDS[0].encode()))
    assert ids_of(read_id_list(path)) == UIDS[:1]


def test_pairs_of_datacomp_are_uids(tmp_path):
    pairs = np.array([(int(u[:16], 16), int(u[16:], 16)) for u in UIDS], np.dtype("u8,u8"))
    for name, array in (("little", pairs), ("big", pairs.astype(np.dtype(">u8,>u8")))):
        np.save(tmp_path / f"{name}.npy", array)
        read = read_id_list(tmp_path / f"{name}.npy")
        assert (read.kind, ids_of(read)) == (IdKind.UID, sorted(UIDS))


def test_integers_of_numpy_are_laion_hashes(tmp_path):
    np.save(tmp_path / "h.npy", np.array([*HASHES, 0], np.int64))
    read = read_id_list(tmp_path / "h.npy")
    assert (read.kind, read.keys.tolist(), read.duplicates) == (IdKind.LAION_HASH, HASHES, 1)


@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_a_table_has_the_first_column_of_the_order_or_the_one_asked_for(tmp_path, form):
    table = {
        "n": ["a", "b"],
        "hash": pa.array(HASHES[:2]),
        "URL": URLS[:2],
        "SHA256": [each.upper() for each in DIGESTS[:2]],
    }
    path = tmp_path / f"t.{form}"
    if form == "parquet":
        pq.write_table(pa.table(table), path)
    else:
        columns = [
            [str(each) for each in pa.array(column).to_pylist()] for column in table.values()
        ]
        rows = [",".join(row) for row in [list(table), *zip(*columns, strict=True)]]
        write(tmp_path, "t.csv", "\n".join(rows))
    read = read_id_list(path)
    assert (read.kind, read.column, ids_of(read)) == (IdKind.SHA256, "SHA256", sorted(DIGESTS[:2]))
    read = read_id_list(path, "url")
    assert (read.column, ids_of(read)) == ("URL", sorted(URLS[:2]))
    assert read_id_list(path, "laion_hash").keys.tolist() == HASHES[:2]
    with pytest.raises(UsageError, match=r"has columns n, .* name the column uid$"):
        read_id_list(path, "uid")


def test_columns_of_bytes_and_integers_are_read(tmp_path):
    digests = pa.array([bytes.fromhex(each) for each in DIGESTS], pa.binary(32))
    pq.write_table(pa.table({"image_sha256": digests}), tmp_path / "b.parquet")
    assert ids_of(read_id_list(tmp_path / "b.parquet")) == sorted(DIGESTS)
    pq.write_table(pa.table({"uid": pa.array([7, 12])}), tmp_path / "i.parquet")
    assert ids_of(read_id_list(tmp_path / "i.parquet")) == ["12", "7"]


def test_equal_ids_in_any_form_have_equal_content(tmp_path):
    upper = write(tmp_path, "a.txt", "\n".join(each.upper() for each in DIGESTS))
    pq.write_table(pa.table({"sha256": DIGESTS[::-1] * 2}), tmp_path / "b.parquet")
    first, second = read_id_list(upper), read_id_list(tmp_path / "b.parquet")
    assert first.content_sha256() == second.content_sha256()
    assert first.content_sha256() != read_id_list(upper, "uid").content_sha256()


LONG = "x" * 5000
TEXTS = [
    (f"{UIDS[0]}\n\n{UIDS[1][:-1]}", None, r"line 3: 'f{31}' is not 32 or 64 hexadecimal digits"),
    (f"# c\n{UIDS[0]}\n{'g' * 32}", None, "line 3: 'g{32}' is not 32 or 64"),
    (f"{UIDS[0]}\na b", None, "line 2: 'a b' is not a uid"),
    ("UID,reason\nx,spam", None, "line 1: 'UID,reason' looks like CSV: name the file .csv, with a"),
    (f'# c\nx\n"{UIDS[0]}"', "uid", "line 3: '\"0123.*\"' looks like CSV"),
    (
        f"{DIGESTS[0]}\n{DIGESTS[1]}\n{DIGESTS[2][:-1]}",
        None,
        "line 3: .* looks like a uid, and most",
    ),
    (f"{DIGESTS[0]}\n{DIGESTS[1][:-1]}", "sha256", "line 2: .* is not a sha256"),
    (
        f"{URLS[0]}\n{URLS[1]}\n17",
        None,
        "line 3: '17' looks like a laion_hash, and most lines like a url",
    ),
    (f"{URLS[0]}\nhttp://x/a b.jpg", None, "line 2: 'http://x/a b.jpg' is not a URL"),
    (f"{URLS[0]}\nftp://x/a.jpg", "url", "line 2: 'ftp://x/a.jpg' is not a URL"),
    ("12\n9223372036854775808", None, "line 2: '9223372036854775808' is not a LAION hash"),
    ("12\n1.5", "laion_hash", "line 2: '1.5' is not a LAION hash"),
    (f"{UIDS[0]}\n{LONG}", None, r"line 2: 'x{80}\.\.\.' has 5,000 bytes, more than 4,096"),
    (b"ok\n\xff\xd8\xff\xe0", None, r"line 2: b'\\xff\\xd8\\xff\\xe0' is not UTF-8"),
    (b"PK\x03\x04\n\0\0", None, "line 2: a NUL byte; this is no text"),
    ("x".encode("utf-16"), None, "line 1: a NUL byte"),
    ("", None, "holds no id"),
    ("# nothing\n\n  \n", "uid", "holds no id"),
    ("a", "md5", "by 'md5' is no kind of id; take one of uid, sha256, url, laion_hash"),
]


@pytest.mark.parametrize(("content", "by", "message"), TEXTS)
def test_what_is_no_id_is_refused_with_its_place(tmp_path, content, by, message):
    path = write(tmp_path, "list.txt", content)
    with pytest.raises(UsageError, match=message) as caught:
        read_id_list(path, by)
    assert str(path) in str(caught.value) or by == "md5"
    assert len(str(caught.value)) < 500


FILES = [
    ("a.csv", b"id,n\na,1\n", "has columns id, n, .* name the column uid, sha256, url or hash$"),
    ("a.npy", b"no array", "is no NumPy array"),
    ("a.parquet", b"no table", "cannot be read as Parquet"),
    ("a.csv", b"", "cannot be read as CSV"),
    ("a.csv", b"uid,url\n", "holds no id"),
    ("a.csv", b'uid\na\n""\n', "row 2: '' is not a uid"),
    ("a.csv", b"hash\n1\nx\n", "row 2: 'x' is not a LAION hash"),
    ("a.txt.gz", b"plain", "is no gzip file"),
]


@pytest.mark.parametrize(("name", "content", "message"), FILES)
def test_damaged_files_are_refused(tmp_path, name, content, message):
    with pytest.raises(UsageError, match=message):
        read_id_list(write(tmp_path, name, content))


def test_arrays_and_columns_of_other_types_are_refused(tmp_path):
    np.save(tmp_path / "f.npy", np.zeros(3))
    with pytest.raises(UsageError, match="is an array of float64"):
        read_id_list(tmp_path / "f.npy")
    np.save(tmp_path / "i.npy", np.zeros(3, np.int64))
    with pytest.raises(UsageError, match="holds ids of kind laion_hash, not uid"):
        read_id_list(tmp_path / "i.npy", "uid")
    np.save(tmp_path / "e.npy", np.zeros(0, np.int64))
    with pytest.raises(UsageError, match="holds no id"):
        read_id_list(tmp_path / "e.npy")
    pq.write_table(pa.table({"hash": [1.0], "uid": [None]}), tmp_path / "t.parquet")
    with pytest.raises(UsageError, match="column hash is double"):
        read_id_list(tmp_path / "t.parquet", "laion_hash")
    with pytest.raises(UsageError, match="row 1: uid is NULL"):
        read_id_list(tmp_path / "t.parquet", "uid")
    with pytest.raises(UsageError, match=r"cannot be read .*; give the path of a file"):
        read_id_list(tmp_path / "none.txt")


def folder_of(root, *uids):
    """A folder with a shard for each of several arrays of uids."""
    shards = [
        shard_of(f"s{n}", len(each), seed=n, uids=pa.array(each)) for n, each in enumerate(uids)
    ]
    return make_folder(root, shards, wide=False)[0]


def test_uids_look_like_those_of_the_folder(tmp_path):
    folder = folder_of(tmp_path / "hex", UIDS[:2], UIDS[2:])
    upper = write(tmp_path, "upper.txt", UIDS[0].upper())
    assert ids_of(read_folder_list(folder, upper)) == UIDS[:1]
    path = write(tmp_path, "t.csv", "n,uid\n1,a\n")
    with pytest.raises(UsageError, match=r"row 1: 'a' is no uid of .* 32 hex.*, such as '0123"):
        read_folder_list(folder, path)
    digests = folder_of(tmp_path / "digests", DIGESTS)
    np.save(tmp_path / "p.npy", np.array([(1, 2)], np.dtype("u8,u8")))
    with pytest.raises(UsageError, match=r"element 1: '0{15}10{15}2' is no uid of .* are 64 hex"):
        read_folder_list(digests, tmp_path / "p.npy")
    assert len(read_folder_list(digests, write(tmp_path, "url.txt", URLS[0]))) == 1
    numbers = folder_of(tmp_path / "numbers", [5, -7])
    signed = write(tmp_path, "n.txt", "0\n-7\n12")
    assert ids_of(read_folder_list(numbers, signed, "uid")) == ["-7", "0", "12"]
    with pytest.raises(
        UsageError, match=r"line 2: '007' is no uid of .* are integers, such as '5'"
    ):
        read_folder_list(numbers, write(tmp_path, "m.txt", "5\n007"), "uid")


def test_folders_of_several_forms_take_any_uids(tmp_path):
    path = write(tmp_path, "list.txt", "hello\nworld")
    folders = {"mixed": [UIDS, DIGESTS], "later": [UIDS, ["x"]], "other": [["x", UIDS[0]]]}
    for name, uids in folders.items():
        assert len(read_folder_list(folder_of(tmp_path / name, *uids), path)) == 2
    assert len(read_folder_list(folder_of(tmp_path / "none"), path)) == 2


def random_texts(rng, kind, count):
    letters = {IdKind.UID: 32, IdKind.SHA256: 64}
    if kind is IdKind.URL:
        return [f"https://x.example/{n}" for n in rng.integers(0, 300, count)]
    texts = [f"{n:0{letters[kind]}x}" for n in rng.integers(0, 300, count)]
    return [text.upper() if n % 3 else text for n, text in enumerate(texts)]


@pytest.mark.parametrize(
    ("kind", "as_bytes"),
    [
        (IdKind.UID, False),
        (IdKind.UID, True),
        (IdKind.SHA256, False),
        (IdKind.SHA256, True),
        (IdKind.URL, False),
    ],
)
def test_texts_match_as_in_a_loop(kind, as_bytes):
    rng = np.random.default_rng(3)
    listed, values = random_texts(rng, kind, 80), random_texts(rng, kind, 200)
    values = [None if n % 11 == 0 else text for n, text in enumerate(values)]
    ids = IdList.from_texts(kind, pa.array(listed))
    assert (ids.read, len(ids)) == (80, len({text.lower() for text in listed}))
    stored = [None if v is None else bytes.fromhex(v) for v in values] if as_bytes else values
    table = pa.table({str(kind): pa.chunked_array([stored[:50], stored[50:]])})
    expected = [v is not None and v.lower() in {text.lower() for text in listed} for v in values]
    assert ids.matches(table).tolist() == expected
    places = ids.find(table)
    named = [text.lower() for text in ids.text(places[places >= 0]).to_pylist()]
    assert named == [v.lower() for v, is_in in zip(values, expected, strict=True) if v and is_in]


def test_texts_that_share_a_key_are_told_apart():
    texts = pa.array(["a", "b", "c"], pa.large_string())
    key = np.int64(mmh3.hash64("x")[0])
    ids = IdList(IdKind.URL, "", "", 3, np.array([key, key, key]), texts)
    assert ids.find(pa.table({"url": ["x", "y", None]})).tolist() == [-1, -1, -1]
    texts = pa.array(["a", "b", "x"], pa.large_string())
    ids = IdList(IdKind.URL, "", "", 3, np.array([key, key, key]), texts)
    assert ids.find(pa.table({"url": ["y", "x", "x"]})).tolist() == [-1, 2, 2]


def test_other_uids_are_compared_as_they_are():
    ids = IdList.from_texts(IdKind.UID, pa.array(["Row-1", "17"]))
    assert ids.matches(pa.table({"uid": ["row-1", "Row-1", "17"]})).tolist() == [False, True, True]
    assert ids.matches(pa.table({"uid": pa.array([1, 17, None])})).tolist() == [False, True, False]


def test_laion_hashes_match_the_source_column_or_are_computed():
    urls, captions = ["http://a/1", "http://a/2", None, "http://a/4"], ["x", None, "y", "z"]
    computed = [laion_hash(url, caption) for url, caption in zip(urls, captions, strict=True)]
    ids = IdList.from_hashes(np.array([*computed, 5]))
    pairs = pa.table({"URL": urls, "caption": captions})
    assert ids.matches(pairs).tolist() == [True, True, False, True]
    stored = pairs.append_column("hash", pa.array([5, 6, None, None]))
    assert ids.matches(stored).tolist() == [True, False, False, True]
    assert ids.matches(pa.table({"hash": pa.array([6, 5, None])})).tolist() == [False, True, False]
    unsigned = pa.array([computed[0] % 2**64, 6], pa.uint64())
    assert ids.matches(pa.table({"hash": unsigned})).tolist() == [True, False]
    text = pairs.append_column("hash", pa.array(["5"] * 4))
    assert ids.matches(text).tolist() == [True, True, False, True]
    with pytest.raises(UsageError, match="the table lacks an integer column hash"):
        ids.matches(pa.table({"hash": ["5"]}))


def test_a_picture_is_named_by_the_hash_of_its_bytes_or_of_the_bytes_that_were_fetched():
    ids = IdList.from_texts(IdKind.SHA256, pa.array(DIGESTS[:2]))
    own, source = [DIGESTS[0], DIGESTS[2], None, None], [DIGESTS[3], DIGESTS[1], DIGESTS[0], None]
    table = pa.table({"image_sha256": own, "sha256": source})
    assert ids.matches(table).tolist() == [True, True, True, False]
    assert ids.matches(table.select(["image_sha256"])).tolist() == [True, False, False, False]
    empty = pa.table({"image_sha256": pa.nulls(2, pa.string()), "status": ["ok", "decode_error"]})
    with pytest.raises(UsageError, match="a b lacks a column image_sha256"):
        ids.matches(empty, "a b")
    failed = empty.set_column(1, "status", pa.array(["missing_image", "decode_error"]))
    assert ids.matches(failed).tolist() == [False, False]
    assert ids.matches(table.slice(0, 0)).tolist() == []


def test_needed_columns():
    names = ["uid", "status", "caption", "Url", "url", "sha256", "HASH"]
    expected = {
        IdKind.UID: ["uid"],
        IdKind.SHA256: ["sha256", "status"],
        IdKind.URL: ["url"],
        IdKind.LAION_HASH: ["HASH", "url", "caption"],
    }
    assert {kind: needed_columns(kind, names) for kind in IdKind} == expected
    for kind, what in [("url", "a column url"), ("sha256", "image_sha256, or sha256")]:
        with pytest.raises(UsageError, match=f"shard 7 lacks .*{what}.*; run again"):
            needed_columns(IdKind(kind), ["uid", "caption"], "shard 7")
