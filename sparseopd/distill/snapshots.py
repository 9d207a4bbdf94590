"""Keep the student on the way: checkpoints of the weights after some steps of training.

    RUN/snapshots/step-N/   config, safetensors and processor after step N, as RUN/checkpoint holds the last

They are written beside the training, which ends in the same bits with them as without.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection
from typing import Any

from transformers import TrainerCallback

from sparseopd.artifacts import RunDir
from sparseopd.distill import processes
from sparseopd.distill.checkpoint import save_checkpoint
from sparseopd.distill.prepare import Prepared


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
            save_checkpoint(known.student, known.processor, folder, known.stored_dtype)
