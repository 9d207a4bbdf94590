"""How long prompts become, from a sample of the recipe's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sparseopd.errors import RequestError
from sparseopd.feasibility.described import Described
from sparseopd.feasibility.findings import Finding
from sparseopd.feasibility.plan import Lengths
from sparseopd.pairs import check_images, encode, has_chat_template
from sparseopd.pairs.loading import LOADING_ERRORS
from sparseopd.recipe import BUNDLED_PREFIX, Recipe
from sparseopd.settings.batches import batch_shape
from sparseopd.tasks import load_prompts

ASSUMED = 1024
"""Tokens of a prompt that cannot be looked at; the paper's LLM runs cut prompts there."""
SAMPLE, PICTURES = 200, 16
"""Rows that are tokenized: of text, and of text with images."""


def find_lengths(recipe: Recipe, student: Described | None) -> tuple[Lengths, list[Finding]]:
    """Return how long sequences become, and what was found out about the data on the way."""
    assumed = Lengths(ASSUMED, ASSUMED, recipe.rollout.max_new_tokens)
    if not _is_local(recipe.data.train) or student is None:
        here = "the student's tokenizer is not known"
        why = f"{recipe.data.train} is not on this machine" if student else here
        return assumed, [
            Finding(
                "unknown", "data", f"not checked: {why}; prompts of {ASSUMED:,} tokens are assumed"
            )
        ]
    try:
        return _measured(recipe, student, assumed)
    except RequestError as error:
        return assumed, [Finding("error", "data", str(error))]
    except LOADING_ERRORS as error:
        said = f"not checked: the prompts could not be tokenized ({error})"
        return assumed, [Finding("unknown", "data", said)]


def _measured(
    recipe: Recipe, student: Described, assumed: Lengths
) -> tuple[Lengths, list[Finding]]:
    # As many rows as tell whether there are too few for a batch of rollouts.
    shape = batch_shape(recipe.objective.kind, recipe.train, recipe.rollout)
    needed = recipe.train.batch_size * shape.updates
    data = replace(recipe.data, limit=min(recipe.data.limit or 2**31, max(SAMPLE, needed)))
    prompts = load_prompts(
        data, chat=has_chat_template(student.processor), teachers=list(recipe.all_teachers())
    )
    check_images(prompts.has_images, student.processor)
    if len(prompts.train) < needed:
        said = f"{recipe.data.train} has {len(prompts.train)} training prompts, fewer than the {needed} of "
        return assumed, [
            Finding("error", "data", f"{said}a batch of rollouts: lower train.batch_size")
        ]
    count = min(PICTURES if prompts.has_images else SAMPLE, len(prompts.train))
    rows = list(prompts.train.select(range(count)))
    own, images = _longest(student, rows, "prompt", recipe.data.chat_template)
    seen = own
    if "teacher_prompt" in prompts.train.column_names:
        seen, _ = _longest(student, rows, "teacher_prompt", recipe.data.chat_template)
    lengths = Lengths(own, seen, assumed.response, images, len(rows))
    return lengths, [Finding("ok", "data", _sentence(lengths, recipe))]


def _longest(
    student: Described, rows: Sequence[Any], column: str, template: dict[str, Any]
) -> tuple[int, int]:
    """Return the tokens of the longest prompt, and the most that are an image's."""
    fields = encode(student.processor, rows, column=column, template=template)
    ids, vision = fields["input_ids"], student.shape.vision if student.shape else None
    if vision is None or vision.image_token is None:
        return ids.shape[1], 0
    return ids.shape[1], int((ids == vision.image_token).sum(1).max())


def _sentence(lengths: Lengths, recipe: Recipe) -> str:
    images = f", {lengths.image_tokens:,} of them an image's" if lengths.image_tokens else ""
    teacher = (
        f" (the teacher's {lengths.teacher_prompt:,})"
        if lengths.teacher_prompt != lengths.prompt
        else ""
    )
    return (
        f"the longest of {lengths.sampled} prompts has {lengths.prompt:,} tokens{images}{teacher}; "
        f"responses have up to {recipe.rollout.max_new_tokens:,}"
    )


def _is_local(name: str) -> bool:
    return name.startswith(BUNDLED_PREFIX) or Path(name).expanduser().exists()
