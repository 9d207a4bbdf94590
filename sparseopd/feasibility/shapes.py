"""A model's parameters and dimensions, from its configuration alone: nothing is loaded.

The model is built on torch's meta device, where tensors have shapes and no values, so parameters are
counted exactly for every architecture that transformers knows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, PretrainedConfig

from sparseopd.masks.scope import block_of
from sparseopd.optim.build import own_names
from sparseopd.pairs import is_vision_language


@dataclass(frozen=True, kw_only=True)
class TextShape:
    """The dimensions of a decoder that its memory depends on."""

    layers: int
    hidden: int
    intermediate: int
    """Width of the feed-forward part that one token goes through: of all its experts together."""
    queries: int
    """Heads times their width."""
    keys: int
    """Key-value heads times their width."""
    heads: int
    vocabulary: int
    """Rows of the embedding, padding rows included."""
    positions: int | None
    """The longest sequence the model was made for."""
    normalised_queries: bool = False
    """Whether queries and keys pass a norm, as in Qwen3."""


@dataclass(frozen=True, kw_only=True)
class VisionShape:
    """The dimensions of a vision tower."""

    layers: int
    hidden: int
    intermediate: int
    patches: int | None
    """Of one image, where every image has as many."""
    patches_per_token: int
    """How many patches become one token of the language model."""
    image_token: int | None
    """The id that stands for a piece of an image in a prompt."""


@dataclass(frozen=True)
class ModelShape:
    """A model without values."""

    model: nn.Module
    """On the meta device."""
    text: TextShape
    vision: VisionShape | None
    head: str | None
    """The parameter that makes logits of hidden states; a tied one is the embedding as well."""
    tied: bool

    @cached_property
    def numels(self) -> dict[str, int]:
        """Return the coordinates of each parameter, by its name in the model; tied ones appear once."""
        return {name: weight.numel() for name, weight in own_names(self.model).items()}

    @property
    def parameters(self) -> int:
        """Return the number of parameters, tied ones counted once."""
        return sum(self.numels.values())

    def block(self, name: str) -> int:
        """Return the number of parameters of a block such as "vision"."""
        return sum(numel for key, numel in self.numels.items() if block_of(key) == name)

    @cached_property
    def linear(self) -> frozenset[str]:
        """Return the weights that quantization replaces: of linear layers, but for the output head."""
        names = {id(weight): name for name, weight in own_names(self.model).items()}
        layers = (module for module in self.model.modules() if isinstance(module, nn.Linear))
        return frozenset(names[id(layer.weight)] for layer in layers) - {self.head}


def shape_of(config: PretrainedConfig, *, trust_remote_code: bool = False) -> ModelShape:
    """Build a model of this configuration without values. Raises what transformers raises."""
    kind = AutoModelForImageTextToText if is_vision_language(config) else AutoModelForCausalLM
    with torch.device("meta"):
        model: Any = kind.from_config(config, trust_remote_code=trust_remote_code)
    names = {id(weight): name for name, weight in own_names(model).items()}
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    vision = _vision(config) if hasattr(config, "vision_config") else None
    return ModelShape(
        model=model,
        text=_text(config.get_text_config(), normalised="q_norm" in " ".join(names.values())),
        vision=vision,
        head=None if head is None else names.get(id(head.weight)),
        tied=head is not None and head.weight is embedding.weight,
    )


def _text(config: Any, *, normalised: bool) -> TextShape:
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    return TextShape(
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        intermediate=_active_width(config),
        queries=heads * width,
        keys=(getattr(config, "num_key_value_heads", None) or heads) * width,
        heads=heads,
        vocabulary=config.vocab_size,
        positions=getattr(config, "max_position_embeddings", None),
        normalised_queries=normalised,
    )


def _active_width(config: Any) -> int:
    dense = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    chosen = getattr(config, "num_experts_per_tok", None)
    if not chosen:
        return dense
    shared = getattr(config, "shared_expert_intermediate_size", None) or 0
    return chosen * (getattr(config, "moe_intermediate_size", None) or dense) + shared


def _vision(config: Any) -> VisionShape:
    tower = config.vision_config
    size, patch = getattr(tower, "image_size", None), getattr(tower, "patch_size", None)
    hidden = tower.hidden_size
    fixed = (size // patch) ** 2 if isinstance(size, int) and isinstance(patch, int) else None
    token = getattr(config, "image_token_id", None)
    return VisionShape(
        # Qwen's towers call their layers depth.
        layers=getattr(tower, "num_hidden_layers", None) or getattr(tower, "depth", 0),
        hidden=hidden,
        intermediate=getattr(tower, "intermediate_size", None) or 4 * hidden,
        patches=fixed,
        patches_per_token=(getattr(tower, "spatial_merge_size", None) or 1) ** 2,
        image_token=token if token is not None else getattr(config, "image_token_index", None),
    )
