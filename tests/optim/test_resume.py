"""A run that was stopped and resumed elsewhere ends with the bits of one that never was."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import Qwen3Config, Qwen3ForCausalLM, Trainer

from sparseopd import MaskedOptimizer
from sparseopd.masks import Mask
from tests.conftest import SIZES
from tests.optim.runs import (
    assert_only_the_mask_moved,
    assert_same_state,
    assert_same_weights,
    make_examples,
    make_mask,
    training_arguments,
    weights_of,
)

STEPS = 8
EXAMPLES = 20  # five steps of four: the second epoch is shuffled anew, and ends early


def make_trainer(folder: Path, dtype: torch.dtype, **settings: Any) -> Trainer:
    """`Trainer` with shuffled data, dropout, a schedule and two parameter groups, on a new model."""
    torch.manual_seed(0)
    config = Qwen3Config(**SIZES, attention_dropout=0.2)
    model = Qwen3ForCausalLM(config).to(dtype)
    optimizer = MaskedOptimizer(
        model,
        make_mask(model),
        groups=[{"match": ["norm"], "lr": 5e-3, "weight_decay": 0.0}],
        lr=1e-3,
        weight_decay=0.1,
        max_grad_norm=0.5,
        stochastic_rounding=True,  # of bf16 alone
        seed=7,
    )
    args = training_arguments(
        folder,
        max_steps=STEPS,
        lr_scheduler_type="cosine",
        warmup_steps=2,
        **settings,
    )
    return Trainer(model, args, train_dataset=make_examples(EXAMPLES), optimizers=(optimizer, None))


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def whole_run(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Trainer, Path, torch.dtype]:
    """A run that never stopped, and the folder with its checkpoints."""
    folder = tmp_path_factory.mktemp("whole")
    trainer = make_trainer(folder, request.param, save_strategy="steps", save_steps=1)
    before = weights_of(trainer.model)
    trainer.train()
    assert_only_the_mask_moved(before, trainer.model, make_mask(trainer.model), share=0.5)
    return trainer, folder, request.param


@pytest.mark.parametrize("step", [3, 5], ids=["within an epoch", "between epochs"])
def test_trainer_resumes_with_every_bit(
    step: int, whole_run: tuple[Trainer, Path, torch.dtype], tmp_path: Path
) -> None:
    whole, folder, dtype = whole_run
    resumed = make_trainer(tmp_path, dtype)
    resumed.train(resume_from_checkpoint=str(folder / f"checkpoint-{step}"))
    assert resumed.state.global_step == STEPS
    assert_same_weights(weights_of(whole.model), weights_of(resumed.model))
    assert_same_state(whole.optimizer.state_dict(), resumed.optimizer.state_dict())
    assert_same_state(whole.lr_scheduler.state_dict(), resumed.lr_scheduler.state_dict())


def test_state_needs_no_trust(whole_run: tuple[Trainer, Path, torch.dtype]) -> None:
    """`torch.load(weights_only=True)` reads it without a class that has to be allowed."""
    whole, folder, dtype = whole_run
    saved = folder / f"checkpoint-{STEPS}" / "optimizer.pt"
    assert not torch.serialization.get_unsafe_globals_in_checkpoint(saved)
    state = torch.load(saved, weights_only=True)
    assert_same_state(state, whole.optimizer.state_dict())
    stored, mask = weights_of(whole.model), make_mask(whole.model)
    pending = [
        not torch.equal(saved["values"], stored[name][mask[name]].float())
        for name, saved in state["parameters"].items()
    ]
    assert any(pending) == (dtype == torch.bfloat16)  # masters are more than the weights


def test_a_checkpoint_without_optimizer_state_goes_on_from_its_weights(
    whole_run: tuple[Trainer, Path, torch.dtype], tmp_path: Path
) -> None:
    """What `save_only_model` leaves; a step at a learning rate of 0 keeps its weights."""
    _, folder, dtype = whole_run
    weights_only = shutil.copytree(
        folder / f"checkpoint-{STEPS - 1}",
        tmp_path / f"checkpoint-{STEPS - 1}",
        ignore=shutil.ignore_patterns("optimizer.pt", "scheduler.pt", "rng_state.pth"),
    )
    expected = Qwen3ForCausalLM.from_pretrained(weights_only, dtype=dtype)
    trainer = make_trainer(tmp_path, dtype)
    for group in trainer.optimizer.param_groups:
        group["lr"] = 0.0
    trainer.train(resume_from_checkpoint=str(weights_only))
    assert_same_weights(weights_of(trainer.model), weights_of(expected))


class InOrder(nn.Module):
    """Two layers and a norm; `order` is the one in which they are registered."""

    order = ("first", "norm", "second")

    def __init__(self) -> None:
        super().__init__()
        made = {
            "first": nn.Linear(6, 8),
            "norm": nn.LayerNorm(8),
            "second": nn.Linear(8, 3, bias=False),
        }
        for name in self.order:
            self.add_module(name, made[name])

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.norm(self.first(inputs).tanh())
        return self.second(hidden).square().mean()


class Reordered(InOrder):
    """The same model, registered the other way round."""

    order = ("second", "norm", "first")


MASK = Mask.from_tensors(
    {
        name: torch.rand(weight.shape, generator=torch.Generator().manual_seed(at)) < 0.5
        for at, (name, weight) in enumerate(InOrder().named_parameters())
    }
)


def build(
    kind: type[InOrder], dtype: torch.dtype, clip: float | None
) -> tuple[InOrder, MaskedOptimizer]:
    torch.manual_seed(0)
    model = kind().to(dtype)
    settings: dict[str, Any] = {"stochastic_rounding": True, "max_grad_norm": clip, "lr": 1e-2}
    return model, MaskedOptimizer(model, MASK, groups=[{"match": "norm*", "lr": 1e-3}], **settings)


def train(model: InOrder, optimizer: MaskedOptimizer, steps: range) -> None:
    for step in steps:
        inputs = torch.randn(4, 6, generator=torch.Generator().manual_seed(step))
        model(inputs.to(model.norm.weight.dtype)).backward()
        optimizer.step()


def moved_on(dtype: torch.dtype, clip: float | None) -> list[dict[str, Any]]:
    """Weights and optimizer state after ten steps, the last five in one order and in the other."""
    model, optimizer = build(InOrder, dtype, clip)
    train(model, optimizer, range(5))
    other, resumed = build(Reordered, dtype, clip)
    assert list(weights_of(model)) != list(weights_of(other))
    other.load_state_dict(model.state_dict())
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    found = []
    for one, stepper in ((model, optimizer), (other, resumed)):
        train(one, stepper, range(5, 10))
        found.append({"weights": weights_of(one), "state": stepper.state_dict()["parameters"]})
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_state_goes_by_name_whatever_the_order(dtype: torch.dtype) -> None:
    assert_same_state(*moved_on(dtype, clip=None))


def test_clipping_sums_in_the_order_of_registration() -> None:
    """As torch's does: in another order the norm, and so the clipped step, may differ in its last bit.

    AdamW's step is then off by 1e-7 of itself, and rounding may carry that to the weight's last bit.
    """
    one, other = (moved["weights"] for moved in moved_on(torch.float32, clip=0.1))
    for name, weight in one.items():
        assert torch.allclose(weight, other[name], rtol=2**-22, atol=1e-8), name
