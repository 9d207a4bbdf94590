"""The student and teacher sections of a recipe: which checkpoints, and how they are held."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sparseopd.ranges import Dtype


@dataclass(kw_only=True)
class Model:
    """A checkpoint: a local folder, a hub id, or `bundled:NAME`."""

    path: str
    revision: str | None = None
    dtype: Dtype = "float32"
    """What the weights are held in. Full runs want float32 masters; a masked run keeps fp32 masters
    of its own coordinates, so bfloat16 is enough there."""
    trust_remote_code: bool = False


@dataclass(kw_only=True)
class Teacher(Model):
    """A frozen checkpoint that scores the student's completions."""

    quantization: Literal["8bit", "4bit"] | None = None
    """Hold the linear layers in 8 bits (LLM.int8) or 4 (NF4), by bitsandbytes; the rest in `dtype`."""
    device: str | None = None
    """Where it runs, such as cuda:1 or cpu. Default: beside the student."""
    server: str | None = None
    """URL of a vLLM server that serves it, such as http://localhost:8000, for the objectives that need
    no more than its most likely tokens: teacher-top-k and sampled-token. `path` is then read for its
    tokenizer alone."""
