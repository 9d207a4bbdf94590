r"""The grader `math`: is a completion's answer the same mathematical expression as the reference?

    mathematical(r"so \boxed{\sqrt{12}}", r"2 \sqrt { 3 }")   # True

By math-verify, over SymPy: fractions, roots, equations (`x=4` is 4), tuples, sets, percents; units and
degrees are dropped. The last \boxed{…} counts, without one what math-verify finds last; a reference that
is one letter is a choice, and texts that are alike but for spaces and case are the same.

A completion can keep SymPy busy for ever (9^9^9^9), where no signal reaches it. So another process
compares, and is ended after `SECONDS`: that completion is wrong. So is one whose box holds more than
`LONGEST` characters.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

from sparseopd.errors import DataError
from sparseopd.tasks.numbers import last_box

LONGEST = 400
"""Characters of an answer; of a completion without a box, its last ones are read."""
SECONDS = 10.0
"""How long one comparison may take: usual ones take milliseconds."""
STARTING = 120.0
"""How long the process may take to start."""

_LETTER = re.compile(r"\(?([A-J])[).]?")
_STATED = re.compile(r"answer\s*(?:is|:)?\s*:?\s*\**\(?([A-J])(?![A-Za-z])", re.IGNORECASE)
_STANDING = re.compile(r"(?<![A-Za-z])([A-J])(?![A-Za-z])")
_TEXT = re.compile(r"\\(?:text|mathrm|textbf|mathbf)\s*\{([^{}]*)\}")


def check_installed() -> None:
    """Raise `DataError` where math-verify is missing."""
    if importlib.util.find_spec("math_verify") is None:
        raise DataError("the grader math needs math-verify: pip install 'sparseopd[math]'")


def mathematical(completion: str, answer: str) -> bool:
    """Whether the completion's answer is the reference's expression.

    Raises `DataError` where math-verify is not installed, or cannot be started.
    """
    wanted = _bare(last_box(answer))
    choice = _LETTER.fullmatch(_plain(wanted))
    if choice:
        return _chosen(completion) == choice[1]
    box = last_box(completion)
    if box == completion:  # there is none: the expression must first be found
        return _same(completion[-LONGEST:], completion[-LONGEST:], wanted)
    said = _bare(box)
    return len(box) <= LONGEST and _same(said, f"${said}$", wanted)


def _same(said: str, expression: str, wanted: str) -> bool:
    """Whether two answers are the same text, or the same mathematics."""
    return _key(said) == _key(wanted) or _judge().same(expression, f"${wanted}$")


def _chosen(completion: str) -> str | None:
    """Return the letter a completion chooses: in its box; or stated; or the last that stands alone."""
    text = _plain(_bare(last_box(completion)[-LONGEST:]))
    found = [*_STATED.finditer(text)] or [*_STANDING.finditer(text)]
    return found[-1][1].upper() if found else None


def _bare(text: str) -> str:
    """Drop the dollar signs: those around mathematics, and those of amounts."""
    return text.replace(r"\$", "").replace("$", "").strip()


def _plain(text: str) -> str:
    return _TEXT.sub(r"\1", text).strip()


def _key(text: str) -> str:
    """Return what answers share that differ in spaces, case or a full stop alone."""
    return "".join(_plain(_bare(text)).casefold().split()).rstrip(".")


class _Judge:
    """The process that compares: started when first asked, and again after it had to be ended."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()

    def same(self, said: str, wanted: str) -> bool:
        """Ask; no answer in time is no."""
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._process = _start()
            return _ask(self._process, json.dumps([said, wanted]), SECONDS) == "true"


_JUDGES: dict[int, _Judge] = {}


def _judge() -> _Judge:
    """Return this process's own judge: after a fork, the parent's pipes are not the child's."""
    return _JUDGES.setdefault(os.getpid(), _Judge())


def _start() -> subprocess.Popen[str]:
    check_installed()
    worker = Path(__file__).with_name("expression_worker.py")
    process = subprocess.Popen(
        # -P: the modules beside the worker must not take the place of Python's own (numbers).
        [sys.executable, "-P", str(worker)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        encoding="utf-8",
        # Ctrl-C is for the run, which may go on to grade what it has sampled.
        start_new_session=True,
    )
    if _ask(process, None, STARTING) != "ready":
        raise DataError("math-verify does not start: try `python -c 'import math_verify'`")
    return process


def _ask(process: subprocess.Popen[str], line: str | None, seconds: float) -> str:
    """Write a line and read one; the process is ended after `seconds`, which reads as an empty line."""
    assert process.stdin and process.stdout
    ender = threading.Timer(seconds, process.kill)
    ender.daemon = True
    ender.start()
    try:
        if line is not None:
            process.stdin.write(line + "\n")
            process.stdin.flush()
        answered = process.stdout.readline().strip()
    except OSError:
        answered = ""
    finally:
        ender.cancel()
    if not answered:
        process.kill()
        process.communicate()
    return answered
