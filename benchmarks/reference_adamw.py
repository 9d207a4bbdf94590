"""AdamW of optax and of Keras, step by step, for the tests to compare ours with.

    python -m venv ../reference-adamw
    ../reference-adamw/bin/pip install jax==0.10.2 optax==0.2.8 keras==3.15.1 safetensors==0.8.0
    ../reference-adamw/bin/python benchmarks/reference_adamw.py     20 seconds, on a CPU

It writes tests/optim/reference_adamw.safetensors, which tests/optim/test_reference.py reads without
any of these libraries. The problem is that of tests/optim/reference.py. Each library runs in fp32, as
users run it, and in float64, which tells what it computes from how it rounds. How far each run is from
AdamW written out in float64 goes into the file's metadata, and is printed.

- Epsilon. torch and optax divide by sqrt(v / (1 - b2^t)) + eps. Keras divides by sqrt(v) + epsilon
  and corrects the bias around that, so torch's eps is Keras's epsilon / sqrt(1 - b2^t): 32 times as
  much at the first step. Before every step, the stored Keras runs are therefore given the epsilon
  eps·sqrt(1 - b2^t), which is torch's AdamW exactly. `keras_fixed` is Keras as it comes, with
  epsilon = eps: another algorithm where gradients are small. It is measured, not stored.
- Decay. All decouple it: each step takes lr·weight_decay·w from w. optax adds that to the update,
  Keras subtracts it first, torch multiplies w by 1 - lr·weight_decay. Only the rounding differs.
- Masks. Neither library masks coordinates. A tensor with a partial mask is cut in two, as users do:
  a vector of the trained coordinates and one of the frozen ones, `optax.masked` and `set_to_zero` in
  optax, non-trainable variables in Keras; and joined again.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Callable, Iterator
from datetime import date
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "jax"  # read when Keras is imported
os.environ["JAX_PLATFORMS"] = "cpu"

import jax  # pyright: ignore[reportMissingImports]
import keras  # pyright: ignore[reportMissingImports]
import numpy as np
import optax  # pyright: ignore[reportMissingImports]
from safetensors.numpy import save_file

# The recipe lies with the tests, which nothing installs.
sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.optim import reference
from tests.optim.reference import SETTINGS, STEPS, STORED, Arrays, Settings

RESULTS = Path(reference.__file__).with_name("reference_adamw.safetensors")
PRECISIONS = ("float32", "float64")

Gradients = Callable[[int], Arrays]
Run = Callable[[Arrays, Gradients, Settings], Iterator[Arrays]]
"""(leaves, their gradients at a step, settings) → the leaves after every step."""


def main() -> None:
    """Run everything, write the file, and print how far each run is from the arbiter."""
    stored: Arrays = {}
    differences: dict[str, dict[int, float]] = {}
    for setting, kind in product(SETTINGS, reference.DENSITIES):
        arbiter = trajectory(written_out, SETTINGS[setting], kind, "float64")
        for (library, run), precision in product(RUNS.items(), PRECISIONS):
            found = trajectory(run, SETTINGS[setting], kind, precision)
            case = f"{setting}.{kind}.{library}.{precision}"
            differences[case] = compare(found, arbiter)
            if run is not keras_fixed:
                stored |= {f"{case}.{name}": array for name, array in found.items()}
    save_file(stored, RESULTS, metadata=describe(differences))
    for case, by_step in differences.items():
        print(f"{case:34s}", *(f"{step}: {worst:.1e}" for step, worst in by_step.items()))


def trajectory(run: Run, settings: Settings, kind: str, precision: str) -> Arrays:
    """Return the whole tensors after the steps of `STORED`, each (STORED, *shape)."""
    masks = reference.masks(kind)

    def leaves(arrays: Arrays) -> Arrays:
        return split({name: array.astype(precision) for name, array in arrays.items()}, masks)

    # Without x64, jax would round float64 to fp32; with it, fp32 runs would not be as users know them.
    with jax.enable_x64(precision == "float64"):
        states = run(
            leaves(reference.initial_parameters()),
            lambda step: leaves(reference.gradients(step)),
            settings,
        )
        kept = [join(state, masks) for step, state in enumerate(states, 1) if step in STORED]
    stacked = {name: np.stack([state[name] for state in kept]) for name in masks}
    assert all(array.dtype == precision for array in stacked.values()), (
        "a run changed its precision"
    )
    return stacked


def split(arrays: Arrays, masks: Arrays) -> Arrays:
    """Cut tensors into the leaves `name.trained` and `name.frozen`; one with a full or empty mask is
    a single leaf, in its own shape."""
    leaves = {}
    for name, mask in masks.items():
        for label, chosen in ((f"{name}.trained", mask), (f"{name}.frozen", ~mask)):
            if chosen.any():
                leaves[label] = arrays[name] if chosen.all() else arrays[name][chosen]
    return leaves


def join(leaves: Arrays, masks: Arrays) -> Arrays:
    """Put leaves together again. Undoes `split`."""
    arrays = {}
    for name, mask in masks.items():
        for label, chosen in ((f"{name}.trained", mask), (f"{name}.frozen", ~mask)):
            if chosen.any():
                leaf = np.asarray(leaves[label])
                arrays.setdefault(name, np.empty(mask.shape, leaf.dtype))[chosen] = leaf.reshape(-1)
    return arrays


def optax_adamw(leaves: Arrays, gradients: Gradients, settings: Settings) -> Iterator[Arrays]:
    """Run optax.adamw on the trained leaves, jitted as users do."""
    trained = {name: _trains(name) for name in leaves}
    adamw = optax.adamw(
        settings["lr"],
        b1=settings["b1"],
        b2=settings["b2"],
        eps=settings["eps"],
        weight_decay=settings["weight_decay"],
    )
    optimizer = optax.chain(
        optax.masked(adamw, trained),
        optax.masked(optax.set_to_zero(), {name: not trains for name, trains in trained.items()}),
    )

    @jax.jit
    def update(parameters: Any, state: Any, gradients: Any) -> tuple[Any, Any]:
        updates, state = optimizer.update(gradients, state, parameters)
        return optax.apply_updates(parameters, updates), state

    parameters = jax.tree.map(jax.numpy.asarray, leaves)
    state = optimizer.init(parameters)
    for step in range(1, STEPS + 1):
        parameters, state = update(parameters, state, gradients(step))
        yield parameters


def keras_adamw(leaves: Arrays, gradients: Gradients, settings: Settings) -> Iterator[Arrays]:
    """Run keras.optimizers.AdamW with torch's epsilon, by the epsilon that equals it at each step."""
    corrected = (
        settings["eps"] * (1 - settings["b2"] ** step) ** 0.5 for step in range(1, STEPS + 1)
    )
    return _keras(leaves, gradients, settings, corrected)


