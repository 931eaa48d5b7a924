"""One array of a user's, in a NumPy file."""

import hashlib
import io
import zipfile
import zlib
from pathlib import Path

import numpy as np

from clipsieve.errors import UsageError

#: What NumPy raises for a file that is of another kind, or damaged.
_DAMAGED = (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)


def read_array_file(path: str, what: str, key: str | None = None) -> tuple[np.ndarray, str]:
    """Return the array of floats in a file, and the sha256 of the file.

    Args:
      path: of an `.npy` file; or, if there is a key, of an `.npz` file with one array, or with
        several of which one has that name.
      what: the array is, for messages.
      key: name of the array in an `.npz` file; None if it must be an `.npy` file.

    Raises:
      UsageError: if the file cannot be read or is of another kind; if the array is not of a
        floating type, or a number in it is not finite.
    """
    try:
        content = Path(path).read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(
            f"{what} {path} cannot be read ({reason}); give the {_kind(key)} of a matrix"
        ) from error
    array = decode_array(content, path, what, key)
    if array.dtype.kind != "f" or not np.isfinite(array).all():
        raise UsageError(
            f"{what} {path} must hold finite floating-point numbers, its type is {array.dtype}; "
            "correct the file"
        )
    return array, hashlib.sha256(content).hexdigest()


def decode_array(content: bytes, path: str, what: str, key: str | None = None) -> np.ndarray:
    """Return the array in the content of a file, of whatever type.

    Args:
      content: of the file.
      path: of the file, for messages.
      what: see `read_array_file`.
      key: see `read_array_file`.

    Raises:
      UsageError: if the file is of another kind.
    """
    try:
        loaded = np.load(io.BytesIO(content), allow_pickle=False)
        return loaded if isinstance(loaded, np.ndarray) else _member(loaded, path, what, key)
    except _DAMAGED as error:
        raise UsageError(f"{what} {path} is no {_kind(key)}; write it with numpy") from error


def _kind(key: str | None) -> str:
    return ".npy file" if key is None else ".npy or .npz file"


def _member(archive: "np.lib.npyio.NpzFile", path: str, what: str, key: str | None) -> np.ndarray:
    with archive:
        names = archive.files
        if key is None:
            raise UsageError(f"{what} {path} is an archive; give the .npy file of a matrix")
        if key not in names and len(names) != 1:
            raise UsageError(
                f"{what} {path} holds the arrays {sorted(names)}; name one of them {key}"
            )
        return np.asarray(archive[key if key in names else names[0]])
