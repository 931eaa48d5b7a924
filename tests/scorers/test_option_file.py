"""Files that options name: their place, their hash, and what is refused."""

import hashlib
import os

import pytest

from clipsieve.errors import UsageError
from clipsieve.scorers.option_file import OptionFile, file_value


def test_the_driver_records_place_and_hash(tmp_path, monkeypatch):
    (tmp_path / "words").write_bytes(b"a\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    value = file_value("words", "words")
    assert value == {
        "path": os.path.join(tmp_path, "words"),
        "sha256": hashlib.sha256(b"a\n").hexdigest(),
    }
    assert file_value("~/words", "words") == value
    file = OptionFile.from_value("a.b", "words", value, "words")
    assert (file.read(), file.digest()) == (b"a\n", value["sha256"])


def test_a_path_alone_is_the_file_as_it_is(tmp_path):
    path = tmp_path / "words"
    path.write_bytes(b"a\n")
    file = OptionFile.from_value("a.b", "words", str(path), "words")
    assert file.digest() == hashlib.sha256(b"a\n").hexdigest()
    path.write_bytes(b"b\n")
    assert (file.read(), file.digest()) == (b"b\n", hashlib.sha256(b"b\n").hexdigest())


def test_a_file_that_has_changed_is_refused(tmp_path):
    path = tmp_path / "words"
    path.write_bytes(b"a\n")
    file = OptionFile.from_value("a.b", "words", file_value(str(path), "words"), "words")
    path.write_bytes(b"b\n")
    with pytest.raises(UsageError, match=r"words has changed .*: --option a\.b\.words=/.*words"):
        file.read()


@pytest.mark.parametrize("value", [None, "", 3, {}, {"sha256": "0"}])
def test_what_names_no_file_is_refused(value):
    with pytest.raises(UsageError, match=r"scorer a\.b needs a list, .*--option a\.b\.words=FILE"):
        OptionFile.from_value("a.b", "words", value, "a list")


@pytest.mark.parametrize("name", ["nothing", "", "a\0b"])
def test_a_file_that_cannot_be_read_is_refused(tmp_path, name):
    path = os.path.join(tmp_path, name)
    with pytest.raises(UsageError, match=r"option words: .* cannot be read"):
        file_value(path, "option words")
    with pytest.raises(UsageError, match=r"option words of scorer a\.b: .* cannot be read"):
        OptionFile("a.b", "words", path).read()
