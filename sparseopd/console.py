"""What the command line shows: live progress, sentences, tables. Human output goes to stderr."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from sparseopd.artifacts import Progress as Report

console = Console(stderr=True, highlight=False)


@contextmanager
def live_progress() -> Iterator[Report]:
    """Yield a function through which stages report; draw the running ones with an ETA.

    A stage that ends leaves one line, so that the screen never holds more than what is under way.
    Where nobody watches (no terminal) the lines are all there is.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[amount]}"),
        TextColumn("left"),
        TimeRemainingColumn(compact=True),
    )
    progress = Progress(*columns, console=console, disable=not console.is_terminal)
    running: dict[str, tuple[TaskID, float]] = {}

    def report(stage: str, done: int, total: int, unit: str = "") -> None:
        progress.start()  # not before: a request refused at once leaves no empty bar
        if stage not in running:
            task = progress.add_task(escape(stage), total=total, amount="")
            running[stage] = task, time.monotonic()
        task, started = running[stage]
        amount = f"{_amount(done, unit)}/{_amount(total, unit)}"
        progress.update(task, completed=done, total=total, amount=amount)
        if done >= total:
            progress.remove_task(task)
            del running[stage]
            say(f"{stage}: {_amount(total, unit)} in {time.monotonic() - started:.1f} s")

    try:
        yield report
    finally:
        progress.stop()


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
    sys.stdout.write(json.dumps(value, indent=1) + "\n")


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
