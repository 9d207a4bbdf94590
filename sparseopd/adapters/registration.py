"""Make the sparse adapter known to PEFT."""

from __future__ import annotations

from typing import Any

from peft import mapping
from peft.utils import hotswap
from torch import Tensor, nn

from sparseopd.adapter_files.adapter import SparseAdapter
from sparseopd.adapters.config import SparseConfig, SparseType
from sparseopd.adapters.model import SparseModel, tuner_of


def register() -> None:
    """Enter configuration and tuner in PEFT's registry, and the tuner in its hot swap.

    Read from PEFT 0.21.2. `register_peft_method` takes only types of PEFT's own enum, but the mappings
    behind it are keyed by strings. `hotswap_adapter` checks configurations against a table and hands
    the tensors to a function that knows LoRA alone, which is told apart here by the configuration.
    """
    kind = SparseType.SPARSEOPD
    mapping.PEFT_TYPE_TO_CONFIG_MAPPING[kind] = SparseConfig  # pyright: ignore[reportArgumentType]
    mapping.PEFT_TYPE_TO_TUNER_MAPPING[kind] = SparseModel  # pyright: ignore[reportArgumentType]
    mapping.PEFT_TYPE_TO_PREFIX_MAPPING[kind] = SparseModel.prefix  # pyright: ignore[reportArgumentType]
    hotswap.CONFIG_KEYS_TO_CHECK[kind] = []  # pyright: ignore[reportArgumentType]
    others = hotswap.hotswap_adapter_from_state_dict
    if getattr(others, "knows_sparse", False):
        return

    def swap(
        model: nn.Module, state_dict: dict[str, Tensor], adapter_name: str, config: Any, **more: Any
    ) -> None:
        if not isinstance(config, SparseConfig):
            return others(model, state_dict, adapter_name, config, **more)
        tuner_of(model).install(adapter_name, SparseAdapter.from_tensors(state_dict, adapter_name))

    swap.knows_sparse = True  # pyright: ignore[reportFunctionMemberAccess]
    hotswap.hotswap_adapter_from_state_dict = swap
