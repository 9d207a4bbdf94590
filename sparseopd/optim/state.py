"""Optimizer state by parameter name: saved whole, read by any process, order or world size.

    {"format": 1, "mask": digest, "optimizer": class name, "steps": n,
     "parameters": {name: {"values": fp32 (k,), "state": {"exp_avg": (k,), "step": (), …},
                           "written": (step, seed) of the last stochastic rounding, or None,
                           "start": (k,) as stored when training began, where telemetry is on}},
     "groups": [{"names": [name, …], "lr": …, …}]}

Of a sharded weight the vectors are put together from all processes, in the order of the whole mask,
so that another number of processes can cut them anew.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from sparseopd.errors import OptimizerError
from sparseopd.optim.compact import CompactParameter
from sparseopd.optim.shards import summed_over_shards

FORMAT = 1
_STRANGE = "strange"


def collect(
    inner: torch.optim.Optimizer,
    compacts: Mapping[str, CompactParameter],
    start: Mapping[str, Tensor],
    *,
    sharded: bool,
) -> dict[str, Any]:
    """Return the `parameters` and `groups` of the state; with shards every process must call it.

    Raises `OptimizerError` where the state of a sharded weight has values that belong to no coordinate
    (the block scales of 8-bit optimizers).
    """
    parameters = {}
    for name, compact in compacts.items():
        state, written = dict(inner.state.get(compact.values, {})), compact.written
        vectors = {"values": compact.values.detach()}
        if name in start:
            vectors["start"] = start[name]
        if sharded:
            state, written = _whole_state(compact, state)
            vectors = {key: _whole(compact, vector) for key, vector in vectors.items()}
        parameters[name] = {**vectors, "state": state, "written": written}
    names = {id(compact.values): name for name, compact in compacts.items()}
    groups = [
        {
            "names": [names[id(values)] for values in group["params"]],
            **{key: value for key, value in group.items() if key != "params"},
        }
        for group in inner.param_groups
    ]
    return {"parameters": parameters, "groups": groups}


@torch.no_grad()
def restore(
    inner: torch.optim.Optimizer,
    compacts: Mapping[str, CompactParameter],
    start: MutableMapping[str, Tensor],
    saved: Mapping[str, Any],
    *,
    sharded: bool,
) -> None:
    """Put a collected state into an optimizer over the same mask, and what it began with into `start`.

    Raises `OptimizerError` if it has other parameters or groups.
    """
    parameters, groups = saved["parameters"], saved["groups"]
    if parameters.keys() != compacts.keys():
        odd = sorted(parameters.keys() ^ compacts.keys())
        raise OptimizerError(
            f"the optimizer state and the model differ in {len(odd)} parameters ({odd[0]}, …): resume "
            "with the model it was saved for"
        )
    names = {id(compact.values): name for name, compact in compacts.items()}
    by_members = {frozenset(group["names"]): group for group in groups}
    states, new_groups, at = {}, [], 0
    for group in inner.param_groups:
        members = [names[id(values)] for values in group["params"]]
        found = by_members.get(frozenset(members))
        if found is None:
            raise OptimizerError(
                f"the optimizer state has other parameter groups, none with just the {len(members)} "
                f"parameters of {members[0]}'s: build the optimizer with the groups it was saved with"
            )
        places = list(range(at, at + len(members)))
        at += len(members)
        rest = {key: value for key, value in found.items() if key != "names"}
        new_groups.append({**rest, "params": places})
        for place, name in zip(places, members, strict=True):
            state = _cut_state(compacts[name], parameters[name]["state"], sharded)
            if state:
                states[place] = state
    inner.load_state_dict({"state": states, "param_groups": new_groups})
    for name, compact in compacts.items():
        compact.values.copy_(_cut(compact, parameters[name]["values"], sharded))
        compact.written = parameters[name]["written"]
        if name in start and "start" in parameters[name]:
            start[name] = _cut(compact, parameters[name]["start"], sharded).cpu()


def _whole_state(
    compact: CompactParameter, state: dict[str, Any]
) -> tuple[dict[str, Any], tuple[int, int] | None]:
    """Put a parameter's state together from all processes, and its last rounding."""
    k = compact.values.numel()
    kinds = {key: _kind(value, k) for key, value in state.items()}
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, (kinds, compact.written))
    # A process without a coordinate of this weight has no state of it, but takes part in the sums.
    known = {key: kind for kinds, _ in everyone for key, kind in kinds.items()}
    strange = next((key for key, (_, kind) in known.items() if kind == _STRANGE), None)
    if strange is not None:  # in every process alike, so that none waits for another
        raise OptimizerError(
            f"the optimizer state {strange} of {compact.name} has not one value for each coordinate, so it "
            "cannot be saved from shards: use another optimizer with FSDP2"
        )
    whole = {}
    for key, (scalar, dtype) in sorted(known.items()):
        if dtype is None:
            whole[key] = scalar
        else:
            local = state.get(key, torch.zeros(0, dtype=dtype, device=compact.values.device))
            whole[key] = _whole(compact, local)
    return whole, next((written for _, written in everyone if written is not None), None)


def _kind(value: Any, k: int) -> tuple[Any, torch.dtype | str | None]:
    """Whether an entry is one value for the parameter (itself, None), one for each coordinate (None,
    dtype), or something else."""
    if not isinstance(value, Tensor) or value.dim() == 0:
        return value, None
    if value.shape != (k,) or not value.is_floating_point():
        return None, _STRANGE
    return None, value.dtype


def _whole(compact: CompactParameter, local: Tensor) -> Tensor:
    """Put a local vector (k,) together to the whole weight's (whole_k,), with every bit."""
    # Sums of bit patterns, to which all processes but one give zero, keep even the sign of zero.
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[local.element_size()]
    whole = torch.zeros(compact.whole_k, dtype=bits, device=local.device)
    if compact.part.first_copy:
        whole[compact.within] = local.view(bits)
    return summed_over_shards(whole.long()).to(bits).view(local.dtype)


def _cut_state(
    compact: CompactParameter, state: Mapping[str, Any], sharded: bool
) -> dict[str, Any]:
    if sharded and not compact.values.numel():
        return {}
    return {key: _cut(compact, value, sharded) for key, value in state.items()}


def _cut(compact: CompactParameter, value: Any, sharded: bool) -> Any:
    per_coordinate = isinstance(value, Tensor) and value.shape == (compact.whole_k,)
    return value[compact.within] if sharded and per_coordinate else value
