"""The digits task: questions about real 8x8 scans of handwritten digits.

The scans are the UCI Optical Recognition of Handwritten Digits set as scikit-learn ships it
(`load_digits`, 1,797 images, grey values 0..16); see LICENSE-optdigits.txt. No image stands in both
the train and the test file.
"""

import io
import math
import random
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

SIDE = 8  # pixels along each edge of a scan
TEST_IMAGES = 450
WHICH, PARITY, PLUS_THREE = "which digit is it?", "is it even or odd?", "what is it plus three?"
QUESTIONS = (WHICH, PARITY, PLUS_THREE)
WORDS = ("which", "digit", "is", "it", "even", "or", "odd", "what", "plus", "three")


@dataclass(frozen=True)
class Scans:
    """Scans [count, 8, 8], uint8, white ink on black, and their labels [count]."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)


def load_scans() -> tuple[Scans, Scans]:
    """Read scikit-learn's digits and part them into train and test, the same way every time."""
    from sklearn.datasets import load_digits  # only the build needs scikit-learn

    images, labels = load_digits(return_X_y=True)
    pixels = np.rint(np.asarray(images) * 255 / 16).astype(np.uint8).reshape(-1, SIDE, SIDE)
    order = np.random.default_rng(1998).permutation(len(pixels))
    test, train = order[:TEST_IMAGES], order[TEST_IMAGES:]
    targets = np.asarray(labels).astype(np.int64)
    return Scans(pixels[train], targets[train]), Scans(pixels[test], targets[test])


def answer(question: str, label: int) -> str:
    """Answer one of `QUESTIONS` about a scan of the digit `label`."""
    if question == WHICH:
        return str(label)
    if question == PARITY:
        return "odd" if label % 2 else "even"
    return str(label + 3)


def wrong_answer(question: str, label: int, rng: random.Random) -> str:
    """Answer as someone would who read another, random digit and so got it wrong."""
    right = answer(question, label)
    return rng.choice([given for d in range(10) if (given := answer(question, d)) != right])


def png(pixels: NDArray[np.uint8]) -> bytes:
    """Encode one scan [8, 8] as a greyscale PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels, mode="L").save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def pixel_values(pixels: NDArray[np.uint8]) -> Tensor:
    """Normalise scans [count, 8, 8] as the bundled image processor does: [count, 3, 8, 8], ±1."""
    grey = torch.from_numpy(pixels).float().div(127.5).sub(1.0)
    return grey[:, None].expand(-1, 3, -1, -1)


def augment(values: Tensor, generator: torch.Generator) -> Tensor:
    """Turn, scale and shift each image of `values` [count, 3, 8, 8] a little, at random."""
    angle, scale, right, down = torch.rand(4, len(values), generator=generator).mul(2).sub(1)
    angle, scale = angle * math.radians(12), 1 + 0.12 * scale
    cos, sin = scale * angle.cos(), scale * angle.sin()
    shift = 2 / SIDE  # one pixel in grid_sample's units
    matrix = torch.stack([cos, -sin, right * shift, sin, cos, down * shift], dim=1).view(-1, 2, 3)
    grid = torch.nn.functional.affine_grid(matrix, list(values.shape), align_corners=False)
    # No ink is -1, while grid_sample fills with zero: shift before and after.
    moved = torch.nn.functional.grid_sample(values + 1, grid, align_corners=False)
    return moved - 1
