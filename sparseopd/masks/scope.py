"""Which tensors take part: by block or by name pattern, and the groups that share a budget."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from sparseopd.errors import MaskError
from sparseopd.selection import Budget

BLOCKS = ("ffn", "attention", "embedding", "head", "norm", "vision", "expert", "other")

_RULES = (
    (
        "vision",
        r"(?:^|\.)(?:vision_tower|vision_model|visual|vision_encoder|multi_modal_projector)\.",
    ),
    ("expert", r"\.(?:experts?|shared_experts?)\."),
    ("norm", r"(?:norm|ln_\w+|layernorm\w*|ln)(?:\.weight|\.bias)?$"),
    ("head", r"(?:^|\.)(?:lm_head|score|classifier|embed_out)(?:\.|$)"),
    ("embedding", r"(?:^|\.)(?:\w*embed\w*|wte|wpe)(?:\.|$)"),
    (
        "attention",
        r"\.(?:self_attn|self_attention|attn|attention|SelfAttention|linear_attn)(?:\.|$)",
    ),
    ("ffn", r"\.(?:mlp|ffn|feed_forward|fc1|fc2|DenseReluDense|intermediate|output)(?:\.|$)"),
)
"""Tried in order on a checkpoint name, so that a vision tower's norm counts as vision."""


def block_of(name: str) -> str:
    """Return the block a checkpoint tensor belongs to, one of `BLOCKS`."""
    if name.endswith("mlp.gate.weight"):  # a mixture's router, not a feed-forward weight
        return "other"
    return next((block for block, rule in _RULES if re.search(rule, name)), "other")


def in_scope(names: Iterable[str], include: Sequence[str], exclude: Sequence[str]) -> list[str]:
    """Return the names that match `include` (all, if it is empty) and not `exclude`.

    Each word is a block or a shell pattern over whole names. Raises `MaskError` for a word that
    matches nothing, since it would do nothing.
    """
    known = list(names)
    for word in (*include, *exclude):
        if not any(matches(name, word) for name in known):
            raise MaskError(
                f"no tensor matches {word!r}: give a pattern such as '*.mlp.*', or a block "
                f"({', '.join(BLOCKS)}); the first tensor is {known[0] if known else 'missing'}"
            )
    kept = [name for name in known if not include or any(matches(name, word) for word in include)]
    kept = [name for name in kept if not any(matches(name, word) for word in exclude)]
    if not kept:
        raise MaskError(f"nothing is left in scope after excluding {', '.join(exclude)}")
    return kept


def shares(budget: Budget, numels: dict[str, int], k: int) -> list[tuple[list[str], int]]:
    """Split k over the groups of a budget: (names, coordinates to choose among them) each.

    Every group gets its size's share, rounded by largest remainder so that the sum is exactly k;
    equal remainders go to the group whose first name sorts first.
    """
    groups = _groups(budget, sorted(numels))
    sizes = [sum(numels[name] for name in names) for names in groups]
    whole = sum(sizes)
    floors = [k * size // whole if whole else 0 for size in sizes]
    order = sorted(
        range(len(groups)), key=lambda index: -(k * sizes[index] % whole if whole else 0)
    )
    for index in order[: k - sum(floors)]:
        floors[index] += 1
    return list(zip(groups, floors, strict=True))


def _groups(budget: Budget, names: list[str]) -> list[list[str]]:
    if budget == "global":
        return [names]
    if budget == "tensor":
        return [[name] for name in names]
    blocks = {block: [name for name in names if block_of(name) == block] for block in BLOCKS}
    return [members for members in blocks.values() if members]


def matches(name: str, word: str) -> bool:
    """Whether a tensor's name lies in the block, or matches the shell pattern, that `word` is."""
    return block_of(name) == word if word in BLOCKS else fnmatchcase(name, word)
