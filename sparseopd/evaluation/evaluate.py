"""Compare arms on the same held-out prompts, samples and random numbers.

    arms = arms_for([RunDir("full"), RunDir("sparse")], recipe)
    evaluate(arms, recipe).save(path)

One model is held beside one teacher at a time. Every figure has an interval over prompts; gains are
paired prompt by prompt, and the share of a gain that an arm keeps refers to the first full run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel

from sparseopd.analysis.agreement import agreement
from sparseopd.artifacts import Progress, Scores
from sparseopd.errors import PairError, RequestError
from sparseopd.evaluation.arms import (
    Arm,
    TrainingRecord,
    check_run,
    in_order,
    model_of,
    training_record,
)
from sparseopd.evaluation.engines import Engine, check_engine
from sparseopd.evaluation.harness import (
    Benchmarks,
    OpenedTasks,
    benchmark_settings,
    open_tasks,
    run_tasks,
)
from sparseopd.evaluation.harness_figures import rows_of
from sparseopd.evaluation.measure import Shared, measure, sample_elsewhere
from sparseopd.evaluation.summary import Result, bootstrap_options, summarize
from sparseopd.evaluation.teachers import Teachers, free_memory, notes, routes
from sparseopd.pairs import (
    Tensors,
    check_images,
    check_vocabulary,
    has_chat_template,
    load_model,
    load_processor,
    open_tensors,
    pick_device,
    resolve_path,
)
from sparseopd.pairs.loading import Processor
from sparseopd.recipe import Recipe
from sparseopd.tasks import Grader, Prompts, load_prompts
from sparseopd.versions import versions


def silent(stage: str, done: int, total: int, unit: str = "", detail: str = "") -> None:
    """Show no progress."""


def evaluate(
    arms: Sequence[Arm],
    recipe: Recipe,
    *,
    engine: Engine = "transformers",
    benchmarks: Benchmarks | None = None,
    progress: Progress = silent,
) -> Scores:
    """Measure every arm on the recipe's held-out prompts, and on benchmarks: source first, teachers last.

    KL is to the teacher that a prompt's row names, as the recipe has it: quantized, or seeing more than
    the student. A teacher on a server leaves every arm without one.

    Args:
        engine: what samples on the held-out prompts; the rest is always done with transformers.
        benchmarks: tasks of lm-evaluation-harness to run as well.

    Raises:
        RequestError: arms, data, models or tasks do not fit, as far as that can be told before the
            first model is loaded.
    """
    check_engine(engine)
    if not arms:
        raise RequestError("nothing to evaluate: name at least one run folder or model")
    arms = in_order(arms)
    records = {arm.name: training_record(arm) for arm in arms}
    if len(records) < len(arms):
        raise RequestError("two arms have the same name: give each its own")
    tasks = open_tasks(benchmarks) if benchmarks else None
    shared, prompts = _prepare(arms, recipe, engine, progress)
    reference = next((arm for arm in arms if arm.kind == "full"), None)
    results = [_result(arm, records[arm.name], recipe, shared, reference, tasks) for arm in arms]
    outcomes = [result.outcome for result in results if result.outcome]
    return Scores(
        name=recipe.name,
        settings=_settings(recipe, shared, prompts) | benchmark_settings(tasks),
        arms=summarize(results, recipe.evaluate),
        benchmarks=rows_of(outcomes, bootstrap_options(recipe.evaluate)),
    )


def _prepare(
    arms: Sequence[Arm], recipe: Recipe, engine: Engine, progress: Progress
) -> tuple[Shared, Prompts]:
    """Load what all arms share, in the order in which mistakes are cheapest to find."""
    processor = load_processor(recipe.student)
    found = _check_vocabularies(arms, recipe, processor)
    for arm in arms:
        check_run(arm, recipe)
    prompts = load_prompts(
        recipe.data, chat=has_chat_template(processor), teachers=list(recipe.all_teachers())
    )
    check_images(prompts.has_images, processor)
    count = min(len(prompts.test), recipe.evaluate.prompts)
    test = prompts.test.select(range(count))
    shared = shared_by(
        recipe,
        processor,
        test,
        prompts.grader,
        progress=progress,
        notes=[*found, *notes(recipe)],
        engine=engine,
    )
    for name in list(shared.routes)[:1]:
        shared.teachers[name]  # one that cannot be loaded is told before anything is sampled
    return shared, prompts


def shared_by(
    recipe: Recipe, processor: Processor, rows: Dataset, grader: Grader | None, **more: Any
) -> Shared:
    """Return what all models are measured with on some prompts of a recipe; `more` are fields of it."""
    return Shared(
        teachers=Teachers(recipe, pick_device(recipe.device)),
        routes=routes(recipe, rows),
        processor=processor,
        prompts=rows,
        grader=grader,
        rollout=recipe.rollout,
        evaluate=recipe.evaluate,
        teacher_column="teacher_prompt" if recipe.data.privileged else "prompt",
        template=recipe.data.chat_template,
        **more,
    )


def _check_vocabularies(arms: Sequence[Arm], recipe: Recipe, processor: Processor) -> list[str]:
    """Return what is to be said of the teachers' tokens.

    Raises `PairError` for a teacher that does not fit, and for a model from elsewhere with any other
    token: it would read other words in the student's ids, or write some that nobody can read. Runs keep
    the student's tokenizer.
    """
    for arm in arms:
        if arm.kind != "model":
            continue
        further = check_vocabulary(processor, load_processor(model_of(arm, recipe)))
        if further:
            raise PairError(
                f"{arm.path} and the student {recipe.student.path} have different vocabularies, its own "
                "is larger: evaluate models with the student's tokenizer"
            )
    teachers = recipe.all_teachers().values()
    found = [check_vocabulary(processor, load_processor(teacher)) for teacher in teachers]
    return list(dict.fromkeys(sentence for sentence in found if sentence))


def _result(
    arm: Arm,
    record: TrainingRecord,
    recipe: Recipe,
    shared: Shared,
    reference: Arm | None,
    tasks: OpenedTasks | None,
) -> Result:
    """Load, measure and let go of one arm's model."""
    free_memory()
    written = sample_elsewhere(arm, model_of(arm, recipe), shared)
    free_memory()
    device = pick_device(recipe.device)
    is_teacher = arm.kind == "teacher"
    model = (
        shared.teachers[arm.teacher]
        if is_teacher
        else load_model(model_of(arm, recipe), device=device)
    )
    measurement = measure(arm, model, shared, written)
    agreed = _agreement(arm, model, reference)
    outcome = tasks and run_tasks(
        tasks,
        arm.name,
        model,
        load_processor(model_of(arm, recipe)),
        settings=recipe.evaluate,
        template=recipe.data.chat_template,
        progress=shared.progress,
    )
    return Result(
        arm=arm, record=record, measurement=measurement, agreement=agreed, outcome=outcome
    )


