"""What the command line shows: live progress, sentences, tables. Human output goes to stderr."""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from sparseopd.artifacts import Progress as Report

console = Console(stderr=True, highlight=False)


@contextmanager
def live_progress() -> Iterator[Report]:
    """Draw a bar with an ETA for every stage that reports; yield the function to report through.

    Where nobody watches (no terminal), one line is printed as each stage ends.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    progress = Progress(*columns, console=console, disable=not console.is_terminal)
    tasks: dict[str, Any] = {}

    def report(stage: str, done: int, total: int) -> None:
        if not tasks:
            progress.start()  # not before: a request refused at once leaves no empty bar
        if stage not in tasks:
            tasks[stage] = progress.add_task(stage, total=total)
        progress.update(tasks[stage], completed=done, total=total)
        if done >= total and not console.is_terminal:
            say(f"{stage}: {done} of {total} done")

    try:
        yield report
    finally:
        if tasks:
            progress.stop()


def say(sentence: str) -> None:
    """Print a sentence; paths and names in it are shown as they are."""
    console.print(sentence, markup=False, soft_wrap=True)


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
