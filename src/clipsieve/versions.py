"""Versions of everything that can change a number."""

import platform
from functools import cache
from importlib.metadata import version

from clipsieve.clip.decode import decoder_description
from clipsieve.clip.model import library_version

__version__ = version("clipsieve")


@cache
def installed() -> dict[str, str]:
    """Version of clipsieve, Python and each library between a file and a score."""
    return {
        "clipsieve": __version__,
        "python": platform.python_version(),
        "torch": version("torch"),
        "open_clip": library_version(),
        "numpy": version("numpy"),
        "pyarrow": version("pyarrow"),
        **{f"decoder_{name}": text for name, text in decoder_description().items()},
    }
