"""Upper bounds of scores from one low-precision product, that no rounding can break.

With both sides shifted by the reference mean m, x = q - m and y = r - m,

    |q - r|^2 = |x|^2 - 2 s,    s = x.y - |y|^2 / 2,

so the nearest rows are those of highest score s.  The product gets rounded x^ and y^ only, and

    x.y <= x^.y^ + |x - x^| |y| + |x^| |y - y^|

by Cauchy and Schwarz, with the true lengths of the rounding errors.  Both terms are products of
a number of the query and a number of the row, and so is -|y|^2 / 2: they are columns of the same
product, which thus gives an upper bound U of s in one pass.  U is tight in proportion to the
lengths of this x and this y, not to the largest of a block.

A row belongs to the k nearest only if its s, and so its U, reaches the score of the k-th distance
found so far.  The error of shifting is part of the bound, and shifting removes what all vectors
have in common (CLIP's cone), which would otherwise use up the few digits.

Columns after the D of the vector, row side | query side:

    0-2  middle - |y|^2 / 2 in three pieces | 1
    3    1                                  | -shift of this query
    4    |y|                                | |x - x^| and the error of the product
    5    |y - y^|                           | |x^|
"""

import math
from dataclasses import dataclass

import torch

EXTRA = 6

#: Columns of a factor are a multiple of this, as matrix units need; the rest are zeros.
ALIGNMENT = 8

#: All bounds lie between this number and its negative.
BOUND_LIMIT = 64.0

#: Scaled scores this small may be lost on hardware that flushes tiny numbers to zero.
TINY = 2.0**-90


@dataclass(frozen=True, slots=True)
class Frame:
    """What rows and queries are shifted and scaled by, and how exact a product is.

    Attributes:
      centre: (D,) float32, the rounded mean of the reference; any value would be correct.
      scale: power of two that makes the longest shifted row about 1.
      middle: mean of |y|^2 / 2 of scaled rows, left out of all scores to keep them small.
      longest: length of the longest shifted row, unscaled, rounded up.
      dtype: of the factors.
      unit: bound on the error of a product of scaled columns, relative to their lengths.
      typical: columns |y| and |y - y^| of a typical row: harmonic means, 0 where a row has 0.
    """

    centre: torch.Tensor
    scale: float
    middle: float
    longest: float
    dtype: torch.dtype
    unit: float
    typical: tuple[float, float]

    @classmethod
    def from_rows(cls, rows: torch.Tensor, dtype: torch.dtype, portion: int) -> "Frame":
        """Measure (R, D) reference rows, `portion` rows at a time."""
        total = torch.zeros(rows.shape[1], dtype=torch.float64, device=rows.device)
        for part in torch.split(rows, portion):
            total += part.sum(0, dtype=torch.float64)
        centre = (total / max(len(rows), 1)).float()
        longest = mean = inverse = 0.0
        for part in torch.split(rows, portion):
            if len(part):
                squares = (part.float() - centre).double().square_().sum(1)
                longest = max(longest, float(squares.max()))
                mean += float(squares.sum()) / len(rows)
                inverse += float(squares.rsqrt().sum()) / len(rows)
        longest = math.sqrt(longest) * (1 + 1e-6)
        scale = min(2.0 ** -math.frexp(longest)[1], 2.0**120) if longest > 0 else 1.0
        unit = 2 * _product_error(rows.shape[1] + EXTRA, rows.device, dtype)
        length = scale / inverse if inverse > 0 else 0.0
        # Rounding to nearest is off by half of the last digit at most, a third on average.
        typical = (length, length * torch.finfo(dtype).eps / 4.5)
        return cls(centre, scale, mean * scale * scale / 2, longest, dtype, unit, typical)

    def row_factor(self, rows: torch.Tensor) -> torch.Tensor:
        """Convert (R, D) reference rows to the (R, W) factor of a product, of `dtype`."""
        shifted = (rows.float() - self.centre) * self.scale
        rounded = shifted.to(self.dtype)
        squares = shifted.double().square_().sum(1)
        errors = (shifted.double() - rounded.double()).square_().sum(1)
        level = self.middle - squares / 2
        level += (self.unit + 2.0**-20) * (level.abs() + self.middle + squares)
        factor = _factor(rounded)
        dim, remainder = rows.shape[1], level.float()
        for column in range(dim, dim + 3):
            factor[:, column] = remainder
            remainder = remainder - factor[:, column].float()
        factor[:, dim + 3] = 1.0
        factor[:, dim + 4] = _rounded_up(squares.sqrt_())
        factor[:, dim + 5] = _rounded_up(errors.sqrt_())
        return factor

    def query_factor(self, queries: torch.Tensor) -> "QueryFactor":
        """Convert (B, D) float32 queries to the other factor, with shifts of zero."""
        shifted = queries - self.centre
        squares = shifted.double().square_().sum(1)
        multiple = _powers_of_two_below(squares.clamp(min=2.0**-240).rsqrt()).clamp(max=self.scale)
        shifted *= multiple.float()[:, None]
        rounded = shifted.to(self.dtype)
        slack = 1 + (queries.shape[1] + 16) * 2.0**-23
        error = torch.linalg.vector_norm(shifted - rounded.float(), dim=1) * slack
        length = torch.linalg.vector_norm(rounded.float(), dim=1) * slack
        factor, dim = _factor(rounded), queries.shape[1]
        factor[:, dim : dim + 3] = (multiple / self.scale).to(self.dtype)[:, None]
        factor[:, dim + 4] = _rounded_up(error + self.unit * (length + error))
        factor[:, dim + 5] = _rounded_up(length)
        return QueryFactor(self, factor, squares, multiple)


