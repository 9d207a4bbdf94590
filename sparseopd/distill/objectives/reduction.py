"""How much each token counts: weights and a total, so that a loss is Σ weight · loss / total.

weight, total = weights(mask, "token-mean")       of one process; totals are summed over processes
weight = shares(weight, teacher, wanted, sums)    several teachers, each with its share
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def weights(
    mask: Bool[Tensor, "rows tokens"], reduction: Literal["token-mean", "sequence-mean"]
) -> tuple[Float[Tensor, "rows tokens"], Float[Tensor, ""]]:
    """Return each token's weight, float32 and zero off the mask, and their sum.

    token-mean: every token weighs exactly 1, the total is their number. sequence-mean: the tokens of a
    row share a weight of 1, the total is the number of rows that have any.
    """
    if reduction == "token-mean":
        return mask.float(), mask.sum().float()
    lengths = mask.sum(dim=1, keepdim=True)
    return mask / lengths.clamp(min=1).float(), (lengths > 0).sum().float()


def shares(
    weights: Float[Tensor, "rows tokens"],
    teacher_of_row: Int[Tensor, "rows"],
    wanted: Float[Tensor, "t"],
    present_sums: Float[Tensor, "t"],
) -> Float[Tensor, "rows tokens"]:
    """Rescale weights so that those of each teacher sum, over all processes, to its share of their total.

    Args:
        wanted: each teacher's share, > 0, in any unit.
        present_sums: what the weights of each teacher sum to now, over all processes. Where that is
            zero the teacher drops out, and the others keep their proportions.
    """
    present = present_sums > 0
    wanted = wanted * present
    goal = wanted / wanted.sum() * present_sums.sum()
    factors = torch.where(present, goal / present_sums, 0.0)
    return weights * factors[teacher_of_row, None].to(weights.dtype)
