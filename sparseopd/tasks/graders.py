"""Graders: is a completion right? Each takes the completion and the reference answer.

    exact                    the same text, surrounding white space aside
    numeric                  the completion's last number is the answer's last number
    math                     the same mathematical expression, by math-verify
    regex:PATTERN            the last match in the completion is the answer
    package.module:function  your own: function(completion, answer) -> bool
    none                     no grading

There is no default grade: a grader that fails, or says neither true nor false, is an error.
"""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Callable
from typing import Any

from sparseopd.errors import DataError
from sparseopd.tasks.expressions import check_installed, mathematical
from sparseopd.tasks.numbers import last_number, same_number

Grader = Callable[[str, str], bool]
"""Called as grader(completion, answer)."""

_REGEX = "regex:"


def exact(completion: str, answer: str) -> bool:
    """Whether completion and answer are the same text, surrounding white space aside."""
    return completion.strip() == answer.strip()


def numeric(completion: str, answer: str) -> bool:
    r"""Whether the completion's last number (inside its last \boxed{…}, if any) is the answer's.

    Whole numbers must be equal, others within a relative 1e-6. Raises `DataError` if the answer
    holds no number.
    """
    wanted = last_number(answer)
    if wanted is None:
        raise DataError(f"the numeric grader finds no number in the answer {answer!r}")
    given = last_number(completion)
    return given is not None and same_number(given, wanted)


GRADERS: dict[str, Grader | None] = {
    "exact": exact,
    "numeric": numeric,
    "math": mathematical,
    "none": None,
}


def resolve_grader(name: str) -> Grader | None:
    """Return the grader of that name; None for "none".

    Raises `DataError` when the name, the pattern or the function behind it is no good.
    """
    if name == "math":
        check_installed()
    if name in GRADERS:
        return GRADERS[name]
    if name.startswith(_REGEX):
        return _regex(name.removeprefix(_REGEX))
    if ":" in name:
        return _guarded(name, _imported(name))
    known = [*GRADERS, "regex:PATTERN", "package.module:function"]
    near = difflib.get_close_matches(name, GRADERS, n=1)
    hint = f"did you mean {near[0]}?" if near else f"choose {', '.join(known[:-1])} or {known[-1]}"
    raise DataError(f"no grader is called {name!r}: {hint}")


def _regex(pattern: str) -> Grader:
    """Make the grader that compares the answer with the first group of the last match."""
    if not pattern:
        raise DataError("the regex grader has no pattern: write regex:PATTERN")
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise DataError(f"the grader's pattern {pattern!r} is not valid: {error}") from error

    def grade(completion: str, answer: str) -> bool:
        matches = list(compiled.finditer(completion))
        said = matches[-1][1 if compiled.groups else 0] if matches else None
        return said is not None and said.strip() == answer.strip()

    return grade


def _imported(name: str) -> Callable[..., Any]:
    module, _, attribute = name.partition(":")
    try:
        found = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except Exception as error:  # importing runs the user's own code, which may raise anything
        raise DataError(
            f"the grader {name} cannot be imported: {_first_line(error)} "
            "(is its folder on PYTHONPATH?)"
        ) from error
    if not callable(found):
        raise DataError(f"the grader {name} is of type {type(found).__name__}, not a function")
    return found


def _guarded(name: str, function: Callable[..., Any]) -> Grader:
    """Wrap a user's grader so that its failures are sentences naming it."""

    def grade(completion: str, answer: str) -> bool:
        try:
            verdict = function(completion, answer)
            valid = verdict in (True, False)  # numpy's booleans and 0/1 as well
        except Exception as error:
            raise DataError(
                f"the grader {name} failed on {completion[:60]!r}: {_first_line(error)}"
            ) from error
        if not valid:
            raise DataError(f"the grader {name} returned {verdict!r}, not true or false")
        return bool(verdict)

    return grade


def _first_line(error: BaseException) -> str:
    return (str(error).strip().split("\n")[0] or type(error).__name__).rstrip(".")
