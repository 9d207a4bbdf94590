"""From a recipe to the settings that TRL's trainers share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sparseopd.distill import processes
from sparseopd.errors import RecipeError
from sparseopd.pairs import pick_device
from sparseopd.recipe import Recipe

OFF_POLICY = ("offline-kd", "sft")
"""Kinds that learn from given completions, one for each prompt."""


@dataclass(frozen=True)
class BatchShape:
    """How the completions of one process are split."""

    micro: int
    """Completions of one forward and backward."""
    accumulation: int
    """Forward and backward passes of one update."""
    updates: int
    """Updates of one batch of rollouts."""
    samples: int
    """Completions of each prompt."""

    @property
    def rollouts(self) -> int:
        """Completions that one process samples at a time."""
        return self.micro * self.accumulation * self.updates


def batch_shape(recipe: Recipe) -> BatchShape:
    """Split a recipe's batches over the launched processes. Raises `RecipeError` if they do not fit."""
    train, rollout, several = recipe.train, recipe.rollout, processes.count()
    given = recipe.objective.kind in OFF_POLICY
    samples, updates = (1, 1) if given else (rollout.samples, rollout.updates)
    share, rest = divmod(train.batch_size, several)
    if rest:
        raise RecipeError(
            f"train.batch_size {train.batch_size} cannot be shared by {several} processes: make it a "
            f"multiple of {several}"
        )
    micro = train.micro_batch_size or share * samples
    accumulation, rest = divmod(share * samples, micro)
    if rest or not accumulation:
        raise RecipeError(
            f"train.micro_batch_size {micro} does not divide the {share * samples} completions of an "
            f"update that each of {several} processes has: lower it"
        )
    return BatchShape(micro, accumulation, updates, samples)


def shared_arguments(
    recipe: Recipe, shape: BatchShape, *, steps: int, clip: float, folder: Path, save_every: int
) -> dict[str, Any]:
    """Return the arguments of `transformers.TrainingArguments`, for whichever trainer.

    Args:
        clip: the norm to which `Trainer` clips dense gradients, 0 for none.
        folder: where the last state to resume from goes.
        save_every: steps between two of them, 0 for never.
    """
    train = recipe.train
    device = pick_device(recipe.device)
    can_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return {
        "output_dir": str(folder),
        "max_steps": steps,
        "per_device_train_batch_size": shape.micro,
        "gradient_accumulation_steps": shape.accumulation,
        "learning_rate": recipe.optimizer.lr,  # the optimizer has its own; schedulers scale that one
        "lr_scheduler_type": recipe.optimizer.schedule,
        "warmup_steps": recipe.optimizer.warmup_steps,
        "max_grad_norm": clip,
        "gradient_checkpointing": train.gradient_checkpointing,
        "bf16": can_bf16 if train.bf16 is None else train.bf16,
        "use_cpu": device.type == "cpu",
        "seed": recipe.seed,
        "logging_steps": train.log_every,
        "save_strategy": "steps" if save_every else "no",
        "save_steps": save_every or 1,
        "save_total_limit": 1,
        "report_to": list(train.report_to) or "none",
        "run_name": recipe.name,
        "disable_tqdm": True,
    }


def sampling_arguments(recipe: Recipe) -> dict[str, Any]:
    """Return the arguments of trainers whose student samples."""
    rollout = recipe.rollout
    engine: dict[str, Any] = {}
    if rollout.vllm is not None:
        engine = {"use_vllm": True, "vllm_mode": rollout.vllm}
        engine |= {"vllm_server_base_url": rollout.vllm_server} if rollout.vllm_server else {}
    return {
        "max_completion_length": rollout.max_new_tokens,
        "temperature": rollout.temperature,
        "top_p": rollout.top_p,
        "top_k": rollout.top_k,
        "chat_template_kwargs": dict(recipe.data.chat_template) or None,
        **engine,
    }
