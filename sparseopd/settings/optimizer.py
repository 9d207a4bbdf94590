"""The optimizer section of a recipe: what steps, how far, and how it is watched."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sparseopd.ranges import Beta, CountOrZero, NotNegative, Positive

Name = Literal["adamw", "adam", "sgd", "adafactor", "adamw-8bit", "paged-adamw-8bit"]


@dataclass(kw_only=True)
class Group:
    """Other settings for some parameters."""

    match: list[str]
    """Name patterns such as "*.mlp.*", or blocks (ffn, attention, embedding, head, norm, vision,
    expert)."""
    lr: Positive | None = None
    """Default: the recipe's. A masked run takes it as it is, whatever `masked_lr` says."""
    weight_decay: NotNegative | None = None


@dataclass(kw_only=True)
class Optimizer:
    """The optimizer of full and masked runs alike; masked runs step on k-vectors."""

    name: Name = "adamw"
    """The 8-bit ones are bitsandbytes'."""
    lr: Positive = 1e-6
    masked_lr: Positive | None = None
    """Learning rate of masked runs: a sparse update wants a larger one. Default: `lr`."""
    weight_decay: NotNegative = 0.0
    groups: list[Group] = field(default_factory=list)
    """The first that matches a parameter counts."""
    betas: tuple[Beta, Beta] | None = None
    """Not for sgd and adafactor; the optimizer's default otherwise."""
    momentum: NotNegative | None = None
    """Only for sgd."""
    max_grad_norm: NotNegative = 1.0
    """Clips the gradient of whatever is trained (a masked run: the k-vector); 0 turns it off."""
    schedule: Literal["constant", "constant_with_warmup", "linear", "cosine"] = "constant"
    warmup_steps: CountOrZero = 0
    stochastic_rounding: bool = False
    """Masked runs of a bf16 or fp16 student: round the fp32 masters into the weights at random."""
    sampled_gradients: bool = False
    """Masked runs on the CPU: compute the gradients of linear layers at the masked coordinates alone,
    where a mask has at most an eighth of a layer; faster, and equal up to rounding."""
    telemetry_every: CountOrZero = 0
    """Steps between two measurements of what a step does (cos(m, g), CV(√v) and, in masked runs,
    how much of the update the stored weights show), written to metrics.jsonl; 0 for none."""
