"""Load what every training stage needs, in the order in which mistakes are cheapest to find."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from transformers import AutoConfig, PreTrainedModel

from sparseopd.errors import DataError, RecipeError
from sparseopd.pairs import (
    check_images,
    check_vocabulary,
    has_chat_template,
    load_model,
    load_processor,
    match_teacher,
    pick_device,
    resolve_path,
)
from sparseopd.pairs.loading import Processor
from sparseopd.recipe import Recipe
from sparseopd.tasks.prompts import Prompts, load_prompts


@dataclass(frozen=True)
class Prepared:
    """A pair that fits, its processor and its prompts."""

    student: PreTrainedModel
    teacher: PreTrainedModel
    processor: Processor
    prompts: Prompts
    stored_dtype: torch.dtype
    """The dtype the source checkpoint is stored in, which the trained one keeps."""
    notes: list[str]
    """What was done to make them fit, in sentences."""


def prepare(recipe: Recipe, weights: Path | None = None) -> Prepared:
    """Load processors, prompts and models. Raises a `RequestError` with one sentence.

    `weights` is the folder of a checkpoint of this student to start from, in place of the source.
    """
    check_device(recipe)
    processor = load_processor(recipe.student)
    check_vocabulary(processor, load_processor(recipe.teacher))
    prompts = load_prompts(recipe.data, chat=has_chat_template(processor))
    check_images(prompts.has_images, processor)
    if len(prompts.train) < recipe.train.batch_size:
        raise DataError(
            f"{recipe.data.train} has {len(prompts.train)} training prompts, fewer than "
            f"train.batch_size {recipe.train.batch_size}: lower train.batch_size"
        )
    start = recipe.student
    if weights is not None:
        start = replace(start, path=str(weights), revision=None)
    student, teacher = load_model(start), load_model(recipe.teacher)
    dropped = match_teacher(student, teacher)
    notes = [f"the teacher's {dropped} padding rows beyond the student's vocabulary were left out"]
    stored = _stored_dtype(recipe)
    return Prepared(student, teacher, processor, prompts, stored, notes if dropped else [])


def check_device(recipe: Recipe) -> None:
    """Refuse devices that training cannot use as asked.

    Raises `PairError` for one that is not there, `RecipeError` where transformers would spread one
    process over several GPUs, or several processes were launched.
    """
    device = pick_device(recipe.device)
    if device.type == "cuda" and torch.cuda.device_count() > 1:
        raise RecipeError(
            f"{torch.cuda.device_count()} GPUs are visible and training uses one: choose it with "
            "CUDA_VISIBLE_DEVICES=0"
        )
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RecipeError("several processes were launched and training uses one: start it without")


def require_masters(recipe: Recipe, what: str) -> None:
    """Raise `RecipeError` where all weights would be trained in a dtype that loses small updates."""
    if recipe.student.dtype != "float32":
        raise RecipeError(
            f"{what} needs fp32 masters and student.dtype is {recipe.student.dtype}: set it to "
            "float32 (train.bf16 still computes in bfloat16)"
        )


def _stored_dtype(recipe: Recipe) -> torch.dtype:
    if recipe.train.save_dtype == "float32":
        return torch.float32
    model = recipe.student
    config = AutoConfig.from_pretrained(
        resolve_path(model.path), revision=model.revision, trust_remote_code=model.trust_remote_code
    )
    return config.dtype if isinstance(config.dtype, torch.dtype) else torch.float32
