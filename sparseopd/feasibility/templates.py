"""Checks of the chat templates of student and teachers, by what they make of one conversation."""

from __future__ import annotations

from typing import Any

from transformers import ProcessorMixin

from sparseopd.feasibility.described import Described
from sparseopd.feasibility.findings import Finding
from sparseopd.feasibility.subject import Subject

CONVERSATION = [
    {"role": "system", "content": "Answer briefly."},
    {"role": "user", "content": "What is 2 + 2?"},
]


def check_templates(subject: Subject) -> list[Finding]:
    """Render one conversation with both chat templates, with the recipe's variables, and compare."""
    student, variables = subject.student, subject.recipe.data.chat_template
    if student is None:
        return []
    return [_templates(student, teacher, variables) for teacher in subject.teachers.values()]


def _templates(student: Described, teacher: Described, variables: dict[str, Any]) -> Finding:
    topic = "chat template"
    lacking = [one.name for one in (student, teacher) if not one.template]
    if len(lacking) == 2:
        return Finding(
            "ok", topic, f"neither student nor {teacher.name} has one: prompts stay plain text"
        )
    if lacking == [teacher.name]:
        said = f"{teacher.name} has none and is shown the student's conversations as they are"
        return Finding("note", topic, said)
    if lacking:
        said = f"the student has none, so that {teacher.name} is shown plain text it may not be used to"
        return Finding("warning", topic, f"{said}: give the student a chat_template.jinja")
    ours, theirs = _rendered(student, variables), _rendered(teacher, variables)
    if ours == theirs:
        said = f"student and {teacher.name} render a conversation alike"
        return Finding("ok", topic, said)
    own, other = _first_difference(ours, theirs)
    said = (
        f"the student renders a conversation as …{own!r} and {teacher.name} as …{other!r}: the teacher "
        "is shown the student's, which it may not be used to"
    )
    return Finding("warning", topic, said)


def _rendered(model: Described, variables: dict[str, Any]) -> str:
    """What a model's template makes of a short conversation; the reason where it refuses."""
    processor = model.processor
    turns: list[dict[str, Any]] = [dict(turn) for turn in CONVERSATION]
    if isinstance(processor, ProcessorMixin):
        for turn in turns:
            turn["content"] = [{"type": "text", "text": turn["content"]}]
    for conversation in (turns, turns[1:]):  # some templates refuse a system turn
        try:
            return str(
                processor.apply_chat_template(
                    conversation, tokenize=False, add_generation_prompt=True, **variables
                )
            )
        except Exception as error:  # jinja's, or whatever a template raises
            reason = f"<{type(error).__name__}: {error}>"
    return reason


def _first_difference(ours: str, theirs: str, width: int = 24) -> tuple[str, str]:
    """Return a few characters of both texts from a little before where they part."""
    pairs = zip(ours, theirs, strict=False)
    at = next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(ours), len(theirs)))
    start = max(0, at - 6)
    return ours[start : at + width], theirs[start : at + width]
