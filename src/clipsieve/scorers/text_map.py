"""A user's linear map of text embeddings, from a file.

Qian et al., LABCLIP, fit such a map before the cosine; any (D, D) matrix will do.
"""

import os

import numpy as np

from clipsieve.errors import UsageError
from clipsieve.scorers.array_file import read_array_file
from clipsieve.scorers.base import TextMap

_WHAT = "text map"


def read_text_map(path: str) -> TextMap:
    """Return a map by its absolute path and the hash of its file.

    Raises:
      UsageError: if the file cannot be read, or holds anything but a square matrix of finite
        floating-point numbers.
    """
    place = os.path.abspath(os.path.expanduser(path))
    matrix, sha256 = read_array_file(place, _WHAT)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise UsageError(
            f"text map {place} has shape {matrix.shape}; give a matrix of shape (D, D), D the "
            "components of the model's embeddings"
        )
    return TextMap(place, sha256)


def load_text_map(text_map: TextMap, dim: int) -> np.ndarray:
    """Return A of a map t to A t: (dim, dim) float64.

    Raises:
      UsageError: if the file cannot be read, has changed, or holds anything else.
    """
    matrix, sha256 = read_array_file(text_map.path, _WHAT)
    if sha256 != text_map.sha256:
        raise UsageError(
            f"text map {text_map.path} has changed since it was given; give it again: "
            f"--option ood.text_map={text_map.path}"
        )
    if matrix.shape != (dim, dim):
        raise UsageError(
            f"text map {text_map.path} has shape {matrix.shape}, the model's embeddings have {dim} "
            f"components; give a matrix of shape ({dim}, {dim})"
        )
    return matrix.astype(np.float64)
