"""A checkpoint's model without its weights: what its layers are, and how it names them on disk."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from sparseopd.errors import PairError

if TYPE_CHECKING:  # transformers takes seconds to import; most calls that might need it do not
    from transformers import PreTrainedModel


def skeleton(folder: Path) -> PreTrainedModel:
    """Build the model of a checkpoint folder on the meta device; takes a second.

    Raises `PairError` if its architecture cannot be built.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

    from sparseopd.pairs.loading import LOADING_ERRORS, is_vision_language

    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        kind = AutoModelForImageTextToText if is_vision_language(config) else AutoModelForCausalLM
        with torch.device("meta"):
            return kind.from_config(config, trust_remote_code=False)
    except LOADING_ERRORS as error:
        reason = str(error).strip().split("\n")[0]
        raise PairError(f"the architecture of {folder} cannot be built ({reason})") from error


def name_on_disk(model: nn.Module, name: str, names: Container[str]) -> str:
    """Return what a checkpoint with these names calls a tensor that a whole model is saved with.

    Some checkpoints are of the body alone, and name it without its place in the whole model.
    """
    body = getattr(model, "base_model_prefix", "")
    return name if name in names else name.removeprefix(f"{body}.")
