"""What a training run writes down and shows while it goes on.

    RUN/metrics.jsonl       one row a logged step: `RunLog`
    RUN/completions.jsonl   some completions, every few steps: `Completions`

A row holds what the trainer logged ("loss", "kl", "entropy", TRL's "completions/…") and what is added
here: "truncated", the share of completions cut before their end; "grad_norm" of masked gradients;
"seconds" since this part of the run began; "tokens_per_second", prompt and completion tokens over the
time since they were last counted; "memory_gib", the main process's peak; and "telemetry".
"""

from __future__ import annotations

import json
import math
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from sparseopd.artifacts import Progress, RunDir, read_rows
from sparseopd.distill import processes
from sparseopd.optim import MaskedOptimizer
from sparseopd.optim.telemetry import watch_moments

TEXT_LIMIT = 2_000
"""Characters kept of a prompt or a completion."""


class RunLog(TrainerCallback):
    """Append each logged step to `metrics.jsonl` and report progress, in the main process alone."""

    def __init__(self, run: RunDir, stage: str, progress: Progress | None) -> None:
        self._path, self._stage, self._progress = run.metrics, stage, progress
        self._speed = _Speed()
        self._shown: dict[str, Any] = {}
        self.step = 0
        self.last: dict[str, Any] = {}
        """The last row of this part of the run."""
        self.optimizer: MaskedOptimizer | None = None
        self.telemetry: dict[str, float] = {}
        """The last measurement that has not been written yet."""

    def watch(self, optimizer: torch.optim.Optimizer, every: int) -> None:
        """Take the norm of masked gradients, and telemetry every so many steps, from `optimizer`."""
        if isinstance(optimizer, MaskedOptimizer):
            self.optimizer = optimizer
        elif every:
            watch_moments(optimizer, lambda: (self.step + 1) % every == 0, self._keep)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Take over the step that a resumed run goes on from, and start the clock."""
        self.step = state.global_step
        self._speed = _Speed(state.num_input_tokens_seen)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Report that a step is done; where it is about to be logged, `on_log` does."""
        self.step = state.global_step
        if self.optimizer is not None and self.optimizer.telemetry.get("step") == self.step:
            self.telemetry = self.optimizer.telemetry
        if not control.should_log:
            self._report(state)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Write one row; the summary that `Trainer` logs last has no loss and is left out."""
        if not state.is_world_process_zero or "loss" not in (logs or {}):
            return
        row = {"step": state.global_step, **logs, **self._own(logs)}
        self.last = {key: _finite(value) for key, value in row.items()}
        # Between two batches of rollouts some figures are not logged; the line keeps the last ones.
        self._shown |= self.last
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(self.last) + "\n")
        self._report(state)

    def _own(self, logs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the figures that no trainer logs."""
        own: dict[str, Any] = {}
        if "completions/clipped_ratio" in logs:
            own["truncated"] = logs["completions/clipped_ratio"]
        if self.optimizer is not None and self.optimizer.grad_norm is not None:
            own["grad_norm"] = float(self.optimizer.grad_norm)
        own |= self._speed.measure(logs.get("num_tokens"))
        own["memory_gib"] = round(peak_memory() / 2**30, 3)
        if self.telemetry:
            own["telemetry"], self.telemetry = self.telemetry, {}
        return own

    def _report(self, state: Any) -> None:
        if self._progress is not None and state.is_world_process_zero:
            done, total = state.global_step, state.max_steps
            self._progress(self._stage, done, total, "", detail(self._shown))

    def _keep(self, found: dict[str, float]) -> None:
        self.telemetry = {"step": self.step + 1, **found}


class Completions:
    """Keep a few completions every so many steps, as lines of a file.

    A line has "step", the updates the student had had; "prompt"; "completion"; and "truncated",
    whether the completion was cut before its end.
    """

    rows = 4
    """The most lines of one step."""

    def __init__(self, path: Path, every: int) -> None:
        self.path, self._every = path, every
        before = read_rows(path)
        self._last: int | None = before[-1]["step"] if before else None

    def due(self, step: int) -> bool:
        """Whether this process is to keep completions now: the first since a multiple of `every`.

        Batches of rollouts need not begin at such multiples.
        """
        new = self._last is None or step // self._every > self._last // self._every
        return new and processes.is_main()

    def keep(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append the first of `rows` ("prompt", "completion", "truncated"), with long texts cut."""
        self._last = step
        lines = [
            {
                "step": step,
                "prompt": _cut(row["prompt"]),
                "completion": _cut(row["completion"]),
                "truncated": bool(row["truncated"]),
            }
            for row in rows[: self.rows]
        ]
        with self.path.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(line) + "\n" for line in lines))


class _Speed:
    """A clock, and a count of tokens that began at `seen`."""

    def __init__(self, seen: float = 0) -> None:
        self._begun = self._since = time.monotonic()
        self._seen = seen

    def measure(self, tokens: float | None) -> dict[str, float]:
        """Return the "seconds" since the beginning and, where tokens were counted, "tokens_per_second".

        Args:
            tokens: prompt and completion tokens since the run began, over all processes, as TRL counts
                them when completions are sampled (supervised trainers: at every step). None where none
                were, such as between two batches of rollouts; the next figure then spans that time too.
        """
        now = time.monotonic()
        found = {"seconds": round(now - self._begun, 3)}
        if tokens is not None and now > self._since:
            found["tokens_per_second"] = round((tokens - self._seen) / (now - self._since), 1)
            self._since, self._seen = now, tokens
        return found


def peak_memory() -> int:
    """Return the most bytes this process has held: on its fullest GPU, else resident on the CPU."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        peaks = [
            torch.cuda.max_memory_allocated(index) for index in range(torch.cuda.device_count())
        ]
        if max(peaks):
            return max(peaks)
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts KiB everywhere but on macOS
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def detail(row: Mapping[str, Any]) -> str:
    """Sum up a row for the line of a running stage: loss .123 kl .101 ent .520 cut 3% 1.2k tok/s 0.9G.

    The most important comes first. What was not logged is left out; what is no finite number is a dash.
    """
    return " ".join(
        text.format("–" if _finite(row[key]) is None else form(row[key]))
        for key, text, form in _SHOWN
        if key in row
    )


def short(value: float) -> str:
    """Write a finite number in at most five characters and a sign: .123, 12.3, 1.2k, 1e-5."""
    if abs(value) < 0.9995:
        return _below_one(value)
    scaled = value
    for unit in ("", "k", "M", "G"):
        if abs(scaled) < 999.5:
            digits = 3 if not unit or abs(scaled) >= 99.5 else 2
            return f"{scaled:#.{digits}g}".rstrip(".") + unit
        scaled /= 1000
    return _scientific(value)


_SHOWN: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("loss", "loss {}", short),
    ("kl", "kl {}", short),
    ("reward", "reward {}", short),
    ("entropy", "ent {}", short),
    ("truncated", "cut {}%", lambda share: f"{100 * share:.0f}"),
    ("tokens_per_second", "{} tok/s", short),
    ("memory_gib", "{}G", "{:.1f}".format),
)


def _below_one(value: float) -> str:
    if value == 0:
        return "0"
    if abs(value) < 1e-3:
        return _scientific(value)
    return f"{value:.{4 if abs(value) < 0.01 else 3}f}".replace("0.", ".", 1)


def _scientific(value: float) -> str:
    mantissa, exponent = f"{value:.0e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def _cut(text: str) -> str:
    return text if len(text) <= TEXT_LIMIT else text[: TEXT_LIMIT - 1] + "…"


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
