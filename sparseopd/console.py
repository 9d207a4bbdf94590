"""What the command line shows: live progress, sentences, tables. Human output goes to stderr."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.filesize import decimal
from rich.progress import Progress, Task, TaskID
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from sparseopd.artifacts import Progress as Report

console = Console(stderr=True, highlight=False)

BAR = 6
"""Columns a bar keeps, however long the texts beside it."""
ECHO = 2
"""Columns left free at the end: where the terminal's own ^C wrapped, the line would be drawn twice."""
REMEMBERED = 3600.0
"""Seconds of steps behind an estimate: a step of a large model takes longer than rich's own 30."""


@contextmanager
def live_progress() -> Iterator[Report]:
    """Yield a function through which stages report; draw one line for each that is running.

    A stage that ends leaves one line, so that the screen never holds more than what is under way.
    Where nobody watches (no terminal) the lines are all there is, and a stage with figures to show
    leaves another one every tenth of its way.
    """
    lines = _Lines(
        console=console, disable=not console.is_terminal, speed_estimate_period=REMEMBERED
    )
    try:
        yield _Reporter(lines)
    finally:
        lines.stop()


@dataclass
class _Running:
    task: TaskID
    started: float
    done: int = 0


class _Reporter:
    """What stages call: draws, and says what is to stay."""

    def __init__(self, lines: _Lines) -> None:
        self._lines = lines
        self._running: dict[str, _Running] = {}

    def __call__(self, stage: str, done: int, total: int, unit: str = "", detail: str = "") -> None:
        self._lines.start()  # not before: a request refused at once leaves no empty bar
        amount = f"{_amount(done, unit)}/{_amount(total, unit)}"
        if stage not in self._running:
            task = self._lines.add_task(stage, total=total, amount=amount, detail=detail)
            self._running[stage] = _Running(task, time.monotonic())
        running = self._running[stage]
        before, running.done = running.done, done
        self._lines.update(running.task, completed=done, total=total, amount=amount, detail=detail)
        if done >= total:
            self._lines.remove_task(running.task)
            del self._running[stage]
            say(f"{stage}: {_amount(total, unit)} in {time.monotonic() - running.started:.1f} s")
        elif detail and not console.is_terminal and 10 * before // total < 10 * done // total:
            left = self._lines.left(running.task)
            say(f"{stage}: {amount} {detail}" + ("" if left is None else f", {_clock(left)} left"))


class _Lines(Progress):
    """One line a stage, cut to the terminal: name, bar, how far, its detail, the time left."""

    def left(self, task: TaskID) -> float | None:
        """Return the seconds a stage still needs, None before that can be told."""
        return next(one.time_remaining for one in self.tasks if one.id == task)

    def make_tasks_table(self, tasks: Iterable[Task]) -> Table:
        """Draw all lines, with their columns below each other; what does not fit ends in …"""
        shown = list(tasks)
        widths = _widths(shown, console.width - ECHO)
        table = Table.grid(padding=(0, 1))
        for width in widths:
            table.add_column(width=width, no_wrap=True, overflow="ellipsis")
        for task in shown:
            bar = ProgressBar(total=task.total or 1, completed=task.completed)
            clock = Text(_clock(task.time_remaining), style="progress.remaining", justify="right")
            table.add_row(Text(task.description), bar, Text(_figures(task, widths[2])), clock)
        return table


def _widths(tasks: Sequence[Task], width: int) -> tuple[int, int, int, int]:
    """Share a line between name, bar, figures and clock; the bar takes what the others leave."""
    names = max((cell_len(task.description) for task in tasks), default=0)
    amounts = max((cell_len(task.fields["amount"]) for task in tasks), default=0)
    figures = max((cell_len(_figures(task)) for task in tasks), default=0)
    clocks = max((cell_len(_clock(task.time_remaining)) for task in tasks), default=0)
    room = width - BAR - clocks - 3  # three gaps
    names = max(1, min(names, room - amounts))
    figures = max(1, min(figures, room - names))
    return names, BAR + max(0, room - names - figures), figures, clocks


def _figures(task: Task, width: int = 1000) -> str:
    """Join how far a stage is and its detail; without room for a word of it, leave the detail out."""
    amount, detail = task.fields["amount"], task.fields["detail"]
    return f"{amount} {detail}".rstrip() if width > cell_len(amount) + 4 else amount


def _clock(seconds: float | None) -> str:
    """Write 0:42, 12:05 or 3:00:00."""
    if seconds is None:
        return "-:--"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _amount(count: int, unit: str) -> str:
    return decimal(count) if unit == "bytes" else f"{count:,}"


def say(sentence: str) -> None:
    """Print a sentence; paths and names in it are shown as they are."""
    console.print(sentence, markup=False, soft_wrap=True)


def explain(sentence: str) -> None:
    """Print a sentence of prose, wrapped between words."""
    console.print(sentence, markup=False)


def print_json(value: Any) -> None:
    """Print machine-readable output on stdout."""
    if console.quiet:
        return
    sys.stdout.write(json.dumps(value, indent=1) + "\n")


def let_one_speak() -> None:
    """Of several launched processes, let the first alone print."""
    console.quiet = os.environ.get("RANK", "0") != "0"


def quiet_libraries() -> None:
    """Silence other libraries' bars, notices and usage reports; must run before they are imported."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    warnings.filterwarnings("ignore")
    for name in ("datasets", "accelerate", "trl", "huggingface_hub", "bitsandbytes"):
        logging.getLogger(name).setLevel(logging.ERROR)
