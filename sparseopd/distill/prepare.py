"""Load what every training stage needs, in the order in which mistakes are cheapest to find."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from transformers import AutoConfig, PreTrainedModel

from sparseopd.distill.requirements import check_machine, check_prompts
from sparseopd.distill.routing import route, token_shares
from sparseopd.distill.teachers import ServedTeacher
from sparseopd.errors import MaskError, PairError, RecipeError
from sparseopd.masks.scope import in_scope
from sparseopd.optim.build import own_names
from sparseopd.pairs import (
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
from sparseopd.settings.objective import WITHOUT_TEACHER
from sparseopd.tasks.prompts import Prompts, load_prompts


@dataclass(frozen=True)
class LoadedTeacher:
    """A teacher's settings, and its weights or the server that has them."""

    settings: Teacher
    model: PreTrainedModel | ServedTeacher


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
    check_machine(recipe)
    processor = load_processor(recipe.student)
    teachers = {} if recipe.objective.kind in WITHOUT_TEACHER else recipe.all_teachers()
    notes = []
    for teacher in teachers.values():
        found = check_vocabulary(processor, load_processor(teacher))
        notes += [found] if found else []
    names = list(recipe.all_teachers())
    prompts = load_prompts(recipe.data, chat=has_chat_template(processor), teachers=names)
    check_prompts(recipe, prompts, processor)
    start = recipe.student
    if weights is not None:
        start = replace(start, path=str(weights), revision=None)
    student = load_model(start)
    freeze(student, recipe.train.freeze)
    loaded = {name: _load_teacher(recipe, name, one) for name, one in teachers.items()}
    dropped = [
        match_teacher(student, one.model)
        for one in loaded.values()
        if not isinstance(one.model, ServedTeacher)
    ]
    notes += [
        f"the teacher's {rows} padding rows beyond the student's vocabulary were left out"
        for rows in dropped
        if rows
    ]
    shares = token_shares(recipe) if len(loaded) > 1 else None
    return Prepared(
        student, loaded, processor, route(recipe, prompts), _stored_dtype(recipe), shares, notes
    )


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


def _load_teacher(recipe: Recipe, name: str, teacher: Teacher) -> LoadedTeacher:
    if teacher.server is not None:
        return LoadedTeacher(teacher, ServedTeacher(name, teacher, recipe.objective.k or 1))
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


def require_masters(recipe: Recipe, what: str) -> None:
    """Raise `RecipeError` where all weights are to be trained, and would not be, or not well.

    That is in a dtype that loses small updates, or with an adapter asked for in their place.
    """
    if recipe.train.peft is not None:
        raise RecipeError(
            f"{what} trains all weights and train.peft asks for an adapter: set train.peft to null"
        )
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
