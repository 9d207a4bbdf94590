"""Public benchmarks of text through lm-evaluation-harness, paired between arms.

    tasks = open_tasks(Benchmarks(names=("arc_easy",)))          before any model is loaded
    outcomes = [run_tasks(tasks, arm, model, processor, …) for …]
    rows = rows_of(outcomes, …)                                  → Scores.benchmarks

Every arm meets the same documents and the same few-shot examples, so figures that are means over
documents are paired by document, with bootstrap intervals over them.
"""

from __future__ import annotations

import difflib
import importlib.util
import io
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from sparseopd.artifacts import Progress
from sparseopd.errors import RequestError, SparseOPDError
from sparseopd.evaluation.harness_figures import Outcome, read_documents, read_scores
from sparseopd.pairs import has_chat_template
from sparseopd.pairs.loading import Processor, tokenizer_of
from sparseopd.recipe import Evaluate


@dataclass(frozen=True, kw_only=True)
class Benchmarks:
    """Which tasks to run."""

    names: tuple[str, ...]
    """Tasks, groups or tags, as `lm_eval --tasks list` shows them."""
    path: Path | None = None
    """A folder of further task YAMLs, or one of them. They can name Python code, which is run."""
    limit: int | None = None
    """Documents of each task; all by default."""


@dataclass(frozen=True, kw_only=True)
class OpenedTasks:
    """Tasks of the harness with their documents, and the settings all arms share."""

    items: Mapping[str, Any]
    """`lm_eval` tasks and groups by name, none of them within another."""
    manager: Any
    wanted: Benchmarks


def open_tasks(wanted: Benchmarks) -> OpenedTasks:
    """Find the tasks and load their documents.

    Raises `RequestError` where lm-eval is missing, a task is unknown, its documents cannot be had, or it
    runs code that the model writes, or needs images.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise RequestError("--lm-eval needs lm-evaluation-harness: pip install 'sparseopd[eval]'")
    if wanted.path is not None and not wanted.path.exists():
        raise RequestError(
            f"there is no folder of tasks {wanted.path}: give one with --lm-eval-path"
        )
    with _quiet():
        manager = _manager(wanted)
        items: dict[str, Any] = {}
        for name in wanted.names:
            items.update(_open(manager, name))
    return OpenedTasks(items=items, manager=manager, wanted=wanted)


def run_tasks(
    tasks: OpenedTasks,
    arm: str,
    model: PreTrainedModel,
    processor: Processor,
    *,
    settings: Evaluate,
    template: Mapping[str, Any] = {},
    progress: Progress,
) -> Outcome:
    """Run every task on one model, with its chat template where it has one.

    Raises `SparseOPDError` naming task and arm where the harness fails.
    """
    chat = has_chat_template(tokenizer_of(processor))
    outcome = Outcome(arm=arm, scores={}, documents={})
    for number, (name, item) in enumerate(tasks.items.items()):
        progress(f"{arm}: benchmarks", number, len(tasks.items), detail=name)
        try:
            with _quiet():
                language_model = _language_model(model, processor, settings, template)
                found = _evaluate(language_model, item, tasks, settings.seed, chat)
        except Exception as error:  # tasks hold code of their own, which may raise anything
            raise SparseOPDError(
                f"the benchmark {name} failed on {arm}: {_first_line(error)}"
            ) from error
        own = read_scores(arm, found)
        outcome.scores.update(own)
        outcome.documents.update(read_documents(own, found))
    progress(f"{arm}: benchmarks", len(tasks.items), len(tasks.items))
    return outcome


def benchmark_settings(tasks: OpenedTasks | None) -> dict[str, Any]:
    """Return what a reader of the figures must know of how tasks were run."""
    if tasks is None:
        return {}
    wanted = tasks.wanted
    settings = {
        "benchmarks": ", ".join(wanted.names),
        "benchmark_limit": wanted.limit,
        "benchmark_tasks_from": str(wanted.path) if wanted.path else None,
        "lm_eval": version("lm_eval"),
    }
    return {name: value for name, value in settings.items() if value is not None}


def _language_model(
    model: PreTrainedModel, processor: Processor, settings: Evaluate, template: Mapping[str, Any]
) -> Any:
    """Wrap a loaded model as the harness wants it."""
    from lm_eval.models import huggingface

    make: Any = huggingface.HFLM  # its registration hides its parameters
    return make(
        pretrained=model,
        backend="causal",  # which a vision-language model is too, when it only reads text
        tokenizer=tokenizer_of(processor),
        batch_size=settings.batch_size,
        chat_template_args=dict(template),
        trust_remote_code=False,
    )


def _evaluate(
    language_model: Any, item: Any, tasks: OpenedTasks, seed: int, chat: bool
) -> Mapping[str, Any]:
    """Run one task or group; everything it draws comes from `seed`."""
    from lm_eval import simple_evaluate

    run: Callable[..., Any] = simple_evaluate  # a decorator of its own hides its parameters
    found = run(
        model=language_model,
        tasks=[item],
        task_manager=tasks.manager,
        limit=tasks.wanted.limit,
        apply_chat_template=chat,
        random_seed=seed,
        numpy_random_seed=seed,
        torch_random_seed=seed,
        fewshot_random_seed=seed,
    )
    return found or {}


def _manager(wanted: Benchmarks) -> Any:
    """Index the tasks: those of the harness itself, which takes seconds, only where they are needed."""
    from lm_eval.tasks import TaskManager

    path = wanted.path
    if path is None:
        return TaskManager()
    folder = str(path if path.is_dir() else path.parent)
    own = TaskManager(include_path=folder, include_defaults=False)
    if all(name in own.all_tasks for name in wanted.names):
        return own
    return TaskManager(include_path=folder)


def _open(manager: Any, name: str) -> dict[str, Any]:
    """Load one task, group or tag: what is within a group comes with it."""
    if name not in manager.all_tasks:
        near = difflib.get_close_matches(name, manager.all_tasks, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "see lm_eval --tasks list"
        raise RequestError(f"no benchmark is called {name!r}: {hint}")
    try:
        loaded = manager.load([name])
    except Exception as error:  # reading data and running a task's code may raise anything
        raise RequestError(
            f"cannot open the benchmark {name}: {_first_line(error)} "
            "(offline, its data must be in the cache already)"
        ) from error
    for task, one in loaded["tasks"].items():
        if getattr(one, "UNSAFE_CODE", False):
            raise RequestError(
                f"the benchmark {task} runs code that the model writes, which is not done here: "
                "run lm_eval itself, in a sandbox"
            )
        if getattr(one, "MULTIMODAL", False):
            raise RequestError(
                f"the benchmark {task} needs images: give them as data.test with data.image, "
                "and a grader"
            )
    found = {**loaded["tasks"], **loaded.get("groups", {})}
    within = {child for children in loaded.get("group_map", {}).values() for child in children}
    return {one: item for one, item in found.items() if one not in within}


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the harness's bars and notices from the screen, and what tasks print from stdout.

    The file descriptor too: outside a repository, git's complaint would come from a process of its own.
    """
    logger = logging.getLogger("lm_eval")
    before, screen = logger.level, os.dup(2)
    logger.setLevel(logging.ERROR)
    try:
        with open(os.devnull, "w") as nothing:
            os.dup2(nothing.fileno(), 2)
        with redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):
            yield
    finally:
        os.dup2(screen, 2)
        os.close(screen)
        logger.setLevel(before)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().split("\n")[0] or type(error).__name__).strip("'\"").rstrip(".")
