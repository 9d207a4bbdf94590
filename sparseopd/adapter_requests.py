"""What `sparseopd adapter` does: find what its words stand for, make adapters, write their cards.

BASE TUNED      two models: folders, hub ids, bundled:…
BASE RUN        a run of train stands for its checkpoint, and tells its teacher and its scores
RUN             its base is the student it began from, and its mask says which values are taken
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sparseopd import recipe as recipes
from sparseopd.adapter_files.adapter import SparseAdapter
from sparseopd.adapter_files.card import write_card
from sparseopd.adapter_files.card_metadata import task_of
from sparseopd.adapter_files.extract import Extracted, extract
from sparseopd.artifacts import (
    ArmScores,
    Progress,
    Provenance,
    RunDir,
    RunFacts,
    Scores,
)
from sparseopd.errors import PairError, RequestError
from sparseopd.masks.mask import Mask
from sparseopd.pairs.folder import FolderTensors
from sparseopd.pairs.locate import checkpoint_of, resolve_path, weights_folder
from sparseopd.pairs.tensors import Tensors, open_tensors
from sparseopd.selection import Selection
from sparseopd.settings.objective import WITHOUT_TEACHER


@dataclass(frozen=True)
class Subject:
    """A base, what became of it, and what the run behind that knows."""

    base: Tensors
    tuned: Tensors
    run: RunFacts | None = None
    teacher: str = ""
    mask: Mask | None = None
    """What the run trained, where it began from this base."""
    known: Provenance | None = None
    """What is said of values that no mask chose."""
    scores: Path | None = None
    """The run's own evaluation, where it has one."""


def find(base: str, tuned: str | None) -> Subject:
    """Read BASE TUNED, or RUN alone. Raises `RequestError` where there is nothing to compare."""
    if tuned is None:
        if not RunDir.is_run(base):
            raise RequestError(
                "give the model before and after training, sparseopd adapter extract BASE TUNED, or a "
                f"run folder of train ({base} is none)"
            )
        return _of_run(RunDir(base), None)
    before = open_tensors(checkpoint_of(base))
    if not RunDir.is_run(tuned):
        return Subject(before, open_tensors(tuned))
    return _of_run(RunDir(tuned), before)


def make(
    subject: Subject,
    output: Path,
    *,
    mask: Mask | None = None,
    selection: Selection | None = None,
    masters: bool = False,
    teacher: str | None = None,
    license: str | None = None,
    scores: Path | None = None,
    progress: Progress | None = None,
) -> Extracted:
    """Write an adapter and its card. Without a mask and a selection, the run's mask is used.

    Raises as `extract`, and `RequestError` if the scores are not those of the checkpoint.
    """
    if selection is None and mask is None:
        mask = subject.mask
    found, arm = _evaluation(subject, scores)
    made = extract(
        subject.base,
        subject.tuned,
        output,
        mask=mask,
        selection=selection,
        masters=masters,
        teacher=teacher or subject.teacher,
        provenance=subject.known if mask is None else None,
        progress=progress,
    )
    folder = subject.base.folder
    write_card(
        output,
        SparseAdapter.load(output.absolute()),  # a folder called ~name is no home
        license=license,
        scores=found,
        arm=arm,
        run=subject.run,
        extracted=made,
        pipeline_tag=None if folder is None else task_of(folder),
    )
    return made


def check_words(model: str | None, adapters: Sequence[str]) -> None:
    """Refuse what stands for no model or no adapter, and say what to give instead.

    Raises `RequestError` for a run, and for an adapter's file in place of its folder.
    """
    for word in adapters:
        if RunDir.is_run(word):
            raise RequestError(
                f"{word} is a run: make its adapter with sparseopd adapter extract {word} -o ADAPTER"
            )
        if Path(word).expanduser().is_file():
            raise RequestError(f"{word} is a file: give the folder of the adapter")
    if model is not None and RunDir.is_run(model):
        raise RequestError(
            f"{model} is a run: give the folder of a model, the one it began from or its checkpoint"
        )


def _of_run(run: RunDir, base: Tensors | None) -> Subject:
    facts, recipe = run.read_facts(), recipes.load(run.recipe)
    tuned = open_tensors(checkpoint_of(str(run.path)))
    from_student = base is None or _is_same(base.label, recipe.student.path)
    if base is None:
        folder = weights_folder(recipe.student.path, recipe.student.revision)
        base = FolderTensors(folder, label=recipe.student.path, only=set(tuned.keys()))
    trained = facts.mask is not None and from_student and run.mask.is_file()
    return Subject(
        base=base,
        tuned=tuned,
        run=facts,
        teacher="" if recipe.objective.kind in WITHOUT_TEACHER else facts.teacher,
        mask=Mask.load(run.mask) if trained else None,
        known=Provenance(steps=facts.steps, seed=facts.seed, recipe_hash=recipe.digest()),
        scores=run.scores if run.scores.is_file() else None,
    )


def _evaluation(subject: Subject, given: Path | None) -> tuple[Scores | None, str | None]:
    """Return an evaluation and the name that the checkpoint has in it.

    Raises `RequestError` if the one that was given is of other models.
    """
    file = given or subject.scores
    if file is None:
        return None, None
    scores = Scores.load(RunDir(file).scores if file.is_dir() else file)
    arm = next((one.name for one in scores.arms if _is_scored(one, subject)), None)
    if arm is None and given is not None:
        names = ", ".join(f"{one.name} ({one.path})" for one in scores.arms[:5])
        raise RequestError(
            f"{given} has no scores of {subject.tuned.label}, only of {names}: evaluate it first, or "
            "leave --scores out"
        )
    return (None, None) if arm is None else (scores, arm)


def _is_scored(arm: ArmScores, subject: Subject) -> bool:
    """Whether scores are those of the tuned checkpoint; a run may have moved, but not its clock."""
    if _is_same(arm.path, subject.tuned.label):
        return True
    run = subject.run
    return run is not None and (arm.name, arm.seconds) == (run.name, run.seconds)


def _is_same(one: str, other: str) -> bool:
    """Whether two names stand for one model."""
    if one == other:
        return True
    with suppress(PairError):
        return Path(resolve_path(one)).resolve() == Path(resolve_path(other)).resolve()
    return False
