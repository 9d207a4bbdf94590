"""Recipes load, resolve and refuse."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from sparseopd import recipe
from sparseopd.errors import RecipeError

SMALL = {"student": "a", "teacher": "b", "data": {"train": "c"}}


def small(*overrides: str) -> recipe.Recipe:
    return recipe.build(SMALL, overrides)


def test_resolved_recipe_loads_to_itself() -> None:
    resolved = small(
        "optimizer.lr=1e-3", "optimizer.betas=[0.9, 0.95]", "discover.selector=threshold"
    )
    assert resolved.optimizer.lr == 1e-3 and resolved.discover.selector == "threshold"
    assert recipe.build(yaml.safe_load(resolved.to_yaml())) == resolved
    assert recipe.build(yaml.safe_load(resolved.to_yaml())).digest() == resolved.digest()


def test_overrides_do_not_change_what_they_are_applied_to() -> None:
    values = {"student": {"path": "a"}, "teacher": "b", "data": {"train": "c"}}
    recipe.build(values, ["student.dtype=bfloat16"])
    assert values["student"] == {"path": "a"}


@pytest.mark.parametrize(
    "override, sentence",
    [
        ("trian.steps=3", "did you mean train?"),
        ("train.step=3", "did you mean train.steps?"),
        ("zzz=3", "valid here: name, student"),
        ("student.dtyp=float32", "did you mean student.dtype?"),
        ("discover.density=3", "discover.density is 3"),
        ("discover.density=0", "discover.density is 0"),
        ("discover.density=-0.1", "discover.density is -0.1"),
        ("discover.density=.nan", "finite"),
        ("train.steps=abc", "train.steps is 'abc'"),
        ("optimizer.betas=[1.5, 0.9]", "less than 1"),
        ("optimizer.betas=[0.9, 1.0]", "less than 1"),
        ("seed=4294967296", "seed is 4294967296"),
        ("train.steps=0", "greater than or equal to 1"),
        ("optimizer.name=adamx", "'adamw', 'adam', 'sgd', 'adafactor'"),
        ("train.steps", "write key.sub=value"),
        ("name.sub=3", "name is a value, not a section"),
        ("train=[", "not valid YAML"),
        ("objective.beta=0.3", "does nothing with objective.kind=reverse-kl"),
        ("optimizer.momentum=0.9", "does nothing with adamw"),
        ("optimizer.warmup_steps=5", "does nothing with schedule constant"),
        ("discover.threshold=1e-5", "discover.threshold does nothing with the selector topk"),
        ("discover.match=tensor", "discover.match does nothing with the selector topk"),
        ("discover.saliency=gradient", "does nothing with the selector topk"),
        ("discover.snapshots=[5, 60]", "names step 60 and discover.steps is 50"),
        ("discover.until_stable=2", "discover.until_stable is 2"),
        ("train.micro_batch_size=5", "does not divide"),
        ("objective={kind: student-top-k, k: 1}", "learns nothing"),
        ("objective={kind: student-top-k, outside: ignore}", "biased"),
        ("objective={kind: grpo}", "rollout.samples is 1"),
        ("objective.k=3", "objective.k does nothing with objective.kind=reverse-kl"),
        ("teacher.server=http://x", "and reverse-kl needs more"),
        ("data.teacher=skill", "does nothing with one teacher"),
        ("data.chat_template={tokenize: false}", "no variable of a template"),
        ("objective={kind: sampled-token}", "cuts some tokens off"),
        ("rollout.vllm=server", "needs the server's URL"),
    ],
)
def test_wrong_overrides_are_one_sentence(override: str, sentence: str) -> None:
    with pytest.raises(RecipeError) as caught:
        truncated = {"rollout": {"top_p": 0.9}} if "sampled-token" in override else {}
        recipe.build({**SMALL, **truncated, "name": "n"}, [override])
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


def test_missing_sections_are_named() -> None:
    with pytest.raises(RecipeError, match="the recipe lacks teacher"):
        recipe.build({"student": "a", "data": {"train": "c"}})


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("a: [", "not valid YAML"),
        ("- a", "must be a mapping"),
        (None, "cannot read the recipe"),
    ],
)
def test_bad_files(tmp_path: Path, text: str | None, sentence: str) -> None:
    path = tmp_path / "r.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(RecipeError, match=sentence):
        recipe.load(path)


def test_local_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    built = recipe.build(
        {"student": "models", "teacher": "org/hub-id", "data": {"train": "bundled:x"}}
    )
    assert built.student.path == str(tmp_path / "models")
    assert built.teacher.path == "org/hub-id" and built.data.train == "bundled:x"


@pytest.mark.parametrize(
    "path",
    [
        path
        for path in sorted(Path(__file__).parent.parent.glob("recipes/**/*.yaml"))
        if path.parent.name != "accelerate"  # launch configurations, which Accelerate reads
        and "studies:" not in path.read_text()  # comparisons, which name recipes
    ],
    ids=lambda p: p.stem,
)
def test_shipped_recipes_load(path: Path) -> None:
    loaded = recipe.load(path)
    assert loaded.discover.steps * 4 <= loaded.train.steps
    assert recipe.find(path.stem) == path
    assert loaded.name == path.stem


def test_a_comparison_is_told_from_a_recipe() -> None:
    path = Path(__file__).parent.parent / "recipes" / "tiny" / "paper.yaml"
    with pytest.raises(
        RecipeError, match="is a comparison, no recipe: run it with sparseopd compare"
    ):
        recipe.load(path)


@pytest.mark.parametrize(
    "overrides, sentence",
    [
        (["discover.selector=random", "discover.snapshots=[5]"], "needs no training"),
        (["discover.selector=random", "discover.match=tensor"], "use sparseopd mask select"),
        (["discover.selector=threshold", "discover.density=0.1"], "null in the recipe"),
        (["discover.density=0.1", "discover.k=5"], "give one of them"),
        (["discover.until_stable=0.9", "discover.check_every=0"], "leave one of them out"),
        (
            ["discover.selector=saliency", "discover.saliency=momentum", "optimizer.name=sgd"],
            "needs the moments of adamw or adam",
        ),
    ],
)
def test_settings_of_discovery_that_contradict(overrides: list[str], sentence: str) -> None:
    with pytest.raises(RecipeError, match=sentence):
        small(*overrides)
