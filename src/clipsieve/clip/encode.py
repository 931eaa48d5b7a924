"""Images and captions to embeddings, in batches that fit the device.

Text costs as much as it has tokens: where the text tower is causal, a caption's tokens after its
end token cannot change the result, so captions are sorted by length and each batch is cut to its
longest.  On a CPU three things keep that exact to the last bit.  Attention uses the plain kernel:
the fused one rounds differently for different lengths.  A batch keeps at least `EXACT_TOKENS`
columns: a sum over fewer than a vector register holds is added up in another order.  And it has
at least `EXACT_ROWS` rows: products of matrices with fewer than about twelve take another path
through the BLAS.  So a row's features do not depend on the rows beside it either, unless a smaller
batch is asked for.
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
#: Rows that a batch on a CPU is filled up to, and columns to which its captions are never cut.
EXACT_ROWS = EXACT_TOKENS = 16
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

    def __init__(self, model: ClipModel, batch_size: int | None = None) -> None:
        """An encoder for `model` that starts with `batch_size` images a batch."""
        self.model = model
        self.cores_free = threading.Event()
        self.cores_free.set()
        self._on_cpu = model.device.type == "cpu"
        self._one_core = self._on_cpu and is_small(model)
        self.batch_size = batch_size or DEFAULT_BATCH[model.device.type]
        self._tower = causal_text_tower(model.module)

    @property
    def text_batch_size(self) -> int:
        """Captions a forward pass."""
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

        return self._filled(forward, pixels)

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
                features.put(self._encode_tokens(tokens[part]))
            return features.finish()
        lengths = end_positions(self._tower, tokens) + 1
        order = torch.argsort(lengths, stable=True)
        tokens, lengths = tokens[order], lengths[order]
        for part in _parts(len(tokens), self.text_batch_size):
            length = max(int(lengths[part].max()), EXACT_TOKENS if self._on_cpu else 1)
            features.put(self._encode_tokens(tokens[part, :length]))
        encoded = features.finish()
        restored = np.empty_like(encoded)
        restored[order.numpy()] = encoded
        return restored

    def _moved(self, tensor: torch.Tensor) -> torch.Tensor:
        """`tensor` on the device; from pinned memory, so that a GPU need not wait for it."""
        if self._on_cpu:
            return tensor
        return tensor.pin_memory().to(self.model.device, non_blocking=True)

    def _encode_tokens(self, tokens: torch.Tensor) -> torch.Tensor:
        module: Any = self.model.module
        tower = self._tower

        def forward(part: torch.Tensor) -> torch.Tensor:
            moved = self._moved(part)
            if tower is None:
                features: torch.Tensor = module.encode_text(moved, normalize=False)
                return features
            with sdpa_kernel(SDPBackend.MATH) if self._on_cpu else nullcontext():
                return encode_cut_text(tower, moved)

        return self._filled(forward, tokens)

    def _filled(
        self, forward: Callable[[torch.Tensor], torch.Tensor], inputs: torch.Tensor
    ) -> torch.Tensor:
        """`forward(inputs)` in a batch of at least `EXACT_ROWS`, the last row repeated."""
        lacking = EXACT_ROWS - len(inputs)
        if not self._on_cpu or lacking <= 0 or self.batch_size < EXACT_ROWS:
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
                return forward(inputs)
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
