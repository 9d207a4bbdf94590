"""Prompts of other tasks, for the students of the bundled pairs: what they forget, what masks carry over.

sums.jsonl               sums alone, of the numbers that the arithmetic students add
three-numbers.jsonl      `123+456-078=`, which no student was taught
without-pictures.jsonl   the digits' questions in other words, and no picture
"""

from __future__ import annotations

import json
import random
from pathlib import Path

from sparseopd.pairs.tiny.arithmetic import distinct, problems

SUMS, OTHERS = 2048, 128
NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def build(out: Path, seed: int, scale: float) -> None:
    """Write the files; they are the same whatever the seed, and train nothing."""
    rng = random.Random(2026)
    sums = distinct(problems(rng, subtraction=0.0), SUMS)
    _write(out / "sums.jsonl", [{"prompt": one.prompt, "answer": one.answer} for one in sums])
    three = (
        f"{rng.randrange(1000):03d}{rng.choice('+-')}{rng.randrange(1000):03d}"
        f"{rng.choice('+-')}{rng.randrange(1000):03d}="
        for _ in range(OTHERS)
    )
    _write(out / "three-numbers.jsonl", [{"prompt": prompt} for prompt in three])
    words = [
        f"what is {left} {sign} {right}?"
        for left in NUMBERS
        for right in NUMBERS
        for sign in ("plus", "times")
    ]
    _write(out / "without-pictures.jsonl", [{"prompt": one} for one in rng.sample(words, k=OTHERS)])


def _write(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
