"""Load what every training stage needs, in the order in which mistakes are cheapest to find."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from transformers import AutoConfig, PreTrainedModel
from trl.import_utils import is_vllm_available

from sparseopd.distill import processes
from sparseopd.distill.arguments import batch_shape
from sparseopd.distill.routing import route, token_shares
from sparseopd.distill.sinks import check_sinks
from sparseopd.errors import DataError, MaskError, PairError, RecipeError
from sparseopd.masks.scope import in_scope
from sparseopd.optim.build import own_names
from sparseopd.pairs import (
    check_images,
    check_vocabulary,
    has_chat_template,
    load_model,
    load_processor,
    match_teacher,
    pick_device,
    resolve_path,
    teacher_device,
)
from sparseopd.pairs.loading import Processor
from sparseopd.recipe import Recipe, Teacher
from sparseopd.tasks.prompts import Prompts, load_prompts

WITHOUT_TEACHER = ("sft", "grpo")
"""Kinds that need no teacher's weights."""


@dataclass(frozen=True)
class LoadedTeacher:
    """A teacher's settings, and its weights unless a server has them."""

    settings: Teacher
    model: PreTrainedModel | None


@dataclass(frozen=True)
class Prepared:
    """A student and teachers that fit, the processor and the prompts."""

    student: PreTrainedModel
    teachers: dict[str, LoadedTeacher]
    processor: Processor
    prompts: Prompts
    stored_dtype: torch.dtype
    """The dtype the source checkpoint is stored in, which the trained one keeps."""
    shares: list[float] | None
    """Each teacher's share of the tokens; None leaves them as they come."""
    notes: list[str]
    """What was done to make them fit, in sentences."""


def prepare(recipe: Recipe, weights: Path | None = None) -> Prepared:
    """Load processors, prompts and models. Raises a `RequestError` with one sentence.

    `weights` is the folder of a checkpoint of this student to start from, in place of the source.
    """
    check_device(recipe)
    batch_shape(recipe)  # refuses batches that the launched processes cannot share
    check_sinks(recipe.train.report_to)
    check_vllm(recipe)
    processor = load_processor(recipe.student)
    teachers = {} if recipe.objective.kind in WITHOUT_TEACHER else recipe.all_teachers()
    notes = []
    for teacher in teachers.values():
        found = check_vocabulary(processor, load_processor(teacher))
        notes += [found] if found else []
    prompts = _prompts(recipe, processor)
    start = recipe.student
    if weights is not None:
        start = replace(start, path=str(weights), revision=None)
    student = load_model(start)
    freeze(student, recipe.train.freeze)
    loaded = {name: _load_teacher(recipe, one) for name, one in teachers.items()}
    dropped = [
        match_teacher(student, one.model) for one in loaded.values() if one.model is not None
    ]
    notes += [
        f"the teacher's {rows} padding rows beyond the student's vocabulary were left out"
        for rows in dropped
        if rows
    ]
    shares = token_shares(recipe) if len(loaded) > 1 else None
    return Prepared(student, loaded, processor, prompts, _stored_dtype(recipe), shares, notes)


def check_vllm(recipe: Recipe) -> None:
    """Raise `RecipeError` where the recipe needs vLLM on this side and it is missing."""
    teachers = () if recipe.objective.kind in WITHOUT_TEACHER else recipe.all_teachers().values()
    served = any(teacher.server is not None for teacher in teachers)
    if (served or recipe.rollout.vllm is not None) and not is_vllm_available():
        what = "a teacher on a server" if served else f"rollout.vllm={recipe.rollout.vllm}"
        raise RecipeError(f"{what} needs vLLM here: pip install 'trl[vllm]'")


def freeze(student: PreTrainedModel, words: list[str]) -> None:
    """Freeze the parameters that match. Raises `RecipeError` for a word that matches none, or all."""
    if not words:
        return
    parameters = own_names(student)
    try:
        trained = set(in_scope(parameters, [], words))
    except MaskError as error:
        raise RecipeError(f"train.freeze: {error}") from error
    for name, parameter in parameters.items():
        if name not in trained:
            parameter.requires_grad_(False)


def _prompts(recipe: Recipe, processor: Processor) -> Prompts:
    prompts = load_prompts(
        recipe.data, chat=has_chat_template(processor), teachers=list(recipe.all_teachers())
    )
    check_images(prompts.has_images, processor)
    served = [one.server for one in recipe.all_teachers().values() if one.server is not None]
    if prompts.has_images and served:
        raise RecipeError(
            f"the prompts have images and a teacher is on the server {served[0]}, which scores text alone: "
            "drop its server"
        )
    updates = 1 if recipe.objective.kind in ("offline-kd", "sft") else recipe.rollout.updates
    needed = recipe.train.batch_size * updates
    if len(prompts.train) < needed:
        raise DataError(
            f"{recipe.data.train} has {len(prompts.train)} training prompts, fewer than "
            f"train.batch_size {recipe.train.batch_size}"
            + (f" times rollout.updates {updates}" if updates > 1 else "")
            + ": lower train.batch_size"
        )
    return route(recipe, prompts)


def _load_teacher(recipe: Recipe, teacher: Teacher) -> LoadedTeacher:
    if teacher.server is not None:
        return LoadedTeacher(teacher, None)
    # Other kinds' teachers are moved by their trainer, which knows the process's own GPU.
    samples = recipe.objective.kind == "offline-kd"
    elsewhere = samples or teacher.quantization is not None or teacher.device is not None
    device = teacher_device(teacher, pick_device(recipe.device)) if elsewhere else None
    try:
        return LoadedTeacher(teacher, load_model(teacher, device=device))
    except torch.cuda.OutOfMemoryError as error:
        raise PairError(
            f"the teacher {teacher.path} does not fit beside the student: try teacher.dtype=bfloat16, "
            "teacher.quantization=4bit or teacher.device"
        ) from error


def check_device(recipe: Recipe) -> None:
    """Refuse devices that training cannot use as asked.

    Raises `PairError` for one that is not there, `RecipeError` where transformers would spread one
    process over several GPUs.
    """
    device = pick_device(recipe.device)
    alone = processes.count() == 1
    if alone and device.type == "cuda" and torch.cuda.device_count() > 1:
        raise RecipeError(
            f"{torch.cuda.device_count()} GPUs are visible to one process: choose one with "
            "CUDA_VISIBLE_DEVICES=0, or use all with accelerate launch -m sparseopd"
        )


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
