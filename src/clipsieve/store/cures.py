"""Which command makes a damaged file of an output folder again."""

from clipsieve.store import names


def cure(root: str, name: str) -> str:
    """Return what to do about a damaged file, as an imperative clause.

    Args:
      root: the output folder.
      name: of the file, or of its folder, relative to it.
    """
    top, _, rest = name.partition("/")
    part = rest.partition("/")[0]
    if top == names.SUBSETS:
        return f"make the subset again: clipsieve filter {root} ... --name {part or 'NAME'}"
    if top == names.METRICS:
        return f"write it again: clipsieve evaluate {root} ..."
    if top == names.AUDITS:
        return f"write it again: clipsieve audit {root}"
    if top == names.WIDE:
        return f"write it again: clipsieve compact {root}"
    if top == names.REMOVALS and part.startswith("rev="):
        return f"find the rows again: clipsieve remove {root} --refresh"
    if top == names.REMOVALS:
        return (
            f"restore it from a backup, or `clipsieve remove {root} --undo {part}` and add the "
            "list again"
        )
    if names.is_history(name):
        return "run the same `clipsieve run` again, which moves it aside: it is history"
    return "run the same `clipsieve run` again"
