"""The checkpoints that `analysis.py` measures: a random bf16 Qwen3 and an update of mixed structure."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

SHARD = 1 << 30
"""Bytes of weights after which a file is closed."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a Qwen3."""

    hidden: int
    layers: int
    intermediate: int
    vocabulary: int = 8192
    heads: int = 12
    kv_heads: int = 4
    head_dim: int = 64
    tied: bool = True

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Yield the names and shapes of its checkpoint."""
        yield "model.embed_tokens.weight", (self.vocabulary, self.hidden)
        query, key = self.heads * self.head_dim, self.kv_heads * self.head_dim
        for layer in range(self.layers):
            at = f"model.layers.{layer}"
            for name, rows in (("q", query), ("k", key), ("v", key)):
                yield f"{at}.self_attn.{name}_proj.weight", (rows, self.hidden)
            yield f"{at}.self_attn.o_proj.weight", (self.hidden, query)
            for name in ("gate", "up"):
                yield f"{at}.mlp.{name}_proj.weight", (self.intermediate, self.hidden)
            yield f"{at}.mlp.down_proj.weight", (self.hidden, self.intermediate)
            for name in ("q", "k"):
                yield f"{at}.self_attn.{name}_norm.weight", (self.head_dim,)
            for name in ("input", "post_attention"):
                yield f"{at}.{name}_layernorm.weight", (self.hidden,)
        yield "model.norm.weight", (self.hidden,)
        if not self.tied:
            yield "lm_head.weight", (self.vocabulary, self.hidden)

    def parameters(self) -> int:
        """Count them."""
        return sum(math.prod(dims) for _, dims in self.tensors())

    def config(self) -> dict[str, Any]:
        """Return its config.json."""
        return {
            "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3",
            "vocab_size": self.vocabulary, "hidden_size": self.hidden,
            "intermediate_size": self.intermediate, "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads, "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim, "tie_word_embeddings": self.tied, "torch_dtype": "bfloat16",
        }  # fmt: skip

    def widened(self, hidden: int) -> Shape:
        """Return it with another hidden size and all that goes with it."""
        factor = hidden / self.hidden
        return replace(
            self,
            hidden=hidden,
            intermediate=round(self.intermediate * factor),
            heads=round(self.heads * factor),
            kv_heads=round(self.kv_heads * factor),
        )


def write_pair(folder: Path, shape: Shape, device: str = "cpu") -> None:
    """Write folder/base and folder/tuned, in shards; the numbers are drawn on `device`.

    Ends the program with a sentence where the disk has no room for both.
    """
    need, free = 4 * shape.parameters(), shutil.disk_usage(folder).free
    if free < 1.2 * need:
        sys.exit(
            f"{folder} has {free / 1e9:.1f} GB free, the pair takes {need / 1e9:.1f}: see --folder"
        )
    base, tuned = Shards(folder / "base"), Shards(folder / "tuned")
    for number, (name, dims) in enumerate(shape.tensors()):
        draw = Normal(number, device)
        drawn = draw(*dims)
        weight = (0.02 * drawn if len(dims) > 1 else 1 + 0.05 * drawn).bfloat16()
        base.add(name, weight)
        tuned.add(name, (weight.float() + _update(name, dims, draw)).bfloat16())
    for shards in (base, tuned):
        shards.close(shape.config())


class Normal:
    """Draws standard normal numbers, the same for the same seed on the same kind of device."""

    def __init__(self, seed: int, device: str) -> None:
        self._device = device
        self._generator = torch.Generator(device).manual_seed(seed)

    def __call__(self, *dims: int) -> Tensor:
        return torch.randn(dims, generator=self._generator, device=self._device)


def _update(name: str, dims: tuple[int, ...], draw: Normal) -> Tensor:
    """Dense noise, with rank one added in down_proj; 2 % of o_proj's coordinates; no last norm."""
    noise = 3e-5 * draw(*dims)
    if "down_proj" in name:
        return noise + 4e-4 / math.sqrt(dims[1]) * torch.outer(draw(dims[0]), draw(dims[1]))
    if "o_proj" in name:
        return 30 * noise * (draw(*dims) > 2)
    return torch.zeros_like(noise) if name == "model.norm.weight" else noise


class Shards:
    """A checkpoint folder that is filled tensor by tensor."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self._held: dict[str, Tensor] = {}
        self._index: dict[str, str] = {}
        self._files = 0

    def add(self, name: str, weight: Tensor) -> None:
        """Hold a tensor; write those held once there are enough."""
        self._held[name] = weight.cpu()
        if sum(held.nbytes for held in self._held.values()) >= SHARD:
            self._write()

    def close(self, config: dict[str, Any]) -> None:
        """Write what is left, the index and the config."""
        if self._held:
            self._write()
        index = {"metadata": {}, "weight_map": self._index}
        (self._folder / "model.safetensors.index.json").write_text(json.dumps(index))
        (self._folder / "config.json").write_text(json.dumps(config))

    def _write(self) -> None:
        self._files += 1
        file = f"model-{self._files:05}.safetensors"
        save_file(self._held, self._folder / file, {"format": "pt"})
        self._index |= dict.fromkeys(self._held, file)
        self._held = {}
