"""Ctrl-C in the midst of a run: a state is kept, and the line that goes on with it is printed."""

from __future__ import annotations

import os
import shlex
import signal
from pathlib import Path
from typing import Any

import pytest

from sparseopd.distill.opd import OPDTrainer
from tests.integration.conftest import SHORT, Command


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_goes_on_to_the_same_bits(
    number: signal.Signals, tmp_path: Path, sparseopd: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["tiny-arithmetic", *SHORT, "data.limit=64"]
    assert not sparseopd("train", *words, "-o", tmp_path / "whole").code
    step = OPDTrainer.training_step

    def pressed(self: OPDTrainer, *inputs: Any, **more: Any) -> Any:
        if self.state.global_step == 1:
            os.kill(os.getpid(), number)
        return step(self, *inputs, **more)

    with monkeypatch.context() as signals:
        signals.setattr(OPDTrainer, "training_step", pressed)
        ran = sparseopd("train", *words, "-o", tmp_path / "half")
    assert ran.code == 130 and "error" not in ran.err
    last = ran.err.strip().splitlines()[-1]
    assert last.startswith("stopped after step 2 of 4: go on with sparseopd train ")
    assert not (tmp_path / "half" / "checkpoint").exists()
    line = shlex.split(last.partition("go on with ")[2])
    assert not sparseopd(*line[1:]).code
    name = "checkpoint/model.safetensors"
    assert (tmp_path / "half" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not (tmp_path / "half" / "resume").exists()


def test_an_interrupted_discovery_goes_on_to_the_same_mask(
    tmp_path: Path, sparseopd: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["tiny-arithmetic", *SHORT, "data.limit=64", "--steps", 4, "discover.check_every=1"]
    assert not sparseopd("discover", *words, "-o", tmp_path / "whole").code
    step = OPDTrainer.training_step

    def pressed(self: OPDTrainer, *inputs: Any, **more: Any) -> Any:
        if self.state.global_step == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, *inputs, **more)

    half = tmp_path / "half"
    with monkeypatch.context() as signals:
        signals.setattr(OPDTrainer, "training_step", pressed)
        ran = sparseopd("discover", *words, "-o", half)
    assert ran.code == 130 and "error" not in ran.err
    last = ran.err.strip().splitlines()[-1]
    assert last.startswith("stopped after step 2 of 4: go on with sparseopd discover ")
    ran = sparseopd("train", half, "--resume")
    assert ran.code == 2 and "go on with sparseopd discover " in ran.err
    ran = sparseopd("discover", half, "--resume", "--density", 0.2)
    assert ran.code == 2 and "nothing else, sparseopd discover RUN --resume" in ran.err
    ran = sparseopd(*shlex.split(last.partition("go on with ")[2])[1:])
    assert not ran.code and "resumed after step 2" in ran.err and "mask of" in ran.err
    for name in ("mask.safetensors", "stability.jsonl", "delta.json"):
        assert (half / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not (half / "resume").exists() and not (half / "started.json").exists()


def test_rollouts_of_several_updates_are_finished_first(
    tmp_path: Path, sparseopd: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [
        "tiny-arithmetic", *SHORT, "data.limit=64", "objective.kind=sampled-token",
        "rollout.samples=2", "rollout.updates=2", "train.steps=6",
    ]  # fmt: skip
    assert not sparseopd("train", *words, "-o", tmp_path / "whole").code
    step = OPDTrainer.training_step

    def pressed(self: OPDTrainer, *inputs: Any, **more: Any) -> Any:
        if self.state.global_step == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, *inputs, **more)

    with monkeypatch.context() as signals:
        signals.setattr(OPDTrainer, "training_step", pressed)
        assert (
            "stopped after step 4 of 6" in sparseopd("train", *words, "-o", tmp_path / "half").err
        )
    assert not sparseopd("train", tmp_path / "half", "--resume").code
    name = "checkpoint/model.safetensors"
    assert (tmp_path / "half" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
