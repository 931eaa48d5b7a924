"""kNN: how far an image is from the k-th nearest of a bank of images.

Sun et al., "Out-of-Distribution Detection with Deep Nearest Neighbors", ICML 2022,
arXiv:2204.06507.  The authors' score is the squared Euclidean distance of unit vectors, which is
twice 1 - cos and orders rows alike.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from clipsieve.errors import UsageError
from clipsieve.scorers.base import Arrays, Context, PairBatch, Scorer, Statistic
from clipsieve.scorers.density import k_distance
from clipsieve.scorers.density_scorer import (
    keep_sample,
    reference_sample,
    sample_reference_name,
)
from clipsieve.scorers.ood.family import ood_column
from clipsieve.scorers.options import check_ints
from clipsieve.scorers.sample_search import SampleSearch

#: Neighbours, as with a bank of CIFAR in the paper, section 4.1, and in OpenOOD.
DEFAULT_K = 50
#: Rows of the bank: CIFAR's 50,000, for which that k was chosen.
DEFAULT_REFERENCE = 50_000


class NearestNeighbourDistance(Scorer):
    """1 - cos of an image and the k-th nearest of a bank, the rows whose uids hash lowest.

    A row is never its own neighbour.  If the bank has fewer than k other rows, it is the last of
    them, as with the `density` scores.  A row whose image has no embedding has no score, nor has
    one without any neighbour.
    """

    name, family = "ood.knn", "ood"
    columns = pa.schema(
        [
            ood_column(
                "ood_knn",
                "1 - cosine of the k-th nearest image of a bank",
                "[0, 2]",
                "arXiv:2204.06507, section 3",
            )
        ]
    )

    def __init__(
        self, k: int = DEFAULT_K, reference: str | int = DEFAULT_REFERENCE, seed: int = 0
    ) -> None:
        """Make a scorer.

        Args:
          k: neighbours.
          reference: rows of the bank, at most; or `auto`, the small sample of `density`.  The time
            for a row grows with it.
          seed: of the hash that chooses rows.

        Raises:
          UsageError: for a value out of range.
        """
        check_ints(self.name, {"k": (k, 1), "seed": (seed, 0)})
        self._k, self._seed = k, seed
        self._reference = sample_reference_name(reference)

    def parameters(self) -> Mapping[str, Any]:
        """All options."""
        return {"k": self._k, "reference": self._reference, "seed": self._seed}

    def statistics(self, known: Arrays, context: Context) -> Mapping[str, Statistic]:
        """Return the bank, a sample that `density` draws alike."""
        if f"{self._reference}.hashes" in known:
            return {}
        sample = reference_sample(self._reference, self._seed, False, known, context)
        return {self._reference: sample}

    def learn(self, sums: Mapping[str, Any], known: Arrays, context: Context) -> Arrays:
        """Return the bank.

        Raises:
          UsageError: if no row has an image.
        """
        arrays, sample = dict(known), sums[self._reference]
        if not sample.seen:
            raise UsageError(
                f"scorer {self.name} learns of 0 rows with an image, and its bank needs one at "
                "least; learn on another folder with --learn-on"
            )
        keep_sample(self._reference, sample, arrays)
        return arrays

    def load(self, known: Arrays, context: Context) -> SampleSearch:
        """Index the bank."""
        return SampleSearch(
            self._reference, known, self._k, "cosine", self._seed, False, context.device
        )

    def score(self, batch: PairBatch, loaded: Any) -> Mapping[str, np.ndarray]:
        """One column; NaN where the image has no embedding or no neighbour."""
        return {"ood_knn": k_distance(loaded.search(batch).distances, self._k)}
