"""What we use of TRL's private interface is still as it was read (trl 1.16)."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import pytest
from trl.trainer.distillation_trainer import DistillationTrainer
from trl.trainer.utils import shuffle_sequence_dict, split_tensor_dict

EXPECTED: dict[str, list[str]] = {
    "_get_last_hidden_state": ["unwrapped_model", "input_ids", "attention_mask", "logits_to_keep"],
    "_generate_and_score_completions": ["inputs"],
    "_generate_single_turn": ["prompt_ids", "images", "multimodal_fields", "has_tool_images"],
    "_get_train_sampler": ["dataset"],
    "_prepare_inputs": ["generation_batch"],
    "_get_dataloader": ["dataset", "description", "batch_size"],
    "training_step": ["model", "inputs", "num_items_in_batch"],
}


@pytest.mark.parametrize("name", EXPECTED)
def test_methods_take_what_they_took(name: str) -> None:
    method: Callable[..., object] = getattr(DistillationTrainer, name)
    parameters = list(inspect.signature(method).parameters)[1:]
    assert parameters[: len(EXPECTED[name])] == EXPECTED[name]


def test_its_loss_is_still_called_through_the_redirection_we_use() -> None:
    source = inspect.getsource(DistillationTrainer)
    for words in (
        "self._forward_redirection = _ForwardRedirection()",
        "loss, entropy_sum, num_valid_tokens = self._forward_redirection(",
        'self._metrics[mode]["entropy"].append(entropy)',
        "self._step += 1",
        "self._buffered_inputs = None",
        "generation_batches = split_tensor_dict(generation_batch, self.args.gradient_accumulation_steps)",
    ):
        assert words in source
    assert list(inspect.signature(shuffle_sequence_dict).parameters) == ["seq_dict"]
    assert list(inspect.signature(split_tensor_dict).parameters) == ["tensor_dict", "num_chunks"]
