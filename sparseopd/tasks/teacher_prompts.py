"""What the teacher alone sees: the student's prompt with a privileged text in its last user turn."""

from __future__ import annotations

import re

from sparseopd.tasks.conversations import Message

_PLACES = re.compile(r"\{(prompt|privileged)\}")


def teacher_text(template: str, prompt: str, privileged: str) -> str:
    """Fill {prompt} and {privileged} in, and nothing else: the texts may hold braces of their own."""
    texts = {"prompt": prompt, "privileged": privileged}
    return _PLACES.sub(lambda place: texts[place[1]], template)


def teacher_turns(template: str, turns: list[Message], privileged: str) -> list[Message]:
    """Return a prompt's turns, the last of which is the user's, as the teacher sees them."""
    *before, last = turns
    filled = teacher_text(template, last["content"], privileged)
    return [*before, {**last, "content": filled}]
