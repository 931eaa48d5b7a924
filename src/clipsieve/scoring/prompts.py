"""Prompt sets: encoded once for a model, kept by hash, read back as prototypes.

What is kept of a class is the mean of its texts' vectors, in the output folder and in a cache of
the user's, `$CLIPSIEVE_CACHE` or `clipsieve` among the user's caches.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clipsieve.clip.identity import ModelIdentity
from clipsieve.control import Control
from clipsieve.errors import ClipsieveError, LedgerError, StorageError
from clipsieve.scorers.base import PromptSet, Scorer
from clipsieve.scorers.text_map import load_text_map
from clipsieve.stage import Element, Report, Worker
from clipsieve.store import names
from clipsieve.store.canonical import canonical_json
from clipsieve.store.folder import OutputFolder
from clipsieve.store.manifest import EmbeddingsEntry
from clipsieve.threads import one_core_products

#: A mean this short against the vectors it is of is what rounding to float32 left of zero.
_ROUNDING = 1e-6
#: Texts encoded at once; between two such chunks a stop is heeded and progress shown.
CHUNK_TEXTS = 4096


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
        sets = {prompts.texts_key: prompts for prompts in self.prompts}
        return [
            Element(key, key, sum(map(len, prompts.texts)))
            for key, prompts in sets.items()
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
        self._encoder = Encoder(open_same_model(stage.model, stage.device), step=stage.control.step)
        self._sets = {prompts.texts_key: prompts for prompts in stage.prompts}

    def work(self, elements: Sequence[str]) -> Iterator[Report]:
        for key in elements:
            encoded = self._encode(self._sets[key])
            if encoded is None:
                return
            self._folder.write_arrays(_name(self._stage.embeddings, self._sets[key]), encoded)
            yield Report((key,))

    def _encode(self, prompts: PromptSet) -> dict[str, np.ndarray] | None:
        """Return the means of the classes, and how many texts were cut; None if stopped."""
        from clipsieve.clip.model import count_cut

        texts = [text for texts in prompts.texts for text in texts]
        distinct = list(dict.fromkeys(texts))
        vectors, cut = [], 0
        for first in range(0, len(distinct), CHUNK_TEXTS):
            if self._stage.control.stopped:
                return None
            chunk = distinct[first : first + CHUNK_TEXTS]
            with self._stage.control.timing("encode"):
                vectors.append(self._encoder.encode_texts(chunk))
            cut += count_cut(self._encoder.model, chunk)
            self._stage.control.add(rows=len(chunk))
        numbers = {text: at for at, text in enumerate(distinct)}
        rows = np.array([numbers[text] for text in texts], np.int64)
        means = class_means(prompts, np.concatenate(vectors)[rows])
        return {"means": means, "cut": np.array(cut)}


def prompt_sets(scorers: Iterable[Scorer]) -> tuple[PromptSet, ...]:
    """Return the prompt sets that scorers ask for, each once."""
    return tuple(dict.fromkeys(prompts for scorer in scorers for prompts in scorer.prompts()))


def load_prototypes(
    folder: OutputFolder, embeddings: EmbeddingsEntry, prompts: Iterable[PromptSet]
) -> dict[PromptSet, np.ndarray]:
    """Return the (K, D) float64 prototypes of each set.

    Raises:
      LedgerError: if a set is not encoded.
      UsageError: if a text map cannot be used.
    """
    with one_core_products():
        return {
            each: finished(each, _read_encoded(folder, embeddings, each)["means"])
            for each in prompts
        }


def _read_encoded(
    folder: OutputFolder, embeddings: EmbeddingsEntry, prompts: PromptSet
) -> Mapping[str, np.ndarray]:
    """Return the arrays of an encoded set.

    Raises:
      LedgerError: if they are missing, damaged, or not of this set.
    """
    name = _name(embeddings, prompts)
    arrays = folder.read_arrays(name)
    means, cut = arrays.get("means"), arrays.get("cut")
    is_sound = (
        means is not None
        and cut is not None
        and means.ndim == 2
        and len(means) == len(prompts.names)
        and means.dtype.kind == "f"
        and bool(np.isfinite(means).all())
        and cut.size == 1
        and cut.dtype.kind in "iu"
    )
    if not is_sound:
        raise LedgerError(
            f"{folder.files.url(name)} holds no vectors of {len(prompts.names):,} classes; delete "
            "it and run `clipsieve score` again"
        )
    return arrays


def prototypes(prompts: PromptSet, vectors: np.ndarray) -> np.ndarray:
    """Return the (K, D) float64 prototypes of the classes.

    Args:
      prompts: K classes with T texts in all.
      vectors: (T, D) in the order of the texts.

    Raises:
      ClipsieveError: see `class_means`.
    """
    return finished(prompts, class_means(prompts, vectors))


def class_means(prompts: PromptSet, vectors: np.ndarray) -> np.ndarray:
    """Return (K, D) float64: of each class the mean of its texts' vectors.

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
    kept: np.ndarray = means
    return kept


