"""What goes wrong in pictures and captions on the web; file damage is in `encodings`."""

import numpy as np
from PIL import Image, ImageDraw

from clipsieve.demo.backgrounds import make_background
from clipsieve.demo.captions import PREFIXES, Caption, Thing
from clipsieve.demo.classes import SIGN_WORDS
from clipsieve.demo.draws import choose, coin
from clipsieve.demo.palette import any_colour, colour_word, shade
from clipsieve.demo.scenes import Scene, font, to_image, weathered
from clipsieve.demo.textures import SIDE

BOILERPLATE = (
    "IMG_{n}.JPG",
    "DSC{n}.jpg",
    "click to enlarge",
    "image not available",
    "untitled document {n}",
    "buy now only ${n}",
    "thumbnail {n} of 24",
    "product photo {n}",
    "home page banner",
    "sign up for our newsletter",
    "photo {n}",
    "loading please wait",
    "copyright 20{m} all rights reserved",
    "see more at our website",
    "default title",
    "free shipping on orders over ${n}",
)
PLACEHOLDER_TEXTS = ("NO IMAGE", "not available", "404", "image")
WATERMARK_TEXTS = ("SAMPLE", "stockpix", "preview", "(c) pixmart")
FOREIGN_TAGS = (
    "фото высокого качества",
    "高清图片素材",
    "無料イラスト",
    "foto de alta calidad",
    "kostenlos herunterladen",
    "صورة عالية الجودة",
    "무료 이미지",
    "photo à télécharger",
)
EMOJI = ("😀", "🎉", "❤️", "👨‍👩‍👧", "🔥", "✨", "🏳️‍🌈", "🇪🇺")
KEYWORDS = (
    "vector illustration background design icon symbol isolated graphic element flat modern "
    "template banner poster card print decoration art creative simple colorful cute web logo"
).split()


def boilerplate(rng: np.random.Generator) -> str:
    """A caption that says nothing about the picture."""
    number, year = int(rng.integers(100, 9999)), int(rng.integers(10, 27))
    return choose(rng, BOILERPLATE).format(n=number, m=year)


def mixed_languages(rng: np.random.Generator, caption: str) -> str:
    """The caption between tags in other languages and emoji."""
    parts = [choose(rng, EMOJI), caption, choose(rng, FOREIGN_TAGS), choose(rng, EMOJI)]
    return " ".join(parts) if coin(rng, 0.5) else " | ".join(reversed(parts))


def long_caption(rng: np.random.Generator, caption: str, characters: int = 4096) -> str:
    """The caption followed by keywords, cut at exactly `characters` ASCII characters."""
    words = [KEYWORDS[index] for index in rng.integers(len(KEYWORDS), size=characters)]
    return f"{caption}, {', '.join(words)}"[:characters]


def text_scene(rng: np.random.Generator) -> Scene:
    """A picture of one word, with a caption that says so."""
    colour = any_colour(rng)
    background = make_background(rng, (colour,))
    image = to_image(background.pixels)
    word = choose(rng, SIGN_WORDS)
    written = word.upper() if coin(rng, 0.6) else word
    position, letters = (SIDE / 2, rng.uniform(40, 88)), font(int(rng.uniform(26, 38)))
    ImageDraw.Draw(image).text(position, written, shade(rng, colour), letters, anchor="mm")
    things = (
        Thing(f"the word {word}", determiner=""),
        Thing(f"text saying {word}", determiner=""),
        Thing(f"{word} sign", determiner=""),
        Thing(f"text that reads {word}", colour_word(rng, colour), determiner=""),
    )
    caption = Caption(
        (choose(rng, things),),
        background=background.words(rng) if coin(rng, 0.5) else "",
        prefix=choose(rng, PREFIXES[:6]),
    )
    return Scene(weathered(image, rng), caption, f"word {word}", colour)


def blank_scene(rng: np.random.Generator) -> Scene:
    """What a site shows instead of a picture: one flat gray, perhaps with a word or an icon."""
    low, high = (200, 256) if coin(rng, 0.8) else (0, 30)
    gray = int(rng.integers(low, high))
    image = Image.new("RGB", (SIDE, SIDE), (gray, gray, gray))
    canvas, style = ImageDraw.Draw(image), rng.random()
    if style < 0.35:
        text = choose(rng, PLACEHOLDER_TEXTS)
        canvas.text((SIDE / 2, SIDE / 2), text, (150, 150, 150), font(18), anchor="mm")
    elif style < 0.5:
        canvas.rectangle((20, 30, 108, 98), outline=(170, 170, 170), width=3)
        canvas.line((20, 98, 60, 55, 80, 80, 108, 60), fill=(170, 170, 170), width=3)
    return Scene(image, Caption.verbatim(boilerplate(rng)), "blank", None)


def watermarked(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A copy with an agency's word written across it."""
    marked = image.copy()
    position = (SIDE / 2, SIDE / 2 + rng.uniform(-30, 30))
    text = choose(rng, WATERMARK_TEXTS)
    ImageDraw.Draw(marked).text(position, text, (200, 200, 200), font(20), anchor="mm")
    return marked


def near_copy(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A copy a person would call the same picture: resized, cropped by 3 % or re-exposed."""
    width, height = image.size
    change = choose(rng, ("resize", "crop", "exposure"))
    if change == "resize":
        shrunk = image.resize((width * 3 // 4, height * 3 // 4), Image.Resampling.BICUBIC)
        return shrunk.resize((width, height), Image.Resampling.BICUBIC)
    if change == "crop":
        margin = max(1, width * 3 // 100)
        box = (margin, margin, width - margin, height - margin)
        return image.crop(box).resize((width, height), Image.Resampling.BICUBIC)
    factor = choose(rng, (0.93, 0.96, 1.04, 1.07))
    return to_image(np.asarray(image, np.float32) * np.float32(factor))
