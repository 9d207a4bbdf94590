"""Checks of what student and teachers read and write: tokens and special tokens."""

from __future__ import annotations

from sparseopd.feasibility.described import Described
from sparseopd.feasibility.findings import Finding
from sparseopd.feasibility.subject import Subject
from sparseopd.pairs.loading import tokenizer_of
from sparseopd.pairs.vocabulary import compare_vocabularies, fewer_rows

SPECIAL = ("bos", "pad")
"""Special tokens that may differ; the end of a sequence may not."""


def check_tokens(subject: Subject) -> list[Finding]:
    """Compare the tokens of the student and of every teacher, and the rows of their models."""
    student = subject.student
    if student is None:
        return []
    findings = []
    for teacher in subject.teachers.values():
        tokens = _tokens(student, teacher)
        findings.append(tokens)
        if tokens.level != "error":
            findings += _rows(student, teacher)
    return findings


def check_special_tokens(subject: Subject) -> list[Finding]:
    """Compare the tokens that begin, end and pad sequences, and those that end a completion."""
    student = subject.student
    if student is None:
        return []
    return [
        finding
        for teacher in subject.teachers.values()
        for finding in _special_tokens(student, teacher)
    ]


def _tokens(student: Described, teacher: Described) -> Finding:
    found = compare_vocabularies(student.processor, teacher.processor)
    topic, name, count = "vocabulary", teacher.name, f"{len(found.differing):,}"
    advice = "choose a teacher with the student's tokenizer"
    if found.kind == "identical":
        return Finding(
            "ok", topic, f"student and {name} have the same {len(found.student):,} tokens"
        )
    if found.kind == "different":
        said = f"student and {name} differ in {count} tokens (for one, {found.example()})"
        return Finding("error", topic, f"{said}: {advice}")
    if found.kind == "student-extended":
        said = (
            f"the student has {count} tokens that {name} lacks and cannot score ({found.named()})"
        )
        return Finding("error", topic, f"{said}: {advice}")
    said = f"{name} has {count} tokens after the student's last ({found.named()})"
    inside = [t for t in found.differing if found.teacher[t] < _vocabulary_rows(student)]
    if not inside:
        return Finding(
            "note", topic, f"{said}: they are left out, as the student has no rows for them"
        )
    return Finding(
        "warning",
        topic,
        f"{said}, {len(inside):,} of them where the student has padding rows: it may learn to sample "
        "them, and its tokenizer has no text for them; add them to it, or choose another teacher",
    )


def _rows(student: Described, teacher: Described) -> list[Finding]:
    """Compare the rows of the embeddings, which may be more than there are tokens."""
    ours, theirs = _vocabulary_rows(student), _vocabulary_rows(teacher)
    if getattr(teacher.settings, "server", None) is not None or ours == theirs:
        return []
    if theirs < ours:
        return [Finding("error", "vocabulary", fewer_rows(ours, theirs))]
    said = f"{teacher.name} has {theirs:,} rows and the student {ours:,}: the last {theirs - ours:,} are left out"
    return [Finding("note", "vocabulary", said)]


def _special_tokens(student: Described, teacher: Described) -> list[Finding]:
    ours, theirs = tokenizer_of(student.processor), tokenizer_of(teacher.processor)
    if ours.eos_token != theirs.eos_token:
        return [
            Finding(
                "error",
                "special tokens",
                f"the student ends a sequence with {ours.eos_token!r} and {teacher.name} with "
                f"{theirs.eos_token!r}: set eos_token alike in both tokenizer_config.json files",
            )
        ]
    findings = []
    for name in SPECIAL:
        own, other = getattr(ours, f"{name}_token"), getattr(theirs, f"{name}_token")
        if own != other:
            said = f"the student's {name} token is {own!r} and {teacher.name}'s {other!r}: the student's is used"
            findings.append(Finding("note", "special tokens", said))
    if student.ends != teacher.ends:
        odd = sorted(student.ends ^ teacher.ends)
        texts = ", ".join(repr(ours.convert_ids_to_tokens(end)) for end in odd)
        said = (
            f"{texts} ends a completion for one of student and {teacher.name} alone: the student's "
            "generation_config.json decides where a completion ends"
        )
        findings.append(Finding("warning", "special tokens", said))
    if findings:
        return findings
    said = f"student and {teacher.name} end with {ours.eos_token!r} and pad with {ours.pad_token!r}"
    return [Finding("ok", "special tokens", said)]


def _vocabulary_rows(model: Described) -> int:
    return model.config.get_text_config().vocab_size
