"""Read cells that hold a short text: answers, privileged contexts, names of teachers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from datasets import Dataset

from sparseopd.errors import DataError
from sparseopd.tasks.columns import Columns, Field
from sparseopd.tasks.conversations import closing_answer


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
    cells = (columns.answer or columns.prompt).read_all(rows)
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


def find_privileged(rows: Dataset, field: Field, places: Sequence[str]) -> list[str]:
    """Return what the teacher alone sees of every row. Raises `DataError` where that is nothing."""
    found = []
    for cell, where in zip(field.read_all(rows), places, strict=True):
        text = answer_text(cell, where, "a privileged text")
        if text is None:
            raise DataError(
                f"{where} has an empty {field.name}, which data.privileged shows to the teacher: "
                "fill it, or remove the row"
            )
        found.append(text)
    return found


def find_teachers(
    rows: Dataset, field: Field, places: Sequence[str], names: Sequence[str]
) -> list[str]:
    """Return the name of every row's teacher.

    Raises `DataError` where it is missing, or not among `names`; any name will do if there are none.
    """
    known = f"the teachers are {', '.join(names)}" if names else "several teachers need it"
    found = []
    for cell, where in zip(field.read_all(rows), places, strict=True):
        name = answer_text(cell, where, "a teacher")
        if name is None:
            raise DataError(f"{where} names no teacher in {field.name}: {known}")
        if names and name not in names:
            raise DataError(f"{where} names the teacher {name!r}: {known}")
        found.append(name)
    return found


def answer_text(cell: Any, where: str, what: str = "an answer") -> str | None:
    """Return an answer as text; whole floating-point numbers lose their `.0`.

    None for an absent or blank one. Raises `DataError` for anything but text and numbers, which it
    calls `what`.
    """
    if isinstance(cell, float):
        return str(int(cell)) if cell.is_integer() else repr(cell)
    if cell is not None and not isinstance(cell, (str, int)):
        raise DataError(f"{where} has {what} of type {type(cell).__name__}: give text or number")
    return None if cell is None or not str(cell).strip() else str(cell)
