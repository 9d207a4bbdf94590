"""Two processes train what one trains, each holding and sending only what it must."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.optim import processes
from tests.optim.processes import STEPS, batches, build, make_mask, make_model, train, whole

ROOT = Path(__file__).parents[2]
LAUNCH = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
PLAIN = [
    "--num_machines",
    "1",
    "--main_process_port",
    "0",
    "--mixed_precision",
    "no",
    "--dynamo_backend",
    "no",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes left after one process left its state halfway."""
    folder = tmp_path_factory.mktemp("processes")
    model = make_model()
    optimizer, data = build(model, make_mask(model), telemetry_every=STEPS), batches(0, 1)
    norms = train(model, optimizer, data, STEPS // 2)
    torch.save(
        {"state": optimizer.state_dict(), "weights": whole(model)}, folder / "single-half.pt"
    )
    norms += train(model, optimizer, data, STEPS - STEPS // 2)
    torch.save({"weights": whole(model), "state": optimizer.state_dict()}, folder / "single.pt")
    facts = {"norms": norms, "telemetry": optimizer.telemetry}
    (folder / "single.json").write_text(json.dumps(facts))
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    words = [sys.executable, *LAUNCH, *PLAIN, processes.__file__, str(folder)]
    ran = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def results(folder: Path) -> list[dict[str, Any]]:
    """What each process saw."""
    return json.loads((folder / "results.json").read_text())


def loaded(folder: Path, name: str) -> dict[str, Any]:
    return torch.load(folder / f"{name}.pt", weights_only=True)


def weights(folder: Path, name: str) -> dict[str, Tensor]:
    found = loaded(folder, name)
    return found.get("weights", found)


WAYS = ("ddp", "compiled", "fsdp", "columns", "copies", "accelerate", "accelerate-fsdp")


@pytest.mark.parametrize("way", WAYS)
def test_two_processes_train_what_one_trains(folder: Path, way: str) -> None:
    one, two, base = weights(folder, "single"), weights(folder, way), whole(make_model())
    moved = max(float((one[name] - base[name]).abs().max()) for name in base)
    for name in base:
        assert torch.allclose(one[name], two[name], rtol=0, atol=1e-5 * moved), name


@pytest.mark.parametrize("way", WAYS)
def test_no_process_touches_a_bit_off_the_mask(folder: Path, way: str) -> None:
    found, base, mask = weights(folder, way), whole(make_model()), make_mask(make_model())
    for name, before in base.items():
        off = ~mask[name]
        assert torch.equal(found[name].view(torch.int32)[off], before.view(torch.int32)[off]), name
        assert (found[name] != before)[mask[name]].all(), name


@pytest.mark.parametrize("way", ["ddp", "fsdp", "columns", "copies"])
def test_norms_and_telemetry_are_those_of_one_process(
    folder: Path, results: list[dict[str, Any]], way: str
) -> None:
    single = json.loads((folder / "single.json").read_text())
    for process in results:
        assert process[f"{way}_norms"] == pytest.approx(single["norms"], rel=1e-5)
        assert process[f"{way}_telemetry"] == pytest.approx(single["telemetry"], rel=1e-4)


def test_gradients_are_sent_as_k_vectors(results: list[dict[str, Any]]) -> None:
    """Four bytes a masked coordinate and step, though two backward passes led to each."""
    mask = make_mask(make_model())
    for process in results:
        assert process["ddp_bytes"] == process["accelerate_bytes"] == STEPS * 4 * mask.count()
        assert process["ddp_replicas_equal"]
        assert process["ddp_dense"] == process["compiled_dense"] == 0
        assert process["accelerate_kind"] == "DistributedDataParallel"


def test_a_batch_without_masked_gradients_is_averaged_too(results: list[dict[str, Any]]) -> None:
    model = processes.TwoInputs()
    losses = [
        model(processes.two_inputs(part, rank, 2), image).square().mean()
        for rank in (0, 1)
        for part, image in enumerate((rank == 0, True))
    ]
    (grad,) = torch.autograd.grad(sum(losses) / 2, [model.vision.weight])
    for process in results:
        found = torch.tensor(process["text_only"])
        assert torch.allclose(found, model.vision.weight - 0.1 * grad, atol=1e-6)


def test_a_process_holds_only_the_coordinates_of_its_shard(results: list[dict[str, Any]]) -> None:
    for way in ("fsdp", "accelerate_fsdp"):
        held = [process[f"{way}_local_k"] for process in results]
        assert sum(held) == make_mask(make_model()).count()
        assert held[0] != held[1]


def test_state_moves_between_numbers_of_processes(
    folder: Path, results: list[dict[str, Any]]
) -> None:
    for process in results:
        assert process["fsdp-half.pt"] == 0.0  # stopped and resumed, bit for bit
        assert process["single-half.pt"] < 1e-6  # one process' state, gone on with in two
    for name in ("columns", "copies"):
        model = make_model()
        model.load_state_dict(weights(folder, name), strict=False)
        optimizer = build(model, make_mask(model))
        optimizer.load_state_dict(loaded(folder, name)["state"])
        expected = loaded(folder, "single")["state"]["parameters"]
        for parameter, found in optimizer.state_dict()["parameters"].items():
            for key, value in expected[parameter]["state"].items():
                assert torch.allclose(found["state"][key], value, atol=1e-7), (parameter, key)


def test_what_processes_cannot_do_is_refused(results: list[dict[str, Any]]) -> None:
    for rank, process in enumerate(results):
        wrapped, unlike = process["ddp_errors"]
        assert "already wrapped in DistributedDataParallel" in wrapped
        assert f"process {1 - rank} has other weights than process {rank}" in unlike
        assert "shard it first" in process["accelerate_fsdp_error"]
        eight_bit, scaled = process["fsdp_errors"]
        assert "use a 32-bit optimizer with FSDP2" in eight_bit
        assert "train in bf16, which needs no scaler" in scaled
