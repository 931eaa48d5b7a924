"""Images and captions to embeddings, in batches that fit the device.

Text costs as much as it has tokens: where the text tower is causal, a caption's tokens after its
end token cannot change the result, so captions are sorted by length and each batch is cut to about
its longest.

On a CPU a row's features do not depend on the rows beside it, to the last bit, in any number
format: only on the row, the model, the batch size, the number of threads and the machine.  Matrix
products alone do not promise that: their number of rows decides in which order they add.  With two
threads MKL splits the K terms of a float32 sum if there are at most K / 8 rows, and takes another
path below 16; oneDNN's bfloat16 on AMX adds in another order at bounds between 10 and 2,300 rows
that differ from matrix to matrix.  So a product has the same number of rows in every batch:

* A batch of images always has `batch_size` rows, the last image repeated.
* A batch of captions always has as many tokens as `text_batch_size` whole captions: cut to half the
  columns it holds twice the captions.  Its columns therefore divide that number, and its features
  are projected about `text_batch_size` at a time, see `projection_rows`.
* Attention adds over the columns.  The plain kernel gives the same bits for any number of them from
  `EXACT_TOKENS` (a vector register) up; the fused one does not, and is not used for cut captions.

Cut captions thus equal, to the last bit, open_clip's own `encode_text` of whole captions with the
plain kernel in batches of `text_batch_size`.  In float32, and in bfloat16 without AMX, so do those
of larger batches, from 16 captions up.  In bfloat16 on AMX open_clip's own features differ from one
batch size to another, and no encoder can equal them all.  Running out of memory halves the batch
size, and so changes last bits too.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from clipsieve.clip.model import ClipModel, causal_text_tower, encode_cut_text, end_positions
from clipsieve.clip.preprocess import normalize
from clipsieve.errors import DeviceError

#: On a CPU small batches stay in its caches: ViT-B/32 text is 1.2x as fast at 16 as at 64 and 5x
#: as fast as at 256, its images are as fast at 32 as at 128.
DEFAULT_BATCH = {"cpu": 32, "cuda": 256}
#: Captions on a CPU are never cut to fewer columns.
EXACT_TOKENS = 16
#: Models under this many parameters are small.  On a CPU they compute on one core: their steps are
#: so short that several cores mostly wait for each other, and long where the machine is shared.
SMALL_PARAMETERS = 20_000_000
TEXT_BATCH_SHARE = {"cpu": 0.5, "cuda": 1.0}


class Encoder:
    """Encodes with one model; halves its batch for good when the device runs out of memory.

    Attributes:
      model: the model.
      batch_size: images a forward pass.
      cores_free: set while the model leaves the CPU's cores to others.  A model on the CPU uses
        all of them in step, and a thread that takes one away for a moment stalls the rest; work
        that can wait should wait for this.  Always set for a GPU.
    """

    def __init__(
        self,
        model: ClipModel,
        batch_size: int | None = None,
        step: Callable[[], None] = lambda: None,
    ) -> None:
        """An encoder for `model` that starts with `batch_size` images a batch.

        Args:
          model: the model.
          batch_size: images a forward pass.
          step: called after each forward pass.
        """
        self.model = model
        self.cores_free = threading.Event()
        self.cores_free.set()
        self._step = step
        self._on_cpu = model.device.type == "cpu"
        self._one_core = self._on_cpu and is_small(model)
        self.batch_size = batch_size or DEFAULT_BATCH[model.device.type]
        self._tower = causal_text_tower(model.module)

    @property
    def text_batch_size(self) -> int:
        """Whole captions a forward pass; on a CPU cut ones fill it with more."""
        return max(1, int(self.batch_size * TEXT_BATCH_SHARE[self.model.device.type]))

    @property
    def cuts_captions(self) -> bool:
        """Whether captions are cut to their end token (only where that is exact)."""
        return self._tower is not None

    def encode_images(self, pixels: torch.Tensor) -> np.ndarray:
        """Features of images.

        Args:
          pixels: (N, 3, H, W) uint8 at model size, on the CPU.

        Returns:
          (N, D) float32, as the model gives them: not normalised.

        Raises:
          DeviceError: if not even one image fits the device's memory.
        """
        features = Features(self.model.identity.dim)
        for part in _parts(len(pixels), self.batch_size):
            features.put(self.start_images(pixels[part]))
        return features.finish()

    def start_images(self, pixels: torch.Tensor) -> torch.Tensor:
        """Features of one batch of images, on the device; a GPU may still be computing them.

        Args:
          pixels: (B, 3, H, W) uint8 at model size, on the CPU; B at most the batch size.

        Returns:
          (B, D) in the model's dtype.

        Raises:
          DeviceError: if not even one image fits the device's memory.
        """
        module: Any = self.model.module

        def forward(part: torch.Tensor) -> torch.Tensor:
            inputs = normalize(self._moved(part), self.model.preprocess, self.model.dtype)
            features: torch.Tensor = module.encode_image(inputs, normalize=False)
            return features

        return self._filled(forward, pixels, self.batch_size)

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Features of captions, each encoded as if alone.

        Captions over the model's context length are cut by its tokenizer, the last token kept
        becoming the end token.  Equal captions are the caller's business.

        Args:
          texts: N captions.

        Returns:
          (N, D) float32, not normalised, in the order of `texts`.

        Raises:
          DeviceError: if not even one caption fits the device's memory.
        """
        if not texts:
            return np.empty((0, self.model.identity.dim), np.float32)
        return self.encode_tokens(self.model.tokenize(list(texts)))

    def with_prompt(self, prompt: str) -> Callable[[Sequence[str]], np.ndarray]:
        """`encode_texts` with `prompt` put before every text."""
        return lambda texts: self.encode_texts([prompt + text for text in texts])

    def encode_tokens(self, tokens: torch.Tensor) -> np.ndarray:
        """Features of captions that are tokenized already; see `encode_texts`.

        Args:
          tokens: (N, context length) int64, on the CPU.

        Returns:
          (N, D) float32, not normalised, in the order of `tokens`.
        """
        features = Features(self.model.identity.dim)
        if self._tower is None:
            for part in _parts(len(tokens), self.text_batch_size):
                features.put(self._encode_tokens(tokens[part], self.text_batch_size))
            return features.finish()
        lengths = end_positions(self._tower, tokens) + 1
        order = torch.argsort(lengths, stable=True, descending=True)
        tokens, lengths = tokens[order], lengths[order]
        start = 0
        while start < len(tokens):
            rows, columns = self.text_batch_size, int(lengths[start])
            if self._on_cpu:
                rows, columns = cut_shape(rows, tokens.shape[1], columns)
            features.put(self._encode_tokens(tokens[start : start + rows, :columns], rows))
            start += rows
        encoded = features.finish()
        restored = np.empty_like(encoded)
        restored[order.numpy()] = encoded
        return restored

    def _moved(self, tensor: torch.Tensor) -> torch.Tensor:
        """`tensor` on the device; from pinned memory, so that a GPU need not wait for it."""
        if self._on_cpu:
            return tensor
        return tensor.pin_memory().to(self.model.device, non_blocking=True)

    def _encode_tokens(self, tokens: torch.Tensor, rows: int) -> torch.Tensor:
        """Features of one batch, on a CPU filled up to `rows` captions."""
        module: Any = self.model.module
        tower = self._tower
        projected_rows = projection_rows(self.text_batch_size) if self._on_cpu else None

        def forward(part: torch.Tensor) -> torch.Tensor:
            moved = self._moved(part)
            if tower is None:
                features: torch.Tensor = module.encode_text(moved, normalize=False)
                return features
            with sdpa_kernel(SDPBackend.MATH) if self._on_cpu else nullcontext():
                return encode_cut_text(tower, moved, projected_rows)

        return self._filled(forward, tokens, rows)

    def _filled(
        self, forward: Callable[[torch.Tensor], torch.Tensor], inputs: torch.Tensor, rows: int
    ) -> torch.Tensor:
        """`forward(inputs)`, on a CPU in a batch of at least `rows`, the last row repeated."""
        lacking = rows - len(inputs)
        if not self._on_cpu or lacking <= 0:
            return self._forward(forward, inputs)
        filling = inputs[-1:].expand(lacking, *inputs.shape[1:])
        return self._forward(forward, torch.cat([inputs, filling]))[: len(inputs)]

    def _forward(
        self, forward: Callable[[torch.Tensor], torch.Tensor], inputs: torch.Tensor
    ) -> torch.Tensor:
        """`forward(inputs)`, in as many parts as the memory needs."""
        if self._on_cpu and not self._one_core:
            self.cores_free.clear()
        try:
            with torch.inference_mode(), one_core() if self._one_core else nullcontext():
                features = forward(inputs)
            self._step()
            return features
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            if len(inputs) == 1:
                raise DeviceError(
                    f"one input does not fit the memory of {self.model.device}: {error}; "
                    "use a smaller model, another --dtype, or another --device"
                ) from error
        finally:
            self.cores_free.set()
        # Outside the except block: the traceback would keep the failed tensors alive.
        if self.model.device.type == "cuda":
            torch.cuda.empty_cache()
        half = (len(inputs) + 1) // 2
        self.batch_size = min(self.batch_size, half)
        return torch.cat([self._forward(forward, part) for part in (inputs[:half], inputs[half:])])


