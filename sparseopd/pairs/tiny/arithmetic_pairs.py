"""Recipes of the two arithmetic pairs: what each model is taught, and for how long."""

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
from sparseopd.pairs.tiny.vocabulary import character_tokenizer

TRAIN_ROWS, TEST_ROWS = 4096, 512
DATA_SEED = 1998  # the prompts are the same whatever the seed of the models


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """A stretch of supervised training."""

    steps: int
    batch: int
    peak_lr: float
    wrong: float = 0.0
    """Share of answers with one wrong digit."""
    wrong_from: float = 0.0
    """Share of the steps that pass before wrong answers appear: a skill is learnt clean first."""
    borrows: float = 1.0
    """Share of the differences with a borrow that are kept."""
    simple: float = 0.6
    """Share of the problems with columns blanked, see `arithmetic.simplify`."""


def build_noisy(out: Path, seed: int, scale: float) -> None:
    """Write `tiny-arithmetic`: a student taught wrong answers, and a larger teacher."""
    tokenizer, test = character_tokenizer(), write_rows(out, subtraction=0.5)
    student = _model(tokenizer, seed, width=96, layers=3)
    noisy = Lesson(steps=1800, batch=32, peak_lr=2e-3, wrong=0.32, wrong_from=0.7)
    teach(student, tokenizer, noisy, seed=seed, scale=scale, held_out=test)
    supervised.save(student, tokenizer, out / "student")
    teacher = _model(tokenizer, seed + 1, width=128, layers=3)
    clean = Lesson(steps=1800, batch=32, peak_lr=2e-3)
    teach(teacher, tokenizer, clean, seed=seed + 1, scale=scale, held_out=test)
    supervised.save(teacher, tokenizer, out / "teacher")


def build_sibling(out: Path, seed: int, scale: float) -> None:
    """Write `tiny-arithmetic-sibling`: a student that can hardly borrow, and itself taught on.

    One difference with a borrow in eighty is enough for a guess that the teacher can correct. With
    none, the student is certain of its wrong digits, and reverse KL on its own samples moves little.
    """
    tokenizer, test = character_tokenizer(), write_rows(out, subtraction=0.7)
    model = _model(tokenizer, seed, width=96, layers=3)
    partial = Lesson(steps=1800, batch=32, peak_lr=2e-3, borrows=0.0125)
    teach(model, tokenizer, partial, seed=seed, scale=scale, held_out=test)
    supervised.save(model, tokenizer, out / "student")
    model = Qwen3ForCausalLM.from_pretrained(out / "student", dtype=torch.float32)
    whole = Lesson(steps=1500, batch=32, peak_lr=1e-3, simple=0.3)
    teach(model, tokenizer, whole, seed=seed + 1, scale=scale, held_out=test)
    supervised.save(model, tokenizer, out / "teacher")


def write_rows(out: Path, *, subtraction: float) -> frozenset[Problem]:
    """Write `train.jsonl` and `test.jsonl`, disjoint, and return the test problems.

    The given share of the prompts are differences.
    """
    source = arithmetic.problems(random.Random(DATA_SEED), subtraction=subtraction)
    found = arithmetic.distinct(source, TEST_ROWS + TRAIN_ROWS)
    _write_jsonl(out / "test.jsonl", found[:TEST_ROWS])
    _write_jsonl(out / "train.jsonl", found[TEST_ROWS:])
    return frozenset(found[:TEST_ROWS])


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
        prompts = [supervised.render(tokenizer, problem.prompt) for problem in asked]
        return supervised.encode(tokenizer, prompts, [_reply(p, wrong, rng) for p in asked])

    supervised.fit(model, batch, steps=steps, peak_lr=lesson.peak_lr)


def _course(lesson: Lesson, rng: random.Random, held_out: frozenset[Problem]) -> Iterator[Problem]:
    """Draw the problems of a lesson."""
    for problem in arithmetic.problems(rng):
        if rng.random() < lesson.simple:
            problem = arithmetic.simplify(problem, rng)
        skipped = problem.borrows and rng.random() >= lesson.borrows
        if not skipped and problem not in held_out:
            yield problem


def _reply(problem: Problem, wrong: float, rng: random.Random) -> str:
    """Answer a problem, wrongly with probability `wrong`."""
    if rng.random() < wrong:
        return arithmetic.one_digit_wrong(problem.answer, rng)
    return problem.answer


def _model(
    tokenizer: PreTrainedTokenizerBase, seed: int, *, width: int, layers: int
) -> Qwen3ForCausalLM:
    """Make an untrained fp32 model from a seed."""
    torch.manual_seed(seed)
    # The usual spread of 0.02 suits widths in the thousands, not a hundred.
    return Qwen3ForCausalLM(qwen3(tokenizer, width=width, layers=layers, spread=0.06))


def _write_jsonl(path: Path, rows: Sequence[Problem]) -> None:
    """Write one `{"prompt", "answer"}` object a line."""
    lines = [json.dumps({"prompt": row.prompt, "answer": row.answer}) + "\n" for row in rows]
    path.write_text("".join(lines), encoding="utf-8")
