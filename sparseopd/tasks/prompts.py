"""Load the prompts of a recipe into train and test sets of one canonical form.

    prompt          list of {"role", "content"} turns for chat models, else text
    answer          the reference answer, where there are answers
    teacher         the name of the row's teacher, where data.teacher routes rows
    teacher_prompt  the prompt that the teacher sees in place of `prompt`, with data.privileged
    images          the row's pictures, where there are pictures

A conversation's prompt is everything up to the user's last turn; where no column holds answers, the
assistant's turn after it is the answer. `<image>` marks of a row's pictures are taken out of its text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from datasets import Dataset

from sparseopd.errors import DataError
from sparseopd.recipe import Data
from sparseopd.tasks.canonical import canonical
from sparseopd.tasks.graders import Grader, resolve_grader
from sparseopd.tasks.sources import open_source


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


def load_prompts(data: Data, *, chat: bool, teachers: Sequence[str] = ()) -> Prompts:
    """Read, split and canonicalize the prompts of a recipe.

    Without `data.test`, `data.holdout` rows drawn by `data.holdout_seed` are held out, before `data.limit`
    shortens what is left; a data set of fewer than twice as many rows gives a fifth of them.

    Args:
        chat: whether prompts become chat messages (the model has a chat template) or stay text.
        teachers: the recipe's names of several teachers. Where `data.teacher` routes rows, each row
            must name one of them, and each of them some training row; none leaves names unchecked.

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
    graded = data.grader != "none"
    train = canonical(source, kept, data, chat=chat, graded=False, teachers=teachers)
    test = canonical(other, held, data, chat=chat, graded=graded, teachers=teachers)
    _check_routes(train, data, teachers)
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


def _check_routes(train: Dataset, data: Data, teachers: Sequence[str]) -> None:
    """Raise `DataError` for a teacher that no training row names."""
    named = set(train["teacher"]) if "teacher" in train.column_names else set(teachers)
    idle = [name for name in teachers if name not in named]
    if idle:
        raise DataError(
            f"no training row of {data.train} names the teacher {idle[0]!r} in {data.teacher}, only "
            f"{', '.join(sorted(named))}: drop the teacher, or correct its name"
        )
