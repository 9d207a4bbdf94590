"""A model running with adapters of 10 %: inference beside the bare model, and training steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import torch
from adapter_models import (
    DTYPES,
    MODELS,
    QUICK,
    fresh,
    load_sparse,
    lora,
    matched_rank,
    random_mask,
    save_sparse,
    shira,
    size_of,
    supertuning,
    tokens,
)
from adapter_rounds import Ways, in_turn
from torch import nn
from train_step_arms import ARMS, BATCH, FLOOR, RATE, Trained
from train_step_worker import saved_bytes, timed_step
from transformers import DynamicCache

import sparseopd
from sparseopd.adapters import SparseConfig

BARE, CONTROL = "bare model", "bare model, a second copy"
OURS, APPLIED = "sparse adapter (PEFT)", "sparse adapter (apply)"
PROMPT = 128
"""Tokens of the forward pass, and tokens in the cache when one more is decoded."""
ADAPTER = "sparse adapter (PEFT)"
STEPS = (FLOOR, "sparseopd 10 %", "SHiRA 10 %", "SUPERTUNING 10 %", "LoRA 10 %")
"""Arms of train_step.py; "sparseopd 10 %" is `MaskedOptimizer`."""


def forward(folder: Path, quick: bool) -> dict[str, Any]:
    """Time inference of every arm, on a copy of the model each."""
    rounds = {"prompt": 4 if quick else 25, "decode": 4 if quick else 51}
    shape = next(iter((QUICK if quick else MODELS).values()))
    rows = []
    for dtype in DTYPES:
        arms, failed = _arms(shape, DTYPES[dtype], folder / dtype)
        for use, count in rounds.items():
            work = {name: USES[use](model) for name, model in arms.items()}
            before = {name: one[0] for name, one in work.items()}
            ways: Ways = {name: one[1] for name, one in work.items()}
            with torch.no_grad():
                seconds = in_turn(ways, count, before=before)
            rows.append({"dtype": dtype, "use": use, "seconds": seconds, "failed": failed})
    return {**size_of(fresh(shape, torch.float32)), "tokens": PROMPT, "rows": rows}


def _arms(
    shape: dict[str, Any], dtype: torch.dtype, folder: Path
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the arms that run, and why the others do not."""

    def build() -> Any:
        return fresh(shape, dtype)

    def wrapped(config: peft.PeftConfig) -> Any:
        return peft.get_peft_model(build(), config).eval()

    model = build()
    saved, rank = save_sparse(model, random_mask(model, 0), folder), matched_rank(model)
    merged = wrapped(lora(rank))
    merged.merge_adapter()
    arms = {
        BARE: model,
        CONTROL: build(),
        OURS: load_sparse(build(), saved).eval(),
        APPLIED: sparseopd.apply(build(), saved),
        "LoRA, merged": merged,
        "LoRA": wrapped(lora(rank)),
        "SHiRA": wrapped(shira(rank)),
        "SUPERTUNING": wrapped(supertuning()),
    }
    _check_at_work(arms)
    failed = {name: why for name, arm in arms.items() if (why := _failure(arm))}
    return {name: arm for name, arm in arms.items() if name not in failed}, failed


@torch.no_grad()
def _check_at_work(arms: dict[str, Any]) -> None:
    """Raise an error unless our arms compute the same, and something else than the bare model."""
    names = (BARE, OURS, APPLIED)
    bare, ours, applied = (arms[name](tokens(2), use_cache=False).logits for name in names)
    torch.testing.assert_close(ours, applied)
    assert not torch.equal(ours, bare)


def _failure(model: Any) -> str:
    try:
        with torch.no_grad():
            model(input_ids=tokens(2), use_cache=False)
    except RuntimeError as error:
        return str(error).splitlines()[0]
    return ""


def _prompt(model: Any) -> tuple[Callable[[], None], Callable[[], object]]:
    ids = tokens(PROMPT)
    return lambda: None, lambda: model(input_ids=ids, use_cache=False)


def _decode(model: Any) -> tuple[Callable[[], None], Callable[[], object]]:
    """Decode one token after the prompt, to which the cache is cut back before each."""
    cache, last = DynamicCache(), tokens(1)
    with torch.no_grad():
        model(input_ids=tokens(PROMPT), past_key_values=cache, use_cache=True)

    def cut() -> None:
        if added := cache.get_seq_length() - PROMPT:
            cache.crop(-added)

    return cut, lambda: model(input_ids=last, past_key_values=cache, use_cache=True)


USES = {"prompt": _prompt, "decode": _decode}


def training(folder: Path, quick: bool) -> dict[str, Any]:
    """Take steps in turn: forward, backward and optimizer; count what forward saves for backward."""
    shape = next(iter(QUICK.values())) if quick else {}
    builds = {ADAPTER: _adapter, **{name: ARMS[name] for name in STEPS}}
    arms = {name: build(fresh(shape, torch.float32).train()) for name, build in builds.items()}
    batches = torch.Generator().manual_seed(0)

    def stepping(arm: Trained) -> Callable[[], object]:
        return lambda: timed_step(arm, batches)

    ways = {name: stepping(arm) for name, arm in arms.items()}
    seconds = in_turn(ways, 3 if quick else 11)
    return {
        "batch": BATCH,
        "trained": {name: arm.coordinates for name, arm in arms.items()},
        "saved_bytes": {name: saved_bytes(arm.model, batches) for name, arm in arms.items()},
        "seconds": seconds,
    }


def _adapter(model: nn.Module) -> Trained:
    """Train the same kind of mask as a PEFT adapter, with fused AdamW."""
    config = SparseConfig(mask=random_mask(model, 0))
    wrapped: Any = peft.get_peft_model(model, config)  # pyright: ignore[reportArgumentType]
    values = [weight for weight in wrapped.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(values, lr=RATE, fused=True)
    return Trained(wrapped, optimizer, sum(one.numel() for one in values), values)
