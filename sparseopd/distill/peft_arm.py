"""Train an adapter of PEFT's as a control arm: LoRA or SHiRA with as many trainable weights as a mask has.

PEFT puts its layers into the student in place. Trainer, objectives and optimizer then see the same
student, of which only the adapter is not frozen. `finish` keeps the adapter, and merges it, so that the
checkpoint is one like any other run's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import parse_flag_from_env
from peft import (
    LoraConfig,
    PeftConfig,
    PeftModel,
    ShiraConfig,
    get_peft_model,
    load_peft_weights,
    set_peft_model_state_dict,
)
from torch import nn
from transformers import PreTrainedModel

from sparseopd.artifacts import folder_written_whole
from sparseopd.distill.resume import ResumableCallback
from sparseopd.errors import RecipeError
from sparseopd.optim.build import own_names
from sparseopd.recipe import Recipe
from sparseopd.settings.peft import PEFT_LABELS, Peft


@dataclass(frozen=True)
class Attached:
    """An adapter inside a student."""

    model: PeftModel
    """Around the student, which it shares all layers with."""
    facts: dict[str, Any]
    """What `RunFacts.adapter` says of it."""

    @property
    def label(self) -> str:
        """Return what tables call the run, such as "LoRA rank 6"."""
        return f"{PEFT_LABELS[self.facts['type']]} rank {self.facts['rank']}"

    def note(self, wanted: int | None) -> str:
        """Return a sentence on its size; `wanted` is the number of weights that was asked for."""
        asked = "" if wanted is None else f", where train.peft.k asks for {wanted:,}"
        return (
            f"{self.label} on {self.facts['layers']} linear layers: {self.facts['k']:,} trainable "
            f"weights{asked}"
        )


class AdapterKeeper(ResumableCallback):
    """Keeps the adapter in the states of a run.

    Trainer keeps the whole student there, but reads it back by the names in memory, which need not be
    those on disk.
    """

    def __init__(self, attached: Attached) -> None:
        self._model = attached.model

    def save_state(self, folder: Path) -> None:
        """Write the adapter's weights."""
        _save(self._model, folder / "adapter")

    def load_state(self, folder: Path) -> None:
        """Take the weights over; SHiRA's coordinates are those of the seed again."""
        weights = load_peft_weights(str(folder / "adapter"), device="cpu")
        set_peft_model_state_dict(self._model, weights)


def check_adapter(recipe: Recipe, *, masked: bool) -> None:
    """Raise `RecipeError` where an adapter cannot be trained, before anything is loaded."""
    if masked:
        raise RecipeError(
            "train.peft trains an adapter and --mask a mask: drop --mask, or set train.peft to null"
        )
    if recipe.student.dtype != "float32":
        raise RecipeError(
            f"train.peft merges small updates into the student, and student.dtype {recipe.student.dtype} "
            "would round them: set it to float32 (train.bf16 still computes in bfloat16)"
        )
    for engine in ("FSDP", "DEEPSPEED"):
        if parse_flag_from_env(f"ACCELERATE_USE_{engine}"):
            raise RecipeError(
                f"train.peft does not train shards of {engine}: launch it with DDP, as "
                "recipes/accelerate/ddp.yaml does"
            )


def attach(recipe: Recipe, student: PreTrainedModel) -> Attached:
    """Put the adapter of `train.peft` into a student, whose own parameters are frozen by it.

    Values and coordinates that PEFT draws are those of `recipe.seed`; no random stream is disturbed.
    Raises `RecipeError` for a size that the student's layers cannot have.
    """
    peft = recipe.train.peft
    assert peft is not None  # the caller trains an adapter
    layers = adapted_layers(student)
    rank = chosen_rank(peft, layers)
    numel = sum(weight.numel() for weight in own_names(student).values())
    # PEFT draws on the CPU, where the student still is.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(recipe.seed)
        model = get_peft_model(student, _config(peft, rank, list(layers), recipe.seed))
    assert isinstance(model, PeftModel)
    k = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    facts: dict[str, Any] = {"type": peft.type, "rank": rank}
    facts |= {"alpha": _alpha(peft, rank)} if peft.type == "lora" else {}
    facts |= {"layers": len(layers), "k": k, "density": k / numel}
    return Attached(model, facts)


def adapted_layers(student: PreTrainedModel) -> dict[str, torch.Size]:
    """Return the linear layers that get an adapter, and the shapes of their weights.

    They are PEFT's "all-linear", vision towers included and the output head left out, without those
    that are frozen. A subclass of `nn.Linear` may be used without its forward, as in
    `nn.MultiheadAttention`, and an adapter of it would do nothing.
    """
    head = student.get_output_embeddings()
    layers = {
        name: module.weight.shape
        for name, module in student.named_modules()
        if type(module) is nn.Linear and module is not head and module.weight.requires_grad
    }
    if not layers:
        raise RecipeError(
            f"train.peft adapts linear layers, and {type(student).__name__} has none that train.freeze "
            "leaves free: train a mask in place of it"
        )
    return layers


def chosen_rank(peft: Peft, layers: Mapping[str, torch.Size]) -> int:
    """Return the rank that is asked for, or the one whose trainable weights come nearest to `k`.

    A rank costs Σ(m + n) over the layers. PEFT refuses a SHiRA with more coordinates than a layer has.
    """
    each = sum(sum(shape) for shape in layers.values())
    if peft.k is not None and peft.k < each:
        raise RecipeError(
            f"train.peft.k is {peft.k:,} and rank 1 has {each:,} trainable weights already: ask for "
            f"{each:,} or more, or leave layers out with train.freeze"
        )
    rank = peft.rank if peft.k is None else int(peft.k / each + 0.5)
    assert rank is not None  # check_peft refuses a recipe with neither
    tightest = min(layers, key=lambda name: _most(layers[name]))
    most = _most(layers[tightest])
    if peft.type == "shira" and rank > most:
        asked = f"rank is {rank}" if peft.k is None else f"k is {peft.k:,}"
        raise RecipeError(
            f"train.peft.{asked}, and {tightest} is too small for a SHiRA of a rank above {most} "
            f"({most * each:,} trainable weights in all): ask for less, or freeze it with train.freeze"
        )
    return rank


def finish(attached: Attached, folder: Path) -> None:
    """Keep the adapter in `folder`, and merge it into the student, which is a plain model again."""
    with folder_written_whole(folder) as temporary:
        _save(attached.model, temporary)
    attached.model.merge_and_unload()


def _most(shape: torch.Size) -> int:
    return shape.numel() // sum(shape)


def _config(peft: Peft, rank: int, layers: list[str], seed: int) -> PeftConfig:
    if peft.type == "shira":
        return ShiraConfig(r=rank, target_modules=layers, random_seed=seed)
    return LoraConfig(r=rank, lora_alpha=_alpha(peft, rank), target_modules=layers)  # pyright: ignore


def _alpha(peft: Peft, rank: int) -> float:
    return rank if peft.alpha is None else peft.alpha


def _save(model: PeftModel, folder: Path) -> None:
    # "auto" would ask the hub whether the embedding had been resized.
    model.save_pretrained(str(folder), save_embedding_layers=False)
