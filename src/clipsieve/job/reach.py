"""Whether this process can read the inputs and write to the output folder."""

from collections.abc import Iterable, Iterator

from clipsieve.errors import StorageError
from clipsieve.formats.inputs import is_present
from clipsieve.store import names
from clipsieve.store.file_system import temporary_name
from clipsieve.store.folder import OutputFolder

#: What helps where one of them is out of reach.
REACH_CURE = "make inputs and output reachable under the same absolute paths on every worker"


def input_problems(uris: Iterable[str]) -> Iterator[str]:
    """Yield why each of the inputs that cannot be read cannot."""
    for uri in uris:
        try:
            exists = is_present(uri)
        except Exception as error:  # stores raise what they like
            yield f"input {uri} cannot be read: {error}"
            continue
        if not exists:
            yield f"input {uri} does not exist there"


def output_problem(out: str) -> str | None:
    """Return why the output folder cannot be written to; None if it can."""
    folder = OutputFolder.open(out)
    name = temporary_name(f"{names.RUNS}/probe")  # swept if this process dies here
    try:
        folder.write_text(name, "")
        folder.files.delete(name)
    except StorageError as error:
        return f"output folder {folder.root} cannot be written to: {error}"
    return None
