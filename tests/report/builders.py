"""Made-up scores for the report's tests; figures are chosen so that sentences can be foretold."""

from __future__ import annotations

import math
from typing import Any

from sparseopd.artifacts import ArmScores, Interval, Scores


def interval(mean: float, half: float = 0.02) -> Interval:
    """An interval of `half` on both sides."""
    return Interval(mean, mean - half, mean + half)


def arm(name: str, kind: str, accuracy: float | None = None, **more: Any) -> ArmScores:
    """An arm with an accuracy, and whatever else is given."""
    value = None if accuracy is None else interval(accuracy)
    return ArmScores(name=name, kind=kind, path=f"runs/{name}", accuracy=value, **more)


def scores(*arms: ArmScores, name: str = "tiny arithmetic", **settings: Any) -> Scores:
    """Scores of these arms under settings like the evaluation's."""
    shared = {"prompts": 256, "samples": 4, "seed": 1234, "grader": "exact", **settings}
    return Scores(name=name, settings=shared, arms=list(arms))


def curve(first: float, last: float, steps: int = 120) -> list[dict[str, Any]]:
    """A loss that falls with ripples and a few spikes."""
    rows = []
    for step in range(1, steps + 1):
        base = last + (first - last) * math.exp(-4 * step / steps)
        ripple = 1 + 0.15 * math.sin(2.3 * step) + (0.6 if step % 29 == 0 else 0)
        rows.append({"step": step, "loss": base * ripple, "entropy": 0.3})
    return rows


def layout(density: float, tilt: float, layers: int = 3, vision: int = 0) -> list[dict[str, Any]]:
    """A mask's layout: `tilt` 0 is even, 1 makes late layers and values denser."""
    modules = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "norms")
    rows = [
        _row(layer, module, density * (1 + tilt * (layer / layers + index / 8 - 0.8)))
        for layer in range(layers)
        for index, module in enumerate(modules)
    ]
    rows += [
        _row(layer, f"vision.{module}", density * (1 - tilt * (0.9 - index / 9)))
        for layer in range(vision)
        for index, module in enumerate(("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"))
    ]
    other = ("embed_tokens", "norm", "lm_head", *(("projector",) if vision else ()))
    return rows + [_row(None, module, density * (1 - 0.5 * tilt)) for module in other]


def _row(layer: int | None, module: str, density: float, numel: int = 16384) -> dict[str, Any]:
    return {"layer": layer, "module": module, "count": round(numel * density), "numel": numel}


def pair(vision: int = 0, layers: int = 3, name: str = "tiny arithmetic") -> Scores:
    """A whole evaluation: source, teacher, full, chosen and random mask, all of it measured."""

    def masked(title: str, accuracy: float, kept: Interval, tilt: float, **more: Any) -> ArmScores:
        return arm(
            title,
            "masked",
            accuracy,
            gain=interval(accuracy - 0.612),
            gain_kept=kept,
            agreement={"1e-05": 0.412, "1e-04": 0.913},
            density=0.1,
            lr=1e-3,
            steps=120,
            layout=layout(0.1, tilt, layers, vision),
            **more,
        )

    return scores(
        arm(
            "source",
            "source",
            0.612,
            kl=interval(0.231, 0.01),
            examples=examples("57"),
            truncated=0.011,
        ),
        arm("teacher", "teacher", 0.979, kl=Interval(0.0, 0.0, 0.0), examples=examples("579")),
        arm(
            "full",
            "full",
            0.96,
            gain=interval(0.348),
            gain_kept=Interval(1.0, 1.0, 1.0),
            kl=interval(0.0212, 0.002),
            lr=3e-4,
            steps=120,
            seconds=17.2,
            curve=curve(0.2, 0.018),
            examples=examples("579"),
        ),
        masked(
            "masked",
            0.951,
            Interval(0.97, 0.91, 1.03),
            1.0,
            kl=interval(0.0263, 0.003),
            seconds=16.4,
            curve=curve(0.2, 0.024),
            examples=examples("579"),
        ),
        masked(
            "random",
            0.86,
            Interval(0.71, 0.64, 0.78),
            0.0,
            kl=interval(0.0513, 0.004),
            seconds=16.9,
            curve=curve(0.2, 0.045),
            examples=examples("578"),
        ),
        name=name,
        temperature=1.0,
        max_new_tokens=6,
        confidence=0.95,
        student="bundled:tiny-arithmetic/student",
        teacher="bundled:tiny-arithmetic/teacher",
        versions={"torch": "2.13.0", "transformers": "5.23.0", "trl": "1.16.0", "peft": "0.21.2"},
    )


def examples(completion: str) -> list[dict[str, str]]:
    """Two graded completions."""
    return [
        {
            "prompt": "123+456=",
            "completion": completion,
            "answer": "579",
            "correct": str(completion == "579"),
        },
        {"prompt": "900-321=", "completion": "579", "answer": "579", "correct": "True"},
    ]
