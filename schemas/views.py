"""Names of the views of an output folder, which no score family may have."""

VIEWS = frozenset(
    [
        "audit_groups",
        "audit_members",
        "copies",
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


def is_view(family: str) -> bool:
    """Whether a view has this name already."""
    return family in VIEWS
