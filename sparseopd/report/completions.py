"""Sampled completions, arranged so that arms stand side by side under the prompt they answer."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from sparseopd.artifacts import ArmScores, Scores
from sparseopd.report import arms

MOST_PROMPTS = 4
MOST_PER_ARM = 2
LONGEST = 1500
"""Characters of a prompt or completion that are shown."""

_RIGHT, _WRONG = {"true", "1", "1.0", "yes"}, {"false", "0", "0.0", "no"}


@dataclass(frozen=True)
class Sample:
    """One completion of one arm."""

    arm: str
    color: str
    text: str
    verdict: str
    """"right", "wrong", or what the grader gave; empty when nothing was graded."""


@dataclass(frozen=True)
class Exhibit:
    """A prompt, its reference answer, and what the arms said."""

    prompt: str
    answer: str
    samples: list[Sample] = field(default_factory=list)


def exhibits(scores: Scores) -> list[Exhibit]:
    """Return the first few prompts with the first few completions of every arm, long ones cut."""
    found: dict[tuple[str, str], Exhibit] = {}
    for arm in scores.arms:
        shown: Counter[tuple[str, str]] = Counter()
        for example in arm.examples:
            key = str(example.get("prompt", "")), str(example.get("answer", ""))
            exhibit = found.setdefault(key, Exhibit(cut(key[0]), cut(key[1])))
            shown[key] += 1
            if shown[key] <= MOST_PER_ARM:
                exhibit.samples.append(_sample(arm, example))
    return list(found.values())[:MOST_PROMPTS]


def cut(text: str) -> str:
    """Cut `text` to `LONGEST` characters and say how much is missing."""
    if len(text) <= LONGEST:
        return text
    return f"{text[:LONGEST]}… ({len(text) - LONGEST:,} more characters)"


def _sample(arm: ArmScores, example: dict[str, str]) -> Sample:
    text, correct = str(example.get("completion", "")), example.get("correct")
    return Sample(arm.name, arms.look(arm).color, cut(text), _verdict(correct))


def _verdict(correct: object) -> str:
    text = "" if correct is None else str(correct).strip()
    if text.lower() in _RIGHT:
        return "right"
    return "wrong" if text.lower() in _WRONG else text
