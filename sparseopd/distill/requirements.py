"""What a recipe needs of this machine, its prompts and its processor, refused before anything is written."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from accelerate import PartialState
from datasets import Dataset
from pyarrow.compute import list_value_length  # pyright: ignore[reportAttributeAccessIssue]
from trl.import_utils import is_vllm_available

from sparseopd.distill import processes
from sparseopd.errors import DataError, RecipeError
from sparseopd.pairs import check_images, encode, pick_device
from sparseopd.pairs.loading import Processor
from sparseopd.recipe import Recipe, Teacher
from sparseopd.settings.batches import batch_shape
from sparseopd.settings.objective import WITHOUT_TEACHER
from sparseopd.tasks.prompts import Prompts


def check_machine(recipe: Recipe) -> None:
    """Refuse devices, processes and missing packages that training cannot use as asked.

    Raises `PairError` for a device that is not there, `RecipeError` for the rest. Each of several
    processes takes its own GPU here, before a model is loaded.
    """
    device = pick_device(recipe.device)
    if processes.count() > 1:
        PartialState(cpu=device.type == "cpu")
    elif device.type == "cuda" and torch.cuda.device_count() > 1:
        raise RecipeError(
            f"{torch.cuda.device_count()} GPUs are visible to one process: choose one with "
            "CUDA_VISIBLE_DEVICES=0, or use all with accelerate launch -m sparseopd"
        )
    batch_shape(recipe.objective.kind, recipe.train, recipe.rollout, processes.count())
    for sink in recipe.train.report_to:
        if find_spec(sink) is None:
            raise RecipeError(
                f"train.report_to names {sink}, which is not installed: pip install {sink}"
            )
    served = [one for one in _teachers(recipe) if one.server is not None]
    if (served or recipe.rollout.vllm is not None) and not is_vllm_available():
        what = "a teacher on a server" if served else f"rollout.vllm={recipe.rollout.vllm}"
        raise RecipeError(f"{what} needs vLLM here: pip install 'trl[vllm]'")


def check_prompts(recipe: Recipe, prompts: Prompts, processor: Processor) -> None:
    """Refuse prompts that are too few, or that the kind, processor or teachers cannot work with.

    Raises `DataError` or `PairError` for the prompts, `RecipeError` for a setting.
    """
    shape = batch_shape(recipe.objective.kind, recipe.train, recipe.rollout)
    if len(prompts.train) < recipe.train.batch_size * shape.updates:
        raise DataError(
            f"{recipe.data.train} has {len(prompts.train)} training prompts, fewer than "
            f"train.batch_size {recipe.train.batch_size}"
            + (f" times rollout.updates {shape.updates}" if shape.updates > 1 else "")
            + ": lower train.batch_size"
        )
    check_images(prompts.has_images, processor)
    if prompts.has_images:
        _check_pictures(recipe, prompts.train, processor)
    if recipe.objective.kind == "sft":
        _check_references(prompts.train)
    if recipe.objective.kind == "grpo":
        _check_grading(prompts)


def _check_pictures(recipe: Recipe, rows: Dataset, processor: Processor) -> None:
    served = [one.server for one in _teachers(recipe) if one.server is not None]
    if served:
        raise RecipeError(
            f"the prompts have images and a teacher is on the server {served[0]}, which scores text alone: "
            "drop its server"
        )
    bare = _rows_without_pictures(rows)
    if 0 < bare < len(rows):
        raise DataError(
            f"{bare} of {len(rows)} training prompts of {recipe.data.train} have no image, which TRL's "
            "trainers cannot mix with others in a batch: leave those rows out, or train on them apart"
        )
    if recipe.rollout.batch_size is None or bare == len(rows):
        return
    pair = [rows[row] for row in (0, 1)]
    fields = encode(processor, pair, template=recipe.data.chat_template)
    if any(len(values) != len(pair) for values in fields.values()):
        raise RecipeError(
            "rollout.batch_size needs one image a prompt that the processor keeps row by row, and here it "
            "does not: drop it"
        )


def _rows_without_pictures(rows: Dataset) -> int:
    """Count them without decoding a picture."""
    parts: Any = rows.select_columns("images").with_format("arrow").iter(1024)
    return sum(
        length == 0 for part in parts for length in list_value_length(part["images"]).to_pylist()
    )


def _check_references(rows: Dataset) -> None:
    answers = list(rows["answer"]) if "answer" in rows.column_names else []
    if not answers or not all(answers):
        which = f"training row {answers.index('') + 1} has" if answers else "the prompts have"
        raise DataError(f"sft learns from reference answers, and {which} none: see data.answer")


def _check_grading(prompts: Prompts) -> None:
    if prompts.grader is None:
        raise DataError("grpo needs graded prompts, and there is no grader: set data.grader")
    # An answer that the grader cannot read is told now, and not in the midst of the run.
    for answer in prompts.train["answer"]:
        prompts.grader(answer, answer)


def _teachers(recipe: Recipe) -> list[Teacher]:
    if recipe.objective.kind in WITHOUT_TEACHER:
        return []
    return list(recipe.all_teachers().values())
