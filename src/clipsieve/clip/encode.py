"""Images and captions to embeddings, in batches that fit the device.

Text costs as much as it has tokens: where the text tower is causal, a caption's tokens after its
end token cannot change the result, so captions are sorted by length and each batch is cut to its
longest.  On a CPU attention then uses the plain kernel, because the fused one rounds differently
for different lengths.  What is left is that some CPUs round a float32 product of matrices by its
number of rows, in the last digits: a caption's features differ by about 1e-6 between batches, cut
or not.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
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
TEXT_BATCH_SHARE = {"cpu": 0.5, "cuda": 1.0}


class Encoder:
    """Encodes with one model; halves its batch for good when the device runs out of memory."""

    def __init__(self, model: ClipModel, batch_size: int | None = None) -> None:
        """An encoder for `model` that starts with `batch_size` images or captions a batch.

        Attributes:
          cores_free: set while the model leaves the CPU's cores to others.  A model on the CPU
            uses all of them in step, and a thread that takes one away for a moment stalls the
            rest; work that can wait should wait for this.  Always set for a GPU.
        """
        self.model = model
        self.cores_free = threading.Event()
        self.cores_free.set()
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
        parts = [
            self._encode_image_batch(pixels[part]) for part in _parts(len(pixels), self.batch_size)
        ]
        return _to_numpy(parts, self.model.identity.dim)

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
        if self._tower is None:
            whole = _parts(len(tokens), self.text_batch_size)
            parts = [self._encode_tokens(tokens[part]) for part in whole]
            return _to_numpy(parts, self.model.identity.dim)
        lengths = end_positions(self._tower, tokens) + 1
        order = torch.argsort(lengths, stable=True)
        tokens, lengths = tokens[order], lengths[order]
        parts = [
            self._encode_tokens(tokens[part, : int(lengths[part].max())])
            for part in _parts(len(tokens), self.text_batch_size)
        ]
        encoded = _to_numpy(parts, self.model.identity.dim)
        restored = np.empty_like(encoded)
        restored[order.numpy()] = encoded
        return restored

    def _encode_image_batch(self, pixels: torch.Tensor) -> torch.Tensor:
        module: Any = self.model.module

        def forward(part: torch.Tensor) -> torch.Tensor:
            moved = part.to(self.model.device, non_blocking=True)
            inputs = normalize(moved, self.model.preprocess, self.model.dtype)
            features: torch.Tensor = module.encode_image(inputs, normalize=False)
            return features

        return self._forward(forward, pixels)

    def _encode_tokens(self, tokens: torch.Tensor) -> torch.Tensor:
        module: Any = self.model.module
        tower = self._tower

        def forward(part: torch.Tensor) -> torch.Tensor:
            moved = part.to(self.model.device, non_blocking=True)
            if tower is None:
                features: torch.Tensor = module.encode_text(moved, normalize=False)
                return features
            exact = self.model.device.type == "cpu"
            with sdpa_kernel(SDPBackend.MATH) if exact else nullcontext():
                return encode_cut_text(tower, moved)

        return self._forward(forward, tokens)

    def _forward(
        self, forward: Callable[[torch.Tensor], torch.Tensor], inputs: torch.Tensor
    ) -> torch.Tensor:
        """`forward(inputs)`, in as many parts as the memory needs."""
        if self.model.device.type == "cpu":
            self.cores_free.clear()
        try:
            with torch.inference_mode():
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


def _parts(count: int, size: int) -> Iterator[slice]:
    """Slices of `size` that cover `count`; what runs out of memory is split further down."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def out_of_memory(error: RuntimeError) -> bool:
    """Whether `error` is a device's, or the CPU allocator's, "out of memory"."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _to_numpy(parts: Sequence[torch.Tensor], dim: int) -> np.ndarray:
    """Batches of features as one (N, dim) float32 array."""
    if not parts:
        return np.empty((0, dim), np.float32)
    return torch.cat([part.float() for part in parts]).cpu().numpy()
