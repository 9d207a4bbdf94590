"""Take `<image>` out of prompts: many data sets mark there where a picture goes.

The processor's chat template places the pictures, so a mark left in the text would be read as words,
or as one picture more.
"""

from __future__ import annotations

from collections.abc import Sequence

from sparseopd.errors import DataError
from sparseopd.tasks.conversations import Message

PLACEHOLDER = "<image>"


def without_placeholders(turns: Sequence[Message], pictures: int, where: str) -> list[Message]:
    """Remove the marks of a prompt's pictures, if it has any marks; a row without pictures is kept.

    `where` starts the sentence of the `DataError` raised when there are more or fewer marks than
    pictures.
    """
    marks = sum(turn["content"].count(PLACEHOLDER) for turn in turns)
    if not pictures or not marks:
        return list(turns)
    if marks != pictures:
        raise DataError(
            f"{where} has {marks} {PLACEHOLDER} {'mark' if marks == 1 else 'marks'} in its prompt "
            f"and {pictures} {'image' if pictures == 1 else 'images'}: give each image one, or none any"
        )
    return [{**turn, "content": _closed(turn["content"])} for turn in turns]


def _closed(text: str) -> str:
    """Drop the marks and the white space around them, except what parts two words or lines."""
    first, *others = text.split(PLACEHOLDER)
    for other in others:
        before, after = first.rstrip(), other.lstrip()
        space = max(first[len(before) :], other[: len(other) - len(after)], key=len)
        first = f"{before}{space or ' '}{after}" if before and after else before + after
    return first
