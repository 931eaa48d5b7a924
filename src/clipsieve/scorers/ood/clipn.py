"""CLIPN's two scores: CTW, competing to win, and ATD, agreeing to differ.

Wang et al., CLIPN for Zero-Shot OOD Detection: Teaching CLIP to Say No, ICCV 2023
(arXiv:2308.12213).  Beside its prompts each class has a prototype of what it is not,
"a photo without a cat", which CLIPN's second text tower makes: a file gives those.

With cosines y_k of an image and class k, n_k of the image and what class k is not, and s the logit
scale, class k says no with probability q_k = sigma(s n_k - s y_k).  The columns are 1 - CTW =
q_k of the likeliest class, and 1 - ATD = sum_k q_k softmax(s y)_k, computed as they stand here and
not from one minus the other, so that neither is rounded to 0.  (ATD in the paper has a class of its
own for "none of them", whose probability this is.)
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from clipsieve.definitions import shown
from clipsieve.errors import UsageError
from clipsieve.scorers.array_file import read_array_file
from clipsieve.scorers.base import Context, PairBatch, unit_rows
from clipsieve.scorers.ood.family import OodScorer, check_number, ood_column
from clipsieve.scorers.ood.logits import logistic

#: The array's name in an `.npz` file that holds several.
KEY = "no_prototypes"

_SOURCE = "arXiv:2308.12213"


def clipn_scores(yes: np.ndarray, no: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Return 1 - CTW and 1 - ATD of N images.

    Args:
      yes: (N, K) float64 cosines with the classes, K >= 1; a row of NaN gives NaN.
      no: (N, K) float64 cosines with what the classes are not.
      scale: factor of the logits, above 0.

    Returns:
      Two (N,) float64 arrays in [0, 1]; higher is more out of distribution.  With one class, and
      where one class has all the probability, they are the same.  Of classes that are equally
      likely, CTW takes the first.
    """
    says_no = logistic((no - yes) * scale)
    rows, best = np.arange(len(yes)), yes.argmax(axis=1)
    powers = np.exp((yes - yes[rows, best][:, None]) * scale)
    weighted = np.einsum("nk,nk->n", says_no, powers) / powers.sum(axis=1)
    return says_no[rows, best], np.minimum(weighted, 1.0)


@dataclass(frozen=True, slots=True)
class _Loaded:
    """What rows are scored with: (K, D) float64 unit rows, and the logit scale."""

    no_prototypes: np.ndarray
    scale: float


class ClipN(OodScorer):
    """Whether the classes say that an image is none of theirs."""

    name = "ood.clipn"
    columns = pa.schema(
        [
            ood_column(
                "ood_ctw",
                "1 - CTW: probability that the likeliest class says no",
                "[0, 1]",
                _SOURCE,
            ),
            ood_column(
                "ood_atd",
                "1 - ATD: mean probability that a class says no, weighted by the classes' softmax",
                "[0, 1]",
                _SOURCE,
            ),
        ]
    )

    def __init__(
        self,
        no_prototypes: str | Mapping[str, str] | None = None,
        scale: float | None = None,
        **classes: Any,
    ) -> None:
        """Make a scorer; the file is read when its hash is asked for, and by `load`.

        Args:
          no_prototypes: path of an `.npy` file, or an `.npz` file with an array `no_prototypes` or
            no other, (K, D) of a floating type: what each class is not, in the order of the
            classes.  Rows need not have unit norm; each is normalised.  Every worker reads it.
            Or `path` and `sha256` of the file, which must not have changed.
          scale: logit scale; None for the model's.
          **classes: see `OodScorer`.  A text map is for the classes' prompts alone.

        Raises:
          UsageError: without a file, and for a scale that is not above 0.
        """
        super().__init__(**classes)
        self._sha256 = None
        if isinstance(no_prototypes, Mapping):
            self._sha256 = no_prototypes.get("sha256")
            no_prototypes = no_prototypes.get("path")
        if not isinstance(no_prototypes, str) or not no_prototypes:
            raise UsageError(
                f"scorer {self.name} needs the vectors of what each class is not, and option "
                f"no_prototypes is {shown(no_prototypes)}; give the .npy file that CLIPN's second "
                f"text tower made: --option {self.name}.no_prototypes=FILE"
            )
        if scale is not None:
            check_number(self.name, "scale", scale)
        self._path, self._scale = no_prototypes, None if scale is None else float(scale)

    def parameters(self) -> Mapping[str, Any]:
        """Return the hash of the file, and the scale if it is not the model's.

        Raises:
          UsageError: see `load`, but for the number of components.
        """
        return {**super().parameters(), "no_prototypes": self._file[1], "scale": self._scale}

    def load(self, known: Mapping[str, np.ndarray], context: Context) -> Any:
        """Return the prototypes of the file, and the logit scale.

        Raises:
          UsageError: if the file cannot be read; for another shape or type, and for a row that is
            zero or not finite.
        """
        prototypes, _ = self._file
        if prototypes.shape[1] != context.dim:
            raise UsageError(
                f"no-prototypes {self._path} have shape {prototypes.shape}, and the model's "
                f"embeddings have {context.dim} components; give those of the same model"
            )
        scale = context.logit_scale if self._scale is None else self._scale
        return _Loaded(prototypes, scale)

    def score(self, batch: PairBatch, loaded: _Loaded) -> Mapping[str, np.ndarray]:
        """Two columns; NaN without image."""
        assert batch.image is not None
        no = batch.image.unit() @ loaded.no_prototypes.T
        ctw, atd = clipn_scores(self.cosines(batch), np.clip(no, -1.0, 1.0, out=no), loaded.scale)
        return {"ood_ctw": ctw, "ood_atd": atd}

    @cached_property
    def _file(self) -> tuple[np.ndarray, str]:
        """Unit rows (K, D) float64, and the sha256 of the file."""
        array, sha256 = read_array_file(self._path, "no-prototypes", KEY)
        if self._sha256 not in (None, sha256):
            raise UsageError(
                f"no-prototypes {self._path} have changed since they were given; give them again: "
                f"--option {self.name}.no_prototypes={self._path}"
            )
        count = len(self.prompt_set.names)
        if array.ndim != 2 or len(array) != count:
            raise UsageError(
                f"no-prototypes {self._path} have shape {array.shape}, and there are {count} "
                "classes; give a row for each class, in the order of the classes"
            )
        largest = np.abs(array).max(axis=1, initial=0.0).astype(np.float64)
        if not largest.all():
            raise UsageError(
                f"no-prototypes {self._path}: row {int(largest.argmin()) + 1} is zero; give each "
                "class a vector"
            )
        return unit_rows(array / largest[:, None]), sha256
