"""Small models, masks and adapters made without the tuner, and comparisons of bits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText, GPT2Config, GPT2LMHeadModel
from transformers.pytorch_utils import Conv1D

from sparseopd.adapter_files.writer import AdapterWriter
from sparseopd.adapters import SparseConfig
from sparseopd.artifacts import Provenance
from sparseopd.masks import Mask, select
from sparseopd.pairs import open_tensors, tiny
from sparseopd.pairs.tensors import tensor_hash
from tests.conftest import make_moe, make_qwen3
from tests.optim.runs import same_bits

PREFIX = "sparseopd_"
ODD = (-0.0, float("inf"), float("-inf"), float("nan"))
"""Values that arithmetic would not give back."""


class Net(nn.Module):
    """A parameter of every kind: of the root, of modules with children, scalars, kernels and norms."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.gain = nn.Parameter(torch.tensor(1.5))
        self.shift = nn.Parameter(torch.randn(6))
        self.embed = nn.Embedding(11, 6)
        self.conv1 = nn.Conv1d(6, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(1, 4, 3, padding=1)
        self.norm, self.rms = nn.LayerNorm(6), nn.RMSNorm(6)
        self.old = Conv1D(6, 6)
        self.block = Block()
        self.head = nn.Linear(6, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits (batch, length, 11) of tokens (batch, length)."""
        held = self.embed(tokens) * self.gain + self.shift
        held = held + self.conv1(held.mT)[:, :6].mT
        held = held + self.conv2(held[:, None]).mean(1)
        held = self.rms(self.old(self.norm(held)))
        return self.head(self.block(held))


class Block(nn.Module):
    """Parameters of its own beside a child's, as CLIP's class embedding has."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(6))
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)

    def forward(self, held: Tensor) -> Tensor:
        """Attend over (batch, length, 6)."""
        held = held + self.token
        return held + self.attention(held, held, held, need_weights=False)[0]


def make_layers(seed: int = 0) -> nn.Sequential:
    """A few weights, for what is done very often."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 3))


def make_gpt2() -> nn.Module:
    """Conv1D weights, learned positions, biases, tied head."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 40, "n_positions": 16, "n_embd": 32, "n_layer": 2, "n_head": 2}
    return GPT2LMHeadModel(GPT2Config(**sizes, attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0))


def make_llava() -> nn.Module:
    """A vision tower, a projector, and checkpoint names of its own."""
    return AutoModelForImageTextToText.from_pretrained(tiny.folder("tiny-digits") / "student")


MODELS: dict[str, Any] = {
    "net": Net,
    "qwen3": make_qwen3,
    "gpt2": make_gpt2,
    "mixture": make_moe,
    "llava": make_llava,
}


WIDE_AND_NARROW = [
    *((name, dtype) for name in MODELS for dtype in (torch.float32, torch.bfloat16)),
    ("net", torch.float16),
]
"""Every kind of model in the dtypes that weights are stored in."""


def inputs(model: nn.Module, seed: int) -> dict[str, Tensor]:
    """A batch of two for any of the models, with an image each for LLaVA."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, 11, (2, 8), generator=generator)
    if isinstance(model, Net):
        return {"tokens": tokens}
    if isinstance(model, nn.Sequential):
        return {"input": torch.randn(4, 6, generator=generator).to(model[0].weight.dtype)}
    batch = {"input_ids": tokens, "labels": tokens}
    vision = getattr(model.config, "vision_config", None)
    if vision is not None:
        patches = (vision.image_size // vision.patch_size) ** 2
        marks = torch.full((2, patches), model.config.image_token_id)
        tokens[tokens == model.config.image_token_id] += 1
        batch["input_ids"] = torch.cat([marks, tokens], 1)
        batch["labels"] = torch.cat([torch.full_like(marks, -100), tokens], 1)
        size = (2, 3, vision.image_size, vision.image_size)
        batch["pixel_values"] = torch.randn(size, generator=generator).to(model.dtype)
    return batch


def logits_of(model: nn.Module, seed: int = 0) -> Tensor:
    """What a model, plain or wrapped by PEFT, says of a batch."""
    found = model(**inputs(plain_of(model), seed))
    return getattr(found, "logits", found)


def loss_of(model: nn.Module, seed: int = 0) -> Tensor:
    """A loss with a gradient for every weight that the batch uses."""
    if isinstance(plain_of(model), Net):
        tokens = inputs(plain_of(model), seed)["tokens"]
        return nn.functional.cross_entropy(model(tokens).flatten(0, 1).float(), tokens.flatten())
    found = model(**inputs(plain_of(model), seed))
    return found.square().mean() if isinstance(found, Tensor) else found.loss


def plain_of(model: nn.Module) -> nn.Module:
    """The model inside PEFT's wrapper."""
    return model.base_model.model if isinstance(model, PeftModel) else model


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Copies of the model's own weights as they are now, by their names without PEFT."""
    named = plain_of(model).named_parameters()
    return {name: w.detach().clone() for name, w in named if PREFIX not in name}


def differing(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> list[str]:
    """The names of the weights that differ in a bit."""
    assert one.keys() == other.keys()
    return [name for name in one if not same_bits(one[name], other[name])]


def as_bits(tensor: Tensor) -> Tensor:
    """The same memory as integers."""
    return tensor.view({2: torch.int16, 4: torch.int32}[tensor.element_size()])


def values_of(model: nn.Module, adapter: str = "default") -> dict[str, Tensor]:
    """The k-vectors of an adapter, by their names."""
    ending = f".adapters.{adapter}.k"
    named = plain_of(model).named_parameters()
    found = {name: w for name, w in named if PREFIX in name and name.endswith(ending)}
    return {name: w for name, w in found.items() if isinstance(w, nn.Parameter)}


def mask_of(model: nn.Module, density: float = 0.2, seed: int = 0, **settings: Any) -> Mask:
    """A random mask over all of a model's tensors."""
    return select(model, selector="random", density=density, seed=seed, **settings)


def adapt(model: nn.Module, mask: Mask, name: str = "default", **settings: Any) -> PeftModel:
    """The model under PEFT, with a new adapter to train."""
    return get_peft_model(model, SparseConfig(mask=mask, **settings), adapter_name=name)  # pyright: ignore


def new_values(mask: Mask, base: nn.Module, seed: int, *, odd: bool = False) -> dict[str, Tensor]:
    """Random values for a mask's coordinates, (k,) in the base's dtype, by checkpoint tensor."""
    generator, tensors = torch.Generator().manual_seed(seed), open_tensors(base)
    values = {}
    for name in mask.names:
        if mask.count(name):
            drawn = torch.randn(mask.count(name), generator=generator) * 0.1
            if odd:
                kind = torch.randint(0, 8, drawn.shape, generator=generator)
                for number, value in enumerate(ODD):
                    drawn[kind == number] = value
            values[name] = drawn.to(tensors.dtype(name))
    return values


def write_adapter(folder: Path, base: nn.Module, mask: Mask, values: Mapping[str, Tensor]) -> Path:
    """Write an adapter's folder with the file's own writer, without PEFT."""
    tensors = open_tensors(base)
    expected = merged(base, mask, values)
    with AdapterWriter(folder) as writer:
        for name in mask.names:
            chosen = mask.count(name) > 0
            writer.add(
                name,
                mask.bitmaps[name],
                values.get(name),
                base_hash=tensor_hash(tensors[name]),
                result_hash=tensor_hash(expected[name]) if chosen else None,
            )
        writer.finish(Provenance(base="base"))
    return folder


def merged(base: nn.Module, mask: Mask, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The checkpoint that values at a mask's coordinates make of a base, by checkpoint name."""
    tensors = open_tensors(base)
    found = {name: tensors[name].clone() for name in tensors.keys()}
    for name, new in values.items():
        # As integers: torch writes a single value as a number, which changes the bits of a NaN.
        as_bits(found[name])[mask[name]] = as_bits(new)
    return found


def checkpoint_of(model: nn.Module) -> dict[str, Tensor]:
    """The model's own weights by checkpoint name, copied."""
    tensors = open_tensors(plain_of(model))
    return {name: tensors[name].clone() for name in tensors.keys() if PREFIX not in name}