def _agreement(arm: Arm, model: PreTrainedModel, reference: Arm | None) -> dict[str, float] | None:
    """Compare with the full run, where there is one that is not the arm itself."""
    if reference is None or arm.kind == "teacher" or arm is reference:
        return None
    own: Tensors = open_tensors(arm.path if Path(resolve_path(arm.path)).is_dir() else model)
    return agreement(own, open_tensors(reference.path))


def _settings(recipe: Recipe, shared: Shared, prompts: Prompts) -> dict[str, Any]:
    """Return what all arms share, for the reader of the scores."""
    teachers = {name: teacher.path for name, teacher in recipe.all_teachers().items()}
    settings = {
        "student": recipe.student.path,
        "teacher": teachers if recipe.teachers else teachers.get("teacher"),
        "data": recipe.data.test or recipe.data.train,
        "prompts": len(shared.prompts),
        "held_out": prompts.held_out,
        "samples": recipe.evaluate.samples,
        "grader": prompts.grader_name,
        "temperature": recipe.rollout.temperature,
        "top_p": recipe.rollout.top_p,
        "top_k": recipe.rollout.top_k,
        "max_new_tokens": recipe.rollout.max_new_tokens,
        "chat_template": dict(shared.template),
        "batch_size": recipe.evaluate.batch_size,
        "engine": shared.engine if shared.engine != "transformers" else "",
        "device": str(pick_device(recipe.device)),
        "dtype": recipe.student.dtype,
        **bootstrap_options(recipe.evaluate),
        "notes": "; ".join(shared.notes),
        "versions": versions(),
    }
    return {name: value for name, value in settings.items() if value not in ("", {})}
