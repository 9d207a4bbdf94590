"""Sample with vLLM in place of transformers, from a checkpoint's folder.

Written from vLLM's documentation (0.11: `LLM.generate`, `SamplingParams`, prompts of token ids with
`multi_modal_data`) and tested with a stand-in that records the calls, not with vLLM itself. Only the
sampling differs: grades and KL are computed from the returned token ids as ever. vLLM draws other
random numbers than transformers, so compare only figures of one engine.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import torch
from datasets import Dataset
from transformers import AutoConfig, GenerationConfig, ProcessorMixin
from trl.data_utils import is_conversational, prepare_multimodal_messages

from sparseopd.errors import RequestError
from sparseopd.pairs import resolve_path
from sparseopd.pairs.encoding import Row, declared_ends
from sparseopd.pairs.loading import Processor, tokenizer_of
from sparseopd.pairs.sampling import Completion
from sparseopd.recipe import Model, Rollout

Engine = Literal["transformers", "vllm"]

MEMORY_SHARE = 0.9
"""Of the accelerator's memory that is free: what vLLM may take for weights and cache."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to sample, the same for every model."""

    processor: Processor
    prompts: Dataset
    rollout: Rollout
    samples: int
    seed: int
    column: str = "prompt"
    """Which prompts the model sees, "prompt" or "teacher_prompt"."""
    template: Mapping[str, Any] = field(default_factory=dict)
    """Variables for the chat template."""


def check_engine(engine: Engine) -> None:
    """Raise `RequestError` where vLLM is asked for and not installed."""
    if engine == "vllm" and importlib.util.find_spec("vllm") is None:
        raise RequestError(
            "--engine vllm needs vLLM, which is not installed: pip install vllm (a GPU is needed), "
            "or leave --engine out"
        )


def sample_with_vllm(model: Model, request: Request) -> list[Completion]:
    """Sample completions of every prompt; those of one prompt follow each other.

    The engine is made for this call and let go of.
    """
    vllm = importlib.import_module("vllm")
    ends = _ends(model, request.processor)
    prompts = [_prompt(row, request) for row in cast(Iterable[Row], request.prompts)]
    images = max(len(prompt.get("multi_modal_data", {}).get("image", ())) for prompt in prompts)
    engine = vllm.LLM(
        model=resolve_path(model.path),
        dtype=model.dtype,
        revision=model.revision,
        trust_remote_code=model.trust_remote_code,
        seed=request.seed,
        gpu_memory_utilization=_free_share(),
        **({"limit_mm_per_prompt": {"image": images}} if images else {}),
    )
    settings = [
        # vLLM gives the n samples of a prompt the seeds that follow.
        _sampling(vllm, request, ends, request.seed + place * request.samples)
        for place in range(len(prompts))
    ]
    outputs = engine.generate(prompts, settings, use_tqdm=False)
    return [
        _completion(place, list(sampled.token_ids), ends, request.processor)
        for place, output in enumerate(outputs)
        for sampled in output.outputs
    ]


def _ends(model: Model, processor: Processor) -> list[int]:
    """Return every token that ends a completion, as `end_ids` does for a model in memory."""
    where, revision = resolve_path(model.path), model.revision
    try:
        declared = GenerationConfig.from_pretrained(where, revision=revision or "main")
    except OSError:  # without a file of its own, as transformers derives it
        config = AutoConfig.from_pretrained(
            where, revision=revision, trust_remote_code=model.trust_remote_code
        )
        declared = GenerationConfig.from_model_config(config)
    return declared_ends(declared, processor)


def _sampling(vllm: Any, request: Request, ends: Sequence[int], seed: int) -> Any:
    """Return one prompt's settings: the recipe's rollout, and a seed of its own."""
    rollout, image = request.rollout, getattr(request.processor, "image_token_id", None)
    return vllm.SamplingParams(
        n=request.samples,
        temperature=rollout.temperature,
        top_p=rollout.top_p,
        top_k=rollout.top_k,
        max_tokens=rollout.max_new_tokens,
        seed=seed,
        stop_token_ids=list(ends),
        # As with transformers: one more image token would not match the images.
        logit_bias=None if image is None else {image: -100.0},
    )


def _prompt(row: Row, request: Request) -> dict[str, Any]:
    """Return a prompt's token ids; pictures beside them, for vLLM to expand their placeholders."""
    tokenizer, turns = tokenizer_of(request.processor), row[request.column]
    if not is_conversational({"prompt": turns}):
        return {"prompt_token_ids": tokenizer(turns)["input_ids"]}
    images = row.get("images") or []
    vision = isinstance(request.processor, ProcessorMixin)
    text = request.processor.apply_chat_template(
        prepare_multimodal_messages(turns, images=images) if vision else turns,
        add_generation_prompt=True,
        tokenize=False,
        **request.template,
    )
    ids = tokenizer(str(text), add_special_tokens=False)["input_ids"]
    prompt: dict[str, Any] = {"prompt_token_ids": ids}
    return {**prompt, "multi_modal_data": {"image": images}} if images else prompt


def _completion(
    prompt: int, ids: list[int], ends: Sequence[int], processor: Processor
) -> Completion:
    """Cut token ids after the first end, as sampling with transformers does."""
    first = next((place for place, token in enumerate(ids) if token in ends), None)
    body = ids[:first]
    text = tokenizer_of(processor).decode(body, skip_special_tokens=True)
    kept = ids if first is None else ids[: first + 1]
    return Completion(prompt, torch.tensor(kept, dtype=torch.long), str(text), first is None)


def _free_share() -> float:
    """Return the share of the accelerator's memory for vLLM: the teacher may hold some of it."""
    if not torch.cuda.is_available():
        return MEMORY_SHARE
    free, total = torch.cuda.mem_get_info()
    return MEMORY_SHARE * free / total
