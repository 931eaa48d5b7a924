"""One line on what the `ood` scores say of a dataset, for the summary of a run."""

from clipsieve.scorers.registry import own_options
from clipsieve.sql.connect import run_query
from clipsieve.store.folder import OutputFolder
from clipsieve.store.manifest import Manifest

#: Classes that the line names.
SHOWN_CLASSES = 3
#: Characters of the caption that it shows.
SHOWN_CAPTION = 60
_CLASS, _DISTANCE = "ood.class", "ood.max_logit"
_QUERY = """
WITH counts AS (SELECT ood_class, count(*) AS n FROM scores WHERE ood_class IS NOT NULL GROUP BY 1),
     farthest AS (SELECT caption FROM scores
                  WHERE ood_max_logit = (SELECT max(ood_max_logit) FROM scores)
                  ORDER BY shard, "row" LIMIT 1)
SELECT ood_class, n, (SELECT caption FROM farthest) FROM counts ORDER BY n DESC, 1
"""


def ood_line(folder: OutputFolder, manifest: Manifest) -> str:
    """Return the commonest classes and the row least like any class; "" without the scores.

    Of equally distant rows the first by shard and row is shown.
    """
    scorers = manifest.scorers()
    if _CLASS not in scorers or _DISTANCE not in scorers or manifest.wide is None:
        return ""
    # One query: in an object store each asks for what there is anew.
    answer = run_query(folder.root, _QUERY)
    if answer is None or not answer.rows:
        return ""
    counts = [(name, n) for name, n, _ in answer.rows]
    total = sum(count for _, count in counts)
    named = ", ".join(f"{name} {n / total:.1%}" for name, n in counts[:SHOWN_CLASSES])
    line = f"ood: {total:,} images, most like {named} {_of_classes(manifest)}"
    caption = answer.rows[0][2]
    if caption is None:
        return line
    shown = caption if len(caption) <= SHOWN_CAPTION else f"{caption[:SHOWN_CAPTION]}…"
    return f"{line}; least like any: {shown!r}"


def _of_classes(manifest: Manifest) -> str:
    """Return which classes they are compared with."""
    classes = own_options(_CLASS, manifest.scorer_options()).get("classes", "imagenet")
    return f"of {classes}'s classes" if isinstance(classes, str) else f"of {len(classes)} classes"
