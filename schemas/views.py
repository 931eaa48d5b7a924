"""Names of the views of an output folder, which no score family may have."""

VIEWS = frozenset(
    [
        "detectors",
        "dropped",
        "embeddings",
        "funnel",
        "funnel_overlaps",
        "kept",
        "metrics",
        "overlaps",
        "removals",
        "runs",
        "samples",
        "score_columns",
        "scores",
        "shards",
        "subsets",
        "thresholds",
        "wide",
    ]
)
#: Ends the name of the view of a family's groups.
GROUPS = "_groups"


def is_view(family: str) -> bool:
    """Whether a view has this name already, or that of another family's groups has."""
    return family in VIEWS or family.endswith(GROUPS)
