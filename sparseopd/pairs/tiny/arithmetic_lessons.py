"""What the arithmetic models are taught: prompt files, fresh problems, supervised lessons."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase, Qwen3ForCausalLM

from sparseopd.pairs.tiny import arithmetic, supervised
from sparseopd.pairs.tiny.architectures import qwen3
from sparseopd.pairs.tiny.arithmetic import Problem

TRAIN_ROWS, TEST_ROWS = 4096, 512
DATA_SEED = 1998  # the prompts are the same whatever the seed of the models
COLUMNS = ("prompt", "answer")
HINTED = "{prompt} {privileged}"
"""A prompt with its reference solution, as `data.privileged_template` of a recipe writes it."""


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """A stretch of supervised training."""

    steps: int
    batch: int
    peak_lr: float
    subtraction: float = 0.5
    """Share of the problems that are differences."""
    wrong: float = 0.0
    """Share of answers with one wrong digit."""
    wrong_from: float = 0.0
    """Share of the steps that pass before wrong answers appear: a skill is learnt clean first."""
    borrows: float = 1.0
    """Share of the differences with a borrow that are kept, among problems without a hint."""
    simple: float = 0.6
    """Share of the problems with columns blanked, see `arithmetic.simplify`."""
    hinted: float = 0.0
    """Share of the problems whose prompt shows the solution, as `HINTED` has it."""


def write_rows(
    out: Path, *, subtraction: float, columns: Sequence[str] = COLUMNS
) -> frozenset[Problem]:
    """Write `train.jsonl` and `test.jsonl`, disjoint, and return the test problems.

    The given share of the prompts are differences. A row is an object of the properties of `Problem`
    that `columns` names.
    """
    source = arithmetic.problems(random.Random(DATA_SEED), subtraction=subtraction)
    found = arithmetic.distinct(source, TEST_ROWS + TRAIN_ROWS)
    _write_jsonl(out / "test.jsonl", found[:TEST_ROWS], columns)
    _write_jsonl(out / "train.jsonl", found[TEST_ROWS:], columns)
    return frozenset(found[:TEST_ROWS])


def new_model(
    tokenizer: PreTrainedTokenizerBase, seed: int, *, width: int, layers: int
) -> Qwen3ForCausalLM:
    """Make an untrained fp32 model from a seed."""
    torch.manual_seed(seed)
    # The usual spread of 0.02 suits widths in the thousands, not a hundred.
    return Qwen3ForCausalLM(qwen3(tokenizer, width=width, layers=layers, spread=0.06))


def teach(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    lesson: Lesson,
    *,
    seed: int,
    scale: float,
    held_out: frozenset[Problem],
) -> None:
    """Train `model` in place on fresh problems outside `held_out`; `scale` multiplies the steps."""
    steps = max(1, round(lesson.steps * scale))
    rng = random.Random(seed)
    source = _course(lesson, rng, held_out)

    def batch(step: int) -> supervised.Batch:
        wrong = lesson.wrong if step >= lesson.wrong_from * steps else 0.0
        asked = [next(source) for _ in range(lesson.batch)]
        prompts = [supervised.render(tokenizer, _question(p, hinted)) for p, hinted in asked]
        replies = [_reply(p, 0.0 if hinted else wrong, rng) for p, hinted in asked]
        return supervised.encode(tokenizer, prompts, replies)

    supervised.fit(model, batch, steps=steps, peak_lr=lesson.peak_lr)


def _course(
    lesson: Lesson, rng: random.Random, held_out: frozenset[Problem]
) -> Iterator[tuple[Problem, bool]]:
    """Draw the problems of a lesson, each with whether it comes with a hint."""
    for problem in arithmetic.problems(rng, subtraction=lesson.subtraction):
        if rng.random() < lesson.simple:
            problem = arithmetic.simplify(problem, rng)
        hinted = lesson.hinted > 0 and rng.random() < lesson.hinted
        skipped = not hinted and problem.borrows and rng.random() >= lesson.borrows
        if not skipped and problem not in held_out:
            yield problem, hinted


def _question(problem: Problem, hinted: bool) -> str:
    """Ask a problem, with its solution where there is a hint."""
    if hinted:
        return HINTED.format(prompt=problem.prompt, privileged=problem.solution)
    return problem.prompt


def _reply(problem: Problem, wrong: float, rng: random.Random) -> str:
    """Answer a problem, wrongly with probability `wrong`."""
    if rng.random() < wrong:
        return arithmetic.one_digit_wrong(problem.answer, rng)
    return problem.answer


def _write_jsonl(path: Path, rows: Sequence[Problem], columns: Sequence[str]) -> None:
    """Write one object a line, a row's properties by name."""
    lines = [json.dumps({name: getattr(row, name) for name in columns}) + "\n" for row in rows]
    path.write_text("".join(lines), encoding="utf-8")
