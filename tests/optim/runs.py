"""Small runs whose weights are compared bit by bit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainingArguments

from sparseopd.masks import Mask, select

_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def make_tokens(seed: int) -> Tensor:
    """Two random sequences for the models of `conftest`, (2, 8)."""
    return torch.randint(0, 40, (2, 8), generator=torch.Generator().manual_seed(seed))


def loss_of(model: nn.Module, seed: int) -> Tensor:
    """The causal loss on random sequences."""
    tokens = make_tokens(seed)
    return model(input_ids=tokens, labels=tokens).loss


def make_examples(count: int) -> list[dict[str, Tensor]]:
    """Random sequences with labels; how many labels count differs from one to the next."""
    examples = []
    for seed in range(count):
        tokens = make_tokens(seed)[0]
        labels = tokens.clone()
        labels[: seed % 5] = -100
        examples.append({"input_ids": tokens, "labels": labels})
    return examples


def make_mask(model: nn.Module, density: float = 0.1, **settings: Any) -> Mask:
    """A random mask of the model."""
    return select(model, selector="random", density=density, **settings)


def arguments(folder: Path, **settings: Any) -> dict[str, Any]:
    """What every trainer here is told: the CPU, no clipping of its own, no reports, no files."""
    return {
        "output_dir": str(folder),
        "max_grad_norm": 0.0,
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "save_strategy": "no",
        **settings,
    }


def training_arguments(folder: Path, **settings: Any) -> TrainingArguments:
    """`arguments` of `transformers.Trainer`, with micro batches of 2 of which 2 make a step."""
    batches = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    return TrainingArguments(**arguments(folder, **batches, **settings))


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Copies of the weights as they are now."""
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors agree in shape, dtype and every bit, the sign of zero among them."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return bool((_bits(one) == _bits(other)).all())


def assert_same_weights(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    """Compare weights by name, bit by bit."""
    assert one.keys() == other.keys()
    differing = [name for name in one if not same_bits(one[name], other[name])]
    assert differing == []


def assert_only_the_mask_moved(
    before: Mapping[str, Tensor], model: nn.Module, mask: Mask, *, share: float = 0.9
) -> None:
    """No bit off the mask has changed, and at least `share` of the coordinates on it have."""
    moved = 0
    for name, weight in model.named_parameters():
        differs = _bits(weight.detach()) != _bits(before[name])
        assert not bool((differs & ~mask[name]).any()), name
        moved += int(differs.sum())
    assert moved >= share * mask.count()


def assert_same_state(one: Any, other: Any) -> None:
    """Compare nested states, tensors bit by bit."""
    if isinstance(one, Tensor):
        assert same_bits(one, other)
    elif isinstance(one, Mapping):
        assert one.keys() == other.keys()
        for key in one:
            assert_same_state(one[key], other[key])
    elif isinstance(one, Iterable) and not isinstance(one, str):
        assert len(one) == len(other)  # pyright: ignore
        for first, second in zip(one, other, strict=True):
            assert_same_state(first, second)
    else:
        assert one == other


def _bits(tensor: Tensor) -> Tensor:
    return tensor.view(_BITS[tensor.element_size()]) if tensor.is_floating_point() else tensor
