"""Rows a second end to end, side by side with the model alone and with the usual loop.

    python benchmarks/throughput.py --rows 2000 --rounds 3

One run, four ways in turns, medians:

    floor    (a) the model's forward pass on tensors made before, same dtype and batch, captions cut
    pipeline (b) `clipsieve.run`: read, decode, encode, score, write, on Beam
    loop     (c) the usual loop: Pillow preprocessing, float32, 77 tokens, one thing after the other
    direct   (d) as (b) without Beam

(c) runs over fewer rows and is scaled.  Model loading and imports are outside of all four.
"""

import argparse
import io
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import pyarrow.parquet as pq
import torch
from PIL import Image
from safetensors.torch import save_file

from clipsieve.clip.decode import DecodedImage, decode_image
from clipsieve.clip.encode import Encoder, is_small, one_core
from clipsieve.clip.model import causal_text_tower, encode_cut_text, end_positions
from clipsieve.clip.open import open_model
from clipsieve.clip.preprocess import normalize
from clipsieve.control import Control
from clipsieve.demo.shards import write_benchmark_shards
from clipsieve.job.plan import make_plan
from clipsieve.job.reporter import Reporter
from clipsieve.job.run import run
from clipsieve.pipelines.engine import make_engine
from clipsieve.settings import RunConfig
from clipsieve.store.folder import OutputFolder


@dataclass(frozen=True)
class Setting:
    """What all ways share."""

    model: str
    dtype: str
    device: str
    shards: str
    rows: int
    loop_rows: int
    folder: Path


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--loop-rows", type=int, default=200, help="rows of the usual loop")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--models", default="ViT-B-32,tiny")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--folder", help="keep data and weights here, to be used again")
    options = parser.parse_args()
    folder = Path(options.folder or tempfile.mkdtemp(prefix="clipsieve-bench-"))
    shards = folder / f"shards-{options.rows}-{options.shards}"
    if not shards.exists():
        write_benchmark_shards(shards, rows=options.rows, shards=options.shards, seed=1)
    sizes = [
        len(image)
        for path in sorted(shards.glob("*.parquet"))
        for image in pq.read_table(path, columns=["jpg"])["jpg"].to_pylist()
    ]
    print(f"{options.rows} rows, {statistics.mean(sizes) / 1024:.0f} KiB a JPEG on average")
    for name in options.models.split(","):
        model = name if name == "tiny" else f"local-dir:{random_model(name, folder)}"
        loaded = open_model(model, None, options.device, options.dtype)
        print(f"\n{name}: {loaded.identity.dtype} on {loaded.device}  {'; '.join(loaded.notes)}")
        setting = Setting(
            model,
            loaded.identity.dtype,
            options.device,
            f"{shards}/*.parquet",
            options.rows,
            min(options.loop_rows, options.rows),
            folder,
        )
        report(setting, options.rounds)


