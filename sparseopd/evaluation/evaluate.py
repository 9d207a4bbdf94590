"""Compare arms on the same held-out prompts, samples and random numbers.

    arms = arms_for([RunDir("full"), RunDir("sparse")], recipe)
    evaluate(arms, recipe).save(path)

One model is held beside the teacher at a time. Every figure has an interval over prompts; gains are
paired prompt by prompt, and the share of a gain that an arm keeps refers to the first full run.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from sparseopd.artifacts import Progress, Scores, versions
from sparseopd.errors import RequestError
from sparseopd.evaluation.agreement import agreement
from sparseopd.evaluation.arms import (
    Arm,
    TrainingRecord,
    check_run,
    in_order,
    model_of,
    training_record,
)
from sparseopd.evaluation.measure import Shared, measure
from sparseopd.evaluation.summary import Result, bootstrap_options, summarize
from sparseopd.pairs import (
    Tensors,
    check_images,
    check_vocabulary,
    has_chat_template,
    load_model,
    load_processor,
    open_tensors,
    pick_device,
    resolve_path,
)
from sparseopd.recipe import Recipe
from sparseopd.tasks import Prompts, load_prompts


def silent(stage: str, done: int, total: int, unit: str = "") -> None:
    """Show no progress."""


def evaluate(arms: Sequence[Arm], recipe: Recipe, *, progress: Progress = silent) -> Scores:
    """Measure every arm on the recipe's held-out prompts: source first, teacher last.

    Raises `RequestError` where arms, data or models do not fit, as far as that can be told before
    the first model is loaded.
    """
    if not arms:
        raise RequestError("nothing to evaluate: name at least one run folder or model")
    arms = in_order(arms)
    records = {arm.name: training_record(arm) for arm in arms}
    if len(records) < len(arms):
        raise RequestError("two arms have the same name: give each its own")
    shared, prompts = _prepare(arms, recipe, progress)
    reference = next((arm for arm in arms if arm.kind == "full"), None)
    results = [_result(arm, records[arm.name], recipe, shared, reference) for arm in arms]
    return Scores(
        name=recipe.name,
        settings=_settings(recipe, shared, prompts),
        arms=summarize(results, recipe.evaluate),
    )


def _prepare(arms: Sequence[Arm], recipe: Recipe, progress: Progress) -> tuple[Shared, Prompts]:
    """Load what all arms share, in the order in which mistakes are cheapest to find."""
    device = pick_device(recipe.device)
    processor = load_processor(recipe.student)
    # Runs keep the student's tokenizer; a model from elsewhere would read other words in our ids.
    for other in [recipe.teacher, *(model_of(arm, recipe) for arm in arms if arm.kind == "model")]:
        check_vocabulary(processor, load_processor(other))
    for arm in arms:
        check_run(arm, recipe)
    prompts = load_prompts(recipe.data, chat=has_chat_template(processor))
    check_images(prompts.has_images, processor)
    count = min(len(prompts.test), recipe.evaluate.prompts)
    shared = Shared(
        teacher=load_model(recipe.teacher, device=device),
        processor=processor,
        prompts=prompts.test.select(range(count)),
        grader=prompts.grader,
        rollout=recipe.rollout,
        evaluate=recipe.evaluate,
        progress=progress,
    )
    return shared, prompts


def _result(
    arm: Arm, record: TrainingRecord, recipe: Recipe, shared: Shared, reference: Arm | None
) -> Result:
    """Load, measure and let go of one arm's model."""
    _free()
    device = shared.teacher.device
    is_teacher = arm.kind == "teacher"
    model = shared.teacher if is_teacher else load_model(model_of(arm, recipe), device=device)
    measurement = measure(arm.name, model, shared)
    agreed = _agreement(arm, model, reference)
    return Result(arm=arm, record=record, measurement=measurement, agreement=agreed)


def _agreement(arm: Arm, model: PreTrainedModel, reference: Arm | None) -> dict[str, float] | None:
    """Compare with the full run, where there is one that is not the arm itself."""
    if reference is None or arm.kind == "teacher" or arm is reference:
        return None
    own: Tensors = open_tensors(arm.path if Path(resolve_path(arm.path)).is_dir() else model)
    return agreement(own, open_tensors(reference.path))


def _settings(recipe: Recipe, shared: Shared, prompts: Prompts) -> dict[str, Any]:
    """Return what all arms share, for the reader of the scores."""
    return {
        "student": recipe.student.path,
        "teacher": recipe.teacher.path,
        "data": recipe.data.test or recipe.data.train,
        "prompts": len(shared.prompts),
        "held_out": prompts.held_out,
        "samples": recipe.evaluate.samples,
        "grader": prompts.grader_name,
        "temperature": recipe.rollout.temperature,
        "top_p": recipe.rollout.top_p,
        "top_k": recipe.rollout.top_k,
        "max_new_tokens": recipe.rollout.max_new_tokens,
        "batch_size": recipe.evaluate.batch_size,
        "device": str(shared.teacher.device),
        "dtype": recipe.student.dtype,
        **bootstrap_options(recipe.evaluate),
        "versions": versions(),
    }


def _free() -> None:
    """Give the memory of the arm before back."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
