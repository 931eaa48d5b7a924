"""Cosine of each image with one text."""

import pyarrow as pa

from clipsieve import PromptSet, Scorer, score_column


class ClassCosine(Scorer):
    """How close an image is to a text of the user's choice."""

    name = family = "photo"
    columns = pa.schema(
        [
            score_column(
                "photo_cosine",
                doc="cosine of the image with a text",
                direction="higher is closer",
                value_range="[-1, 1]",
                source="arXiv:2103.00020",
            )
        ]
    )

    def __init__(self, text: str = "a photo of a star"):
        self.classes = PromptSet(names=(text,), texts=((text,),))

    def prompts(self):
        return (self.classes,)

    def score(self, batch, loaded):
        return {"photo_cosine": batch.image_cosines(self.classes)[:, 0]}