def projection_rows(captions: int) -> int:
    """Return the rows of a product that projects the features of a batch of captions.

    MKL on AMD computes 7 or 11 rows as blocks of 4 and 3, whose bits differ: a row's features would
    depend on its place.  Blocks of 4 are alike.

    >>> [projection_rows(captions) for captions in (1, 3, 7, 16)]
    [1, 3, 8, 16]
    """
    return captions if captions < 4 else -(-captions // 4) * 4


def cut_shape(rows: int, context: int, longest: int) -> tuple[int, int]:
    """Shape of a batch of cut captions with as many tokens as `rows` whole ones.

    Its columns divide that number, so odd `rows` leave fewer lengths to cut to.

    Args:
      rows: whole captions in a batch.
      context: columns of a whole caption.
      longest: tokens of the longest caption of the batch, at most `context`.

    Returns:
      Rows, and columns: the fewest that hold `longest` tokens and are not under `EXACT_TOKENS`.

    >>> [cut_shape(16, 77, longest) for longest in (3, 17, 23, 29, 45, 57)]
    [(77, 16), (56, 22), (44, 28), (28, 44), (22, 56), (16, 77)]
    """
    tokens = rows * context
    fewest = max(longest, min(EXACT_TOKENS, context))
    columns = next(each for each in range(fewest, context + 1) if tokens % each == 0)
    return tokens // columns, columns


def is_small(model: ClipModel) -> bool:
    """Whether decoding, not this model, is the bottleneck on a CPU."""
    return sum(each.numel() for each in model.module.parameters()) < SMALL_PARAMETERS


@contextmanager
def one_core() -> Iterator[None]:
    """Within the block this thread's torch operations run on one core."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _parts(count: int, size: int) -> Iterator[slice]:
    """Slices of `size` that cover `count`; what runs out of memory is split further down."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def out_of_memory(error: RuntimeError) -> bool:
    """Whether `error` is a device's, or the CPU allocator's, "out of memory"."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


class Features:
    """Batches of features on their way from the device, at most `AHEAD` of them unfinished."""

    AHEAD = 2

    def __init__(self, dim: int) -> None:
        """No batches yet, of vectors with `dim` components."""
        self._done = [np.empty((0, dim), np.float32)]
        self._unfinished: deque[torch.Tensor] = deque()

    def put(self, batch: torch.Tensor) -> None:
        """Add a batch (B, D) on any device; waits for the one `AHEAD` before it."""
        self._unfinished.append(batch)
        if len(self._unfinished) > self.AHEAD:
            self._fetch()

    def finish(self) -> np.ndarray:
        """All batches, as one (N, D) float32 array."""
        while self._unfinished:
            self._fetch()
        return np.concatenate(self._done)

    def _fetch(self) -> None:
        self._done.append(self._unfinished.popleft().float().cpu().numpy())