@dataclass(frozen=True, slots=True)
class QueryFactor:
    """A block of queries, ready for products.

    Attributes:
      frame: shared with the rows.
      factor: (B, W) of the frame's dtype; its shift column changes.
      squares: (B,) float64, |x|^2, unscaled.
      multiple: (B,) float64 powers of two, at most `frame.scale`: distant queries are scaled down
        so that no score overflows.
    """

    frame: Frame
    factor: torch.Tensor
    squares: torch.Tensor
    multiple: torch.Tensor

    def bounds(self, rows: torch.Tensor, out: torch.Tensor) -> None:
        """Compute upper bounds of all scores, less the shift of each query.

        Args:
          rows: (R, W) from `row_factor`.
          out: (R, B) of the frame's dtype, float32 on a GPU; overwritten.
        """
        # With rows first, a CPU loses least to the columns beyond D.
        if out.dtype == rows.dtype:
            torch.mm(rows, self.factor.T, out=out)
        else:
            torch.mm(rows, self.factor.T, out_dtype=out.dtype, out=out)

    def min_score(self, distances: torch.Tensor) -> torch.Tensor:
        """Compute the lowest score, without shift, of a row within a distance, (B,) float64.

        `distances` are (B,) float64 and Euclidean, as rounded to float32; inf for any row.
        """
        frame = self.frame
        # The distance was rounded, and so was the difference to the centre on both sides.
        far = distances * (1 + 2.0**-22) + 2.0**-148
        far += 2.0**-22 * (self.squares.sqrt() + frame.longest)
        far.square_()
        score = (self.squares - far) / 2 - (self.squares + far) * 2.0**-45
        score = (score * frame.scale + frame.middle / frame.scale) * self.multiple
        return (score - TINY).clamp(min=-BOUND_LIMIT)

    def typical_gap(self) -> torch.Tensor:
        """Estimate how far bounds lie above scores, (B,) float64; not a bound.

        A tenth more than for a typical row: a few rows too many cost less than a second pass.
        """
        dim = len(self.frame.centre)
        length, error = (1.1 * typical for typical in self.frame.typical)
        return self.factor[:, dim + 4].double() * length + self.factor[:, dim + 5].double() * error

    def set_shift(self, shift: torch.Tensor) -> torch.Tensor:
        """Subtract a number from all further bounds of a query: near zero they are finest.

        Returns (B,) `shift` as rounded to the frame's dtype, which is what is subtracted; infinite
        counts as zero.
        """
        column = self.factor[:, len(self.frame.centre) + 3]
        column.copy_(torch.where(shift.isfinite(), -shift, 0.0))
        return -column.double()

    def shift_below(self, score: torch.Tensor) -> torch.Tensor:
        """Choose (B,) shifts that leave the threshold of a (B,) `score` above zero."""
        return score - score.abs() * (2.0**-6 + 4 * self.frame.unit) - 2.0**-20

    def threshold(
        self, score: torch.Tensor, shift: torch.Tensor, dtype: torch.dtype
    ) -> torch.Tensor:
        """Compute what the bound of a row of at least that score reaches, (B,) of `dtype`.

        Products may round or truncate their results to `dtype`; `shift` is from `set_shift`.
        """
        value = score - shift
        # Half a last digit is enough for both.
        value -= self.frame.unit * shift.abs() + value.abs() * (torch.finfo(dtype).eps / 2)
        return value.to(dtype)


def _factor(rounded: torch.Tensor) -> torch.Tensor:
    """Widen `rounded` by the further columns, which are zero."""
    rows, dim = rounded.shape
    width = -(-(dim + EXTRA) // ALIGNMENT) * ALIGNMENT
    factor = rounded.new_empty(rows, width)
    factor[:, :dim] = rounded
    factor[:, dim:] = 0.0
    return factor


def _rounded_up(values: torch.Tensor) -> torch.Tensor:
    """Enlarge values so that they are not smaller in bfloat16 either."""
    return values * (1 + 2.0**-7)


def _powers_of_two_below(values: torch.Tensor) -> torch.Tensor:
    """Find the largest powers of two not above positive normal float64 `values`, exactly."""
    return (values.view(torch.int64) >> 52 << 52).view(torch.float64)


def _product_error(columns: int, device: torch.device, dtype: torch.dtype) -> float:
    """Bound the error of float32 sums in a product, relative to the lengths of its factors."""
    if device.type == "cuda":
        # Matrix units truncate sums where a CPU rounds, and float32 factors to TF32 if allowed.
        return columns * 2.0**-22 + (2.0**-9 if dtype == torch.float32 else 0.0)
    error = columns * 2.0**-24
    if dtype == torch.float32:
        precision = torch.backends.mkldnn.matmul.fp32_precision  # type: ignore[attr-defined]
        error += {"none": 0.0, "ieee": 0.0, "tf32": 2.0**-9}.get(precision, 2.0**-6)
    return error
