"""Switching between two adapters of 10 %, beside LoRA's merge and beside writing the bytes alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import peft
import torch
from adapter_models import (
    DENSITY,
    DTYPES,
    MODELS,
    QUICK,
    fresh,
    load_sparse,
    lora,
    matched_rank,
    random_mask,
    save_sparse,
    size_of,
    trained_values,
)
from adapter_rounds import in_turn
from peft.utils.hotswap import hotswap_adapter
from torch import Tensor, nn
from train_step_arms import adapted

import sparseopd
from sparseopd.adapter_files import SparseAdapter

OURS, LORA, COPY = "set_adapter", "LoRA, unmerge and merge", "index_copy_"
ONE_MASK = "set_adapter, one mask"
HOTSWAP, APPLY, REMOVE = "hotswap from disk", "sparseopd.apply", "sparseopd.remove"
Build = Callable[[], nn.Module]


def switch(folder: Path, quick: bool) -> dict[str, Any]:
    """Measure on every model and dtype."""
    rounds = 4 if quick else 21
    rows = []
    for name, shape in (QUICK if quick else MODELS).items():
        for dtype in DTYPES:
            place = folder / f"{name} {dtype}"

            def build(shape: dict[str, Any] = shape, dtype: str = dtype) -> nn.Module:
                return fresh(shape, DTYPES[dtype])

            rows.append({"model": name, "dtype": dtype, **_measured(build, place, rounds)})
    return {"density": DENSITY, "rows": rows}


def _measured(build: Build, folder: Path, rounds: int) -> dict[str, Any]:
    """Time all ways on models of their own; then see what their base's bits have become."""
    model = build()
    masks = [random_mask(model, seed) for seed in (0, 1)]
    folders = [save_sparse(model, mask, folder / str(i)) for i, mask in enumerate(masks)]
    again = save_sparse(model, masks[0], folder / "again")
    rank, k = matched_rank(model), masks[0].count()
    sparse, low_rank = _sparse(build(), folders), _lora(build(), rank)
    ways = {
        OURS: _switching(sparse),
        LORA: _merging(low_rank),
        COPY: _copying(model, folders),
        ONE_MASK: _switching(_sparse(build(), [folders[0], again])),
    }
    seconds = in_turn(ways, rounds)
    assert _changed(sparse, model) == 0, (
        "both have switched as often, so their bits must be the same"
    )
    seconds |= _from_disk(build, folders, max(3, rounds // 3))
    low_rank.unmerge_adapter()
    with sparse.disable_adapter():
        changed = {OURS: _changed(sparse, build()), LORA: _changed(low_rank, build())}
    return {
        **size_of(build()),
        "k": k,
        "bytes_written": 2 * k * next(model.parameters()).element_size(),
        "lora_rank": rank,
        "lora_values": trained_values(low_rank, "lora_") // 2,
        "seconds": seconds,
        "base_coordinates_changed": changed,
    }


def _sparse(model: nn.Module, folders: list[Path]) -> peft.PeftModel:
    loaded = load_sparse(model, folders[0], "a")
    loaded.load_adapter(str(folders[1]), "b")
    return loaded


def _lora(model: nn.Module, rank: int) -> peft.PeftModel:
    """Two LoRAs, the first merged; their values are float32, as PEFT has them by default."""
    loaded: Any = peft.get_peft_model(model, lora(rank), "a")  # pyright: ignore[reportArgumentType]
    loaded.add_adapter("b", lora(rank))
    loaded.set_adapter("a", inference_mode=True)
    loaded.merge_adapter()
    return loaded


def _switching(model: peft.PeftModel) -> Callable[[], None]:
    names = cycle("ba")
    return lambda: model.set_adapter(next(names), inference_mode=True)


def _merging(model: Any) -> Callable[[], None]:
    names = cycle("ba")

    def work() -> None:
        model.unmerge_adapter()
        model.set_adapter(next(names), inference_mode=True)
        model.merge_adapter()

    return work


def _copying(model: nn.Module, folders: list[Path]) -> Callable[[], None]:
    """Write k base values and k new ones to every weight, as a switch must; int64 indices are ready."""
    adapters = [SparseAdapter.load(folder) for folder in folders]
    written: list[list[tuple[Tensor, Tensor, Tensor, Tensor]]] = [[], []]
    for name, weight in _weights(model):
        flat = weight.detach().view(-1)
        for adapter, one in zip(adapters, written, strict=True):
            index = adapter.mask[name].view(-1).nonzero().view(-1)
            one.append((flat, index, flat[index], adapter.values(name)))
    turns = cycle((1, 0))

    @torch.no_grad()
    def work() -> None:
        new = next(turns)
        for old_one, new_one in zip(written[1 - new], written[new], strict=True):
            flat, index, base, _ = old_one
            flat.index_copy_(0, index, base)
            flat, index, _, values = new_one
            flat.index_copy_(0, index, values)

    return work


def _from_disk(build: Build, folders: list[Path], rounds: int) -> dict[str, list[float]]:
    """Time what also reads, checks and unpacks the file; `apply` hashes the whole model, too."""
    swapped, plain = load_sparse(build(), folders[0]), build()
    turns = cycle((1, 0))

    def hotswap() -> None:
        hotswap_adapter(swapped, str(folders[next(turns)]), "default", torch_device="cpu")

    seconds = in_turn({HOTSWAP: hotswap}, rounds, warm_up=1)
    for _ in range(rounds):
        both = {
            APPLY: lambda: sparseopd.apply(plain, folders[0]),
            REMOVE: lambda: sparseopd.remove(plain),
        }
        for name, work in both.items():
            seconds.setdefault(name, []).extend(in_turn({name: work}, 1, warm_up=0)[name])
    return seconds


def _changed(model: nn.Module, base: nn.Module) -> int:
    """Return how many adapted coordinates have other bits than the base."""
    pairs = zip(adapted_weights(model), adapted(base), strict=True)
    return sum(int((_bits(one) != _bits(other)).sum()) for one, other in pairs)


def adapted_weights(model: nn.Module) -> Iterator[Tensor]:
    """Yield the weights of the adapted layers of a model that PEFT has wrapped, in order."""
    for name, weight in model.named_parameters():
        if name.endswith(("_proj.weight", "_proj.base_layer.weight")):
            yield weight


def _bits(tensor: Tensor) -> Tensor:
    return tensor.detach().view(torch.int32 if tensor.element_size() == 4 else torch.int16)


def _weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    wanted = {id(weight) for weight in adapted(model)}
    return ((name, one) for name, one in model.named_parameters() if id(one) in wanted)
