"""Turn the rows of a data set into the canonical columns that `prompts` describes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from datasets import Dataset, Features, List, Value

from sparseopd.errors import DataError
from sparseopd.recipe import Data
from sparseopd.tasks.answers import find_answers, find_privileged, find_teachers
from sparseopd.tasks.columns import Columns, find_columns
from sparseopd.tasks.conversations import is_conversation, to_messages, to_text
from sparseopd.tasks.images import IMAGES, to_images, undecoded
from sparseopd.tasks.placeholders import without_placeholders
from sparseopd.tasks.sources import Source, quiet
from sparseopd.tasks.teacher_prompts import teacher_text, teacher_turns

TURNS = List({"role": Value("string"), "content": Value("string")})


def canonical(
    source: Source,
    picked: Sequence[int],
    data: Data,
    *,
    chat: bool,
    graded: bool,
    teachers: Sequence[str],
) -> Dataset:
    """Return the picked rows in canonical form.

    Args:
        chat: whether prompts become chat messages or stay text.
        graded: whether every row needs an answer.
        teachers: the names that rows may route to; none leaves them unchecked.

    Raises:
        DataError: a column or a value is missing or of no use, in one sentence.
    """
    columns = find_columns(source, data)
    if columns.image and not chat:
        raise DataError(
            f"{source.label} has images (column {columns.image.name!r}) but the model has no chat "
            "template to place them: use a vision-language model whose processor has one"
        )
    rows = source.rows.select(picked)
    places = [f"row {number + 1} of {source.label}" for number in picked]
    texts = _texts(rows, columns, data, places, graded=graded, teachers=teachers)
    privileged = texts.pop("privileged", None)
    if columns.image:
        rows = undecoded(rows, columns.image.column)

    def convert(row: dict[str, Any], index: int) -> dict[str, Any]:
        where = places[index]
        prompt: Any = _prompt(columns.prompt.read(row), data.system, chat, where)
        new: dict[str, Any] = {name: several[index] for name, several in texts.items()}
        if columns.image:
            new["images"] = to_images(columns.image.read(row), source.folder, where)
            prompt = without_placeholders(prompt, len(new["images"]), where)
        if privileged:
            new["teacher_prompt"] = _teacher_prompt(data, prompt, privileged[index])
        return {**new, "prompt": prompt if chat else _after_system(data.system, prompt)}

    features = _features(chat, texts, bool(privileged), bool(columns.image))
    with quiet():
        return rows.map(
            convert, with_indices=True, remove_columns=rows.column_names, features=features
        )


def _texts(
    rows: Dataset,
    columns: Columns,
    data: Data,
    places: Sequence[str],
    *,
    graded: bool,
    teachers: Sequence[str],
) -> dict[str, list[str]]:
    """Read the columns of short texts: "answer", "teacher" and "privileged", where there are any."""
    found = {"answer": find_answers(rows, columns, places, data.grader, graded=graded)}
    if columns.teacher:
        found["teacher"] = find_teachers(rows, columns.teacher, places, teachers)
    if columns.privileged:
        found["privileged"] = find_privileged(rows, columns.privileged, places)
    return {name: texts for name, texts in found.items() if texts}


def _features(chat: bool, texts: dict[str, list[str]], privileged: bool, images: bool) -> Features:
    prompt = TURNS if chat else Value("string")
    features: dict[str, Any] = {"prompt": prompt}
    features |= {name: Value("string") for name in texts}
    if privileged:
        features["teacher_prompt"] = prompt
    if images:
        features["images"] = IMAGES
    return Features(features)


def _prompt(cell: Any, system: str | None, chat: bool, where: str) -> Any:
    """Return the student's prompt: turns with the system's for chat models, else the text alone."""
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
    return to_text(cell, where)


def _teacher_prompt(data: Data, prompt: Any, privileged: str) -> Any:
    if not isinstance(prompt, str):
        return teacher_turns(data.privileged_template, prompt, privileged)
    return _after_system(data.system, teacher_text(data.privileged_template, prompt, privileged))


def _after_system(system: str | None, text: str) -> str:
    return f"{system}\n\n{text}" if system else text
