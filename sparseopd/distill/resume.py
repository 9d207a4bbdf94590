"""What a training run leaves on the way, so that it can go on where it stopped.

    RUN/started.json          which run it is: its name
    RUN/resume/checkpoint-N/  Trainer's state after step N: weights, optimizer, scheduler, RNG, position
    RUN/mask.safetensors      of a masked run, from its start

All of it but the mask is removed when the run has ended.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from transformers.trainer_utils import get_last_checkpoint

from sparseopd.artifacts import RunDir, read_json, write_json, written_whole
from sparseopd.errors import RunFolderError

_LAST_WRITTEN = "trainer_state.json"


@dataclass(frozen=True)
class Stopped:
    """A run that stopped before its end."""

    checkpoint: Path
    step: int
    name: str | None
    """What tables call the run, where it was given one."""


def mark_started(run: RunDir, name: str | None) -> None:
    """Write down what `resume` cannot find in the recipe."""
    write_json(run.started, {"name": name})


def find_stopped(run: RunDir) -> Stopped:
    """Find the last whole state of a run, and remove what its end left half-done.

    Raises `RunFolderError` if the run has ended, is no training run, or kept no checkpoint.
    """
    if run.facts.exists():
        forget(run)  # it may have been killed just before that
        raise RunFolderError(f"{run.path} has ended: there is nothing to resume")
    if not run.started.exists():
        raise RunFolderError(f"{run.path} is not a training run that stopped: give its folder")
    remove_partial(run)
    shutil.rmtree(run.checkpoint, ignore_errors=True)  # written, but not yet checked off the mask
    last = get_last_checkpoint(str(run.resume)) if run.resume.is_dir() else None
    if last is None:
        raise RunFolderError(
            f"{run.path} kept no state to resume from: train with train.save_every=N, and start this "
            "one again in another folder"
        )
    step = read_json(Path(last) / _LAST_WRITTEN)["global_step"]
    return Stopped(Path(last), step, read_json(run.started)["name"])


def remove_partial(run: RunDir) -> None:
    """Remove checkpoints that were being written when the run stopped."""
    for folder in run.resume.glob("checkpoint-*"):
        try:
            read_json(folder / _LAST_WRITTEN)
        except RunFolderError:
            shutil.rmtree(folder)


def trim_metrics(run: RunDir, step: int) -> None:
    """Drop the lines of steps that will be taken again."""
    kept = [row for row in run.read_metrics() if row["step"] <= step]
    with written_whole(run.metrics) as temporary:
        text = "".join(json.dumps(row) + "\n" for row in kept)
        temporary.write_text(text, encoding="utf-8")


def forget(run: RunDir) -> None:
    """Remove what only an unfinished run needs."""
    shutil.rmtree(run.resume, ignore_errors=True)
    run.started.unlink(missing_ok=True)
