"""Ctrl-C while training: end the step, save a state to go on from, and stop.

interrupts = Interrupts(resumable=True, every=recipe.rollout.updates)
trainer = Trainer(..., callbacks=[interrupts])
with interrupts:
    trainer.train()
interrupts.stopped   # None, or the step whose state was saved
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

import torch
import torch.distributed
from accelerate import PartialState
from transformers import TrainerCallback

from sparseopd.distill import processes

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def _to_stderr(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


class Interrupts(TrainerCallback):
    """A context in which SIGINT (Ctrl-C) and SIGTERM stop a training run at a state that is saved.

    The first signal is answered with a sentence and takes effect at the end of a step; Ctrl-C after
    that raises `KeyboardInterrupt` at once. Of several processes, all stop after the same step if any
    was signalled. In the last step a signal changes nothing: the run ends there anyway. The handlers
    found are put back at the end, whatever ends the context.

    Without a state to go on from, and outside the main thread (where Python allows no handlers), the
    context does nothing. Signals that were ignored stay ignored (`nohup`).

    `accelerate launch` passes a signal on to its processes, and kills them 30 seconds later.
    """

    def __init__(
        self, *, resumable: bool, every: int = 1, tell: Callable[[str], None] = _to_stderr
    ) -> None:
        """Prepare; the handlers are set when the context begins.

        Args:
            resumable: whether a saved state is any good.
            every: updates of one batch of rollouts. A state is whole only where a batch has ended.
            tell: shows a sentence to whoever pressed Ctrl-C.
        """
        self._resumable, self._every, self._tell = resumable, every, tell
        self._previous: dict[signal.Signals, Any] = {}
        self._signalled = False
        self._step = 0
        self._steps: int | None = None
        self.stopped: int | None = None
        """The step whose state was saved, where a signal stopped the run."""

    def __enter__(self) -> Interrupts:
        """Set the handlers."""
        self.stopped = None
        if self._resumable and threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                found = signal.getsignal(number)
                # A handler set by C code reads as None, and could not be put back.
                if found not in (None, signal.SIG_IGN):
                    self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        """Put the handlers back that were there before."""
        self._signalled = False
        while self._previous:
            signal.signal(*self._previous.popitem())

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Take over the step that training begins after, and its last."""
        self._step, self._steps = state.global_step, state.max_steps

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Save and stop, where a process was signalled and a batch of rollouts has ended."""
        self._step = state.global_step
        ends = self._step >= state.max_steps or control.should_training_stop
        if not self._resumable or ends or self._step % self._every:
            return
        if _in_any_process(self._signalled):
            control.should_save = control.should_training_stop = True
            self.stopped = self._step

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._signalled:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        self._signalled = True
        if processes.is_main():
            # A signal may arrive while the same stream is being written.
            with suppress(RuntimeError):
                self._tell(self._sentence(number))

    def _sentence(self, number: int) -> str:
        last = -(-(self._step + 1) // self._every) * self._every
        last = last if self._steps is None else min(last, self._steps)
        again = "again " if number == signal.SIGINT else ""
        return f"finishing step {last}, then saving; press Ctrl-C {again}to stop at once"


def _in_any_process(signalled: bool) -> bool:
    """Whether any process was signalled; all must ask, as they wait for each other."""
    if processes.count() == 1:
        return signalled
    flag = torch.tensor(int(signalled), device=PartialState().device)
    torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
    return bool(flag.item())
