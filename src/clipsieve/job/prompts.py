"""Encode the prompts of scorers that a folder lacks: from the user's cache, or with the model."""

from collections.abc import Callable, Sequence

from clipsieve.job.reporter import Reporter
from clipsieve.scorers.base import PromptSet
from clipsieve.scoring.prompts import PromptStage, cut_texts, put_into_cache, take_from_cache
from clipsieve.stage import Element, Report
from clipsieve.store.folder import OutputFolder


def encode_prompts(
    run: Callable[[PromptStage, Sequence[Element]], Report],
    stage: PromptStage,
    reporter: Reporter,
) -> bool:
    """Put the prompt sets of a stage that are missing into its folder.

    Args:
      run: runs the stage.
      stage: what to encode.
      reporter: is told what is encoded, how many prompts are cut, and of a cache that fails.

    Returns:
      Whether all of them are there; false only if the run was stopped.
    """
    folder = OutputFolder.open(stage.out)
    model, embeddings = stage.model, stage.embeddings
    sets = {each.texts_key: each for each in stage.prompts}

    def report_cut(prompts: PromptSet) -> None:
        cut = cut_texts(folder, embeddings, prompts)
        if cut:
            text = (
                f"{cut:,} of {sum(map(len, prompts.texts)):,} prompts are longer than the "
                f"model's {model.context_length} tokens and were cut"
            )
            reporter.report("cut", text)

    for element in stage.elements():
        if take_from_cache(folder, model, embeddings, sets[element.name]):
            report_cut(sets[element.name])
    elements = stage.elements()
    if not elements:
        return True
    texts = sum(element.weight for element in elements)
    reporter.report("prompts", f"encoding {texts:,} texts of {len(elements)} sets")
    done = run(stage, elements).done
    for key in done:
        report_cut(sets[key])
        problem = put_into_cache(folder, model, embeddings, sets[key])
        if problem:
            reporter.report("cache", f"prompts are not kept for other folders: {problem}")
    return len(done) == len(elements)
