"""Scenes, captions and prompts of the demo world."""

import io

import numpy as np
import pytest
from PIL import Image

from clipsieve.demo import classes
from clipsieve.demo.captions import Caption, Thing
from clipsieve.demo.noise import near_copy
from clipsieve.demo.objects import DRAWINGS
from clipsieve.demo.palette import CLOSE_PAIRS, PALETTE, contrasting
from clipsieve.demo.photos import photo_like
from clipsieve.demo.prompts import TEMPLATES, class_prompts
from clipsieve.demo.scenes import make_class_scene, make_scene
from clipsieve.demo.shapes import OUTLINES
from clipsieve.demo.textures import TEXTURE_MAPS


def test_28_classes_are_known_and_9_held_out():
    assert len(classes.CLASSES) == 28
    assert len(classes.HELD_OUT_CLASSES) == 9
    assert not set(classes.CLASSES) & set(classes.HELD_OUT_CLASSES)
    drawable = set(OUTLINES) | set(DRAWINGS) | set(TEXTURE_MAPS)
    assert drawable == set(classes.CLASSES + classes.HELD_OUT_CLASSES)


def test_nouns_name_one_class_only():
    nouns = [noun for names in classes.NOUNS.values() for noun in names]
    assert len(nouns) == len(set(nouns))


@pytest.mark.parametrize("class_name", classes.CLASSES + classes.HELD_OUT_CLASSES)
def test_each_class_can_be_drawn_and_is_named(class_name):
    scene = make_class_scene(np.random.default_rng(4), class_name)
    assert scene.image.size == (128, 128)
    assert scene.class_name == class_name
    assert scene.single
    assert any(noun in str(scene.caption) for noun in classes.NOUNS[class_name])
    assert np.asarray(scene.image).std() > 10


def test_unknown_classes_are_refused():
    with pytest.raises(ValueError, match="no class is called 'unicorn'; choose one of circle"):
        make_class_scene(np.random.default_rng(0), "unicorn")


def test_captions_name_every_colour_and_class_of_the_scene():
    for index in range(300):
        scene = make_scene(np.random.default_rng([1, index]))
        caption = str(scene.caption)
        for name in scene.class_name.split("+"):
            nouns = classes.NOUNS.get(name)
            if nouns is not None:
                assert any(noun in caption for noun in nouns), caption


def test_articles_follow_the_next_sound():
    assert str(Thing("oval")) == "an oval"
    assert str(Thing("oval", colour="red")) == "a red oval"
    assert str(Thing("stripes", determiner="", trailing_colour=" in red")) == "stripes in red"
    assert str(Thing("stars", colour="red", determiner="3")) == "3 red stars"


def test_parts_of_a_caption_can_be_left_out():
    caption = Caption(
        (Thing("star", "red", "big"), Thing("oval", "blue")),
        "{0} above {1}",
        background=", black background",
        prefix="a photo of ",
        suffix=" clipart",
    )
    assert str(caption) == "a photo of a big red star above a blue oval, black background clipart"
    assert str(caption.without_colours()).startswith("a photo of a big star above an oval, black")
    assert str(caption.without_background()).endswith("a blue oval clipart")


def test_verbatim_captions_keep_braces():
    text = "{0} and {x} cost ${5}"
    assert str(Caption.verbatim(text).without_colours().without_background()) == text


def test_contrasting_colours_are_never_close():
    rng = np.random.default_rng(0)
    close = {frozenset(pair) for pair in CLOSE_PAIRS}
    for used in PALETTE:
        for _ in range(50):
            assert frozenset((used, contrasting(rng, (used,)))) not in close


def test_prompts_are_every_template_with_every_noun():
    prompts = class_prompts("circle")
    assert len(prompts) == 3 * len(TEMPLATES)
    assert "a large disc" in prompts


def test_near_copies_differ_from_the_original():
    image = make_scene(np.random.default_rng(0)).image
    for index in range(20):
        copy = near_copy(image, np.random.default_rng(index))
        assert copy.size == image.size
        assert np.asarray(copy).tobytes() != np.asarray(image).tobytes()


def test_photo_like_pictures_have_detail_at_every_scale():
    image = photo_like(np.random.default_rng(0), 300, 260)
    assert (image.size, image.mode) == ((300, 260), "RGB")
    gray = np.asarray(image.convert("L"), np.float32)
    for step in (1, 4, 16, 64):
        assert np.abs(np.diff(gray[::step, ::step])).mean() > 3
    file = io.BytesIO()
    image.save(file, "JPEG")
    assert Image.open(file).size == (300, 260)
