"""The jobs behind an arm: what is shared, what differs, and what no arm trains on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sparseopd.comparison.arms import Arm, Chosen, Exploration
from sparseopd.comparison.plan import OTHER_ORDER, StudyPlan
from sparseopd.comparison.settings import Comparison, Study

ARMS = {
    "full": Arm(kind="full"),
    "found": Arm(mask=Chosen(density=0.1)),
    "early": Arm(mask=Chosen(density=0.1, steps=7)),
    "reordered": Arm(mask=Chosen(density=0.1), reordered=True),
    "other seed": Arm(mask=Chosen(density=0.1, seed=1)),
    "random": Arm(mask=Chosen(selector="random", like="tensor")),
    "uniform": Arm(mask=Chosen(selector="random")),
    "LoRA": Arm(kind="lora", density=0.1),
}


def make_plan(seeds: tuple[int, ...] = (0, 1, 2), rows: int = 4096) -> StudyPlan:
    study = Study(
        recipe="tiny-arithmetic",
        settings=["discover.steps=20"],
        explore={"opd": Exploration(snapshots=[3])},
        arms=ARMS,
    )
    comparison = Comparison(studies={"one": study}, seeds=list(seeds), pass_at=[1])
    return StudyPlan(name="one", study=study, comparison=comparison, train_rows=rows, numel=300_000)


PLAN = make_plan()


def test_no_run_trains_on_a_row_that_tunes() -> None:
    runs = [PLAN.training(name, arm, 1e-3, 0) for name, arm in ARMS.items()]
    for run in [*runs, PLAN.exploration("opd", 0)]:
        assert run.recipe.data.limit == 4096 - 256
    trial = PLAN.trial("full", ARMS["full"], 1e-3, 0)
    assert (trial.split, trial.validation) == ("validation", 256)
    assert make_plan(rows=100).validation == 20


def test_the_exploration_keeps_the_steps_that_arms_and_settings_ask_for() -> None:
    run = PLAN.exploration("opd", 1)
    assert run.recipe.train.snapshots == [3, 7, 20]
    assert run.recipe.train.save_dtype == "float32" and run.recipe.seed == 1
    assert run.recipe.optimizer.lr == 3e-4


def test_a_rate_goes_to_what_the_arm_trains() -> None:
    found = PLAN.training("found", ARMS["found"], 5e-3, 0)
    assert (found.recipe.optimizer.masked_lr, found.recipe.optimizer.lr) == (5e-3, 3e-4)
    full = PLAN.training("full", ARMS["full"], 5e-3, 0)
    assert full.recipe.optimizer.lr == 5e-3 and full.mask is None
    lora = PLAN.training("LoRA", ARMS["LoRA"], 5e-3, 0)
    assert lora.recipe.optimizer.lr == 5e-3
    assert lora.recipe.train.peft is not None
    assert (lora.recipe.train.peft.type, lora.recipe.train.peft.k) == ("lora", 30_000)


def test_tuning_starts_where_each_kind_usually_ends() -> None:
    starts = {name: PLAN.start(ARMS[name]) for name in ("full", "found", "LoRA")}
    assert starts == pytest.approx({"full": 3e-4, "found": 1e-3, "LoRA": 3e-3})
    assert PLAN.start(replace(ARMS["full"], lr=0.5)) == 0.5


def test_masks_come_from_the_run_and_step_they_name() -> None:
    found = PLAN.choosing(Chosen(density=0.1), 1)
    assert found.run is not None and found.run.recipe.seed == 1 and found.steps == 20
    early = PLAN.choosing(Chosen(density=0.1, steps=7), 1)
    assert early.steps == 7 and early.run is not None and early.run.hash == found.run.hash
    whole = PLAN.choosing(Chosen(density=0.1, steps=999), 1)
    assert whole.steps == PLAN.recipe.train.steps


def test_the_mask_of_another_seed_is_the_next_ones_and_the_last_takes_the_first() -> None:
    other = [PLAN.choosing(Chosen(seed=1), seed).run for seed in (0, 1, 2)]
    assert [run.recipe.seed for run in other if run] == [1, 2, 0]
    alone = make_plan(seeds=(4,)).choosing(Chosen(seed=1), 4).run
    assert alone is not None and alone.recipe.seed == 4 + OTHER_ORDER


def test_a_reordered_arm_has_its_seeds_mask_and_another_order() -> None:
    plain = PLAN.training("found", ARMS["found"], 1e-3, 1)
    other = PLAN.training("reordered", ARMS["reordered"], 1e-3, 1)
    assert plain.mask is not None and other.mask is not None
    assert plain.mask.hash == other.mask.hash
    assert (plain.recipe.seed, other.recipe.seed) == (1, 1 + OTHER_ORDER)


def test_random_masks_are_drawn_anew_for_every_seed_and_like_the_discovered_one() -> None:
    first, second = (PLAN.choosing(ARMS["random"].mask or Chosen(), seed) for seed in (0, 1))
    assert first.seed != second.seed
    assert first.like is not None and first.like.hash == PLAN.choosing(Chosen(), 0).hash
    uniform = PLAN.choosing(ARMS["uniform"].mask or Chosen(), 0)
    assert uniform.like is None and uniform.selection["density"] == 0.1


def test_arms_of_one_seed_are_sampled_alike_and_seeds_differently() -> None:
    runs = [PLAN.training(name, ARMS[name], 1e-3, 1) for name in ("full", "found")]
    tests = [PLAN.test(run, 1) for run in runs]
    assert tests[0].recipe == tests[1].recipe
    assert tests[0].recipe.evaluate.seed == PLAN.test(None, 1).recipe.evaluate.seed
    assert PLAN.test(None, 2).recipe.evaluate.seed != PLAN.test(None, 1).recipe.evaluate.seed


def test_work_is_named_by_what_it_depends_on() -> None:
    same = PLAN.training("called otherwise", ARMS["found"], 1e-3, 1)
    assert same.hash == PLAN.training("found", ARMS["found"], 1e-3, 1).hash
    for other in (
        PLAN.training("found", ARMS["found"], 2e-3, 1),
        PLAN.training("found", ARMS["found"], 1e-3, 2),
        PLAN.training("early", ARMS["early"], 1e-3, 1),
        PLAN.training("reordered", ARMS["reordered"], 1e-3, 1),
    ):
        assert other.hash != same.hash
    assert make_plan(rows=4000).training("found", ARMS["found"], 1e-3, 1).hash != same.hash
    # Another list of seeds changes nothing of what one seed does.
    assert make_plan(seeds=(1,)).training("found", ARMS["found"], 1e-3, 1).hash == same.hash
