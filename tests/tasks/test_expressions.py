"""The grader `math` reads answers as the public data sets write them, and ends what would not end."""

from __future__ import annotations

import importlib.util
import subprocess
import threading
from typing import Any

import pytest

from sparseopd.errors import DataError
from sparseopd.tasks import expressions
from sparseopd.tasks.expressions import LONGEST, mathematical
from sparseopd.tasks.graders import resolve_grader


@pytest.mark.parametrize(
    ("completion", "answer", "right"),
    [
        # Geometry3K, with its spaces
        (r"so \boxed{2\sqrt{3}}", r"2 \sqrt { 3 }", True),
        (r"\boxed{\sqrt{12}}", r"2 \sqrt { 3 }", True),
        (r"\boxed{3 \sqrt{2}}", r"2 \sqrt { 3 }", False),
        (r"\boxed{33 \frac{1}{3}}", r"33 \frac { 1 } { 3 }", True),
        (r"The answer is $\frac12$.", r"\frac{1}{2}", True),
        ("it is 0.5", r"\frac{1}{2}", True),
        ("so 5", "$5$", True),
        ("it is 12.5", "12.5", True),
        ("72.0", "72", True),
        (r"\boxed{-3}", "3", False),
        (r"\boxed{10 \pi}", r"10 \pi", True),
        # degrees, units, percents, amounts
        (r"\boxed{90}", r"90^\circ", True),
        (r"\boxed{90 ^ { \circ }}", "90", True),
        (r"\boxed{5\text{ cm}}", "5", True),
        (r"\boxed{5}", r"5 \text{ cm}", True),
        (r"\boxed{0.5}", r"50\%", True),
        (r"\boxed{5}", r"\$5", True),
        (r"\boxed{1,234}", "1234", True),
        # equations, tuples, sets, sums
        (r"\boxed{4}", "x=4", True),
        (r"\boxed{x = 4}", "4", True),
        (r"\boxed{(1, 2)}", "(1,2)", True),
        (r"\boxed{(2,1)}", "(1,2)", False),
        (r"\boxed{\{1,2\}}", r"\{2,1\}", True),
        (r"\boxed{x+1}", "1+x", True),
        # choices
        ("The answer is B.", "B", True),
        ("A triangle has three sides, so the answer is (C) 12", "C", True),
        ("I would say (B)", "B", True),
        (r"\boxed{\text{D}}", "(D)", True),
        (r"\boxed{B}, not A", "A", False),
        ("the answer is A. B is wrong", "B", False),
        ("a", "A", False),
        # which part of the completion counts
        (r"first \boxed{7} no, \boxed{9}", "9", True),
        (r"first \boxed{7} no, \boxed{9}", "7", False),
        (r"\boxed{\frac{1}{2}} of 100", "0.5", True),
        ("3 then 9", "9", True),
        ("3 then 9", "3", False),
        # what is no expression
        (r"\boxed{\text{no solution}}", "No solution", True),
        (r"\boxed{no solution}", r"\text{ no solution }", True),
        ("yes", "no", False),
        ("", "4", False),
        (r"\boxed{}", "4", False),
        (r"\boxed{12 is cut", "12", False),
    ],
)
def test_answers_are_compared_as_mathematics(completion: str, answer: str, right: bool) -> None:
    assert mathematical(completion, answer) is right


@pytest.mark.parametrize(
    "completion",
    [
        rf"\boxed{{{'1' * (LONGEST + 1)}}}",
        "(" * 300 + "1" + ")" * 300,
        r"\frac{1}{" * 100,
        "\\boxed{" * 100,
        "\u2028\n\x00\ud800",
    ],
)
def test_malformed_completions_are_wrong(completion: str) -> None:
    assert mathematical(completion, "4") is False


def test_a_number_that_cannot_be_computed_is_wrong_and_the_next_is_judged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert mathematical("so 4.0", "4")  # the process runs
    with monkeypatch.context() as short:
        short.setattr(expressions, "SECONDS", 0.3)
        assert mathematical(r"\boxed{9^{9^{9^9}}}", "4") is False
    assert mathematical(r"\boxed{\frac{8}{2}}", "4")


def test_it_works_outside_the_main_thread() -> None:
    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.append(mathematical("so 4.0", "4")))
    thread.start()
    thread.join()
    assert found == [True]


def test_the_name_resolves_to_it() -> None:
    assert resolve_grader("math") is mathematical


def test_without_the_library_the_sentence_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"pip install 'sparseopd\[math\]'"):
        resolve_grader("math")


def test_a_process_that_does_not_start_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(command: list[str], **options: Any) -> subprocess.Popen[str]:
        return real([command[0], "-c", "raise SystemExit(1)"], **options)

    real = subprocess.Popen
    monkeypatch.setattr(expressions, "_JUDGES", {})
    monkeypatch.setattr(subprocess, "Popen", broken)
    with pytest.raises(DataError, match="math-verify does not start"):
        mathematical("so 4.0", "4")
