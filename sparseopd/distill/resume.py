"""What a run that trains leaves on the way, so that it can go on where it stopped.

    RUN/started.json          which stage it is, and its name
    RUN/resume/checkpoint-N/  Trainer's state after step N: weights, optimizer, scheduler, RNG, position;
                              callbacks/ holds what Trainer does not know (`ResumableCallback`)
    RUN/mask.safetensors      of a masked run, from its start

All of it but the mask is removed when the run has ended.
"""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from trl.trainer.utils import RepeatSampler

from sparseopd import recipe as recipes
from sparseopd.artifacts import RunDir, read_json, read_rows, write_json, written_whole
from sparseopd.distill import processes
from sparseopd.distill.prepare import Prepared, prepare
from sparseopd.errors import RunFolderError
from sparseopd.recipe import Recipe

Stage = Literal["train", "discover"]
"""A command that trains, and that goes on with its runs."""

_CALLED = {"train": "training run", "discover": "discovery"}
_LAST_WRITTEN = "trainer_state.json"


@dataclass(frozen=True)
class Stopped:
    """A run that stopped before its end."""

    checkpoint: Path
    step: int
    name: str | None
    """What tables call the run, where it was given one."""


class ResumableCallback(TrainerCallback):
    """A callback that knows what a resumed run must know again."""

    def save_state(self, folder: Path) -> None:
        """Write it into a folder that others share."""
        raise NotImplementedError

    def load_state(self, folder: Path) -> None:
        """Take over what `save_state` wrote."""
        raise NotImplementedError


class NothingLeft(Exception):
    """A run was resumed after its last step."""


class StateKeeper(TrainerCallback):
    """Keeps and takes up what Trainer does not: what other callbacks know, and the order of prompts.

    It stands after all that may ask for a save or a stop. `on_save` would come too late: by then
    trainer_state.json, which makes a state whole, is written, and the state before is removed.
    """

    def __init__(self, callbacks: Sequence[ResumableCallback]) -> None:
        self._callbacks = callbacks

    def on_train_begin(
        self, args: Any, state: Any, control: Any, train_dataloader: Any = None, **_: Any
    ) -> None:
        """Shuffle as often as before; raise `NothingLeft` where Trainer would take a step too many."""
        if control.should_training_stop or state.global_step >= state.max_steps:
            raise NothingLeft
        _shuffle_again(train_dataloader, int(state.epoch or 0))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Begin the folder of the state that Trainer is about to save."""
        if not (control.should_save and self._callbacks and processes.is_main()):
            return
        checkpoint = Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
        folder = _shared(checkpoint)
        folder.mkdir(parents=True, exist_ok=True)
        for callback in self._callbacks:
            callback.save_state(folder)

    def load(self, checkpoint: Path) -> None:
        """Hand the callbacks what they knew at a state."""
        for callback in self._callbacks:
            callback.load_state(_shared(checkpoint))


def mark_started(run: RunDir, stage: Stage, name: str | None = None) -> None:
    """Write down what going on cannot find in the recipe."""
    write_json(run.started, {"stage": stage, "name": name})


def find_stopped(run: RunDir, stage: Stage) -> Stopped:
    """Find the last whole state of a run, and remove what its end left half-done.

    Raises `RunFolderError` if the run has ended, is none of this stage, or kept no state.
    """
    if run.facts.exists():
        if processes.is_main():
            forget(run)  # it may have been killed just before that
        raise RunFolderError(f"{run.path} has ended: there is nothing to resume")
    if not run.started.exists():
        raise RunFolderError(f"{run.path} is not a {_CALLED[stage]} that stopped: give its folder")
    started = read_json(run.started)
    found = started.get("stage", "train")  # alone resumable before stages were written down
    if found != stage:
        raise RunFolderError(
            f"{run.path} is a {_CALLED[found]}: go on with {resume_command(run, found)}"
        )
    states = _whole_states(run)
    if not states:
        raise RunFolderError(
            f"{run.path} kept no state to resume from: {stage} with train.save_every=N, and start this "
            "one again in another folder"
        )
    step = max(states)
    if processes.is_main():
        _remove_half_done(run, states[step])
    return Stopped(states[step], step, started["name"])


def reopen(run: RunDir, stopped: Stopped) -> tuple[Recipe, Prepared]:
    """Load the recipe and, with the weights of its last state, what is trained; drop later metrics.

    Where an adapter is trained, the weights are the source's still, and it is for its own callback to
    take it up.
    """
    recipe = recipes.load(run.recipe)
    prepared = prepare(recipe, None if recipe.train.peft else stopped.checkpoint)
    if processes.is_main():
        write_rows(run.metrics, [row for row in run.read_metrics() if row["step"] <= stopped.step])
        kept = [row for row in read_rows(run.completions) if row["step"] < stopped.step]
        write_rows(run.completions, kept)  # those of this very step are sampled, and kept, again
    prepared.notes.append(f"resumed after step {stopped.step}")
    return recipe, prepared


def resume_command(run: RunDir, stage: Stage) -> str:
    """Return the line that goes on with a run."""
    return f"sparseopd {stage} {shlex.quote(str(run.path))} --resume"


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write JSON lines, whole or not at all; no file where there are none."""
    if not rows:
        path.unlink(missing_ok=True)
        return
    with written_whole(path) as temporary:
        text = "".join(json.dumps(row) + "\n" for row in rows)
        temporary.write_text(text, encoding="utf-8")


def forget(run: RunDir) -> None:
    """Remove what only an unfinished run needs."""
    shutil.rmtree(run.resume, ignore_errors=True)
    run.started.unlink(missing_ok=True)


def _shuffle_again(loader: Any, epochs: int) -> None:
    """Draw the orders of the epochs gone by, where they come from a generator that no state holds.

    TRL's `RepeatSampler` (1.16) goes on with one generator from epoch to epoch. The samplers of
    `accelerate` are seeded anew for each.
    """
    batches = loader.batch_sampler
    sampler = getattr(batches, "batch_sampler", batches).sampler  # each process has a part of them
    if isinstance(sampler, RepeatSampler) and sampler.shuffle:
        for _ in range(epochs):
            torch.randperm(sampler.num_samples, generator=sampler.generator)


def _shared(checkpoint: Path) -> Path:
    return checkpoint / "callbacks"


def _whole_states(run: RunDir) -> dict[int, Path]:
    """Return the states by step, without those that were being written when the run stopped."""
    states = {}
    for folder in run.resume.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        try:
            states[read_json(folder / _LAST_WRITTEN)["global_step"]] = folder
        except RunFolderError:
            continue
    return states


def _remove_half_done(run: RunDir, last: Path) -> None:
    """Remove all states but the last, and a checkpoint that was not yet checked off the mask."""
    for folder in run.resume.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        if folder != last:
            shutil.rmtree(folder)
    shutil.rmtree(run.checkpoint, ignore_errors=True)
