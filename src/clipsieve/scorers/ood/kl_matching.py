"""KL matching: how far the softmax of an image is from the mean softmax of each class.

Hendrycks et al., "Scaling Out-of-Distribution Detection for Real-World Settings", ICML 2022,
arXiv:1911.11132, section 4; as in the code of ViM, classes that no row is predicted as are left
out.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from clipsieve.errors import UsageError
from clipsieve.scorers.base import Arrays, Context, Input, PairBatch, PromptSet, Statistic
from clipsieve.scorers.ood.family import OodScorer, ood_column
from clipsieve.scorers.ood.learnt import image_of
from clipsieve.statistics.exact_sum import ExactSum
from clipsieve.statistics.moments import BATCH_ROWS, predicted_classes, sums_by_class

#: Probabilities that are summed down to 2**-176 need so many limbs.
_LIMBS = 4
#: A mean probability that is smaller, or 0, is taken as this, so that its logarithm is finite.
SMALLEST_PROBABILITY = 2.0**-177

_SUMS = "predicted"


@dataclass(frozen=True, eq=False)
class PredictedSums:
    """State: rows predicted as each class, and the sum of their softmax.

    Attributes:
      counts: (K,) int64.
      sums: (K, K): row k is the sum over rows predicted as k.
    """

    counts: np.ndarray
    sums: ExactSum

    def __add__(self, other: "PredictedSums") -> "PredictedSums":
        """Return the sums over the rows of both."""
        return PredictedSums(self.counts + other.counts, self.sums + other.sums)


@dataclass(frozen=True)
class PredictedSoftmax:
    """Statistic: the softmax of all rows with an image, by predicted class.

    Attributes:
      prompts: the classes.
      scale: of the logits.
    """

    prompts: PromptSet
    scale: float
    needs = frozenset({Input.IMAGE_EMBEDDING})
    batch_rows = BATCH_ROWS

    def observe(self, batch: PairBatch, context: Context) -> PredictedSums:
        """Return the sums over the rows of `batch` alone."""
        rows, classes = predicted_classes(batch, self.prompts)
        softmax, _ = softmax_with_logs(batch.image_cosines(self.prompts)[rows], self.scale)
        counts, sums = sums_by_class(softmax, classes, len(self.prompts.names))
        return PredictedSums(counts, ExactSum.from_values(sums, _LIMBS))


def softmax_with_logs(cosines: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Return p = softmax(scale * cosines) and log p, both (N, K) float64; log p is finite.

    Args:
      cosines: (N, K), K >= 1, finite.
      scale: above 0.
    """
    logs = cosines * scale
    logs -= logs.max(axis=1, keepdims=True)
    powers = np.exp(logs)
    sums = powers.sum(axis=1, keepdims=True)
    powers /= sums
    logs -= np.log(sums)
    return powers, logs


def smallest_divergence(
    probabilities: np.ndarray, logs: np.ndarray, log_means: np.ndarray
) -> np.ndarray:
    """Return the (N,) smallest KL(p || d_k) over the classes, at least 0.

    sum_j p_j log p_j - sum_j p_j log d_kj; what rounding makes negative is 0.

    Args:
      probabilities: (N, K) p.
      logs: (N, K) log p, finite.
      log_means: (M, K) log d of M classes, M >= 1, finite.
    """
    entropies = np.einsum("nk,nk->n", probabilities, logs)
    matches = (probabilities @ log_means.T).max(axis=1)
    return np.asarray(np.maximum(entropies - matches, 0.0))


class KLMatching(OodScorer):
    """Smallest KL divergence of an image's softmax from the mean softmax of a class's images.

    The images of a class are those predicted as it, by definition of the method.  Mean
    probabilities are summed to a multiple of 2**-176, about 1e-53, and what is smaller counts as
    2**-177: the divergence is then at most 123 nats.  At a logit scale of 100 that is an image that
    is 1.2 in cosine closer to another class.
    """

    name = "ood.kl_matching"
    columns = pa.schema(
        [
            ood_column(
                "ood_kl_matching",
                "smallest KL divergence from the mean softmax of a predicted class, in nats",
                "[0, 123]",
                "arXiv:1911.11132, section 4",
            )
        ]
    )

    def statistics(self, known: Arrays, context: Context) -> Mapping[str, Statistic]:
        """Return the sums of the softmax by predicted class."""
        if "log_means" in known:
            return {}
        return {_SUMS: PredictedSoftmax(self.prompt_set, context.logit_scale)}

    def learn(self, sums: Mapping[str, Any], known: Arrays, context: Context) -> Arrays:
        """Return the logarithms of the means of the M classes with rows, (M, K), and all counts.

        Raises:
          UsageError: without any row.
        """
        state: PredictedSums = sums[_SUMS]
        present = state.counts > 0
        if not present.any():
            raise UsageError(
                f"scorer {self.name} learns of 0 rows with an image, and needs one at least; "
                "learn on another folder with --learn-on"
            )
        means = state.sums.value()[present] / state.counts[present][:, None]
        return {
            "counts": state.counts,
            "log_means": np.log(np.maximum(means, SMALLEST_PROBABILITY)),
        }

    def load(self, known: Arrays, context: Context) -> Any:
        """Return the logarithms of the means, and the logit scale."""
        return known["log_means"], context.logit_scale

    def score(self, batch: PairBatch, loaded: Any) -> Mapping[str, np.ndarray]:
        """One column; NaN without image."""
        log_means, scale = loaded
        valid = image_of(batch).valid
        cosines = np.where(valid[:, None], self.cosines(batch), 0.0)
        values = smallest_divergence(*softmax_with_logs(cosines, scale), log_means)
        return {"ood_kl_matching": np.where(valid, values, np.nan)}
