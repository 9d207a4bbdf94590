"""Shared by all tests: no network, quiet libraries, and tiny models made once."""

from __future__ import annotations

import os
import signal

os.environ["HF_HUB_OFFLINE"] = "1"
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Whatever is started in the background by a script ignores Ctrl-C, and so would all it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)

from sparseopd.console import quiet_libraries

quiet_libraries()

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

SIZES = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
}


def make_qwen3(seed: int = 0, tied: bool = True) -> Qwen3ForCausalLM:
    """A random Qwen3 of about 20,000 parameters."""
    torch.manual_seed(seed)
    return Qwen3ForCausalLM(Qwen3Config(**SIZES, tie_word_embeddings=tied))


def make_moe(seed: int = 0) -> Qwen3MoeForCausalLM:
    """A random mixture of four experts."""
    torch.manual_seed(seed)
    config = Qwen3MoeConfig(**SIZES, moe_intermediate_size=16, num_experts=4, num_experts_per_tok=2)
    return Qwen3MoeForCausalLM(config)


@pytest.fixture
def qwen3() -> Qwen3ForCausalLM:
    return make_qwen3()


@pytest.fixture
def moved(qwen3: Qwen3ForCausalLM) -> Qwen3ForCausalLM:
    """The same model after a small dense update."""
    tuned = make_qwen3()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in tuned.parameters():
            weight.add_(torch.randn(weight.shape, generator=generator) * 1e-3)
    return tuned


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what this machine cannot run, with the reason."""
    needs = {"gpu": (torch.cuda.is_available(), "needs a CUDA device")}
    for item in items:
        for marker, (available, reason) in needs.items():
            if item.get_closest_marker(marker) and not available:
                item.add_marker(pytest.mark.skip(reason=reason))
