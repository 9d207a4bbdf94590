"""Two processes under DDP train the adapter that one trains, and send k values, not the weights."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.adapters import two_processes
from tests.adapters.adapted import Net, adapt, differing, mask_of, weights_of
from tests.adapters.two_processes import STEPS, batches, train

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes left."""
    folder = tmp_path_factory.mktemp("processes")
    words = [sys.executable, two_processes.__file__, str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [*words, str(rank), "2"], cwd=ROOT, env=environment, stderr=subprocess.PIPE
        )
        for rank in range(2)
    ]
    for process in started:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors.decode()[-3000:]
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def test_both_hold_the_same_bits(found: list[dict[str, Any]]) -> None:
    one, other = found
    assert differing(one["weights"], other["weights"]) == []
    assert differing(*({n: v.detach() for n, v in f["values"].items()} for f in found)) == []


def test_they_train_what_one_process_trains(found: list[dict[str, Any]]) -> None:
    base = Net()
    start = weights_of(base)
    model = adapt(base, mask_of(base))
    train(model, batches(0, 1))
    expected = weights_of(model)
    assert differing(expected, start) != []
    for name, weight in found[0]["weights"].items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-4, atol=1e-5)


def test_only_k_values_are_sent_each_step(found: list[dict[str, Any]]) -> None:
    assert [one["sent"] for one in found] == [STEPS * mask_of(Net()).count()] * 2


def test_applying_an_adapter_in_memory_does_without_peft(found: list[dict[str, Any]]) -> None:
    """Importing it takes seconds; a new process is needed to see."""
    assert [one["without_peft"] for one in found] == [True, True]


def test_the_base_comes_back_in_each(found: list[dict[str, Any]]) -> None:
    assert [one["restored"] for one in found] == [True, True]
