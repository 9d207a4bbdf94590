"""The arithmetic task: three-digit sums and differences with a checkable answer.

Operands are zero padded, and the answer's digits come lowest first, as carries travel: the answer
to `047+968=` is `5101` (1015 read backwards), and to `402-117=` it is `582`.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Problem:
    """One sum or difference of two numbers below 1000; a difference is never negative."""

    left: int
    sign: str
    right: int

    @property
    def prompt(self) -> str:
        """The question as the user writes it, such as `047+968=`."""
        return f"{self.left:03d}{self.sign}{self.right:03d}="

    @property
    def answer(self) -> str:
        """The right answer: four digits for a sum, three for a difference, lowest digit first."""
        return self.solution[::-1]

    @property
    def solution(self) -> str:
        """The right result as it is usually written, highest digit first."""
        if self.sign == "+":
            return f"{self.left + self.right:04d}"
        return f"{self.left - self.right:03d}"

    @property
    def skill(self) -> Literal["sum", "difference"]:
        """What has to be worked out."""
        return "sum" if self.sign == "+" else "difference"

    @property
    def borrows(self) -> bool:
        """Whether a column of a difference has to borrow from the next."""
        return self.sign == "-" and any(
            self.left % power < self.right % power for power in (10, 100)
        )


def parse(prompt: str) -> Problem:
    """Read a prompt back into the problem it states."""
    return Problem(int(prompt[:3]), prompt[3], int(prompt[4:7]))


def problems(rng: random.Random, *, subtraction: float = 0.5) -> Iterator[Problem]:
    """Draw problems without end, the given share of them differences."""
    while True:
        first, second = rng.randrange(1000), rng.randrange(1000)
        if rng.random() < subtraction:
            yield Problem(max(first, second), "-", min(first, second))
        else:
            yield Problem(first, "+", second)


def simplify(problem: Problem, rng: random.Random) -> Problem:
    """Turn each column of `problem` into zero plus or minus zero with probability a half.

    One column at a time is what a tiny model learns first; given such problems among the others it
    needs a third of the steps.
    """
    left, right = problem.left, problem.right
    for power in (1, 10, 100):
        if rng.random() < 0.5:
            left -= left // power % 10 * power
            right -= right // power % 10 * power
    if problem.sign == "-":
        left, right = max(left, right), min(left, right)
    return Problem(left, problem.sign, right)


def distinct(source: Iterator[Problem], count: int) -> list[Problem]:
    """Take the first `count` problems of `source` that differ from each other."""
    found: dict[Problem, None] = {}
    while len(found) < count:
        found[next(source)] = None
    return list(found)


def one_digit_wrong(answer: str, rng: random.Random) -> str:
    """Replace one random digit of `answer` by a random other one."""
    place = rng.randrange(len(answer))
    other = rng.choice([digit for digit in "0123456789" if digit != answer[place]])
    return answer[:place] + other + answer[place + 1 :]
