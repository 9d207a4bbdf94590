"""Find the columns of a data set that hold prompts, answers and images, and read the answers."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset

from sparseopd.errors import DataError
from sparseopd.recipe import Data
from sparseopd.tasks.conversations import closing_answer
from sparseopd.tasks.sources import Source


@dataclass(frozen=True)
class Columns:
    """The columns of one data set that hold each part; None where there is none."""

    prompt: str
    answer: str | None
    image: str | None


def find_columns(source: Source, data: Data) -> Columns:
    """Return the columns a recipe names, or the default ones that `source` has.

    Raises `DataError` when a named column, or any column of prompts, is missing.
    """
    prompt = _column(source, data.prompt, ("messages", "prompt"), "prompt")
    if prompt is None:
        raise DataError(
            f"{source.label} has no column messages or prompt but "
            f"{', '.join(source.rows.column_names)}: name the prompt's column with data.prompt"
        )
    return Columns(
        prompt=prompt,
        answer=_column(source, data.answer, ("answer",), "answer"),
        image=_column(source, data.image, ("images", "image"), "image"),
    )


def find_answers(
    rows: Dataset, columns: Columns, places: Sequence[str], grader: str | None, *, graded: bool
) -> list[str] | None:
    """Return every row's answer, or None where there are no answers at all.

    A row without one among others that have one has the empty text.

    Args:
        places: what to call each row in a sentence.
        grader: the grader the recipe names, which then needs every answer.
        graded: whether these rows are graded, so that no single answer may be missing.

    Raises:
        DataError: an answer is missing where rows are graded.
    """
    cells = rows[columns.answer or columns.prompt]
    read = answer_text if columns.answer else closing_answer
    answers = [read(cell, where) for cell, where in zip(cells, places, strict=True)]
    missing = [where for where, answer in zip(places, answers, strict=True) if not answer]
    nothing = len(missing) == len(answers)
    if missing and graded and not (nothing and grader is None):
        raise DataError(
            f"{missing[0]} has no answer, which the grader {grader or 'exact'} needs: "
            "name the answers' column with data.answer, or set data.grader=none"
        )
    return None if nothing else [answer or "" for answer in answers]


def answer_text(cell: Any, where: str) -> str | None:
    """Return an answer as text; whole floating-point numbers lose their `.0`.

    None for an absent or blank one. Raises `DataError` for anything but text and numbers.
    """
    if isinstance(cell, float):
        return str(int(cell)) if cell.is_integer() else repr(cell)
    if cell is not None and not isinstance(cell, (str, int)):
        raise DataError(f"{where} has an answer of type {type(cell).__name__}: give text or number")
    return None if cell is None or not str(cell).strip() else str(cell)


def _column(source: Source, wanted: str | None, defaults: Sequence[str], key: str) -> str | None:
    """Return the column the recipe names (it must exist), or the first default there is."""
    has = source.rows.column_names
    if wanted is None:
        return next((column for column in defaults if column in has), None)
    if wanted in has:
        return wanted
    near = difflib.get_close_matches(wanted, has, n=1)
    hint = f"did you mean {near[0]}?" if near else f"choose one with data.{key}"
    raise DataError(f"{source.label} has no column {wanted!r} but {', '.join(has)}: {hint}")
