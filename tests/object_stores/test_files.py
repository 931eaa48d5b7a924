"""What an output folder needs of its file system, on disk and in a store alike."""

import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipsieve.errors import StorageError, UsageError
from clipsieve.object_stores.files import TAIL_BYTES, ObjectStoreFiles
from clipsieve.store.file_system import temporary_name
from clipsieve.store.files import LocalFiles
from clipsieve.store.folder import OutputFolder


@pytest.fixture(params=["disk", "store"])
def files(request, tmp_path):
    if request.param == "disk":
        return LocalFiles(tmp_path / "out")
    return ObjectStoreFiles(request.getfixturevalue("url"))


def write(files, name, content):
    with files.writing(name) as path:
        path.write_bytes(content)


def test_what_is_written_is_read_and_listed(files):
    write(files, "a/b.json", b"12345")
    write(files, "a/c/d.json", b"1")
    write(files, "top.json", b"")
    assert files.read("a/b.json") == b"12345"
    assert files.read("a/b.json", limit=2) == b"12"
    assert files.read("a/b.json", limit=99) == b"12345"
    assert files.read("top.json") == files.read("top.json", limit=5) == b""
    entries = files.entries("a")
    assert {name: status.bytes for name, status in entries.files.items()} == {"b.json": 5}
    assert entries.folders == ("c",)
    assert entries.files["b.json"] == files.status("a/b.json")
    assert (files.list_files("a"), files.list_folders("a")) == (["b.json"], ["c"])
    assert (files.list_files("none"), files.list_folders("none")) == ([], [])
    assert files.exists("a/b.json")
    assert not files.exists("a") and not files.exists("none")
    with files.open("a/b.json") as file:
        assert (file.size(), file.read(1), file.seek(3), file.read()) == (5, b"1", 3, b"45")


def test_a_listing_is_never_older_than_what_was_written(files):
    for number in range(5):
        write(files, f"a/{number}", b"x")
        assert len(files.list_files("a")) == number + 1
    files.delete("a/0")
    assert files.list_files("a") == ["1", "2", "3", "4"]


def test_other_content_is_another_version(files):
    write(files, "a", b"11111")
    first = files.status("a")
    write(files, "a", b"22222")
    assert files.status("a") != first


@pytest.mark.parametrize("name", ["none", "none/none"])
def test_a_missing_object_is_a_file_not_found_error(files, name):
    for operation in (files.read, files.open, files.status, files.read_footer):
        with pytest.raises(FileNotFoundError):
            operation(name)
    with pytest.raises(FileNotFoundError):
        files.read(name, limit=5)
    files.delete(name)
    files.delete_folder(name)


def test_a_block_that_raises_leaves_what_was_there(files):
    write(files, "a", b"old")
    with pytest.raises(KeyError), files.writing("a") as path:
        path.write_bytes(b"half of the n")
        raise KeyError
    assert files.read("a") == b"old"
    with pytest.raises(KeyError), files.writing("b") as path:
        path.write_bytes(b"half of the n")
        raise KeyError
    assert not files.exists("b")


def test_objects_are_copied_renamed_and_removed(files):
    write(files, "x/a", b"1")
    files.copy("x/a", "x/b")
    files.rename("x/a", "x/c")
    assert files.list_files("x") == ["b", "c"]
    assert files.read("x/b") == files.read("x/c") == b"1"
    write(files, "x/y/z", b"")
    files.delete_folder("x")
    assert files.list_files("x") == files.list_files("x/y") == []


def test_a_sweep_removes_what_has_a_temporary_name(files):
    write(files, "_runs/a.json", b"")
    name = temporary_name("_runs/report")
    write(files, name, b"")
    write(files, "_runs/x.tmp-1", b"")
    assert files.sweep(("_runs", "samples"), ("dataset.json",)) == [name]
    assert files.list_files("_runs") == ["a.json", "x.tmp-1"]


@pytest.mark.parametrize("bytes_of_footer", [10, TAIL_BYTES + 1000])
def test_a_footer_is_read_of_the_objects_end(files, bytes_of_footer):
    metadata = {"clipsieve.key": "x" * bytes_of_footer}
    table = pa.table({"a": [os.urandom(200_000)]})
    with files.writing("a.parquet") as path:
        pq.write_table(table.replace_schema_metadata(metadata), path)
    found = files.read_footer("a.parquet").metadata
    assert found[b"clipsieve.key"] == metadata["clipsieve.key"].encode()


def test_what_is_no_parquet_has_no_footer(files):
    for content in (b"", b"PAR1", b"x" * 100, b"\xff" * 20 + b"PAR1"):
        write(files, "a.parquet", content)
        with pytest.raises((pa.ArrowException, OSError)) as error:
            files.read_footer("a.parquet")
        assert not isinstance(error.value, FileNotFoundError)


