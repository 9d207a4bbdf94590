"""Keep the student on the way: checkpoints of the weights after some steps of training.

    RUN/snapshots/step-N/   config, safetensors and processor after step N, as RUN/checkpoint holds the last

They are written beside the training, which ends in the same bits with them as without.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import PreTrainedModel, TrainerCallback

from sparseopd.artifacts import RunDir, folder_written_whole
from sparseopd.distill import processes
from sparseopd.distill.prepare import Prepared
from sparseopd.errors import RunFolderError
from sparseopd.pairs.loading import Processor


class Snapshots(TrainerCallback):
    """Writes the student after each of some steps; of several processes, the main one does.

    A resumed run has those up to its state already, for they are written before the state of their
    step; it removes later ones and writes them again.
    """

    def __init__(self, steps: Collection[int], prepared: Prepared, run: RunDir) -> None:
        self._steps, self._prepared, self._run = set(steps), prepared, run

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Remove what an interrupted run wrote after the state that this one goes on from."""
        if processes.is_main():
            for step in self._steps:
                if step > state.global_step:
                    shutil.rmtree(self._run.kept_weights(step), ignore_errors=True)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Write the student if it is wanted after this step."""
        if state.global_step in self._steps and processes.is_main():
            self._run.snapshots.mkdir(exist_ok=True)
            known = self._prepared
            folder = self._run.kept_weights(state.global_step)
            save_snapshot(known.student, known.processor, folder, known.stored_dtype)


def save_snapshot(
    student: PreTrainedModel, processor: Processor, folder: Path, dtype: torch.dtype
) -> None:
    """Write what `checkpoint.save_checkpoint` writes, whole or not at all, and leave the student as it is.

    Weights of another dtype are cast one by one, so that memory holds one copy of them, on the CPU.
    Raises `RunFolderError` with the operating system's reason.
    """
    held = student.config.dtype
    try:
        with folder_written_whole(folder) as temporary:
            student.save_pretrained(temporary, state_dict=_cast(student, dtype))
            student.config.dtype = dtype  # what was written names the dtype the student is held in
            student.config.save_pretrained(temporary)
            processor.save_pretrained(temporary)
    except SafetensorError as error:
        raise RunFolderError(f"cannot write the snapshot {folder}: {error}") from error
    finally:
        student.config.dtype = held


def _cast(student: PreTrainedModel, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the state of a student on the CPU; what shares its storage still does."""
    cast: dict[int, Tensor] = {}
    state = student.state_dict(keep_vars=True)
    for value in state.values():
        if id(value) not in cast:
            wanted = dtype if value.is_floating_point() else value.dtype
            cast[id(value)] = value.detach().to("cpu", wanted)
    return {name: cast[id(value)] for name, value in state.items()}
