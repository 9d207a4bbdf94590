"""Tiles of logits: made one in the place of the other, folded into statistics, turned into gradients."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

CPU_TILE = (512, 4096)
"""Tokens and vocabulary of a tile, 8 MiB of fp32: other sizes measured are within the noise, or slower."""
DEVICE_TILE = (2048, 16384)
"""The same on an accelerator, 128 MiB at most, as each tile takes a dozen kernels. Reckoned, not measured."""
MIXED_PRODUCTS = torch.__version__ >= "2.8"
"""Whether CUDA can multiply half-precision matrices into an fp32 one."""


@dataclass(frozen=True)
class Shape:
    """How products become logits: softcap · tanh(scale · product / softcap) / temperature."""

    scale: float = 1.0
    softcap: float | None = None
    temperature: float = 1.0

    def apply(self, tile: Float[Tensor, "n v"]) -> None:
        """Turn products into logits, in place."""
        if self.scale != 1.0:
            tile.mul_(self.scale)
        if self.softcap is not None:
            tile.div_(self.softcap).tanh_().mul_(self.softcap)
        if self.temperature != 1.0:
            tile.mul_(1 / self.temperature)

    def slope(self, logits: Float[Tensor, "n v"]) -> Float[Tensor, "n v"] | float:
        """Return ∂logit/∂product."""
        slope = self.scale / self.temperature
        if self.softcap is None:
            return slope
        bent = logits * (self.temperature / self.softcap)
        return bent.square_().neg_().add_(1).mul_(slope)


class Tiles:
    """The logits of n tokens over v, one tile at a time.

    Products are of `dtype`; logits, and whatever is summed, of float32, or of float64 for such products.
    """

    def __init__(
        self,
        hidden: Float[Tensor, "n h"],
        weight: Float[Tensor, "v h"],
        bias: Float[Tensor, "v"] | None,
        dtype: torch.dtype,
        shape: Shape,
    ) -> None:
        self._products, self._bias, self._shape = dtype, bias, shape
        self._sums = torch.promote_types(dtype, torch.float32)
        self.hidden = self.operand(hidden)
        height, width = CPU_TILE if hidden.device.type == "cpu" else DEVICE_TILE
        height, width = min(height, len(hidden)), min(width, len(weight))
        self.rows, self.columns = _slices(len(hidden), height), _slices(len(weight), width)
        self.buffer = torch.empty((height, width), dtype=self._sums, device=hidden.device)

    def operand(self, values: Tensor) -> Tensor:
        """Round values to the products' dtype; widen them where a product cannot be wider than they are."""
        rounded = values.to(self._products)
        mixed = MIXED_PRODUCTS and values.device.type == "cuda"
        return rounded if mixed else rounded.to(self._sums)

    def logits(self, rows: slice, columns: slice, part: Tensor) -> Float[Tensor, "r c"]:
        """Return the logits of some tokens over the part of the vocabulary whose operand is `part`."""
        hidden = self.hidden[rows]
        tile = self.buffer[: len(hidden), : len(part)]
        tile.zero_() if self._bias is None else tile.copy_(self._bias[columns])
        add_product(tile, hidden, part.t())
        self._shape.apply(tile)
        return tile


class Running:
    """What is kept of the tiles folded so far, for each of n tokens."""

    def __init__(self, ids: Int[Tensor, "n m"], k: int, like: Tensor) -> None:
        n = len(ids)
        self._ids, self._k = ids, k
        self.largest = like.new_full((n,), -math.inf)
        self.total, self.weighted = like.new_zeros(n), like.new_zeros(n)
        """Σ exp(logit - largest), and the same sum of logits weighted so."""
        self.at_ids = like.new_zeros(ids.shape)
        self.top = like.new_full((n, k), -math.inf)
        self.top_ids = ids.new_zeros((n, k))

    def fold(self, tile: Float[Tensor, "r c"], rows: slice, columns: slice) -> None:
        """Take in the logits of some tokens over some columns of the vocabulary."""
        before = self.largest[rows]
        largest = torch.maximum(before, tile.amax(1))
        shrink = (before - largest).exp_()
        powers = (tile - largest[:, None]).exp_()
        self.total[rows] = self.total[rows] * shrink + powers.sum(1)
        self.weighted[rows] = self.weighted[rows] * shrink + torch.linalg.vecdot(powers, tile)
        self.largest[rows] = largest
        inside, places = _within(self._ids[rows], columns)
        self.at_ids[rows] = torch.where(inside, tile.gather(1, places), self.at_ids[rows])
        if self._k:
            self._fold_top(tile, rows, columns)

    def log_z(self) -> Float[Tensor, "n"]:
        """Return the logarithm of Σ exp(logit)."""
        return self.largest + self.total.log()

    def entropy(self) -> Float[Tensor, "n"]:
        """Return log_z less the mean logit."""
        return self.log_z() - self.weighted / self.total

    def _fold_top(self, tile: Tensor, rows: slice, columns: slice) -> None:
        values, places = tile.topk(min(self._k, tile.shape[1]), dim=1)
        values = torch.cat([self.top[rows], values], dim=1)
        ids = torch.cat([self.top_ids[rows], places + columns.start], dim=1)
        self.top[rows], best = values.topk(self._k, dim=1)
        self.top_ids[rows] = ids.gather(1, best)


@dataclass(frozen=True)
class Gradient:
    """The gradient of Σ grad · log-probability at ids with respect to products."""

    ids: Int[Tensor, "n c"]
    grad: Float[Tensor, "n c"]
    log_z: Float[Tensor, "n"]
    shape: Shape

    def replace(self, tile: Float[Tensor, "r c"], rows: slice, columns: slice) -> None:
        """Turn a tile of logits into (scatter(grad) - softmax · Σ grad) · ∂logit/∂product, in place."""
        slope, grad = self.shape.slope(tile), self.grad[rows]
        tile.sub_(self.log_z[rows, None]).exp_().mul_(-grad.sum(1, keepdim=True))
        inside, places = _within(self.ids[rows], columns)
        tile.scatter_add_(1, places, grad.where(inside, 0.0))
        tile.mul_(slope)


def add_product(sums: Tensor, left: Tensor, right: Tensor) -> None:
    """Add left · right to `sums`, which may be wider than they are, without rounding to their dtype."""
    if left.dtype == sums.dtype:
        sums.addmm_(left, right)
    else:
        torch.addmm(sums, left, right, out_dtype=sums.dtype, out=sums)  # pyright: ignore


def _within(
    ids: Int[Tensor, "n c"], columns: slice
) -> tuple[Bool[Tensor, "n c"], Int[Tensor, "n c"]]:
    """Say which ids lie in a tile, and at which of its columns; the others, at any."""
    places = ids - columns.start
    width = columns.stop - columns.start
    return (places >= 0) & (places < width), places.clamp(0, width - 1)


def _slices(length: int, step: int) -> list[slice]:
    return [slice(at, min(at + step, length)) for at in range(0, length, max(step, 1))]
