"""The small problem on which AdamW of several libraries is compared; needs numpy alone.

`benchmarks/reference_adamw.py` runs optax and Keras on it, in an environment of its own, and
`tests/optim/test_reference.py` runs ours. Only trajectories are stored: parameters, gradients and
masks are made anew from a seed, of the raw bits of PCG64, which numpy promises never to change, by
products of float64, which round alike everywhere. `digest` tells whether both sides had the same.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]  # by parameter name
Settings = dict[str, float]

SHAPES: dict[str, tuple[int, ...]] = {
    "matrix": (12, 8),
    "vector": (7,),
    "cube": (2, 3, 4),
    "scalar": (),
}
STEPS = 200
STORED = (1, 2, 5, 10, 20, 50, 100, 200)
"""The steps after which trajectories are stored, counted from 1."""

SETTINGS: dict[str, Settings] = {
    "usual": {"lr": 1e-3, "b1": 0.9, "b2": 0.999, "eps": 1e-8, "weight_decay": 0.1},
    "exact": {"lr": 2**-10, "b1": 1 - 2**-3, "b2": 1 - 2**-10, "eps": 1e-8, "weight_decay": 2**-3},
}
"""`exact` is close to `usual`, but fp32 holds lr, b1, b2, weight_decay and 1 - lr·weight_decay without
rounding. Libraries round the usual ones at different places, which shows after 50 steps."""

DENSITIES = {
    "full": dict.fromkeys(SHAPES, 1.0),
    "partial": {"matrix": 0.3, "vector": 1.0, "cube": 0.5, "scalar": 0.0},
}
"""Of the masks. The partial one has two partial tensors, a full and an empty one."""

SCALES = np.array([1e2, 1.0, 1e-2, 1e-4, 1e-7, 0.0])
"""Of a coordinate's gradients. At 1e-7 epsilon counts; at 0 there is nothing but weight decay."""

FACTORS = np.array([1.0, 1.0, 1e-2, 0.0])
"""Of a coordinate's gradient at one step: a quarter of them are exactly zero."""

_PARAMETERS, _SCALES, _MASKS, _GRADIENTS = range(4)  # streams of random numbers


def initial_parameters() -> Arrays:
    """Return the fp32 parameters before the first step, uniform in (-1, 1)."""
    return {name: np.asarray(2 * _uniform(name, _PARAMETERS) - 1, np.float32) for name in SHAPES}


def gradients(step: int) -> Arrays:
    """Return the fp32 gradients of a step, counted from 1.

    Each coordinate keeps its scale over the steps. Three of four gradients that are not zero are
    positive, so that coordinates travel; some cross zero.
    """
    made = {}
    for name in SHAPES:
        noise = 2 * _uniform(name, _GRADIENTS, step, 0) - 0.5
        factor = _choose(FACTORS, _uniform(name, _GRADIENTS, step, 1))
        scale = _choose(SCALES, _uniform(name, _SCALES))
        made[name] = np.asarray(noise * factor * scale, np.float32)
    return made


def masks(kind: str) -> Arrays:
    """Return boolean masks with the densities of `DENSITIES[kind]`."""
    return {
        name: np.asarray(_uniform(name, _MASKS) < density)
        for name, density in DENSITIES[kind].items()
    }


def digest() -> str:
    """Return 16 hex digits of the parameters, the masks and all gradients, bit by bit."""
    hashed = hashlib.sha256()
    every = [initial_parameters(), *map(masks, DENSITIES), *map(gradients, range(1, STEPS + 1))]
    for array in (array for arrays in every for array in arrays.values()):
        hashed.update(array.tobytes())
    return hashed.hexdigest()[:16]


def magnitudes(name: str, trajectory: NDArray[Any]) -> NDArray[Any]:
    """Return what a difference of `trajectory`, (STORED, *shape), is relative to; the same shape.

    It is the largest magnitude that the coordinate itself has had, from the start to that stored step.
    Each rounding was relative to a value on that way, so a coordinate that has just come close to zero
    still carries errors of where it was. No coordinate is excused by a larger one beside it.
    """
    start = initial_parameters()[name].astype(np.float64)
    return np.maximum.accumulate(np.abs(np.stack([start, *trajectory])))[1:]


def _uniform(name: str, *stream: int) -> NDArray[np.float64]:
    """Return numbers in [0, 1) of the parameter's shape, another set for every stream."""
    seed = np.random.SeedSequence([list(SHAPES).index(name), *stream])
    bits = np.random.PCG64(seed).random_raw(int(np.prod(SHAPES[name])))
    return np.asarray((bits >> np.uint64(11)) * 2.0**-53, np.float64).reshape(SHAPES[name])


def _choose(choices: NDArray[np.float64], uniform: NDArray[np.float64]) -> NDArray[np.float64]:
    return choices[(uniform * len(choices)).astype(np.int64)]
