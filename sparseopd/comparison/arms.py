"""The arms of a study: how each is trained, and where a mask of it comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from sparseopd.errors import RecipeError
from sparseopd.ranges import Count, CountOrZero, Fraction, Positive
from sparseopd.recipe import Recipe

OPD = "opd"
"""The exploration that is the recipe itself."""

Selector = Literal["topk", "random", "low-magnitude", "principal", "off-principal"]


@dataclass(kw_only=True)
class Chosen:
    """Which coordinates a masked arm trains."""

    selector: Selector = "topk"
    density: Fraction = 0.1
    of: str = OPD
    """topk: the exploration whose update is ranked."""
    steps: Count | None = None
    """topk: after so many of its steps. Default: the recipe's discover.steps."""
    like: Literal["tensor", "magnitude"] | None = None
    """random: as many coordinates in every tensor, or in every |W| quantile of every tensor, as the
    mask that `of` and `steps` name; without it, uniform."""
    seed: CountOrZero = 0
    """topk: the exploration of so many seeds further on (the last is followed by the first)."""


@dataclass(kw_only=True)
class Arm:
    """One way to train the student."""

    kind: Literal["full", "masked", "lora", "shira"] = "masked"
    mask: Chosen | None = None
    settings: list[str] = field(default_factory=list)
    """Recipe keys, `key.sub=value`, for this arm alone."""
    density: Fraction = 0.1
    """lora, shira: as many trainable weights as a mask of this density."""
    lr: Positive | None = None
    """Where tuning starts. Default: the recipe's lr; of masked arms and SHiRA, its masked_lr; of LoRA, ten
    times the lr."""
    rates: list[Positive] = field(default_factory=list)
    """Learning rates to try, in place of tuning."""
    reordered: bool = False
    """Trains on another data order, with other rollouts, than its seed's mask was found on."""
    found_on: str = ""
    """In words, where a mask of elsewhere comes from: "another seed", "another method"…"""


@dataclass(kw_only=True)
class Exploration:
    """A full run that is not tuned: masks are found in it, and its update can be analysed."""

    settings: list[str] = field(default_factory=list)
    """Recipe keys, `key.sub=value`, for this run alone."""
    snapshots: list[Count] = field(default_factory=list)
    """More steps after which its weights are kept than arms ask for."""


def reference(arms: Mapping[str, Arm]) -> str | None:
    """Return the full arm that all others are compared with: the first without settings of its own."""
    full = [name for name, arm in arms.items() if arm.kind == "full"]
    return next((name for name in full if not arms[name].settings), next(iter(full), None))


def explorations(named: Mapping[str, Exploration]) -> dict[str, Exploration]:
    """Return the explorations with the recipe's own among them."""
    return {OPD: Exploration(), **named}


def check_arms(
    study: str,
    arms: Mapping[str, Arm],
    explore: Mapping[str, Exploration],
    looked_at: Sequence[str],
) -> None:
    """Raise `RecipeError` for an arm that contradicts itself or names what is not there."""
    for name in ("source", "teacher"):
        if name in arms:
            raise RecipeError(f"{study}: the arm {name} is always there; drop it")
    for name, arm in arms.items():
        where = f"{study}: the arm {name!r}"
        if arm.kind == "masked" and arm.mask is None:
            raise RecipeError(f"{where} is masked, and has no mask: add one, or another kind")
        if arm.kind != "masked" and arm.mask is not None:
            raise RecipeError(f"{where} is {arm.kind}, and a mask does nothing there: drop it")
        if arm.rates and arm.lr is not None:
            raise RecipeError(f"{where} has both lr and rates: keep one of them")
        if arm.mask is not None:
            _check_mask(where, arm.mask)
            looked_at = [*looked_at, arm.mask.of]
    for name in looked_at:
        if name not in explore:
            raise RecipeError(
                f"{study}: nothing is called {name!r} under explore, only {', '.join(explore)}"
            )


def _check_mask(where: str, mask: Chosen) -> None:
    if mask.like is not None and mask.selector != "random":
        raise RecipeError(f"{where}: mask.like does nothing with {mask.selector}: drop it")
    uses = mask.selector == "topk" or mask.like is not None
    if not uses and (mask.of != OPD or mask.steps is not None or mask.seed):
        raise RecipeError(
            f"{where}: mask.of, steps and seed do nothing with {mask.selector}, which looks at no run"
        )


def default_arms(recipe: Recipe) -> dict[str, Arm]:
    """Return what a comparison of a plain recipe trains: the controls a strict reader asks for.

    Raises `RecipeError` where the recipe's masks are not of the kind that is compared.
    """
    for name, wanted in (("selector", "topk"), ("k", None)):
        found = getattr(recipe.discover, name)
        if found != wanted:
            raise RecipeError(
                f"discover.{name} is {found}, and a comparison ranks by topk at a density: leave it out, "
                "or list arms under studies (docs/comparison.md)"
            )
    density, steps = recipe.discover.density or 0.1, recipe.discover.steps
    found = Chosen(density=density)
    small, whole = density / 10, recipe.train.steps
    random = replace(found, selector="random")
    arms: dict[str, Arm] = {
        "full OPD": Arm(kind="full"),
        f"discovered {_percent(density)}": Arm(mask=found),
        f"discovered {_percent(small)}": Arm(mask=replace(found, density=small)),
        f"discovered after {whole} steps": Arm(mask=replace(found, steps=whole)),
        f"discovered after {max(1, steps // 3)} steps": Arm(
            mask=replace(found, steps=max(1, steps // 3))
        ),
        f"random per tensor {_percent(density)}": Arm(mask=replace(random, like="tensor")),
        f"random per tensor {_percent(small)}": Arm(
            mask=replace(random, like="tensor", density=small)
        ),
        f"random by |W| {_percent(density)}": Arm(mask=replace(random, like="magnitude")),
        f"random {_percent(density)}": Arm(mask=random),
        "low-magnitude": Arm(mask=replace(found, selector="low-magnitude")),
        "principal": Arm(mask=replace(found, selector="principal")),
        "off-principal": Arm(mask=replace(found, selector="off-principal")),
        "mask of another seed": Arm(mask=replace(found, seed=1), found_on="another seed"),
        "reordered": Arm(mask=found, reordered=True),
    }
    if recipe.student.dtype == "float32":  # adapters are merged, which rounds in a narrower dtype
        arms |= {kind: Arm(kind=kind.lower(), density=density) for kind in ("LoRA", "SHiRA")}  # pyright: ignore
    return arms


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
