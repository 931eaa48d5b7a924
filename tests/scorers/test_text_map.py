"""A linear map of text embeddings in a file: read, checked, and applied to prototypes."""

import os

import numpy as np
import pytest

from clipsieve.errors import UsageError
from clipsieve.scorers.base import PromptSet, TextMap
from clipsieve.scorers.text_map import load_text_map, read_text_map
from clipsieve.scoring.prompts import prototypes


def write(folder, array, name="map.npy"):
    np.save(folder / name, array)
    return str(folder / name)


def test_a_map_is_its_place_and_its_content(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    matrix = np.arange(9, dtype=np.float32).reshape(3, 3)
    one, same = read_text_map(write(tmp_path, matrix)), read_text_map("map.npy")
    assert one == same and os.path.isabs(same.path) and len(one.sha256) == 64
    assert read_text_map(write(tmp_path, matrix.T, "other.npy")).sha256 != one.sha256
    loaded = load_text_map(one, 3)
    assert loaded.dtype == np.float64
    np.testing.assert_array_equal(loaded, matrix)


def test_it_maps_means_before_they_are_normalised(tmp_path):
    matrix = np.array([[0.0, 2.0], [1.0, 0.0]])
    text_map = read_text_map(write(tmp_path, matrix))
    prompts = PromptSet(("a",), (("x", "y"),), text_map=text_map)
    vectors = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
    expected = matrix @ [0.5, 0.5]
    got = prototypes(prompts, vectors)[0]
    np.testing.assert_allclose(got, expected / np.linalg.norm(expected))


def test_a_map_that_has_changed_is_refused(tmp_path):
    text_map = read_text_map(write(tmp_path, np.eye(2)))
    write(tmp_path, 2 * np.eye(2))
    with pytest.raises(UsageError, match="has changed since it was given; give it again"):
        load_text_map(text_map, 2)
    os.remove(text_map.path)
    with pytest.raises(UsageError, match=r"map.npy cannot be read \(No such file"):
        load_text_map(text_map, 2)


def test_a_map_of_another_model_is_refused(tmp_path):
    text_map = read_text_map(write(tmp_path, np.eye(2)))
    with pytest.raises(UsageError, match=r"shape \(2, 2\), .* 3 components; .* \(3, 3\)"):
        load_text_map(text_map, 3)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones((2, 3)), r"shape \(2, 3\); give a matrix of shape \(D, D\)"),
        (np.ones(4), r"shape \(4,\)"),
        (np.eye(2, dtype=int), r"must hold finite floating-point numbers, its type is int64"),
        (np.full((2, 2), np.inf), r"must hold finite floating-point numbers"),
        (np.array([[None]]), r"is no .npy file"),
    ],
)
def test_wrong_arrays_are_refused(tmp_path, array, message):
    with pytest.raises(UsageError, match=message):
        read_text_map(write(tmp_path, array))


def test_files_of_another_kind_are_refused(tmp_path):
    (tmp_path / "map.npy").write_bytes(b"")
    with pytest.raises(UsageError, match=r"is no .npy file"):
        read_text_map(str(tmp_path / "map.npy"))
    np.savez(tmp_path / "map.npz", a=np.eye(2))
    with pytest.raises(UsageError, match=r"is an archive; give the .npy file"):
        read_text_map(str(tmp_path / "map.npz"))
    with pytest.raises(UsageError, match=r"cannot be read"):
        read_text_map(str(tmp_path))
    with pytest.raises(UsageError, match=r"cannot be read"):
        load_text_map(TextMap("no\0file", ""), 2)
