"""Measure one model of a comparison: accuracy prompt by prompt, KL to the teacher, what it forgot.

What arms share (prompts, processor, teacher, the source's completions of another task) is kept in the
process from one measurement to the next.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from datasets import Dataset
from transformers import PreTrainedModel

from sparseopd import recipe as recipes
from sparseopd.comparison.jobs import Measuring, Split
from sparseopd.comparison.plan import local_teachers
from sparseopd.errors import RequestError
from sparseopd.evaluation.arms import Arm
from sparseopd.evaluation.divergence import divergence
from sparseopd.evaluation.evaluate import shared_by, silent
from sparseopd.evaluation.measure import Measurement, Shared, measure
from sparseopd.evaluation.teachers import free_memory
from sparseopd.pairs import has_chat_template, load_model, load_processor, pick_device
from sparseopd.pairs.loading import Processor
from sparseopd.pairs.sampling import Completion, sample
from sparseopd.recipe import Data, Recipe
from sparseopd.tasks import load_prompts

OTHER_PROMPTS = 128
"""Most prompts of another task that forgetting is measured on."""


@dataclass(frozen=True)
class Elsewhere:
    """The source, and what it says to prompts of another task."""

    source: PreTrainedModel
    prompts: Dataset
    completions: list[Completion]


def measured(job: Measuring, root: Path) -> dict[str, Any]:
    """Return what a measurement's file holds: per prompt the right samples and the KL, and the rest."""
    shared = _shared(job)
    path = job.recipe.student.path if job.run is None else str(job.run.path(root) / "checkpoint")
    teacher = next(iter(local_teachers(job.recipe)), "teacher")
    kind = "teacher" if job.role == "teacher" else "model"
    model = _model(job, shared, path, teacher)
    found = measure(Arm(name=job.label, kind=kind, path=path, teacher=teacher), model, shared)
    told = _told(found, job.recipe.evaluate.samples)
    if job.other_task is not None and job.role != "teacher":
        elsewhere = _elsewhere(job.recipe.to_yaml(), job.other_task)
        told["forgetting"] = _forgetting(model, elsewhere, shared.processor, job.recipe)
    return told


def count_train(recipe: Recipe) -> int:
    """Return how many rows a recipe trains on where none is held out for validation.

    Raises `RequestError` where nothing could tell one arm from another.
    """
    prompts = load_prompts(recipe.data, chat=True)
    if prompts.grader is None and not local_teachers(recipe):
        raise RequestError(
            f"nothing can tell arms of {recipe.name} apart: give its data answers and a grader, or a "
            "teacher whose weights are here"
        )
    return len(prompts.train)


def forget_models() -> None:
    """Let go of what is kept between measurements, for a device that is needed whole."""
    _kept.cache_clear()
    _elsewhere.cache_clear()
    free_memory()


def _told(found: Measurement, samples: int) -> dict[str, Any]:
    return {
        "samples": samples,
        "right": None if found.correct is None else found.correct.sum(axis=1).tolist(),
        "kl": None if found.kl is None else found.kl.tolist(),
        "truncated": found.truncated,
        "mean_tokens": found.mean_tokens,
    }


def _model(job: Measuring, shared: Shared, path: str, teacher: str) -> PreTrainedModel:
    if job.role == "teacher":
        return shared.teachers[teacher]
    free_memory()
    student = replace(job.recipe.student, path=path)
    if job.run is not None:
        student = replace(student, revision=None)
    return load_model(student, device=pick_device(job.recipe.device))


def _shared(job: Measuring) -> Shared:
    """Return what all models of a study are measured with; the samples' seed is the job's own."""
    evaluate = replace(job.recipe.evaluate, seed=0)
    kept = _kept(replace(job.recipe, evaluate=evaluate).to_yaml(), job.split, job.validation)
    return replace(kept, evaluate=job.recipe.evaluate)


@lru_cache(maxsize=2)
def _kept(text: str, split: Split, validation: int) -> Shared:
    recipe = recipes.build(yaml.safe_load(text))
    processor = load_processor(recipe.student)
    prompts = load_prompts(
        recipe.data, chat=has_chat_template(processor), teachers=list(recipe.all_teachers())
    )
    if split == "validation":
        rows = prompts.train.select(range(len(prompts.train) - validation, len(prompts.train)))
    else:
        rows = prompts.test.select(range(min(len(prompts.test), recipe.evaluate.prompts)))
    grader = prompts.grader if "answer" in rows.column_names else None
    return shared_by(recipe, processor, rows, grader, progress=silent)


@lru_cache(maxsize=1)
def _elsewhere(text: str, task: str) -> Elsewhere:
    """Sample the source on another task once; all arms are measured on the same completions."""
    recipe = recipes.build(yaml.safe_load(text))
    processor = load_processor(recipe.student)
    source = load_model(recipe.student, device=pick_device(recipe.device))
    data = Data(train=task, test=task, grader="none")
    rows = load_prompts(data, chat=has_chat_template(processor)).test
    rows = rows.select(range(min(len(rows), OTHER_PROMPTS)))
    completions = sample(
        source,
        processor,
        rows,
        rollout=recipe.rollout,
        samples=1,
        batch_size=recipe.evaluate.batch_size,
        seed=recipe.evaluate.seed,
        template=recipe.data.chat_template,
    )
    return Elsewhere(source, rows, completions)


def _forgetting(
    model: PreTrainedModel, elsewhere: Elsewhere, processor: Processor, recipe: Recipe
) -> float | None:
    """Return KL(source ‖ model) in nats a token, where the source speaks; None where it is infinite."""
    found = divergence(
        elsewhere.source,
        model,
        processor,
        elsewhere.prompts,
        elsewhere.completions,
        batch_size=recipe.evaluate.batch_size,
        template=recipe.data.chat_template,
    )
    mean = float(found.mean())
    return mean if math.isfinite(mean) else None
