"""Scores of the logits alone: nothing is learnt, and all share one matrix of cosines.

s is the model's logit scale, c the cosines of an image with K classes, p = softmax(s c).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from clipsieve.scorers.base import PairBatch, score_column
from clipsieve.scorers.ood.family import OodScorer, check_number, ood_column
from clipsieve.scorers.ood.geometry import GEOMETRIES
from clipsieve.scorers.ood.logits import generalized_entropy, max_over_norm
from clipsieve.scorers.options import check_ints

Scores = Mapping[str, np.ndarray]


class MaxSoftmax(OodScorer):
    """MSP: 1 - max p."""

    name, geometries = "ood.msp", GEOMETRIES
    columns = pa.schema(
        [ood_column("ood_msp", "1 - max softmax of the logits", "[0, 1)", "arXiv:1610.02136")]
    )

    def score(self, batch: PairBatch, loaded: Any) -> Scores:
        """One column; NaN without image."""
        return {"ood_msp": self.rows(batch).softmax(loaded).rest_probability()}


class MaxLogit(OodScorer):
    """MaxLogit without the logit scale: -max c."""

    name, geometries = "ood.max_logit", GEOMETRIES
    columns = pa.schema(
        [ood_column("ood_max_logit", "minus the largest cosine", "[-1, 1]", "arXiv:1911.11132")]
    )

    def score(self, batch: PairBatch, loaded: Any) -> Scores:
        """One column; NaN without image."""
        return {"ood_max_logit": -self.rows(batch).top_two().largest}


class Margin(OodScorer):
    """Minus the gap between the two largest cosines; 0 if two classes have one prototype."""

    name, geometries, least_classes = "ood.margin", GEOMETRIES, 2
    columns = pa.schema(
        [
            ood_column(
                "ood_margin",
                "minus the difference of the two largest cosines",
                "[-2, 0]",
                "arXiv:2305.15508",
            )
        ]
    )

    def score(self, batch: PairBatch, loaded: Any) -> Scores:
        """One column; NaN without image."""
        top = self.rows(batch).top_two()
        return {"ood_margin": top.second - top.largest}


class Energy(OodScorer):
    """Energy in units of cosine: -T logsumexp(s c / T) / s."""

    name, geometries = "ood.energy", GEOMETRIES
    columns = pa.schema(
        [
            ood_column(
                "ood_energy",
                "minus T logsumexp(logits / T), divided by the logit scale",
                "(-inf, inf)",
                "arXiv:2010.03759, equation 4",
            )
        ]
    )

    def __init__(self, temperature: float = 1.0, **classes: Any) -> None:
        """Make a scorer; `temperature` is T, of the logits.

        Raises:
          UsageError: for a value out of range.
        """
        super().__init__(**classes)
        check_number(self.name, "temperature", temperature)
        self._temperature = float(temperature)

    def parameters(self) -> Mapping[str, Any]:
        """All options."""
        return {**super().parameters(), "temperature": self._temperature}

    def score(self, batch: PairBatch, loaded: Any) -> Scores:
        """One column; NaN without image."""
        rows, scale = self.rows(batch), loaded / self._temperature
        above = rows.softmax(scale).logsumexp_above_largest() / scale
        return {"ood_energy": -(rows.top_two().largest + above)}


class Entropy(OodScorer):
    """Entropy of the softmax, in nats."""

    name, geometries = "ood.entropy", GEOMETRIES
    columns = pa.schema(
        [ood_column("ood_entropy", "entropy of the softmax", "[0, log K]", "Shannon 1948")]
    )

    def __init__(self, tau: float | None = None, **classes: Any) -> None:
        """Make a scorer.

        Args:
          tau: entropy of softmax(c / tau); None is the logit scale, 1 / s.
          **classes: see `OodScorer`.

        Raises:
          UsageError: for a value out of range.
        """
        super().__init__(**classes)
        if tau is not None:
            check_number(self.name, "tau", tau)
        self._tau = None if tau is None else float(tau)

    def parameters(self) -> Mapping[str, Any]:
        """All options."""
        return {**super().parameters(), "tau": self._tau}

    def score(self, batch: PairBatch, loaded: Any) -> Scores:
        """One column; NaN without image."""
        scale = loaded if self._tau is None else 1.0 / self._tau
        return {"ood_entropy": self.rows(batch).softmax(scale).entropy()}


class _OnCosines(OodScorer):
    """A score of softmax(c / tau), which does not know the logit scale."""

    def __init__(self, tau: float = 1.0, **classes: Any) -> None:
        """Make a scorer; `tau` is the temperature of the cosines.

        Raises:
          UsageError: for a value out of range.
        """
        super().__init__(**classes)
        check_number(self.name, "tau", tau)
        self._tau = float(tau)

    def parameters(self) -> Mapping[str, Any]:
        """All options."""
        return {**super().parameters(), "tau": self._tau}


class Variance(_OnCosines):
    """Minus the population variance of softmax(c / tau)."""

    name = "ood.variance"
    columns = pa.schema(
        [
            ood_column(
                "ood_variance",
                "minus the variance of softmax(c / tau) over the classes",
                "[-0.25, 0]",
                "score `var` of the code of arXiv:2211.13445",
            )
        ]
    )

    def score(self, batch: PairBatch, loaded: Any) -> Scores:
        """One column; NaN without image."""
        softmax = self.rows(batch).softmax(1.0 / self._tau)
        return {"ood_variance": -softmax.variance(len(self.prompt_set.names))}


class MaximumConceptMatching(_OnCosines):
    """MCM: minus the largest entry of softmax(c / tau), and its logarithm.

    With a thousand classes MCM lies between 0.0011 and 0.0013, where float32 has about 1.7 million
    values; `ood_mcm_log` orders rows alike and has several times as many.
    """

    name = "ood.mcm"
    columns = pa.schema(
        [
            ood_column(
                "ood_mcm",
                "minus the largest entry of softmax(c / tau)",
                "[-1, -1/K]",
                "arXiv:2211.13445, equation 1",
            ),
            ood_column(
                "ood_mcm_log",
                "logsumexp(c / tau) - max c / tau - log K: minus the log of K times MCM",
                "[-log K, 0]",
                "arXiv:2211.13445, equation 1",
            ),
        ]
    )

    def score(self, batch: PairBatch, loaded: Any) -> Scores:
        """Two columns; NaN without image."""
        softmax = self.rows(batch).softmax(1.0 / self._tau)
        above = softmax.logsumexp_above_largest() - np.log(len(self.prompt_set.names))
        return {"ood_mcm": -softmax.largest_probability(), "ood_mcm_log": above}


class GeneralizedEntropy(OodScorer):
    """GEN: sum over the likeliest classes of (p (1 - p))^gamma."""

    name, geometries = "ood.gen", GEOMETRIES
    columns = pa.schema(
        [
            ood_column(
                "ood_gen",
                "generalized entropy: sum of (p (1 - p))^gamma over the likeliest classes",
                "[0, inf)",
                "Liu et al., GEN, CVPR 2023, equation 4",
            )
        ]
    )

    def __init__(self, gamma: float = 0.1, most: int = 100, **classes: Any) -> None:
        """Make a scorer.

        Args:
          gamma: the exponent.
          most: how many of the likeliest classes count; more than there are is all.
          **classes: see `OodScorer`.

        Raises:
          UsageError: for a value out of range.
        """
        super().__init__(**classes)
        check_number(self.name, "gamma", gamma)
        check_ints(self.name, {"most": (most, 1)})
        self._gamma, self._most = float(gamma), most

    def parameters(self) -> Mapping[str, Any]:
        """All options."""
        return {**super().parameters(), "gamma": self._gamma, "most": self._most}

    def score(self, batch: PairBatch, loaded: Any) -> Scores:
        """One column; NaN without image."""
        rows = self.rows(batch)
        softmax = rows.softmax(loaded)
        top = rows.top_two()
        return {"ood_gen": generalized_entropy(top, softmax, loaded, self._gamma, self._most)}


class MaxLogitPNorm(OodScorer):
    """MaxLogit-pNorm: minus the largest centred logit over the p-norm of all.

    With two classes it is constant, so it needs three.
    """

    name, geometries, least_classes = "ood.pnorm", GEOMETRIES, 3
    columns = pa.schema(
        [
            ood_column(
                "ood_pnorm",
                "minus the largest centred logit, divided by the p-norm of the centred logits",
                "[-1, 0] for p >= 1",
                "arXiv:2305.15508, section 4.2",
            )
        ]
    )

    def __init__(self, p: int = 4, **classes: Any) -> None:
        """Make a scorer; `p` is that of the norm, 0 counts the logits that are not 0.

        Raises:
          UsageError: for a value out of range.
        """
        super().__init__(**classes)
        check_ints(self.name, {"p": (p, 0)})
        self._p = p

    def parameters(self) -> Mapping[str, Any]:
        """All options."""
        return {**super().parameters(), "p": self._p}

    def score(self, batch: PairBatch, loaded: Any) -> Scores:
        """One column; NaN without image."""
        values = max_over_norm(self.rows(batch).top_two().gaps, self._p)
        return {"ood_pnorm": -(values if self._p else loaded * values)}


class ZeroShotClass(OodScorer):
    """The likeliest class, by name, and its probability."""

    name, geometries = "ood.class", GEOMETRIES
    columns = pa.schema(
        [
            score_column(
                "ood_class",
                "name of the class with the largest logit, the first of equals",
                "none",
                "names of classes",
                "arXiv:2103.00020, section 3.1",
                pa.string(),
            ),
            score_column(
                "ood_class_probability",
                "softmax of the logits at that class",
                "higher is more confident",
                "[1/K, 1]",
                "arXiv:2103.00020, section 3.1",
            ),
        ]
    )

    def score(self, batch: PairBatch, loaded: Any) -> Scores:
        """Two columns; None and NaN without image."""
        assert batch.image is not None
        rows = self.rows(batch)
        classes = np.array(self.prompt_set.names, object)[rows.top_two().best]
        classes[~batch.image.valid] = None
        return {
            "ood_class": classes,
            "ood_class_probability": rows.softmax(loaded).largest_probability(),
        }
