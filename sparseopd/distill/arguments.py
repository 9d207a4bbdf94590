"""From a recipe to the settings that TRL's trainers share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from sparseopd.pairs import pick_device
from sparseopd.recipe import Recipe
from sparseopd.settings.batches import BatchShape


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
