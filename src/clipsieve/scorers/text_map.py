"""A user's linear map of text embeddings, from a file.

Qian et al., LABCLIP, fit such a map before the cosine; any (D, D) matrix will do.
"""

import hashlib
import os
from pathlib import Path

import numpy as np

from clipsieve.errors import UsageError
from clipsieve.scorers.base import TextMap


def read_text_map(path: str) -> TextMap:
    """Return a map by its absolute path and the hash of its file.

    Raises:
      UsageError: if the file cannot be read.
    """
    place = os.path.abspath(os.path.expanduser(path))
    return TextMap(place, hashlib.sha256(_bytes(place)).hexdigest())


def load_text_map(text_map: TextMap, dim: int) -> np.ndarray:
    """Return A of a map t to A t: (dim, dim) float64.

    Raises:
      UsageError: if the file cannot be read, has changed, or holds anything else.
    """
    content = _bytes(text_map.path)
    if hashlib.sha256(content).hexdigest() != text_map.sha256:
        raise UsageError(
            f"text map {text_map.path} has changed since it was given; give it again: "
            f"--option ood.text_map={text_map.path}"
        )
    try:
        matrix = np.load(text_map.path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UsageError(f"text map {text_map.path} is no .npy file ({error})") from error
    if not isinstance(matrix, np.ndarray) or matrix.shape != (dim, dim):
        shape = getattr(matrix, "shape", "an archive")
        raise UsageError(
            f"text map {text_map.path} has shape {shape}, the model's embeddings have {dim} "
            f"components; give a matrix of shape ({dim}, {dim})"
        )
    if matrix.dtype.kind != "f" or not np.isfinite(matrix).all():
        raise UsageError(
            f"text map {text_map.path} must hold finite floating-point numbers, its type is "
            f"{matrix.dtype}"
        )
    return matrix.astype(np.float64)


def _bytes(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UsageError(
            f"text map {path} cannot be read ({error.strerror}); give the .npy file of a matrix"
        ) from error
