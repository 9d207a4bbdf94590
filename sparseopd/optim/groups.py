"""Parameter groups by name pattern: another learning rate or decay for some of the k-vectors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from sparseopd.errors import OptimizerError
from sparseopd.masks.scope import BLOCKS, matches
from sparseopd.optim.build import checkpoint_names


def grouped(
    model: nn.Module, trained: Mapping[str, Tensor], groups: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return the parameter groups of a torch optimizer over `trained`, those that would be empty left out.

    Args: `trained`, what is trained of each parameter, by its name: itself, or its k-vector.
    """
    if not groups:  # the names of a checkpoint's tensors take a moment to find
        return [{"params": list(trained.values())}]
    known = {name: [name, *pieces] for name, pieces in checkpoint_names(model).items()}
    members = [
        ([trained[name] for name in names if name in trained], settings)
        for names, settings in split(known, groups)
    ]
    return [{"params": params, **settings} for params, settings in members if params]


def split(
    names: Mapping[str, Iterable[str]], groups: Sequence[Mapping[str, Any]]
) -> list[tuple[list[str], dict[str, Any]]]:
    """Assign every parameter to the first group that matches it, the rest to a last one.

    Args:
        names: the names by which each parameter is known (its own and its checkpoint tensors'). The
            parameters that are not trained may be among them.
        groups: dictionaries of optimizer settings with `match`, a list of name patterns or blocks
            (ffn, attention, embedding, head, norm, vision, expert).

    Returns (parameter names, settings) for each group, empty ones included. Raises `OptimizerError`
    for a group without `match`, or a word that matches no parameter, since it would do nothing.
    """
    words = [_words(group) for group in groups]
    for word in (word for group in words for word in group):
        if not any(matches(known, word) for every in names.values() for known in every):
            raise OptimizerError(
                f"no parameter matches {word!r} in groups: give a pattern such as '*.mlp.*', or a "
                f"block ({', '.join(BLOCKS)})"
            )
    members: list[list[str]] = [[] for _ in range(len(groups) + 1)]
    for name, known in names.items():
        every = list(known)
        found = (
            index
            for index, group in enumerate(words)
            if any(matches(one, word) for one in every for word in group)
        )
        members[next(found, len(groups))].append(name)
    settings = [{key: value for key, value in g.items() if key != "match"} for g in groups]
    return list(zip(members, [*settings, {}], strict=True))


def _words(group: Any) -> list[str]:
    match = group.get("match") if isinstance(group, Mapping) and "params" not in group else None
    words = [match] if isinstance(match, str) else match
    if (
        not isinstance(words, (list, tuple))
        or not words
        or not all(isinstance(w, str) for w in words)
    ):
        raise OptimizerError(
            f"a group of MaskedOptimizer names its parameters by match, a list of patterns, and this one "
            f'is {group!r}: write {{"match": ["*norm*"], "weight_decay": 0.0}}'
        )
    return list(words)