def test_an_object_of_several_parts_is_whole(url, server):
    files = ObjectStoreFiles(url)
    content = os.urandom(1 << 20) * 101  # s3fs sends more than 100 MiB in parts
    write(files, "big", content)
    assert sum("uploadId" in r or r.startswith("POST") for r in server.requests()) >= 2
    assert files.status("big").bytes == len(content)
    with files.open("big") as file:  # more than is read at once
        assert file.size() == len(content)
        file.seek(100 << 20)
        assert file.read() == content[100 << 20 :]
        assert file.seek(5) == 5
        assert file.read(10) == content[5:15]
    assert files.read("big") == content


def test_a_sweep_ends_uploads_that_nobody_will_complete(url):
    files = ObjectStoreFiles(url)
    bucket, _, key = files._key("samples/a").partition("/")
    beside = key.replace("/out/", "/out2/")
    for name in (key, beside):
        files.system.call_s3("create_multipart_upload", Bucket=bucket, Key=name)
    files.sweep(("samples",), ())
    found = files.system.call_s3("list_multipart_uploads", Bucket=bucket)
    prefix = key.partition("/")[0]
    left = [each["Key"] for each in found["Uploads"] if each["Key"].startswith(prefix)]
    assert left == [beside]


def test_a_sweep_without_rights_for_uploads_says_so(url, capsys, monkeypatch):
    files = ObjectStoreFiles(url)

    def refused(*words, **options):
        raise PermissionError("Access Denied")

    monkeypatch.setattr(files.system, "call_s3", refused)
    assert files.sweep(("samples",), ()) == []
    assert "stay: Access Denied; allow s3:ListBucketMultipartUploads" in capsys.readouterr().err


def test_footers_are_asked_for_once_as_long_as_objects_are_the_same(url, server):
    folder = OutputFolder.open(url)
    names = [f"samples/{number:05d}.parquet" for number in range(20)]
    for name in names:
        folder.write_table(name, pa.table({"a": [1]}), {"clipsieve.rows": name})
    server.requests()
    first = folder.read_footers([*names, "samples/none.parquet"])
    assert first == [{"clipsieve.rows": name} for name in names] + [{}]
    requests = server.requests()
    assert sum(request.startswith("GET") and ".parquet" in request for request in requests) == 21
    assert OutputFolder.open(url).read_footers(names) == first[:-1]
    assert len(server.requests()) == 1  # a listing
    folder.write_table(names[3], pa.table({"a": [1]}), {"clipsieve.rows": "other"})
    server.requests()
    assert folder.read_footers(names)[3] == {"clipsieve.rows": "other"}
    assert len(server.requests()) == 2


@pytest.mark.parametrize(
    ("root", "message"),
    [
        ("s3://", "names no folder of a bucket"),
        ("s3://bucket//a", "names no folder"),
        ("s3://bucket/../a", "names no folder"),
        ("s3://bucket/a*", r"has \* in its name"),
        ("s3://user:secret@bucket/a", "carries a password or a signature"),
        ("az://container/a?sig=secret", "carries a password or a signature"),
        ("no-such://bucket/a", "use s3://, gs://, az://"),
        ("gs://bucket/a", r"pip install 'clipsieve\[gcs\]'"),
    ],
)
def test_urls_that_are_no_folder_are_refused(root, message):
    with pytest.raises(UsageError, match=message) as error:
        OutputFolder.open(root)
    assert "secret" not in str(error.value)


def test_a_file_url_is_a_folder_of_this_machine(tmp_path):
    assert OutputFolder.open(f"file://{tmp_path}/out").root == str(tmp_path / "out")


def test_a_missing_bucket_is_a_storage_error(server):
    files = ObjectStoreFiles("s3://no-such-bucket/out")
    with pytest.raises(StorageError, match=r"cannot write to s3://no-such-bucket/out/a: .*bucket"):
        write(files, "a", b"1")
    assert files.list_files("") == []


def test_a_server_that_is_gone_is_a_storage_error(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    files = ObjectStoreFiles("s3://gone/out")
    files.system = files.query_system()  # a client of its own
    with pytest.raises(StorageError, match="check the address and the network"):
        files.read("a")


def test_tables_written_at_once_have_the_seals_of_their_names(files):
    folder = OutputFolder(files)
    tables = [
        (f"a/{n}.parquet", pa.table({"n": [n] * n}), {"clipsieve.rows": str(n)}) for n in (1, 2, 3)
    ]
    seals = folder.write_tables(tables)
    assert list(seals) == [name for name, *_ in tables]
    for name, table, footer in tables:
        assert folder.verify(name) == seals[name]
        assert folder.read_table(name).equals(table)
        assert footer.items() <= folder.read_footer(name).items()
