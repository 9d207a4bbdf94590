"""What a study trains and measures, as jobs: each arm, seed and learning rate → the jobs behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from sparseopd.comparison.arms import OPD, Arm, Chosen, Exploration
from sparseopd.comparison.jobs import Choosing, Measuring, Training
from sparseopd.comparison.settings import Comparison, Study, recipe_of
from sparseopd.recipe import Recipe

OTHER_ORDER = 1000
"""Added to the seed of a run that is to see other data and rollouts than its mask's."""
TEST_SPACING = 100_000
"""Between the sampling seeds of two training seeds: more than the batches of an evaluation."""
TIMES_FULL = 10.0
"""LoRA's best learning rate over that of full training, as usually found."""


def local_teachers(recipe: Recipe) -> list[str]:
    """Return the names of the teachers that are not on a server."""
    return [name for name, teacher in recipe.all_teachers().items() if teacher.server is None]


@dataclass(frozen=True, kw_only=True)
class StudyPlan:
    """One study of a comparison, with what its jobs need to know."""

    name: str
    study: Study
    comparison: Comparison
    train_rows: int
    """Rows its recipe could train on."""
    numel: int
    """Coordinates of the student."""
    left_out: list[str] = field(default_factory=list)
    """Sentences on arms that the student cannot have."""

    @property
    def seeds(self) -> list[int]:
        """Return the training seeds."""
        return self.comparison.seeds

    @cached_property
    def validation(self) -> int:
        """Return how many rows are held out of training, to tune on: a fifth of them at most."""
        return max(1, min(self.comparison.tune.prompts, self.train_rows // 5))

    @cached_property
    def recipe(self) -> Recipe:
        """Return the study's recipe, which trains on no validation row."""
        return self._recipe([])

    def exploration(self, name: str, seed: int) -> Training:
        """Return the full run that masks are found in, its snapshots kept in float32."""
        asked = self.study.explore[name]
        recipe = self._recipe(asked.settings)
        steps = sorted(step for step in self._snapshots(name, asked) if step < recipe.train.steps)
        train = replace(recipe.train, snapshots=steps, save_dtype="float32")
        recipe = replace(recipe, train=train, seed=seed)
        return Training(label=f"{self.name} {name} seed {seed}", recipe=recipe)

    def choosing(self, mask: Chosen, seed: int) -> Choosing:
        """Return the mask of an arm for one seed."""
        label = f"{self.name} {mask.selector} {100 * mask.density:g}% seed {seed}"
        student, revision = self.recipe.student.path, self.recipe.student.revision
        if mask.selector == "topk":
            run = self.exploration(mask.of, self._seed_after(seed, mask.seed))
            steps = min(mask.steps or self.recipe.discover.steps, run.recipe.train.steps)
            return Choosing(
                label=f"{label} {mask.of} {steps}",
                student=student,
                revision=revision,
                selection={"selector": "topk", "density": mask.density, **self._scope},
                seed=seed,
                run=run,
                steps=steps,
            )
        selection: dict[str, Any] = {"selector": mask.selector}
        if mask.like is not None:
            selection["match"] = mask.like
            like = self.choosing(replace(mask, selector="topk", like=None), seed)
            return Choosing(
                label=f"{label} by {mask.like}",
                student=student,
                revision=revision,
                selection=selection,
                seed=seed + 1,
                like=like,
            )
        selection |= {"density": mask.density, **self._scope}
        if mask.selector != "random":
            selection.pop("budget", None)  # theirs is each tensor, as in the papers
        return Choosing(
            label=label, student=student, revision=revision, selection=selection, seed=seed + 1
        )

    def training(self, name: str, arm: Arm, lr: float, seed: int) -> Training:
        """Return an arm's run at one learning rate."""
        recipe = self._recipe(arm.settings)
        if arm.kind in ("lora", "shira"):
            peft = {"type": arm.kind, "k": round(arm.density * self.numel)}
            recipe = self._recipe([*arm.settings, f"train.peft={peft}"])
        key = "masked_lr" if arm.kind == "masked" else "lr"
        recipe = replace(
            recipe,
            optimizer=replace(recipe.optimizer, **{key: lr}),
            seed=seed + OTHER_ORDER * arm.reordered,
        )
        mask = None if arm.mask is None else self.choosing(arm.mask, seed)
        label = f"{self.name} {name} lr {lr:g} seed {seed}"
        return Training(label=label, recipe=recipe, mask=mask)

    def trial(self, name: str, arm: Arm, lr: float, seed: int) -> Measuring:
        """Return the measurement of one learning rate on the validation prompts."""
        tune = self.comparison.tune
        evaluate = replace(
            self.recipe.evaluate,
            samples=tune.samples,
            seed=self._sampling_seed(seed) + TEST_SPACING // 2,
        )
        # The rows after those that are trained on must be there to be measured on.
        data = replace(self.recipe.data, limit=self.train_rows)
        run = self.training(name, arm, lr, seed)
        return Measuring(
            label=f"{run.label} validation",
            recipe=replace(self.recipe, evaluate=evaluate, data=data),
            split="validation",
            validation=self.validation,
            run=run,
        )

    def test(self, run: Training | None, seed: int, *, teacher: bool = False) -> Measuring:
        """Return the measurement of a run, or of source or teacher, on the test prompts."""
        evaluate = replace(self.recipe.evaluate, seed=self._sampling_seed(seed))
        role = "run" if run else "teacher" if teacher else "source"
        label = run.label if run else f"{self.name} {role} seed {seed}"
        return Measuring(
            label=f"{label} test",
            recipe=replace(self.recipe, evaluate=evaluate),
            split="test",
            validation=self.validation,
            run=run,
            role=role,
            other_task=None if teacher else self.study.other_task,
        )

    def given(self) -> tuple[dict[int, Measuring], dict[int, Measuring]]:
        """Return the measurements of the source and of the teacher, by seed.

        One of several teachers knows its own prompts alone, and one on a server gives no samples here.
        """
        sources = {seed: self.test(None, seed) for seed in self.seeds}
        alone = len(self.recipe.all_teachers()) == len(local_teachers(self.recipe)) == 1
        seeds = self.seeds if alone else []
        return sources, {seed: self.test(None, seed, teacher=True) for seed in seeds}

    def start(self, arm: Arm) -> float:
        """Return the learning rate that tuning starts from."""
        optimizer = self._recipe(arm.settings).optimizer
        own = {
            "full": optimizer.lr,
            "masked": optimizer.masked_lr or optimizer.lr,
            "shira": optimizer.masked_lr or optimizer.lr,
            "lora": TIMES_FULL * optimizer.lr,
        }
        return arm.lr or own[arm.kind]

    def settling(self, seed: int, density: float) -> dict[int, Choosing]:
        """Return the masks after every snapshot of the recipe's own exploration, by step."""
        run = self.exploration(OPD, seed)
        steps = [*run.recipe.train.snapshots, run.recipe.train.steps]
        return {step: self.choosing(Chosen(density=density, steps=step), seed) for step in steps}

    @cached_property
    def _scope(self) -> dict[str, Any]:
        """Return where the recipe lets masks choose; what it freezes is left out of them."""
        discover, train = self.recipe.discover, self.recipe.train
        scope = {
            "include": discover.include,
            "exclude": [*discover.exclude, *train.freeze],
            "budget": discover.budget,
        }
        return {name: value for name, value in scope.items() if value}

    @cached_property
    def _recipes(self) -> dict[tuple[str, ...], Recipe]:
        """Recipes by their further settings; reading YAML a thousand times takes a minute."""
        return {}

    def _recipe(self, settings: Sequence[str]) -> Recipe:
        key = tuple(settings)
        if key not in self._recipes:
            recipe = recipe_of(self.study, settings)
            data = replace(recipe.data, limit=self.train_rows - self.validation)
            self._recipes[key] = replace(recipe, data=data)
        return self._recipes[key]

    def _sampling_seed(self, seed: int) -> int:
        """Return the seed that all arms of one training seed are sampled with."""
        return self.recipe.evaluate.seed + TEST_SPACING * self.seeds.index(seed)

    def _snapshots(self, name: str, asked: Exploration) -> set[int]:
        masks = [arm.mask for arm in self.study.arms.values() if arm.mask is not None]
        uses = [mask for mask in masks if mask.of == name]
        steps = self.recipe.discover.steps
        return {*asked.snapshots, *(mask.steps or steps for mask in uses)}

    def _seed_after(self, seed: int, further: int) -> int:
        """Return the seed so many places further on; one of nobody's own where there is but one."""
        if not further:
            return seed
        if len(self.seeds) == 1:
            return seed + OTHER_ORDER * further
        return self.seeds[(self.seeds.index(seed) + further) % len(self.seeds)]
