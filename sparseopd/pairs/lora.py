"""What a PEFT LoRA adapter adds to each tensor of its base checkpoint, without loading the base.

An adapter folder has a config and, for each layer that it changes, two thin matrices A (rank ×
inputs) and B (outputs × rank) whose scaled product is the update; and the tensors it trained whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sparseopd.errors import PairError
from sparseopd.pairs.skeleton import name_on_disk, skeleton

if TYPE_CHECKING:  # PEFT and transformers take seconds to import; most calls need neither
    from peft import LoraConfig
    from transformers import PreTrainedModel

    from sparseopd.pairs.tensors import Tensors

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
MATRICES = {".lora_A.weight": "A", ".lora_B.weight": "B"}
MATRICES |= {".lora_embedding_A": "A", ".lora_embedding_B": "B"}
PLAIN_STARTS = (True, False, "gaussian", "eva", "orthogonal", "mica")
"""Values of `init_lora_weights` that leave the base as it is; PiSSA and its like subtract from it."""
OTHER_UPDATES = {"target_parameters", "trainable_token_indices", "layer_replication", "use_qalora"}
"""Settings whose update is not the product; PEFT marks the others itself, as `is_lora_variant`."""
MERGE = "merge it into its base with PEFT's merge_and_unload, and give the merged checkpoint"


def is_lora_folder(folder: Path) -> bool:
    """Whether a folder holds a PEFT adapter rather than a model."""
    return (folder / CONFIG).is_file()


class LoraUpdate:
    """What a LoRA adapter adds to each tensor of its base checkpoint, computed one tensor at a time.

    Agrees with PEFT's `merge_and_unload`; an update of an embedding that the base ties to its head
    is one of their shared tensor. Raises `PairError` for an adapter that does not fit the base, or
    whose update is something else than scaled products and tensors trained whole.
    """

    label: str
    """What to call it in a sentence: the folder."""

    def __init__(self, folder: Path, base: Tensors, base_folder: Path | None) -> None:
        """Match the adapter in `folder` with the names and shapes of `base`; no values are read.

        `base_folder` is the base's checkpoint folder if it is one: its config.json says how names
        inside the model differ from those on disk.
        """
        self.label = str(folder)
        self._base, self._base_folder = base, base_folder
        self._names = set(base.keys())
        self._config = _read_config(folder)
        self._file = _open_weights(folder)
        # parameter -> its changes ("A", "B", "whole") -> their names in the file
        self._parts: dict[str, dict[str, str]] = {}
        for key in sorted(self._file.keys()):
            self._assign(key)
        self._owner: dict[str, str] = {}
        for parameter in self._parts:
            self._match(parameter)
        self._last: tuple[str, dict[str, Tensor]] = ("", {})

    def keys(self) -> list[str]:
        """Return the names of the base checkpoint's tensors that the adapter changes, sorted."""
        return sorted(self._owner)

    def update(self, name: str) -> Tensor:
        """Return the update of one tensor: float32, on the CPU, in the base tensor's shape on disk.

        Raises `PairError` for a name that is not in `keys()`.
        """
        if name not in self._owner:
            raise self._error(f"does not change {name}: ask for one of its keys()")
        owner, last = self._owner[name], self._last
        if last[0] != owner:  # one tensor may be asked for part by part
            last = self._last = (owner, self._compute(owner))
        return last[1][name]

    def _error(self, sentence: str) -> PairError:
        return PairError(f"the adapter {self.label} {sentence}")

    def _assign(self, key: str) -> None:
        """Note which parameter a tensor of the file changes, and how."""
        name = key.removeprefix(PREFIX)
        if ".original_module." in name:  # the base's own, beside a module trained whole
            return
        for ending, role in MATRICES.items():
            if name.endswith(ending):
                parts = self._parts.setdefault(f"{name.removesuffix(ending)}.weight", {})
                parts[role] = key
                return
        if name == key or "lora_" in name:
            raise self._error(f"has a tensor of an unknown kind, {key}: {MERGE}")
        # PEFT moves a layer that gets an A and a B to base_layer, and saves the weights it trained.
        parameter = name.replace(".base_layer.", ".").replace(".modules_to_save.", ".")
        self._parts.setdefault(parameter, {}).setdefault("whole", key)

    def _match(self, parameter: str) -> None:
        """Find the base tensors that a parameter is saved as, and check that its update fits them."""
        self._check_rank(parameter)
        for change in self._changes(parameter, self._empty).values():
            for piece, part in self._split(parameter, change).items():
                found = self._base.shape(piece) if piece in self._names else None
                if part.shape != found:
                    raise self._misfit(parameter, part.shape, found)
                self._owner[piece] = parameter

    def _misfit(self, parameter: str, shape: torch.Size, found: torch.Size | None) -> PairError:
        if found is None and parameter == "lm_head.weight":
            return self._error(
                f"changes lm_head.weight, which {self._base.label} has not: a head tied to the "
                "embedding has no update of its own, so leave it out of the adapter"
            )
        there = f"the shape {tuple(found)}" if found is not None else "no such tensor"
        return self._error(
            f"changes {parameter} in the shape {tuple(shape)}, and {self._base.label} has {there}: "
            "give the base it was trained on, as a checkpoint folder"
        )

    def _check_rank(self, parameter: str) -> None:
        """Raise `PairError` unless the two matrices, if there are any, have the config's rank."""
        keys = [self._parts[parameter].get(role) for role in "BA"]
        if not any(keys):
            return
        rank, _ = self._rank_and_scaling(parameter)
        up, down = (self._empty(key).shape if key else torch.Size() for key in keys)
        # Grouped convolutions have a thinner B; PEFT cannot merge those either.
        if min(len(up), len(down)) < 2 or not up[1:].numel() == down[0] == rank:
            raise self._error(
                f"has matrices B and A of the shapes {tuple(up)} and {tuple(down)} for {parameter}, "
                f"where its config says rank {rank}: save it again"
            )

    def _compute(self, parameter: str) -> dict[str, Tensor]:
        """Return the updates of all base tensors that one parameter is saved as."""
        updates: dict[str, Tensor] = {}
        for kind, change in self._changes(parameter, self._file.get_tensor).items():
            for piece, part in self._split(parameter, change).items():
                if kind == "whole":
                    part = part.float() - self._base[piece].float().cpu()
                updates[piece] = updates[piece] + part if piece in updates else part
        return {piece: update.contiguous() for piece, update in updates.items()}

    def _changes(self, parameter: str, read: Callable[[str], Tensor]) -> dict[str, Tensor]:
        """Return what is done to a parameter, in its shape: its `whole` new value, a `product` added."""
        parts, changes = self._parts[parameter], {}
        if "whole" in parts:
            changes["whole"] = read(parts["whole"])
        if "B" in parts:
            up, down = read(parts["B"]).float(), read(parts["A"]).float()
            # A convolution's B has a kernel of one, so that its update is this product as well.
            product = (up.flatten(1) @ down.flatten(1)).reshape(len(up), *down.shape[1:])
            is_embedding = parts["B"].endswith("lora_embedding_B")  # vocabulary × width on disk
            turned = is_embedding or (self._config.fan_in_fan_out and product.ndim == 2)
            scaled = product.mul_(self._rank_and_scaling(parameter)[1])
            changes["product"] = scaled.T if turned else scaled
        return changes

    def _rank_and_scaling(self, parameter: str) -> tuple[int, float]:
        """Return a layer's rank and the factor of its product, as PEFT sets them."""
        from peft.utils.other import get_pattern_key

        layer = parameter.rpartition(".")[0]
        ranks, alphas = self._config.rank_pattern or {}, self._config.alpha_pattern or {}
        rank = ranks.get(get_pattern_key(list(ranks), layer), self._config.r)
        alpha = alphas.get(get_pattern_key(list(alphas), layer), self._config.lora_alpha)
        return rank, alpha / (math.sqrt(rank) if self._config.use_rslora else rank)

    def _empty(self, key: str) -> Tensor:
        """Return a tensor of the file without its values."""
        return torch.empty(self._file.get_slice(key).get_shape(), device="meta")

    def _split(self, parameter: str, tensor: Tensor) -> dict[str, Tensor]:
        """Return the pieces of a tensor in the parameter's shape, by their names on disk."""
        from sparseopd.pairs.parameters import checkpoint_pieces

        if parameter in self._names or self._skeleton is None:
            return {parameter: tensor}
        pieces = checkpoint_pieces(self._skeleton, parameter, tensor)
        return {
            name_on_disk(self._skeleton, name, self._names): piece for name, piece in pieces.items()
        }

    @cached_property
    def _skeleton(self) -> PreTrainedModel | None:
        """The base model without weights, if its folder is known."""
        folder = self._base_folder
        if folder is None or not (folder / "config.json").is_file():
            return None
        try:
            return skeleton(folder)
        except PairError as error:
            raise self._error(f"has names in memory, and {error}: {MERGE}") from error


