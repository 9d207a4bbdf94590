"""Log-probabilities of chosen tokens from hidden states and a head, without the (n, v) logits.

Logits are made a tile at a time and folded into running statistics: a log-sum-exp, the logits of the
tokens asked for, the k largest. Backward makes each tile again and turns it in place into its
gradient. A tile and one temporary of its size are all that ever exists of the logits, of one model at
a time.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from trl.trainer.utils import maybe_gather_lm_head_ctx

from sparseopd.distill.objectives.tiles import Gradient, Running, Shape, Tiles, add_product

PLAIN = Shape()


class Scored(NamedTuple):
    """What one pass finds at n tokens."""

    ids: Int[Tensor, "n c"]
    """The tokens asked for, then the most likely ones in falling order."""
    log_probs: Float[Tensor, "n c"]
    """Theirs, in nats; differentiable in hidden states, weight and bias."""
    entropy: Float[Tensor, "n"]
    """Of the whole distribution, in nats; without gradient."""


def score(
    hidden: Float[Tensor, "n h"],
    weight: Float[Tensor, "v h"],
    bias: Float[Tensor, "v"] | None,
    ids: Int[Tensor, "n m"],
    k: int = 0,
    shape: Shape = PLAIN,
) -> Scored:
    """Score the tokens `ids` and the min(k, v) most likely ones, in one pass over the vocabulary.

    Products are of the dtype of `hidden`, or autocast's; logits and all sums are float32, or float64
    for float64 products. An id may stand in a row more than once.
    """
    log_probs, chosen, entropy = _LogProbs.apply(hidden, weight, bias, ids, k, shape)  # pyright: ignore
    return Scored(chosen, log_probs, entropy)


class _LogProbs(torch.autograd.Function):
    """`score` as a function of hidden states, weight and bias."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        ids: Tensor,
        k: int,
        shape: Shape,
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.dtype, ctx.shape = _product_dtype(hidden), shape
        with _gathered(weight, bias), _without_autocast(hidden):
            tiles = Tiles(hidden, weight, bias, ctx.dtype, shape)
            running = Running(ids, min(k, len(weight)), tiles.buffer)
            for columns in tiles.columns:
                part = tiles.operand(weight[columns])
                for rows in tiles.rows:
                    running.fold(tiles.logits(rows, columns, part), rows, columns)
        log_z, entropy = running.log_z(), running.entropy()
        chosen = torch.cat([ids, running.top_ids], dim=1)
        log_probs = torch.cat([running.at_ids, running.top], dim=1) - log_z[:, None]
        ctx.save_for_backward(hidden, weight, bias, chosen, log_z)
        ctx.mark_non_differentiable(chosen, entropy)
        return log_probs, chosen, entropy

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, ids, log_z = ctx.saved_tensors
        if grads[0] is None:
            return (None,) * 6
        gradient = Gradient(ids, grads[0].to(log_z.dtype), log_z, ctx.shape)
        with _gathered(weight, bias), _without_autocast(hidden):
            tiles = Tiles(hidden, weight, bias, ctx.dtype, ctx.shape)
            found = _backward(tiles, gradient, hidden, weight, bias, ctx.needs_input_grad)
        return *found, None, None, None


def _backward(
    tiles: Tiles,
    gradient: Gradient,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    needed: tuple[bool, ...],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return the gradients of hidden states, weight and bias, each if it is needed.

    Those of a tile's weights are complete before the next tile begins: only so many are held in fp32.
    """
    zeros = tiles.buffer.new_zeros
    to_hidden = zeros(hidden.shape) if needed[0] else None
    to_weight = torch.empty_like(weight) if needed[1] else None
    to_bias = torch.empty_like(bias) if needed[2] and bias is not None else None
    for columns in tiles.columns:
        part = tiles.operand(weight[columns])
        sums = None if to_weight is None else zeros(part.shape)
        bias_sums = None if to_bias is None else zeros(len(part))
        for rows in tiles.rows:
            tile = tiles.logits(rows, columns, part)
            gradient.replace(tile, rows, columns)
            grad = tile.to(part.dtype)
            if to_hidden is not None:
                add_product(to_hidden[rows], grad, part)
            if sums is not None:
                add_product(sums, grad.t(), tiles.hidden[rows])
            if bias_sums is not None:
                bias_sums += tile.sum(0)
        if to_weight is not None and sums is not None:
            to_weight[columns] = sums
        if to_bias is not None and bias_sums is not None:
            to_bias[columns] = bias_sums
    return None if to_hidden is None else to_hidden.to(hidden.dtype), to_weight, to_bias


def _product_dtype(hidden: Tensor) -> torch.dtype:
    """Custom functions are not autocast: round as autocast would round the head's own product."""
    device = hidden.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype


def _without_autocast(hidden: Tensor) -> AbstractContextManager[Any]:
    return torch.autocast(hidden.device.type, enabled=False)


def _gathered(weight: Tensor, bias: Tensor | None) -> AbstractContextManager[Any]:
    """Have DeepSpeed's ZeRO-3 gather the head, as no forward of the head itself does here.

    Calls trl.trainer.utils.maybe_gather_lm_head_ctx, read from trl 1.16; without ZeRO-3 it does nothing.
    """
    return maybe_gather_lm_head_ctx(weight, bias)  # pyright: ignore[reportArgumentType]
