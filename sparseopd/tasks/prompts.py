"""Load the prompts of a recipe into train and test sets of one canonical form.

    prompt   list of {"role", "content"} turns for chat models, else text
    answer   the reference answer, where there are answers
    images   the row's pictures, where there are pictures

A conversation's prompt is everything up to the user's last turn; where no column holds answers, the
assistant's turn after it is the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset, Features, List, Value

from sparseopd.errors import DataError
from sparseopd.recipe import Data
from sparseopd.tasks.columns import find_answers, find_columns
from sparseopd.tasks.conversations import is_conversation, to_messages, to_text
from sparseopd.tasks.graders import Grader, resolve_grader
from sparseopd.tasks.images import IMAGES, to_images, undecoded
from sparseopd.tasks.sources import Source, open_source, quiet

TURNS = List({"role": Value("string"), "content": Value("string")})


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """Train and held-out prompts in canonical form, and how completions are graded."""

    train: Dataset
    test: Dataset
    grader: Grader | None
    grader_name: str
    has_images: bool
    held_out: int = 0
    """How many rows of `data.train` became `test`; 0 when `data.test` names its own."""


def load_prompts(data: Data, *, chat: bool) -> Prompts:
    """Read, split and canonicalize the prompts of a recipe.

    Without `data.test`, `data.holdout` rows drawn by `data.holdout_seed` are held out, before `data.limit`
    shortens what is left; a data set of fewer than twice as many rows gives a fifth of them.

    Args:
        chat: whether prompts become chat messages (the model has a chat template) or stay text.

    Raises:
        DataError: anything missing, unreadable, empty or contradictory, in one sentence.
    """
    # A misspelt grader should be told before a large data set is read.
    grader = resolve_grader(data.grader) if data.grader else None
    source = open_source(data.train, data.train_split)
    if data.test:
        other = open_source(data.test, data.test_split)
        kept, held = range(len(source.rows)), range(len(other.rows))
    else:
        other = source
        kept, held = _hold_out(len(source.rows), data)
    kept = kept[: data.limit]
    train = _canonical(source, kept, data, chat=chat, graded=False)
    test = _canonical(other, held, data, chat=chat, graded=data.grader != "none")
    name = data.grader or ("exact" if "answer" in test.column_names else "none")
    return Prompts(
        train=train,
        test=test,
        grader=grader if data.grader else resolve_grader(name),
        grader_name=name,
        has_images="images" in train.column_names or "images" in test.column_names,
        held_out=0 if data.test else len(held),
    )


def _hold_out(count: int, data: Data) -> tuple[Sequence[int], Sequence[int]]:
    """Draw which rows to train on and which to hold out; each keeps the file's order."""
    if count < 2:
        raise DataError(
            f"the data set {data.train} has a single row, and needs one to train on and one to "
            "hold out: add rows, or name held-out prompts with data.test"
        )
    size = data.holdout if count >= 2 * data.holdout else max(1, count // 5)
    order = np.random.default_rng(data.holdout_seed).permutation(count)
    return sorted(order[size:].tolist()), sorted(order[:size].tolist())


def _canonical(
    source: Source, picked: Sequence[int], data: Data, *, chat: bool, graded: bool
) -> Dataset:
    """Turn the picked rows of a data set into the canonical columns."""
    columns = find_columns(source, data)
    if columns.image and not chat:
        raise DataError(
            f"{source.label} has images (column {columns.image!r}) but the model has no chat "
            "template to place them: use a vision-language model whose processor has one"
        )
    rows = source.rows.select(picked)
    places = [f"row {number + 1} of {source.label}" for number in picked]
    answers = find_answers(rows, columns, places, data.grader, graded=graded)
    if columns.image:
        rows = undecoded(rows, columns.image)

    def convert(row: dict[str, Any], index: int) -> dict[str, Any]:
        where = places[index]
        new: dict[str, Any] = {"prompt": _prompt(row[columns.prompt], data.system, chat, where)}
        if answers:
            new["answer"] = answers[index]
        if columns.image:
            new["images"] = to_images(row[columns.image], source.folder, where)
        return new

    features = _features(chat, bool(answers), bool(columns.image))
    with quiet():
        return rows.map(
            convert, with_indices=True, remove_columns=rows.column_names, features=features
        )


def _features(chat: bool, answers: bool, images: bool) -> Features:
    features: dict[str, Any] = {"prompt": TURNS if chat else Value("string")}
    if answers:
        features["answer"] = Value("string")
    if images:
        features["images"] = IMAGES
    return Features(features)


def _prompt(cell: Any, system: str | None, chat: bool, where: str) -> Any:
    if system and is_conversation(cell):
        raise DataError(
            f"{where} is a conversation, which data.system is not put before: give it a system "
            "turn of its own and drop data.system"
        )
    if chat:
        return to_messages(cell, system, where)
    if is_conversation(cell):
        raise DataError(
            f"{where} is a conversation but the model has no chat template: give a column of plain "
            "text with data.prompt, or a model with a template"
        )
    text = to_text(cell, where)
    return f"{system}\n\n{text}" if system else text
