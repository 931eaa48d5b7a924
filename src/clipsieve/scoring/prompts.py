"""Prompt sets: encoded once for a model, kept by hash, read back as prototypes."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from clipsieve.clip.identity import ModelIdentity
from clipsieve.control import Control
from clipsieve.errors import ClipsieveError
from clipsieve.scorers.base import PromptSet, Scorer
from clipsieve.stage import Element, Report, Worker
from clipsieve.store import names
from clipsieve.store.folder import OutputFolder
from clipsieve.store.manifest import EmbeddingsEntry

#: A mean this short against the vectors it is of is what rounding to float32 left of zero.
_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class PromptStage:
    """Encodes prompt sets with the text tower of the folder's model; an element each.

    Attributes:
      out: the output folder, absolute.
      run_id: the run.
      device: `auto`, `cpu`, `cuda` or `cuda:N`.
      control: stop and progress.
      model: whose text tower.
      embeddings: the embeddings that the prototypes are compared with.
      prompts: what to encode.
    """

    out: str
    run_id: str
    device: str
    control: Control
    model: ModelIdentity
    embeddings: EmbeddingsEntry
    prompts: tuple[PromptSet, ...]
    name = "prompts"

    def elements(self) -> list[Element]:
        """Return an element for each prompt set that is not there yet."""
        folder = OutputFolder.open(self.out)
        return [
            Element(prompts.key, prompts.key, sum(map(len, prompts.texts)))
            for prompts in dict.fromkeys(self.prompts)
            if not folder.files.exists(_name(self.embeddings, prompts))
        ]

    def open(self) -> Worker:
        """Load the model."""
        return _PromptWorker(self)

    def finish(self, total: Report) -> Report:
        """Nothing is left to do."""
        return total


class _PromptWorker:
    def __init__(self, stage: PromptStage) -> None:
        from clipsieve.clip.encode import Encoder
        from clipsieve.clip.open import open_same_model

        self._stage = stage
        self._folder = OutputFolder.open(stage.out)
        self._encoder = Encoder(open_same_model(stage.model, stage.device))
        self._sets = {prompts.key: prompts for prompts in stage.prompts}

    def work(self, elements: Sequence[str]) -> Iterator[Report]:
        for key in elements:
            if self._stage.control.stopped:
                return
            prompts = self._sets[key]
            texts = [text for texts in prompts.texts for text in texts]
            distinct = {text: at for at, text in enumerate(dict.fromkeys(texts))}
            vectors = self._encoder.encode_texts(list(distinct))
            rows = np.array([distinct[text] for text in texts], np.int64)
            self._folder.write_arrays(
                _name(self._stage.embeddings, prompts), {"vectors": vectors[rows]}
            )
            yield Report((key,))


def prompt_sets(scorers: Iterable[Scorer]) -> tuple[PromptSet, ...]:
    """Return the prompt sets that scorers ask for, each once."""
    return tuple(dict.fromkeys(prompts for scorer in scorers for prompts in scorer.prompts()))


def load_prototypes(
    folder: OutputFolder, embeddings: EmbeddingsEntry, prompts: Iterable[PromptSet]
) -> dict[PromptSet, np.ndarray]:
    """Return the (K, D) float64 unit prototypes of each set.

    Raises:
      LedgerError: if a set is not encoded.
      ClipsieveError: if the vectors of a class are not finite, or their mean is zero.
    """
    return {
        each: prototypes(each, folder.read_arrays(_name(embeddings, each))["vectors"])
        for each in prompts
    }


def prototypes(prompts: PromptSet, vectors: np.ndarray) -> np.ndarray:
    """Return (K, D) float64 unit rows: of each class the mean of its texts' vectors.

    Args:
      prompts: K classes with T texts in all.
      vectors: (T, D) in the order of the texts.

    Raises:
      ClipsieveError: if a class has a vector that is not finite, or vectors whose mean is zero.
    """
    finite = np.isfinite(vectors).all(axis=1)
    wide = np.where(finite[:, None], vectors, 0).astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    if prompts.normalize_texts:
        wide = np.divide(wide, lengths, out=np.zeros_like(wide), where=lengths > 0)
        lengths = np.ones_like(lengths)
    starts = np.cumsum([0, *(len(texts) for texts in prompts.texts)])[:-1]
    counts = np.array([[len(texts)] for texts in prompts.texts])
    means = np.add.reduceat(wide, starts) / counts
    norms = np.linalg.norm(means, axis=1, keepdims=True)
    rounding = _ROUNDING * np.add.reduceat(lengths, starts) / counts
    defined = np.logical_and.reduceat(finite, starts) & (norms > rounding)[:, 0]
    wrong = np.flatnonzero(~defined)
    if len(wrong):
        name = prompts.names[wrong[0]]
        raise ClipsieveError(
            f"class {name!r} has no prototype: the vectors of its texts are not finite or cancel "
            "out; change its texts"
        )
    unit: np.ndarray = means / norms
    return unit


def _name(embeddings: EmbeddingsEntry, prompts: PromptSet) -> str:
    return names.prompts(embeddings.model, embeddings.revision, prompts.key)
