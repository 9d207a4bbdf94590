"""Hold a frozen model's linear layers in 8 or 4 bits by bitsandbytes, from the moment it is loaded."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel

from sparseopd.errors import PairError

Bits = Literal["8bit", "4bit"]


def quantization_options(bits: Bits, dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """Return what `from_pretrained` is given to quantize a model while loading it.

    "8bit" is LLM.int8, "4bit" is NF4 with quantized scales. Either way activations, embeddings, norms
    and the output head have `dtype`; the head, and what is tied to it, transformers leaves out. LLM.int8
    looks for outliers in a whole batch, so 8-bit logits vary with what else, padding included, is in it.

    Raises `PairError` without bitsandbytes, or for a device that it does not serve.

    Source: Dettmers et al., LLM.int8() (arXiv 2208.07339) and QLoRA (arXiv 2305.14314).
    """
    _check_bitsandbytes(bits, device)
    if bits == "8bit":
        return {"quantization_config": BitsAndBytesConfig(load_in_8bit=True)}
    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    return {"quantization_config": settings}


def placement(device: torch.device) -> dict[str, Any]:
    """Return what `from_pretrained` is given to load a whole model onto a device.

    Quantized weights are made on their device. accelerate compares that device with its own by
    number, so an accelerator without one gets the current one's.
    """
    if device.type != "cpu" and device.index is None:
        device = torch.device(device.type, torch.accelerator.current_device_index())
    return {"device_map": {"": str(device)}}


def compute_as_asked(model: PreTrainedModel) -> None:
    """Keep 4-bit layers on a CPU from being packed anew at their first use.

    On a CPU with AVX512-BF16 (bitsandbytes 0.50.2, `Linear4bit.forward`) packed layers compute in
    bfloat16 whatever they were told, and shapes other than multiples of 32 by 64 fail an assertion.
    Unpacked ones take every shape and score whole sequences several times faster.
    """
    if find_spec("bitsandbytes") is None:
        return
    from bitsandbytes.nn.modules import Linear4bit

    for layer in model.modules():
        if isinstance(layer, Linear4bit):
            layer.support_avx512bf16_for_cpu = False


def check_head(model: PreTrainedModel, path: str) -> None:
    """Raise `PairError` where a quantized model's output head is no plain matrix of numbers.

    Losses multiply hidden states with it, some tokens at a time.
    """
    head = model.get_output_embeddings()
    weight = head.weight if isinstance(head, nn.Module) else None
    if not isinstance(weight, torch.Tensor) or not weight.is_floating_point():
        raise PairError(
            f"the output head of {path} is quantized, and a loss needs its numbers: give the "
            "unquantized checkpoint, with teacher.quantization"
        )


def _check_bitsandbytes(bits: Bits, device: torch.device) -> None:
    if find_spec("bitsandbytes") is None:
        raise PairError(
            f"teacher.quantization={bits} needs bitsandbytes, which is not installed: "
            "pip install bitsandbytes"
        )
    import bitsandbytes

    if device.type not in bitsandbytes.supported_torch_devices:
        served = ", ".join(sorted(bitsandbytes.supported_torch_devices))
        raise PairError(
            f"teacher.quantization={bits} cannot be used on {device}: bitsandbytes serves {served}"
        )
