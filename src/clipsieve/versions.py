"""Versions of everything that can change a number."""

import platform
from functools import cache
from importlib.metadata import version

__version__ = version("clipsieve")


@cache
def installed() -> dict[str, str]:
    """Return the version of clipsieve, Python and each library between a file and a score."""
    from clipsieve.clip.decode import decoder_description  # loads torch

    return {
        "clipsieve": __version__,
        "python": platform.python_version(),
        "torch": version("torch"),
        "open_clip": version("open_clip_torch"),
        "numpy": version("numpy"),
        "pyarrow": version("pyarrow"),
        **{f"decoder_{name}": text for name, text in decoder_description().items()},
    }