def keras_fixed(leaves: Arrays, gradients: Gradients, settings: Settings) -> Iterator[Arrays]:
    """Run keras.optimizers.AdamW as it comes."""
    return _keras(leaves, gradients, settings, (settings["eps"] for _ in range(STEPS)))


def _keras(
    leaves: Arrays, gradients: Gradients, settings: Settings, epsilons: Iterator[float]
) -> Iterator[Arrays]:
    precision = str(next(iter(leaves.values())).dtype)
    keras.config.set_floatx(precision)  # of the optimizer's own variables, the learning rate's too
    variables = {
        name: keras.Variable(leaf, trainable=_trains(name), dtype=precision)
        for name, leaf in leaves.items()
    }
    trained = {name: variable for name, variable in variables.items() if variable.trainable}
    optimizer = keras.optimizers.AdamW(
        learning_rate=settings["lr"],
        beta_1=settings["b1"],
        beta_2=settings["b2"],
        weight_decay=settings["weight_decay"],
    )
    optimizer.build(list(trained.values()))
    for step, epsilon in enumerate(epsilons, 1):
        optimizer.epsilon = epsilon  # `apply` is not traced: it reads the attribute each time
        arrived = gradients(step)
        optimizer.apply([arrived[name] for name in trained], list(trained.values()))
        yield {name: np.array(variable.value) for name, variable in variables.items()}


RUNS: dict[str, Run] = {
    "optax": optax_adamw,
    "keras": keras_adamw,
    "keras_fixed": keras_fixed,
}


def written_out(leaves: Arrays, gradients: Gradients, settings: Settings) -> Iterator[Arrays]:
    """Run AdamW as torch documents it, in plain numpy: the arbiter between libraries."""
    lr, b1, b2, eps, decay = (settings[name] for name in ("lr", "b1", "b2", "eps", "weight_decay"))
    weights = dict(leaves)
    first = {name: np.zeros_like(leaf) for name, leaf in leaves.items()}
    second = {name: np.zeros_like(leaf) for name, leaf in leaves.items()}
    for step in range(1, STEPS + 1):
        for name, gradient in gradients(step).items():
            if not _trains(name):
                continue
            first[name] = b1 * first[name] + (1 - b1) * gradient
            second[name] = b2 * second[name] + (1 - b2) * gradient**2
            mean, square = first[name] / (1 - b1**step), second[name] / (1 - b2**step)
            weights[name] = weights[name] * (1 - lr * decay) - lr * mean / (np.sqrt(square) + eps)
        yield dict(weights)


def _trains(leaf: str) -> bool:
    return leaf.endswith(".trained")


def compare(found: Arrays, arbiter: Arrays) -> dict[int, float]:
    """Return by stored step the largest relative difference of any coordinate."""
    relative = [
        np.abs(found[name] - exact) / reference.magnitudes(name, exact)
        for name, exact in arbiter.items()
    ]
    worst = np.max([one.reshape(len(STORED), -1).max(axis=1) for one in relative], axis=0)
    return dict(zip(STORED, map(float, worst), strict=True))


def describe(differences: dict[str, dict[int, float]]) -> dict[str, str]:
    """Write the metadata: what ran, on which problem, and how far it was from the arbiter."""
    versions = {name: version(name) for name in ("jax", "jaxlib", "optax", "keras", "numpy")}
    rounded = {
        case: {step: float(f"{worst:.2e}") for step, worst in by_step.items()}
        for case, by_step in differences.items()
    }
    return {
        "versions": json.dumps(versions | {"python": platform.python_version()}),
        "date": date.today().isoformat(),
        "settings": json.dumps(SETTINGS),
        "steps": json.dumps(STORED),
        "problem": reference.digest(),
        "keras_epsilon": "eps * sqrt(1 - b2**step), set before every step; keras_fixed: eps",
        "differences_from_float64": json.dumps(rounded),
    }


if __name__ == "__main__":
    main()
