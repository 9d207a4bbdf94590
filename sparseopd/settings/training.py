"""The discover, train and evaluate sections of a recipe."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sparseopd.ranges import Confidence, Count, CountOrZero, Fraction, Seed
from sparseopd.selection import Selection
from sparseopd.settings.peft import Peft

Sink = Literal["tensorboard", "wandb", "trackio"]


@dataclass(kw_only=True)
class Discover(Selection):
    """The short full run whose update becomes the mask; how it is chosen is a `Selection`."""

    steps: Count = 50
    """Updates; the most of them where `until_stable` may end the run earlier."""
    saliency: Literal["gradient", "momentum"] | None = None
    """Only for the selector saliency: what of the optimizer's view ranks a coordinate, Σ|g| over the
    run (the default) or |m|/√v after it."""
    check_every: CountOrZero | None = None
    """Compare the top-k mask with the one this many steps before; a tenth of `steps` by default, and
    at least two. 0 never does, which saves the time on a large model."""
    until_stable: Fraction | None = None
    """Stop once the Jaccard index of two such masks at this density reaches it."""
    snapshots: list[Count] = field(default_factory=list)
    """Steps after which the mask so far is kept, in `masks/step-N.safetensors`."""


@dataclass(kw_only=True)
class Train:
    """The length and shape of training, shared by discovery, full and masked runs."""

    steps: Count = 150
    """Optimizer updates of a full or masked run."""
    batch_size: Count = 32
    """Prompts per optimizer update, over all processes."""
    micro_batch_size: Count | None = None
    """Completions per forward and backward of one process; must divide its share of an update.
    Default: all of it at once."""
    freeze: list[str] = field(default_factory=list)
    """Parameters that stay as they are: name patterns, or blocks (vision, embedding, …)."""
    peft: Peft | None = None
    """`train` trains this adapter in place of the weights, and merges it into the checkpoint; the
    adapter itself is kept in `adapter`. Nothing else takes it: no mask, no discovery."""
    gradient_checkpointing: bool = False
    bf16: bool | None = None
    """Autocast to bfloat16. Default: on a GPU that has it, off on the CPU."""
    log_every: Count = 1
    report_to: list[Sink] = field(default_factory=list)
    """Where logged steps go besides metrics.jsonl; each needs its package."""
    save_every: CountOrZero = 0
    """Steps between two states that `train --resume` or `discover --resume` can go on from; 0 for none
    but on an interrupt. Only the last is kept, until the run has ended."""
    snapshots: list[Count] = field(default_factory=list)
    """Steps of a full or masked run after which the weights so far are kept, in `snapshots/step-N`, as a
    checkpoint like the last one."""
    save_dtype: Literal["source", "float32"] = "source"
    """What the trained checkpoint is stored in: the source checkpoint's dtype, or the fp32 masters."""


@dataclass(kw_only=True)
class Evaluate:
    """The shared held-out comparison."""

    prompts: Count = 256
    samples: Count = 4
    """Samples a prompt (the n of mean@n)."""
    batch_size: Count = 64
    seed: Seed = 1234
    resamples: Count = 2000
    """Bootstrap resamples."""
    confidence: Confidence = 0.95
