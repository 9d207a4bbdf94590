"""The train.peft section of a recipe: an adapter of PEFT's, trained in place of weights or a mask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sparseopd.errors import RecipeError
from sparseopd.ranges import Count, Positive

PeftType = Literal["lora", "shira"]
PEFT_LABELS: dict[PeftType, str] = {"lora": "LoRA", "shira": "SHiRA"}
"""What sentences and tables call them."""


@dataclass(kw_only=True)
class Peft:
    """A control arm: an adapter on every linear layer but the output head.

    `train.freeze` leaves layers out. Its learning rate is `optimizer.lr`.
    """

    type: PeftType
    rank: Count | None = None
    """Of every layer's adapter. A layer of m × n trains rank·(m + n) weights: LoRA in two thin matrices,
    SHiRA at as many random coordinates of the layer."""
    k: Count | None = None
    """Or the trainable weights wished for, such as a mask's: the rank is the one that comes nearest."""
    alpha: Positive | None = None
    """Only for lora: its update is scaled by alpha / rank. Default: the rank, so that the scale is 1
    whichever rank `k` leads to, as in the LoRA paper (Hu et al. 2021, §4.1) and with PEFT's defaults."""


def check_peft(peft: Peft) -> None:
    """Raise `RecipeError` where the size is not given once, or a setting would do nothing."""
    if (peft.rank is None) == (peft.k is None):
        given = "neither" if peft.rank is None else "both"
        raise RecipeError(
            f"train.peft needs one of rank and k, and has {given}: give rank, or the wished number of "
            "trainable weights as k"
        )
    if peft.type == "shira" and peft.alpha is not None:
        raise RecipeError("train.peft.alpha does nothing with shira, which is not scaled: drop it")
