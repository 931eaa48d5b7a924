"""The scores that come with the embeddings: their revision follows from the embeddings' own."""

from clipsieve.scorers.columns import family_revision, scorer_basis, scorer_revision
from clipsieve.scorers.registry import EMBEDDED, make_scorer


def embedded_scorer_revision(embeddings: str) -> str:
    """Return the revision of the scorer's columns.

    Args:
      embeddings: revision of the embeddings.
    """
    return scorer_revision(scorer_basis(make_scorer(EMBEDDED, {}), embeddings), None, {})


def embedded_family_revision(embeddings: str) -> str:
    """Return the revision of the family's files; see `embedded_scorer_revision`."""
    return family_revision({EMBEDDED: embedded_scorer_revision(embeddings)})
