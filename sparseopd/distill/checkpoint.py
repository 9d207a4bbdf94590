"""Write the trained student, and compare it with its source bit by bit."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import PreTrainedModel

from sparseopd.artifacts import folder_written_whole
from sparseopd.errors import PairError, RunFolderError
from sparseopd.masks import Mask
from sparseopd.pairs import open_tensors
from sparseopd.pairs.loading import Processor

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def save_checkpoint(
    student: PreTrainedModel, processor: Processor, folder: Path, dtype: torch.dtype
) -> None:
    """Write the student as a Hugging Face folder in `dtype`, whole or not at all, and leave it as it is.

    Weights of another dtype are cast one by one, so that memory holds one copy of them, on the CPU.
    Raises `RunFolderError` with the operating system's reason.
    """
    held = student.config.dtype
    try:
        with folder_written_whole(folder) as temporary:
            student.save_pretrained(temporary, state_dict=_cast(student, dtype))
            student.config.dtype = dtype  # what was written names the dtype the student is held in
            student.config.save_pretrained(temporary)
            processor.save_pretrained(temporary)
    except SafetensorError as error:
        raise RunFolderError(f"cannot write the checkpoint {folder}: {error}") from error
    finally:
        student.config.dtype = held


def _cast(student: PreTrainedModel, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the state of a student on the CPU; what shares its storage still does."""
    cast: dict[int, Tensor] = {}
    state = student.state_dict(keep_vars=True)
    for value in state.values():
        if id(value) not in cast:
            wanted = dtype if value.is_floating_point() else value.dtype
            cast[id(value)] = value.detach().to("cpu", wanted)
    return {name: cast[id(value)] for name, value in state.items()}


def checkpoint_bytes(student: nn.Module, dtype: torch.dtype) -> int:
    """Estimate what `save_checkpoint` writes."""
    return sum(parameter.numel() for parameter in student.parameters()) * dtype.itemsize


def require_lossless(folder: Path, held: torch.dtype, stored: torch.dtype) -> None:
    """Check that the source's weights survive being loaded in `held` and saved in `stored`.

    Otherwise rounding alone would change coordinates off the mask, and comparing with a source that
    was rounded alike could not tell. Raises `PairError` naming the first tensor that loses bits.
    """
    source = open_tensors(folder)
    for name in source.keys():
        tensor = source[name]
        for dtype, setting in ((held, "student.dtype"), (stored, "train.save_dtype")):
            if tensor.is_floating_point() and not torch.equal(
                tensor.to(dtype).to(tensor.dtype), tensor
            ):
                raise PairError(
                    f"{name} of {folder} is {tensor.dtype} and would be rounded to {dtype}, on the "
                    f"mask and off it: set {setting} to float32"
                )


def changed_off_mask(source: nn.Module, trained: Path, mask: Mask) -> list[str]:
    """Return the tensors of the checkpoint `trained` that differ from the source off the mask.

    Bits are compared, so -0.0 for 0.0 counts as a change.
    """
    before, after = open_tensors(source), open_tensors(trained)
    changed = []
    for name in before.keys():
        differs = _bits(before[name]) != _bits(after[name])
        if name in mask:
            differs &= ~mask[name]
        if differs.any():
            changed.append(name)
    return changed


def _bits(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous().view(_BITS[tensor.dtype.itemsize])
