"""Comparisons made up for the tests of their page, tables and figures: as large as real ones."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from sparseopd.artifacts import Interval
from sparseopd.results import (
    ArmResult,
    Costs,
    Results,
    SeedResult,
    Study,
    Trial,
    Verdict,
)
from tests.report.comparison_rows import SEEDS, geometry, overlap, settling, telemetry

HOSTILE = (
    "<script>alert(1)</script></svg>\"'{{ 7*7 }}{% if %} $x_1$ &lt; --> ]]> [red]漢\x1b[31m\x00\n,="
)
PROMPTS, MARGIN, NUMEL = 200, 0.02, 612_864


def interval(mean: float, half: float) -> Interval:
    """An interval with its mean in the middle."""
    return Interval(mean, mean - half, mean + half)


def verdict(
    difference: float,
    half: float = 0.012,
    *,
    margin: float | None = None,
    against: str = "full OPD",
) -> Verdict:
    """A test that finds what its interval says."""
    value = interval(difference, half)
    inside = margin is not None and -margin < value.low and value.high < margin
    found = inside if margin is not None else value.low > 0
    p = 0.004 if found else 0.31
    return Verdict(
        against=against, difference=value, p=p, adjusted=min(1, 3 * p), margin=margin, found=found
    )


def trials(best: float, top: float, optimizer: str = "adamw") -> list[Trial]:
    """Six learning rates around the best, each a factor of three apart."""
    start = -3 if optimizer == "adamw" else -4
    rates = [float(f"{best * 3.1623**step:.3g}") for step in range(start, start + 6)]
    bend = [top - 0.06 * (math.log(rate / best) / math.log(3.1623)) ** 2 for rate in rates]
    return [
        Trial(lr=rate, accuracy=max(0.05, value), kl=0.02 + max(0.0, top - value))
        for rate, value in zip(rates, bend, strict=True)
    ]


def curve(seed: int, end: float, steps: int = 120) -> list[dict[str, Any]]:
    """A loss that falls to `end`, with noise, logged every second step."""
    noise = np.random.default_rng(seed).normal(0, 0.15, steps)
    return [
        {"step": step, "loss": float((0.6 * math.exp(-step / 25) + end) * math.exp(noise[step]))}
        for step in range(0, steps, 2)
    ]


def arm(name: str, kind: str, accuracy: float, **fields: Any) -> ArmResult:
    """An arm of that accuracy, where the source has 67.0 % and full training 96.2 %."""
    rng = np.random.default_rng(sum(map(ord, name)))
    density = fields.get("density")
    trained = kind not in ("source", "teacher")
    seeds = [_seed(one, accuracy + rng.normal(0, 0.004), trained=trained) for one in SEEDS]
    share = 1.0 if density is None else density
    k = round(share * NUMEL) if kind in ("masked", "lora", "shira") else None
    if not trained:
        return ArmResult(
            name=name, kind=kind, seeds=seeds[:1], accuracy=interval(accuracy, 0.011),
            kl=interval(0.21 if kind == "source" else 0, 0.01), forgetting=None,
        )  # fmt: skip
    best = fields.pop("lr", 3e-4)
    measured = {
        "accuracy": interval(accuracy, 0.011),
        "pass_at": {"1": interval(accuracy, 0.011), "4": interval(min(1, accuracy + 0.02), 0.006)},
        "gain": interval(accuracy - 0.67, 0.015),
        "kept": interval((accuracy - 0.67) / 0.292, 0.045),
        "kl": interval(0.012 + 0.4 * (0.97 - accuracy), 0.002),
        "forgetting": interval(0.05 * share + 0.02, 0.004),
    }
    tested = {} if name == "full OPD" else {
        "equivalence": verdict(accuracy - 0.962, margin=MARGIN)
    }  # fmt: skip
    costs = Costs(
        seconds=17.2 * (0.6 + 0.4 * share), trainable=k or NUMEL, state_bytes=12 * (k or NUMEL),
        peak_bytes=9_500_000 + 16 * (k or NUMEL), shipped_bytes=4 * (k or NUMEL),
    )  # fmt: skip
    given = {
        "method": "reverse-kl", "k": k, "steps": 120, "lr": best, "seeds": seeds, "costs": costs,
        "trials": trials(best, accuracy, fields.get("optimizer", "adamw")),
        "curve": curve(len(name), 0.02 + 0.3 * (0.97 - accuracy)), **measured, **tested,
    }  # fmt: skip
    return ArmResult(name=name, kind=kind, **{**given, **fields})


def _seed(seed: int, accuracy: float, *, trained: bool) -> SeedResult:
    near = {"1e-05": 0.21 + 0.01 * seed, "1e-04": 0.83 + 0.01 * seed} if trained else {}
    return SeedResult(
        seed=seed, accuracy=accuracy, pass_at={"1": accuracy, "4": min(1, accuracy + 0.02)}, kl=0.02,
        forgetting=0.04, truncated=0.004, mean_tokens=5.1, agreement=near,
        seconds=17.0 + seed if trained else None, right=[4] * PROMPTS,
    )  # fmt: skip


def masked(chosen: str, density: float, accuracy: float, **fields: Any) -> ArmResult:
    """A masked arm; discovered ones are tested against the random mask of as many coordinates."""
    name = fields.pop("name", f"{chosen} {100 * density:g} %")
    if chosen == "discovered":
        fields.setdefault("discovery_steps", 30)
        random = {0.01: 0.81, 0.03: 0.905, 0.1: 0.948, 0.3: 0.957}[density]
        against = f"random {100 * density:g} %"
        fields.setdefault("superiority", verdict(accuracy - random, against=against))
    return arm(name, "masked", accuracy, chosen=chosen, density=density, **fields)


def base_arms() -> list[ArmResult]:
    """The arms that every study has."""
    return [
        arm("source", "source", 0.67),
        arm("teacher", "teacher", 0.985),
        arm("full OPD", "full", 0.962),
        masked("discovered", 0.1, 0.959),
        masked("random", 0.1, 0.948, lr=1e-3),
    ]


def many_arms() -> list[ArmResult]:
    """The arms of the study that asks everything."""
    shares = (0.01, 0.03, 0.1, 0.3)
    found = dict(zip(shares, (0.935, 0.951, 0.959, 0.963), strict=True))
    steps = {5: 0.905, 10: 0.936, 60: 0.960, 120: 0.961}
    elsewhere = {"another seed": 0.958, "another teacher": 0.951, "another task": 0.93}
    return [
        *base_arms()[:3],
        arm("GRPO", "contrast", 0.871, method="grpo"),
        *(masked("discovered", share, found[share]) for share in shares),
        *(
            masked("discovered", 0.1, value, discovery_steps=count, name=f"discovered 10 % after {count} steps")
            for count, value in steps.items()
        ),
        masked("discovered", 0.1, 0.958, reordered=True, name="discovered 10 %, other data order"),
        *(masked("random", share, value, lr=1e-3) for share, value in zip(shares, (0.81, 0.905, 0.948, 0.957), strict=True)),
        *(masked("random per tensor", share, value, lr=1e-3) for share, value in zip((0.01, 0.1, 0.3), (0.82, 0.947, 0.958), strict=True)),
        masked("random by |W|", 0.1, 0.949),
        masked("low-magnitude", 0.1, 0.944, bracketed=False),
        masked("principal", 0.1, 0.901),
        masked("off-principal", 0.1, 0.950),
        *(
            masked("discovered", 0.1, value, found_on=place, name=f"10 % mask of {place}")
            for place, value in elsewhere.items()
        ),
        masked("discovered", 0.1, 0.945, found_on="another method", name="10 % mask of another method (GRPO)"),
        arm("LoRA, as many weights", "lora", 0.953, density=0.1, lr=2e-3),
        arm("SHiRA, as many weights", "shira", 0.949, density=0.1, lr=1e-3),
        arm("full OPD with SGD", "full", 0.952, optimizer="sgd", lr=0.1, bracketed=False),
        arm("full OPD with SGD, momentum", "full", 0.412, optimizer="sgd, momentum 0.9", lr=1e-2),
    ]  # fmt: skip


def study(name: str, setting: str, arms: list[ArmResult], **parts: Any) -> Study:
    """A study of those arms."""
    return Study(
        name=name,
        title="the teacher is the student trained further",
        setting=setting,
        student="tiny-arithmetic/student (0.6 M parameters)",
        teacher="tiny-arithmetic/teacher (1.1 M parameters)",
        settings={
            "prompts": PROMPTS, "samples": 4, "sampling": {"temperature": 1.0, "top_p": 1.0},
            "steps": 120, "batch": 64, "dtypes": {"weights": "float32", "compared": "bfloat16"},
        },
        arms=arms,
        **parts,
    )  # fmt: skip


def results(*studies: Study, name: str = "paper") -> Results:
    """A comparison of those studies."""
    return Results(
        name=name,
        command="sparseopd compare recipes/tiny/paper.yaml -o runs/paper",
        settings={
            "seeds": list(SEEDS), "tuning": {"factor": 3.16, "trials": 6, "validation prompts": 100},
            "margin": MARGIN, "confidence": 0.95, "resamples": 10_000, "machine": "2 cores, 24 GiB",
        },
        studies=list(studies),
        versions={"sparseopd": "0.1.0", "torch": "2.13.0", "trl": "1.16.0"},
    )  # fmt: skip


@cache
def realistic() -> Results:
    """Four studies, one of them of thirty arms and every kind of row."""
    more = {"geometry": geometry(["reverse-kl", "offline-kd", "sft", "grpo"])}
    everything = study(
        "tiny-arithmetic-sibling",
        "consolidation",
        many_arms(),
        geometry=more["geometry"],
        overlaps=[
            overlap("seeds", "seed 0", "seed 1"),
            overlap("seeds", "seed 0", "seed 2"),
            overlap("seeds", "seed 0", "seed 1", "top 10 %"),
            overlap("teachers", "tiny-arithmetic/teacher", "tiny-arithmetic/other"),
            overlap("methods", "reverse-kl", "grpo"),
            overlap("tasks", "arithmetic", "subtraction with borrow"),
        ],
        settling=settling(),
        telemetry=telemetry(),
        notes=["The mask of another task was found on prompts of subtraction alone."],
    )
    worse = masked("discovered", 0.1, 0.921)
    open_ = replace(
        masked("discovered", 0.1, 0.955),
        equivalence=verdict(-0.007, 0.02, margin=MARGIN, against="full OPD"),
        superiority=verdict(0.007, 0.02, against="random 10 %"),
    )
    base = base_arms()
    return results(
        study("tiny-arithmetic", "large → small", base, **more),
        everything,
        study("tiny-arithmetic-hint", "self-distillation", [*base[:3], worse, base[4]], **more),
        study("tiny-digits", "vision-language", [*base[:3], open_, base[4]], **more),
    )


def ungraded() -> Results:
    """One study whose prompts no grader judges: KL alone."""
    kept = ("name", "kind", "chosen", "density", "discovery_steps", "lr", "kl", "costs", "curve")
    arms = [
        ArmResult(
            **{name: getattr(one, name) for name in kept},
            trials=[Trial(lr=t.lr, accuracy=None, kl=t.kl) for t in one.trials],
            seeds=[SeedResult(seed=0, accuracy=None, kl=0.02)],
        )
        for one in base_arms()
    ]
    return results(study("own-prompts", "", arms))


def bare() -> Results:
    """One study of untested arms, one seed, and nothing else."""
    arms = [
        ArmResult(name="source", kind="source", accuracy=interval(0.6, 0.02)),
        ArmResult(name="full", kind="full", accuracy=interval(0.9, 0.02), lr=1e-4),
        ArmResult(name="mask", kind="masked", chosen="discovered", accuracy=interval(0.89, 0.02)),
    ]
    alone = Study(
        name="bare", title="", setting="", student="s", teacher="t", settings={}, arms=arms
    )
    return Results(name="bare", command="sparseopd compare x", settings={}, studies=[alone])


def hostile() -> Results:
    """Names and texts that try to leave their place, wherever a text can stand."""
    first = realistic().studies[1]
    first = replace(first, arms=first.arms[::3])
    names = {one.name: f"{HOSTILE} {place}" for place, one in enumerate(first.arms)}

    def against(verdict: Verdict | None) -> Verdict | None:
        known = verdict and names.get(verdict.against, HOSTILE)
        return replace(verdict, against=known) if verdict and known else None

    arms = [
        replace(
            one, name=names[one.name], chosen=one.chosen and HOSTILE if place % 5 == 4 else one.chosen,
            method=HOSTILE, optimizer=HOSTILE if place > 7 else one.optimizer,
            found_on=one.found_on and HOSTILE, superiority=against(one.superiority),
            equivalence=against(one.equivalence),
        )
        for place, one in enumerate(first.arms)
    ]  # fmt: skip
    evil = replace(
        first, name=HOSTILE, title=HOSTILE, setting=HOSTILE, student=HOSTILE, teacher=HOSTILE,
        settings={HOSTILE: {HOSTILE: [HOSTILE]}}, arms=arms, notes=[HOSTILE],
        geometry=[replace(row, method=HOSTILE) for row in first.geometry],
        overlaps=[overlap(HOSTILE, HOSTILE, HOSTILE, HOSTILE)],
        telemetry=[replace(row, optimizer=HOSTILE) for row in first.telemetry],
    )  # fmt: skip
    return Results(
        name=HOSTILE, command=HOSTILE, settings={HOSTILE: HOSTILE},
        studies=[evil, replace(evil, name=f"{HOSTILE} again", arms=arms[:4])], versions={HOSTILE: HOSTILE},
    )  # fmt: skip
