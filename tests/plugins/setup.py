"""A package that adds scorers to clipsieve."""

from setuptools import setup

setup(
    name="clipsieve-examples",
    version="0.1",
    packages=["clipsieve_examples"],
    entry_points={
        "clipsieve.scorers": [
            "photo = clipsieve_examples.class_cosine:ClassCosine",
            "mahalanobis = clipsieve_examples.mahalanobis:Mahalanobis",
            "zeroshot.softmax = clipsieve_examples.class_softmax:ClassSoftmax",
        ]
    },
)
