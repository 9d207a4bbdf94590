"""One cell of a data set → the prompt a model is given, and the answer its last turn holds."""

from __future__ import annotations

from typing import Any

from sparseopd.errors import DataError

ROLES = ("system", "user", "assistant", "tool")

Message = dict[str, str]
"""A turn: "role" and "content", both text."""


def is_conversation(cell: Any) -> bool:
    """Whether a cell holds chat messages rather than text."""
    return isinstance(cell, list)


def to_messages(cell: Any, system: str | None, where: str) -> list[Message]:
    """Return the turns up to and including the last one of the user.

    Plain text becomes one user turn, after `system` if given. `where` ("row 3 of x.jsonl") starts
    the sentence of the `DataError` raised when there is no prompt.
    """
    if not is_conversation(cell):
        opening = [{"role": "system", "content": system}] if system else []
        return [*opening, {"role": "user", "content": to_text(cell, where)}]
    turns = [_message(turn, where) for turn in cell]
    last = max((place for place, turn in enumerate(turns) if turn["role"] == "user"), default=None)
    if last is None:
        raise DataError(f"{where} has no user message, so nothing to answer")
    if not turns[last]["content"].strip():
        raise DataError(f"{where} has an empty prompt: fill it, or remove the row")
    return turns[: last + 1]


def to_text(cell: Any, where: str) -> str:
    """Return a plain-text prompt. Raises `DataError` when it is empty or no text."""
    if cell is not None and not isinstance(cell, str):
        raise DataError(
            f"{where} has a prompt of type {type(cell).__name__}: give text or a list of messages"
        )
    if cell is None or not cell.strip():
        raise DataError(f"{where} has an empty prompt: fill it, or remove the row")
    return cell


def closing_answer(cell: Any, where: str) -> str | None:
    """Return the text of the assistant's last turn, if the conversation ends on one."""
    if not is_conversation(cell) or not cell:
        return None
    last = _message(cell[-1], where)
    return last["content"] if last["role"] == "assistant" else None


def _message(turn: Any, where: str) -> Message:
    if not isinstance(turn, dict) or "role" not in turn or "content" not in turn:
        raise DataError(f'{where} has a message without "role" and "content": {str(turn)[:80]}')
    if turn["role"] not in ROLES:
        raise DataError(
            f"{where} has a message of role {turn['role']!r}: the roles are {', '.join(ROLES)}"
        )
    return {"role": turn["role"], "content": _content(turn["content"], where)}


def _content(content: Any, where: str) -> str:
    """Join the text blocks of a turn; image blocks only mark places, the pictures are a column."""
    if content is None or isinstance(content, str):
        return content or ""
    blocks = content if isinstance(content, list) else [content]
    texts = []
    for block in blocks:
        kind = block.get("type") if isinstance(block, dict) else type(block).__name__
        if kind not in ("text", "image"):
            raise DataError(f"{where} has a message block of type {kind!r}: only text and image")
        if kind == "text":
            texts.append(str(block.get("text") or ""))
    return "\n".join(texts)