def finished(prompts: PromptSet, means: np.ndarray) -> np.ndarray:
    """Return the prototypes of classes from the (K, D) means of their texts: mapped, normalised.

    Raises:
      UsageError: if the text map cannot be used, or maps a class to zero.
    """
    if prompts.text_map is not None:
        means = means @ load_text_map(prompts.text_map, means.shape[1]).T
    if not prompts.normalize:
        return means
    norms = np.linalg.norm(means, axis=1, keepdims=True)
    if not norms.all():
        raise ClipsieveError(
            f"the text map maps class {prompts.names[int(norms.argmin())]!r} to zero; give another"
        )
    unit: np.ndarray = means / norms
    return unit


def cut_texts(folder: OutputFolder, embeddings: EmbeddingsEntry, prompts: PromptSet) -> int:
    """Return how many texts of an encoded set are longer than the model reads, and were cut."""
    return int(_read_encoded(folder, embeddings, prompts)["cut"])


# The user's cache


def take_from_cache(
    folder: OutputFolder, model: ModelIdentity, embeddings: EmbeddingsEntry, prompts: PromptSet
) -> bool:
    """Copy an encoded prompt set from the user's cache into a folder; whether it was there.

    A damaged file counts as missing, and is replaced when the set has been encoded.
    """
    name = _cached_name(model, prompts)
    cached = OutputFolder.open(cache_folder())
    try:
        if not cached.files.exists(name):
            return False
        arrays = cached.read_arrays(name)
    except (LedgerError, StorageError):
        return False
    means = arrays.get("means")
    shape = (len(prompts.names), model.dim)
    if "cut" not in arrays or means is None or means.shape != shape:
        return False
    folder.write_arrays(_name(embeddings, prompts), arrays)
    return True


def put_into_cache(
    folder: OutputFolder, model: ModelIdentity, embeddings: EmbeddingsEntry, prompts: PromptSet
) -> str:
    """Keep an encoded prompt set for other folders; return why it cannot be kept, or ""."""
    arrays = folder.read_arrays(_name(embeddings, prompts))
    try:
        OutputFolder.open(cache_folder()).write_arrays(_cached_name(model, prompts), arrays)
    except StorageError as error:
        reason = getattr(error.__cause__, "strerror", None) or error
        return f"{cache_folder()} cannot be written ({reason}); set CLIPSIEVE_CACHE"
    return ""


def cache_folder() -> Path:
    """Return the user's cache: `$CLIPSIEVE_CACHE`, else a folder among the user's caches."""
    own = os.environ.get("CLIPSIEVE_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "clipsieve"


def _cached_name(model: ModelIdentity, prompts: PromptSet) -> str:
    content = [
        model.identity_key(),
        list(prompts.names),
        [list(texts) for texts in prompts.texts],
        prompts.normalize_texts,
    ]
    return f"prompts/{hashlib.sha256(canonical_json(content).encode()).hexdigest()}.npz"


def _name(embeddings: EmbeddingsEntry, prompts: PromptSet) -> str:
    return names.prompts(embeddings.model, embeddings.revision, prompts.texts_key)
