"""Tokens are open_clip's own, in time that the caption's length bounds."""

import random
import time

import pytest
import torch
from open_clip.tokenizer import SimpleTokenizer

from clipsieve.clip.tokenize import BoundedTokenizer

WHOLE = SimpleTokenizer()
BOUNDED = BoundedTokenizer(SimpleTokenizer())

ALPHABETS = {
    "letters": "abcdefghijklmnopqrstuvwxyz",
    "one letter": "a",
    "two letters": "ab",
    "common pairs": "theinranerstonng",
    "wide": "äßçéñ日本語한국어абв",
    "signs": "!?.,;:#@&",
    "digits": "0123456789",
}


def random_captions(alphabet, seed, lengths):
    draw = random.Random(seed)
    return ["".join(draw.choices(alphabet, k=length)) for length in lengths]


@pytest.mark.parametrize("name", ALPHABETS)
def test_words_of_any_length_have_the_tokens_of_the_whole_word(name):
    captions = random_captions(ALPHABETS[name], name, [1, 76, 300, 1_100, 2_500])
    assert torch.equal(BOUNDED(captions), WHOLE(captions))


def test_captions_of_many_words_keep_their_first_tokens():
    draw = random.Random(7)
    words = [*random_captions("theinraner", 3, range(1, 60)), "&amp;amp;", "<end_of_text>", "it's"]
    captions = [" ".join(draw.choices(words, k=count)) for count in (0, 1, 20, 75, 76, 400)]
    captions += [
        "",
        " ",
        "a" + " " * 20_000 + "b",
        "a" + "&nbsp;" * 5_000 + "b",
        "Caf\u00c3\u00a9 " * 90,
    ]
    assert torch.equal(BOUNDED(captions), WHOLE(captions))
    assert torch.equal(BOUNDED(captions, context_length=20), WHOLE(captions, context_length=20))
    assert torch.equal(BOUNDED(captions, context_length=78), WHOLE(captions, context_length=78))


def test_one_word_of_a_megabyte_does_not_take_a_minute():
    [word] = random_captions(ALPHABETS["letters"], 1, [1_000_000])
    before = time.process_time()
    tokens = BOUNDED([word])
    assert tokens[0, -1] == BOUNDED._tokenizer.eot_token_id
    assert time.process_time() - before < 10
