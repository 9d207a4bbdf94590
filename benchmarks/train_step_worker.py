"""One arm of `train_step.py` in a process of its own: `train_step_worker.py MEASURE ARM`.

It answers in lines of JSON on stdout: how the arm is built, then what `MEASURE` measures of it. "time"
takes one step for every line on stdin; "memory" takes three and ends.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from machine import forget_peak, resident, settled
from torch import Tensor, nn
from train_step_arms import (
    ARMS,
    BATCH,
    SHAPE,
    THREADS,
    Trained,
    held_bytes,
    load_model,
    total_bytes,
)

from sparseopd.console import quiet_libraries

WARM_UP, MEMORY_STEPS = 3, 3
Answer = Callable[[dict[str, Any]], None]


def main() -> None:
    """Measure one arm. What libraries print goes to stderr; an arm that cannot run says why."""
    measure, name = sys.argv[1:]
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(found: dict[str, Any]) -> None:
        print(json.dumps(found), file=out, flush=True)

    quiet_libraries()
    torch.set_num_threads(THREADS)
    try:
        MEASURES[measure](name, answer)
    except Exception as error:
        answer({"failed": f"{type(error).__name__}: {error}"})
        raise


def measure_time(name: str, answer: Answer) -> None:
    """Take the warm-up steps, then one timed step for every line that arrives."""
    arm, batches = ARMS[name](load_model()), torch.Generator().manual_seed(0)
    for _ in range(WARM_UP):
        timed_step(arm, batches)
    answer({"trained": arm.coordinates, "note": arm.note})
    for _ in sys.stdin:
        answer(timed_step(arm, batches))


def measure_memory(name: str, answer: Answer) -> None:
    """Read from the system what building the arm and taking three steps add to the loaded model.

    What building leaves behind counts in the peak of the steps; its own, brief peak stands apart.
    """
    model, batches = load_model(), torch.Generator().manual_seed(0)
    _rehearse(name)
    with torch.no_grad():
        _loss(model, batches)
    loaded = settled()
    forget_peak()
    arm = ARMS[name](model)
    building, built = resident("VmHWM"), settled()
    forget_peak()
    for _ in range(MEMORY_STEPS):
        timed_step(arm, batches)
    found = {
        "peak": resident("VmHWM") - loaded,
        "building": building - loaded,
        "built": built - loaded,
        **held_bytes(arm),
        "saved": saved_bytes(arm.model, batches),
    }
    answer({"trained": arm.coordinates, "note": arm.note, "bytes": found})


def _rehearse(name: str) -> None:
    """Build the arm on a small model and take a step: the code that this loads must not count."""
    small = load_model(hidden_size=256, intermediate_size=256, num_hidden_layers=1)
    timed_step(ARMS[name](small), torch.Generator())


def timed_step(arm: Trained, batches: torch.Generator) -> dict[str, float]:
    """Take one training step; return the seconds of its parts.

    A gradient that is gathered as it arrives is paid for in backward; writing values back into the
    weights and dropping gradients, in optimizer.
    """
    ids = _batch(batches)
    started = time.perf_counter()
    loss = arm.model(input_ids=ids, labels=ids, use_cache=False).loss
    forward = time.perf_counter()
    loss.backward()
    backward = time.perf_counter()
    if arm.optimizer is not None:
        arm.optimizer.step()
        arm.optimizer.zero_grad()
    ended = time.perf_counter()
    return {
        "forward": forward - started,
        "backward": backward - forward,
        "optimizer": ended - backward,
        "step": ended - started,
    }


def saved_bytes(model: nn.Module, batches: torch.Generator) -> int:
    """Return the bytes that one forward keeps for backward, parameters' own storages left out."""
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        parts = (tensor._indices(), tensor._values()) if tensor.is_sparse else (tensor,)
        kept.extend(parts)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = _loss(model, batches)
    own = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    found = total_bytes(one for one in kept if one.untyped_storage().data_ptr() not in own)
    del loss  # until here: a storage freed meanwhile would lend its address to another
    return found


def _loss(model: nn.Module, batches: torch.Generator) -> Tensor:
    ids = _batch(batches)
    return model(input_ids=ids, labels=ids, use_cache=False).loss


def _batch(batches: torch.Generator) -> Tensor:
    return torch.randint(SHAPE["vocab_size"], BATCH, generator=batches)


MEASURES: dict[str, Callable[[str, Answer], None]] = {
    "time": measure_time,
    "memory": measure_memory,
}

if __name__ == "__main__":
    main()