def report(setting: Setting, rounds: int) -> None:
    """Time all ways in turns and print medians and ratios."""
    ways: dict[str, tuple[Callable[[], Any], int]] = {
        "floor": (floor(setting), setting.rows),
        "pipeline": (lambda: pipeline(setting), setting.rows),
        "loop": (usual_loop(setting), setting.loop_rows),
        "direct": (lambda: direct(setting), setting.rows),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, (way, rows) in ways.items():
            start = time.perf_counter()
            way()
            rates[name].append(rows / (time.perf_counter() - start))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    for name, values in rates.items():
        shown = ", ".join(f"{value:.1f}" for value in values)
        print(f"  {name:9} {medians[name]:8.1f} rows/s   ({shown})")
    for other in ("floor", "loop", "direct"):
        pairs = [b / o for b, o in zip(rates["pipeline"], rates[other], strict=True)]
        print(f"  pipeline / {other}: {statistics.median(pairs):.2f}")


def random_model(name: str, folder: Path) -> Path:
    """A model with random weights in `local-dir` form: speed does not depend on the weights."""
    target = folder / name
    if not (target / "open_clip_model.safetensors").exists():
        target.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(0)
        module = open_clip.create_model(name, pretrained=None)
        state = {key: value.contiguous() for key, value in module.state_dict().items()}
        save_file(state, target / "open_clip_model.safetensors")
        config = {"model_cfg": open_clip.get_model_config(name), "preprocess_cfg": {}}
        (target / "open_clip_config.json").write_text(json.dumps(config))
    return target


def rows_of(setting: Setting, count: int) -> tuple[list[bytes], list[str]]:
    """The first `count` images and captions."""
    images: list[bytes] = []
    captions: list[str] = []
    for path in sorted(Path(setting.shards).parent.glob("*.parquet")):
        table = pq.read_table(path, columns=["jpg", "caption"])
        images += table["jpg"].to_pylist()
        captions += table["caption"].to_pylist()
    return images[:count], captions[:count]


def floor(setting: Setting) -> Callable[[], None]:
    """(a): tensors are made here, once; the returned call is nothing but the model."""
    model = open_model(setting.model, None, setting.device, setting.dtype)
    encoder = Encoder(model)
    size = encoder.batch_size
    images, captions = rows_of(setting, setting.rows)
    decoded = [decode_image(image, model.preprocess) for image in images]
    pixels = [image.pixels for image in decoded if isinstance(image, DecodedImage)]
    batches = [torch.stack(pixels[at : at + size]) for at in range(0, len(pixels), size)]
    inputs = [normalize(batch, model.preprocess, model.dtype) for batch in batches]
    tower = causal_text_tower(model.module)
    assert tower is not None
    tokens = model.tokenize(captions)
    lengths = end_positions(tower, tokens) + 1
    tokens = tokens[torch.argsort(lengths, stable=True)]
    parts = tokens.split(encoder.text_batch_size)
    longest = [int(end_positions(tower, part).max()) + 1 for part in parts]
    texts = [part[:, :length] for part, length in zip(parts, longest, strict=True)]
    module: Any = model.module

    def forward() -> None:
        with torch.inference_mode(), one_core() if is_small(model) else nullcontext():
            for batch in inputs:
                module.encode_image(batch.to(model.device))
            for text in texts:
                encode_cut_text(tower, text.to(model.device)).float().cpu()

    return forward


def pipeline(setting: Setting) -> None:
    """(b): the whole job into a new folder."""
    out = setting.folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    config = _config(setting, out)
    run(config, make_engine(config), _Silent())


def direct(setting: Setting) -> None:
    """(d): the same work called as a function."""
    out = setting.folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    config, control = _config(setting, out), Control(out=str(out))
    folder = OutputFolder.open(out)
    plan = make_plan(config, folder, None, make_engine(config), _Silent(), control)
    assert plan.stage is not None
    for _report in plan.stage.open().work([item.to_json() for item in plan.todo]):
        pass


def usual_loop(setting: Setting) -> Callable[[], None]:
    """(c): as in open_clip's README, a batch at a time."""
    name = setting.model
    if name == "tiny":
        from clipsieve.demo import TINY_MERGES, TINY_MODEL

        name = f"local-dir:{TINY_MODEL}"
        tokenize = open_clip.get_tokenizer(name, bpe_path=str(TINY_MERGES))
    else:
        tokenize = open_clip.get_tokenizer(name)
    device = open_model(setting.model, None, setting.device, setting.dtype).device
    module, _, transform = open_clip.create_model_and_transforms(name, device=device)
    module.eval()
    images, captions = rows_of(setting, setting.loop_rows)

    def loop() -> None:
        with torch.inference_mode():
            for at in range(0, len(images), 64):
                batch = torch.stack(
                    [transform(Image.open(io.BytesIO(image))) for image in images[at : at + 64]]
                )
                image = module.encode_image(batch.to(device), normalize=True)
                text = module.encode_text(
                    tokenize(captions[at : at + 64]).to(device), normalize=True
                )
                (image * text).sum(dim=1).cpu()

    return loop


class _Silent(Reporter):
    """Says nothing."""

    def report(self, event: str, text: str, **fields: Any) -> None:
        """Nothing."""


def _config(setting: Setting, out: Path) -> RunConfig:
    return RunConfig(
        inputs=(setting.shards,),
        out=str(out),
        model=setting.model,
        device=setting.device,
        dtype=setting.dtype,
        scorers=("clip",),  # what (a) and (c) compute; the score stage has a benchmark of its own
    )


if __name__ == "__main__":
    main()
