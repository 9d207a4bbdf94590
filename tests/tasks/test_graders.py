"""Graders judge what they say they judge, and fail loudly."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparseopd.errors import DataError
from sparseopd.tasks.graders import resolve_grader


def grade(name: str, completion: str, answer: str) -> bool:
    grader = resolve_grader(name)
    assert grader is not None
    return grader(completion, answer)


@pytest.mark.parametrize(
    ("completion", "answer", "right"),
    [
        ("12", "12", True),
        ("the sum is 1,234.", "1234", True),
        ("1,234,567.5 in all", "1234567.50", True),
        ("costs $-3.50.", "-7/2", True),
        (r"so \boxed{\frac{3}{4}} of 100", "0.75", True),
        (r"\boxed{7} then 9", "7", True),
        (r"\boxed{7} no, \boxed{9}", "7", False),
        (r"\boxed{12 is cut", "12", True),
        (r"\boxed{B} after 12", "12", False),
        ("1/3", "0.33333333", True),
        ("0.3333", "1/3", False),
        ("10-5", "5", True),
        ("x=-5", "5", False),
        ("x=−5", "-5", True),
        ("2.5e-3", "0.0025", True),
        ("1,2,3", "3", True),
        ("1{,}000", "1000", True),
        ("0042", "42", True),
        (".5", "1/2", True),
        ("12345678", "12345679", False),  # whole numbers are exact, whatever their size
        ("1000000.5", "1000000.6", True),  # others within 1e-6
        ("no number", "3", False),
        ("1/0", "3", False),
        ("1e999999999", "3", False),
        ("3", "#### 3", True),
    ],
)
def test_numeric_reads_the_last_number(completion: str, answer: str, right: bool) -> None:
    assert grade("numeric", completion, answer) is right


@given(st.integers(), st.integers(min_value=1, max_value=10**6), st.text(alphabet="abc ,.:\n"))
def test_numeric_finds_any_number_however_written(whole: int, part: int, words: str) -> None:
    assert grade("numeric", f"7 {words} {whole:,}", str(whole))
    assert grade("numeric", f"7 {words} {whole}/{part}", f"{whole}/{part}")
    assert not grade("numeric", f"{whole} {words} {whole + 1}", str(whole))


@given(st.text())
def test_numeric_never_fails_on_a_completion(completion: str) -> None:
    assert grade("numeric", completion, "3") in (True, False)


def test_numeric_refuses_an_answer_without_a_number() -> None:
    with pytest.raises(DataError, match="no number in the answer 'even'"):
        grade("numeric", "3", "even")


def test_exact_ignores_only_surrounding_space() -> None:
    assert grade("exact", " 12\n", "12")
    assert not grade("exact", "1 2", "12")
    assert not grade("exact", "Even", "even")


def test_regex_takes_the_last_match_and_its_first_group() -> None:
    assert grade("regex:answer: (\\w+)", "answer: a, answer: b", "b")
    assert not grade("regex:answer: (\\w+)", "answer: a, answer: b", "a")
    assert grade("regex:[a-d]", "c", "c")
    assert not grade("regex:x(y)?", "x", "")  # the group took no part: nothing was said
    assert not grade("regex:x", "", "x")


def test_none_is_no_grader() -> None:
    assert resolve_grader("none") is None


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("numerik", "did you mean numeric"),
        ("bleu", "choose exact, numeric, math, none, regex:PATTERN or package.module:function"),
        ("regex:(", "'\\(' is not valid"),
        ("regex:", "no pattern"),
        ("no_such_module:grade", "no_such_module:grade cannot be imported: No module named"),
        ("math:no_such", "has no attribute 'no_such'"),
        ("math:pi", "is of type float, not a function"),
        (":grade", "cannot be imported"),
    ],
)
def test_names_that_cannot_be_resolved(name: str, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        resolve_grader(name)


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "my_graders.py").write_text(
        "def right(completion, answer): return completion in answer\n"
        "def fails(completion, answer): raise KeyError('oops')\n"
        "def forgets(completion, answer): completion in answer\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield "my_graders"
    sys.modules.pop("my_graders", None)


def test_a_function_of_the_users_own(module: str) -> None:
    assert grade(f"{module}:right", "a", "abc")
    assert not grade(f"{module}:right", "x", "abc")


@pytest.mark.parametrize(
    ("name", "sentence"), [("fails", "fails failed on 'a': 'oops'"), ("forgets", "returned None")]
)
def test_a_failing_function_is_named(module: str, name: str, sentence: str) -> None:
    with pytest.raises(DataError, match=f"my_graders:{sentence}|my_graders:{name} {sentence}"):
        grade(f"{module}:{name}", "a", "abc")


def test_graders_load_no_torch() -> None:
    code = "import sys, sparseopd.tasks.graders; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
