"""What an update without structure would look like, once rounded to the checkpoint's dtype (PAPER.md §5).

    shuffled   Δ permuted within its matrix: the same changes, elsewhere
    gaussian   dense noise of the same norm: every coordinate moves, none is preferred

Both are added to W in float32 and rounded. Where the update is known before rounding (fp32 masters), its
values are shuffled and its norm is matched. Where only rounded weights are known, they change places among
weights of the same exponent, so as not to be rounded twice, and the noise is scaled until, once rounded, it has the norm of the rounded update: what a dense update behind it would have.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sparseopd.analysis.values import Values, moved, norm

KINDS = ("shuffled", "gaussian")
SAMPLE = 1 << 16
"""Coordinates on which the noise is scaled before it is scaled on all."""
REACH = 15
"""Octaves above the rounded update's own size at which noise is looked for: most of it may be absorbed."""
HALVINGS = 20
"""Of the range of scales, 2²⁰ wide, in logarithms: 1e-5 of the scale is left."""
REFINEMENTS = 2


@dataclass(frozen=True)
class Known:
    """What the nulls of a part are made from."""

    weight: Tensor
    """float32, as exact as it is stored: W before rounding."""
    values: Values
    """The observed update, whose rounded W every draw shares."""
    change: Tensor
    """float32: Δ before rounding where it is known, else after."""
    norm: float
    """‖Δ‖ of that."""
    stored: torch.dtype
    """What the sum is rounded to before it is compared."""
    exact: bool
    """Whether Δ is known before rounding, or rounding does not matter."""


def draws(kind: str, name: str, known: Known, count: int, seed: int) -> Iterator[Values]:
    """Yield `count` draws of a null for the part called `name`: the same for the same seed."""
    start = None
    for number in range(count):
        generator = _generator(kind, name, number, seed)
        if kind == "shuffled":
            yield _added(known, _shuffled(known, generator))
            continue
        noise = torch.randn(known.change.shape, generator=generator).to(known.change.device)
        if known.exact:
            yield _added(known, noise.mul_(known.norm / norm(noise)))
        else:
            start = start or _start(known, noise)
            yield _scaled(known, noise, *start)


def _shuffled(known: Known, generator: torch.Generator) -> Tensor:
    """Δ permuted within the matrix; one known only rounded, among weights of the same exponent.

    Elsewhere its values would be rounded a second time, which undoes what the first did to them: a
    shuffle over all weights is apart even from noise.
    """
    change = known.change.flatten()
    order = torch.randperm(change.numel(), generator=generator, dtype=torch.int32)
    if known.exact:
        return change.index_select(0, order.to(change.device)).view(known.change.shape)
    exponent = (known.weight.flatten().view(torch.int32) >> 23 & 0xFF).byte().cpu().numpy()
    order = order.numpy()
    source = order[np.argsort(exponent[order], kind="stable")]  # a radix sort: cheap
    target = np.argsort(exponent, kind="stable")
    permuted = torch.empty_like(change)
    permuted[torch.from_numpy(target).to(change.device)] = change[
        torch.from_numpy(source).long().to(change.device)
    ]
    return permuted.view(known.change.shape)


def _added(known: Known, change: Tensor) -> Values:
    return moved(known.values, known.weight + change, known.stored)


def _scaled(known: Known, noise: Tensor, scale: float, power: float) -> Values:
    """Noise that has the wanted norm once rounded, from a scale near it and the norm's power of it."""
    for _ in range(REFINEMENTS):
        found = _added(known, noise * scale).norm
        if found:
            scale *= (known.norm / found) ** (1 / power)
    return _added(known, noise.mul_(scale))


def _start(known: Known, noise: Tensor) -> tuple[float, float]:
    """A scale near the wanted norm: from a sample, or from all where so few move that it holds none."""
    stride = max(1, noise.numel() // SAMPLE)
    scale, power = _bisected(known, noise, stride)
    found = _added(known, noise * scale).norm
    if stride == 1 or 0.5 < found / known.norm < 2:
        return scale, power
    return _bisected(known, noise, 1)


def _bisected(known: Known, noise: Tensor, stride: int) -> tuple[float, float]:
    """The scale at which rounded noise has the wanted norm, and d log norm / d log scale there.

    The power is far above 1 where most of the noise is lost in rounding, and 1 where none is.
    """
    numel = noise.numel()
    weight, sample = known.weight.flatten()[::stride], noise.flatten()[::stride]
    whole = (numel / sample.numel()) ** 0.5

    def reached(logarithm: float) -> float:
        after = weight + sample * math.exp(logarithm)
        return norm(after.to(known.stored).float() - weight) * whole

    middle = math.log(known.norm / numel**0.5)
    low, high = middle - 5 * math.log(2), middle + REACH * math.log(2)
    for _ in range(HALVINGS):
        half = (low + high) / 2
        low, high = (half, high) if reached(half) < known.norm else (low, half)
    at, step = high, 0.05
    below, above = reached(at - step), reached(at + step)
    power = math.log(above / below) / (2 * step) if 0 < below < above else 1.0
    return math.exp(at), max(1.0, power)


def _generator(kind: str, name: str, number: int, seed: int) -> torch.Generator:
    """Draws hang on their own name alone, so neither threads nor shards nor the device change them."""
    content = f"{kind}:{seed}:{number}:{name}".encode()
    digest = hashlib.blake2b(content, digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
