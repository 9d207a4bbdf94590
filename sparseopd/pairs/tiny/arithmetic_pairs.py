"""Recipes of the arithmetic pairs: which models, taught which lessons, saved where."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import Qwen3ForCausalLM

from sparseopd.pairs.tiny import supervised
from sparseopd.pairs.tiny.arithmetic_lessons import COLUMNS, Lesson, new_model, teach, write_rows
from sparseopd.pairs.tiny.vocabulary import character_tokenizer


def build_noisy(out: Path, seed: int, scale: float) -> None:
    """Write `tiny-arithmetic`: a student taught wrong answers, and a larger teacher."""
    tokenizer, test = character_tokenizer(), write_rows(out, subtraction=0.5)
    student = new_model(tokenizer, seed, width=96, layers=3)
    noisy = Lesson(steps=1800, batch=32, peak_lr=2e-3, wrong=0.32, wrong_from=0.7)
    teach(student, tokenizer, noisy, seed=seed, scale=scale, held_out=test)
    supervised.save(student, tokenizer, out / "student")
    teacher = new_model(tokenizer, seed + 1, width=128, layers=3)
    clean = Lesson(steps=1800, batch=32, peak_lr=2e-3)
    teach(teacher, tokenizer, clean, seed=seed + 1, scale=scale, held_out=test)
    supervised.save(teacher, tokenizer, out / "teacher")


def build_sibling(out: Path, seed: int, scale: float) -> None:
    """Write `tiny-arithmetic-sibling`: a student that can hardly borrow, and itself taught on.

    One difference with a borrow in eighty is enough for a guess that the teacher can correct. With
    none, the student is certain of its wrong digits, and reverse KL on its own samples moves little.
    """
    tokenizer, test = character_tokenizer(), write_rows(out, subtraction=0.7)
    model = new_model(tokenizer, seed, width=96, layers=3)
    partial = Lesson(steps=1800, batch=32, peak_lr=2e-3, borrows=0.0125)
    teach(model, tokenizer, partial, seed=seed, scale=scale, held_out=test)
    supervised.save(model, tokenizer, out / "student")
    model = Qwen3ForCausalLM.from_pretrained(out / "student", dtype=torch.float32)
    whole = Lesson(steps=1500, batch=32, peak_lr=1e-3, simple=0.3)
    teach(model, tokenizer, whole, seed=seed + 1, scale=scale, held_out=test)
    supervised.save(model, tokenizer, out / "teacher")


def build_hint(out: Path, seed: int, scale: float) -> None:
    """Write `tiny-arithmetic-hint`: one model that can hardly borrow, but reads a solution it is shown.

    It is student and teacher at once: the teacher's prompts hold the solution, highest digit first.
    Borrows are as rare as in `build_sibling`, for the same reason, but only where there is no hint.
    """
    columns = (*COLUMNS, "solution")
    tokenizer, test = character_tokenizer(), write_rows(out, subtraction=0.7, columns=columns)
    model = new_model(tokenizer, seed, width=96, layers=3)
    lesson = Lesson(steps=2400, batch=48, peak_lr=2e-3, borrows=0.0125, hinted=0.3)
    teach(model, tokenizer, lesson, seed=seed, scale=scale, held_out=test)
    supervised.save(model, tokenizer, out / "student")


def build_two_teachers(out: Path, seed: int, scale: float) -> None:
    """Write `tiny-arithmetic-two-teachers`: one that only saw sums, one that only saw differences.

    The student is that of `tiny-arithmetic`. Each teacher is wrong on the other's problems, so a
    prompt sent to the wrong one shows.
    """
    columns = (*COLUMNS, "skill")
    tokenizer, test = character_tokenizer(), write_rows(out, subtraction=0.3, columns=columns)
    for offset, (skill, share) in enumerate({"sum": 0.0, "difference": 1.0}.items()):
        teacher = new_model(tokenizer, seed + offset, width=96, layers=3)
        lesson = Lesson(steps=1200, batch=32, peak_lr=2e-3, subtraction=share)
        teach(teacher, tokenizer, lesson, seed=seed + offset, scale=scale, held_out=test)
        supervised.save(teacher, tokenizer, out / skill)
