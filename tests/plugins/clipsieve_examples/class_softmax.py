"""Zero-shot classification: the most likely of some classes, and its probability."""

import numpy as np
import pyarrow as pa

from clipsieve import PromptSet, Scorer, score_column

SOURCE = "arXiv:2103.00020, section 3.1"


class ClassSoftmax(Scorer):
    """Softmax over a list of classes at the model's own temperature."""

    name, family = "zeroshot.softmax", "zeroshot"
    columns = pa.schema(
        [
            score_column("zeroshot_probability", "of the likeliest class", "", "(0, 1]", SOURCE),
            score_column("zeroshot_class", "the likeliest class", "", "", SOURCE, pa.string()),
        ]
    )

    def __init__(self, classes: str = "star,tree,cake,house"):
        templates = ("a photo of a {}.", "clip art of a {}")
        self.classes = PromptSet.from_templates(classes.split(","), templates)

    def prompts(self):
        return (self.classes,)

    def load(self, known, context):
        return context.logit_scale

    def score(self, batch, loaded):
        logits = loaded * batch.image_cosines(self.classes)
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        best = [
            self.classes.names[k] if valid else None
            for k, valid in zip(odds.argmax(axis=1), batch.image.valid, strict=True)
        ]
        probability = 1.0 / odds.sum(axis=1)
        return {"zeroshot_probability": probability, "zeroshot_class": np.array(best, object)}
