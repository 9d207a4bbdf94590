"""Model folders without weights, as a hub's small files are, and what checks make of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PretrainedConfig, PreTrainedTokenizerBase, Qwen3Config

from sparseopd import recipe as recipes
from sparseopd.feasibility import Finding, make_request
from sparseopd.feasibility.subject import Subject, gather
from sparseopd.pairs import load_processor
from sparseopd.pairs.loading import tokenizer_of
from sparseopd.recipe import Model

STUDENT = "bundled:tiny-arithmetic/student"
DATA = "bundled:tiny-arithmetic/train.jsonl"
ELSEWHERE = "some/where"
QWEN3_1B7: dict[str, Any] = {
    "hidden_size": 2048,
    "num_hidden_layers": 28,
    "intermediate_size": 6144,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "tie_word_embeddings": True,
    "max_position_embeddings": 40960,
}
QWEN3_4B = {
    **QWEN3_1B7,
    "hidden_size": 2560,
    "num_hidden_layers": 36,
    "intermediate_size": 9728,
    "num_attention_heads": 32,
}


def write_model(
    folder: Path, config: PretrainedConfig | None = None, **changes: Any
) -> PreTrainedTokenizerBase:
    """Write a configuration (a small Qwen3 by default) and the bundled tokenizer; return the latter.

    What is changed of the tokenizer afterwards needs another `save_pretrained`.
    """
    if config is None:
        small = {
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "vocab_size": 102,
        }
        heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}
        config = Qwen3Config(**{**small, **heads, **changes})
    config.save_pretrained(folder)
    tokenizer = tokenizer_of(load_processor(Model(path=STUDENT)))
    tokenizer.save_pretrained(folder)
    return tokenizer


def look(
    student: Path | str, teacher: Path | str, *words: str, data: str = ELSEWHERE, **request: Any
) -> tuple[Subject, list[Finding]]:
    """Return what is known of a recipe with these models, and the findings of looking.

    Data that is not on this machine is not read, so that prompts have an assumed length.
    """
    values = {"student": str(student), "teacher": str(teacher), "data": {"train": data}}
    recipe = recipes.build(values, ["device=cpu", *words])
    return gather(make_request(recipe, **request))


def one(findings: list[Finding], level: str, *parts: str) -> Finding:
    """The only finding of a level, which must hold all parts."""
    [found] = [finding for finding in findings if finding.level == level]
    for part in parts:
        assert part in found.sentence, found.sentence
    return found