def _read_config(folder: Path) -> LoraConfig:
    """Return the adapter's settings; raise `PairError` if they mean another kind of update."""
    from peft import LoraConfig, PeftConfig

    try:
        config = PeftConfig.from_pretrained(str(folder))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PairError(f"cannot read the settings {folder / CONFIG} ({error}): {MERGE}") from error
    if config.peft_type != "LORA" or not isinstance(config, LoraConfig):
        kind = getattr(config.peft_type, "value", config.peft_type)
        raise PairError(f"the adapter {folder} is of the type {kind}, not LORA: {MERGE}")
    variants = {field.name for field in fields(config) if field.metadata.get("is_lora_variant")}
    wrong = [name for name in sorted(variants | OTHER_UPDATES) if getattr(config, name)]
    if config.init_lora_weights not in PLAIN_STARTS:
        wrong.append("init_lora_weights")
    if wrong:
        setting = f"{wrong[0]}={getattr(config, wrong[0])!r}"
        raise PairError(f"the adapter {folder} has {setting}, which is not plain LoRA: {MERGE}")
    _check_numbers(folder, config)
    return config


def _check_numbers(folder: Path, config: LoraConfig) -> None:
    """Raise `PairError` where ranks or scalings are no numbers that PEFT could have used."""
    ranks, alphas = config.rank_pattern or {}, config.alpha_pattern or {}
    numbers = {"r": config.r, "lora_alpha": config.lora_alpha, **ranks, **alphas}
    for name, number in numbers.items():
        if not isinstance(number, (int, float)) or number <= 0:
            raise PairError(
                f"the settings {folder / CONFIG} say {name} = {number!r}, which is no positive number: "
                "save the adapter again"
            )


def _open_weights(folder: Path) -> safe_open:
    path = folder / WEIGHTS
    if not path.is_file() and (folder / "adapter_model.bin").is_file():
        raise PairError(
            f"{folder} has its weights as a pickle: convert adapter_model.bin to {WEIGHTS}"
        )
    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        raise PairError(f"cannot read the adapter's weights {path}: {error}") from error
