"""How far apart the pixels of transformers' two image processors are, and what that does to logits.

    python scripts/pixel_difference.py
    ATEN_CPU_CAPABILITY=default python scripts/pixel_difference.py   # as a CPU without AVX2

vit_colossal's pixels are compared with those of `ViTImageProcessorPil`, which was
`ViTImageProcessor` before transformers 5, and of today's `ViTImageProcessor`, which
`AutoImageProcessor` takes unless told otherwise: it resizes with torchvision. Images are two
photographs that scikit-learn brings along and photo-like drawings, as PNG and as JPEG, made smaller
and larger to 224 x 224. Logits are of a ViT-B/16 with random weights. Fails when a pixel differs
from `ViTImageProcessorPil`'s.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import torch
import torchvision
import transformers
from PIL import Image
from sklearn.datasets import load_sample_images
from transformers import (
    BaseImageProcessor,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    ViTImageProcessorPil,
)

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

from vit_colossal.data.decoding import decode  # noqa: E402
from vit_colossal.data.transforms import normalize  # noqa: E402
from vit_colossal.model.preprocessing import Preprocessing  # noqa: E402

SIDE = 224
FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
#: Width and height of the drawings, from a camera's down to what has to be made larger.
SIZES = ((3000, 2000), (1600, 1200), (640, 480), (500, 375), (225, 224), (160, 120), (32, 32))


def drawing(width: int, height: int, seed: int) -> Image.Image:
    """Clouds of the spectrum photographs have (1/f), hard edges, saturated spots, sensor noise."""
    random = np.random.default_rng(seed)
    rows, columns = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :]
    frequency = np.maximum(np.hypot(rows, columns), 1 / max(width, height))
    waves = np.fft.rfft2(random.standard_normal((3, height, width)))
    clouds = np.fft.irfft2(waves / frequency, s=(height, width))
    clouds /= clouds.std(axis=(1, 2), keepdims=True)
    # Channels of photographs go together.
    pixels = 120 + 50 * (0.8 * clouds[:1] + 0.4 * clouds)
    y, x = np.mgrid[:height, :width] / min(width, height)
    for _ in range(12):
        angle, centre = random.uniform(0, np.pi), random.uniform(0, 1.2, 2)
        along = (x - centre[0]) * np.cos(angle) + (y - centre[1]) * np.sin(angle)
        across = (y - centre[1]) * np.cos(angle) - (x - centre[0]) * np.sin(angle)
        inside = (abs(along) < random.uniform(0.05, 0.3)) & (
            abs(across) < random.uniform(0.01, 0.2)
        )
        pixels[:, inside] = pixels[:, inside] * 0.3 + random.uniform(-20, 275, (3, 1))
    pixels += random.normal(0, 4, pixels.shape)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8).transpose(1, 2, 0))


def stored(image: Image.Image, kind: str) -> Image.Image:
    """The image as a file of this kind gives it back."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **({"quality": 90} if kind == "JPEG" else {}))
    return Image.open(io.BytesIO(buffer.getvalue()))


def images() -> dict[str, Image.Image]:
    """Every picture as PNG and as JPEG, by name."""
    pictures = {
        f"photograph {i}, 640 x 427": Image.fromarray(pixels)
        for i, pixels in enumerate(load_sample_images().images, 1)
    }
    for seed, (width, height) in enumerate(SIZES):
        pictures[f"drawing, {width} x {height}"] = drawing(width, height, seed)
    return {
        f"{name} ({kind})": stored(picture, kind)
        for name, picture in pictures.items()
        for kind in ("PNG", "JPEG")
    }


def apart(ours: np.ndarray, theirs: np.ndarray) -> str:
    """Cells of a table: the largest and the mean difference of levels, and how many differ."""
    levels = np.abs(ours.astype(int) - theirs.astype(int))
    return f"{levels.max()} | {levels.mean():.4f} | {(levels > 0).mean():.2%}"


def resized(processor: BaseImageProcessor, pictures: list[Image.Image]) -> np.ndarray:
    """What a processor resizes to, before it scales: uint8 [N, 3, H, W]."""
    result = processor(pictures, do_rescale=False, do_normalize=False)["pixel_values"]
    return np.stack([np.asarray(image) for image in result])


@torch.inference_mode()
def moved(model: ViTForImageClassification, ours: np.ndarray, theirs: np.ndarray) -> str:
    """Cells of a table: how far logits move, and how far apart those of two pictures are."""
    first, second = (
        model(normalize(torch.from_numpy(pixels), Preprocessing((SIDE, SIDE)))).logits
        for pixels in (ours, theirs)
    )
    same = int((first.argmax(1) == second.argmax(1)).sum())
    largest, spread = (first - second).abs().max(), first.std(0).mean()
    return f"{largest:.2g} | {spread:.2g} | {same} of {len(first)}"


def main() -> None:
    pictures = images()
    torch.manual_seed(0)
    model = ViTForImageClassification(ViTConfig(num_labels=1000)).eval()
    levels = "largest difference | mean | values that differ"
    summary = [
        f"| filter | {levels} | logits' largest difference | logits' spread | same top-1 |",
        "|---|---|---|---|---|---|---|",
    ]
    single = [f"| picture | filter | {levels} |", "|---|---|---|---|---|"]
    for name, resample in FILTERS.items():
        options = {"size": {"height": SIDE, "width": SIDE}, "resample": resample}
        how = Preprocessing((SIDE, SIDE), int(resample))
        ours = np.stack([decode(x, how) for x in pictures.values()])
        pil = resized(ViTImageProcessorPil(**options), list(pictures.values()))
        if not np.array_equal(ours, pil):
            raise SystemExit(f"{name}: not ViTImageProcessorPil's pixels: {apart(ours, pil)}")
        theirs = resized(ViTImageProcessor(**options), list(pictures.values()))
        cells = moved(model, ours, theirs)
        summary.append(f"| {name} | {apart(ours, theirs)} | {cells} |")
        for picture, *pixels in zip(pictures, ours, theirs, strict=True):
            single.append(f"| {picture} | {name} | {apart(*pixels)} |")
    capability = torch.backends.cpu.get_cpu_capability()
    print(f"torch {torch.__version__}, torchvision {torchvision.__version__}, ", end="")
    print(f"transformers {transformers.__version__}, {capability}: {len(pictures)} pictures\n")
    print(*summary, "", *single, sep="\n")


if __name__ == "__main__":
    main()
