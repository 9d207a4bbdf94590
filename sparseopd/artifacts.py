"""What the stages hand each other: the run folder, the scores, and the few facts about a run.

    RUN/
      recipe.yaml         the resolved recipe: give it to any command to repeat or continue
      run.json            RunFacts: which stage, versions, times, mask, final figures
      metrics.jsonl       one line a logged step
      completions.jsonl   some of what the student wrote, every few steps
      mask.safetensors    (discover, train --mask) the mask; delta.json sums up the update it came from
      stability.jsonl     (discover) how the mask settled; masks/step-N.safetensors the snapshots kept,
                          saliency/ the scores of the selector saliency
      checkpoint/         (train) the trained student; adapter/ what train.peft merged into it
      snapshots/step-N/   (train) the student after step N, likewise
      started.json        (until it ends) its stage and name; resume/ the last state to go on from
      scores.json         (evaluate) Scores; report.html beside it

Files are written under a temporary name and renamed, so a name that exists holds a whole file.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from sparseopd.errors import RunFolderError


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it over `path` when the block succeeds.

    Raises `RunFolderError` with the operating system's reason (disk full, read-only…).
    """
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise RunFolderError(f"cannot write {path}: {error.strerror}") from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        os.chmod(temporary, 0o644)  # mkstemp makes files private; outputs are meant to be shared
        os.replace(temporary, path)
    except OSError as error:
        raise RunFolderError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def folder_written_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; rename it to `path` when the block succeeds.

    A folder of that name is replaced, and one that an earlier process left half-written removed.
    Raises `RunFolderError` with the operating system's reason.
    """
    temporary = path.with_name(f".{path.name}.part")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        yield temporary
        for file in filter(Path.is_file, temporary.rglob("*")):
            file.chmod(0o644)  # safetensors makes files private; outputs are meant to be shared
        shutil.rmtree(path, ignore_errors=True)
        os.replace(temporary, path)
    except OSError as error:
        raise RunFolderError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all. NaN and infinities are refused."""
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read a JSON file; `RunFolderError` names the file when it is missing or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunFolderError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise RunFolderError(f"{path} is not valid JSON ({error})") from error


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What a finished run says of itself in `run.json`."""

    kind: str
    """"discover", "full" (on-policy), "contrast" (other kinds), "masked", "lora" or "shira"."""
    name: str
    """The name it goes by in tables: the recipe's, or what the command line gave."""
    student: str
    teacher: str
    steps: int
    lr: float
    seed: int
    seconds: float
    mask: dict[str, Any] | None = None
    """For masked runs: file, k, density, selector and the mask's hash."""
    adapter: dict[str, Any] | None = None
    """For runs of train.peft: type, rank, alpha, layers, k (trainable weights), density (their share)."""
    final: dict[str, Any] = field(default_factory=dict)
    """Figures of the last logged step."""
    notes: list[str] = field(default_factory=list)
    """Sentences a reader must know, such as what was left out of the teacher's vocabulary."""
    versions: dict[str, str] = field(default_factory=dict)


class RunDir:
    """A run's folder: where each file lies, and the rule that a finished run is never overwritten."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.recipe = self.path / "recipe.yaml"
        self.facts = self.path / "run.json"
        self.metrics = self.path / "metrics.jsonl"
        self.completions = self.path / "completions.jsonl"
        self.mask = self.path / "mask.safetensors"
        self.delta = self.path / "delta.json"
        self.stability = self.path / "stability.jsonl"
        self.saliency = self.path / "saliency"
        self.teacher_completions = self.path / "teacher.jsonl"
        self.tensorboard = self.path / "tensorboard"
        self.checkpoint = self.path / "checkpoint"
        self.adapter = self.path / "adapter"
        self.snapshots = self.path / "snapshots"
        self.started = self.path / "started.json"
        self.resume = self.path / "resume"
        self.scores = self.path / "scores.json"
        self.report = self.path / "report.html"

    def snapshot(self, step: int) -> Path:
        """Return where the mask after a step of discovery is kept."""
        return self.path / "masks" / f"step-{step}.safetensors"

    def kept_weights(self, step: int) -> Path:
        """Return where the weights after a step of training are kept."""
        return self.snapshots / f"step-{step}"

    @classmethod
    def unused(cls, path: str | Path) -> RunDir:
        """Name the folder of a new run, without making it yet.

        Raises `RunFolderError` if it already holds anything.
        """
        run = cls(path)
        if run.path.exists() and (not run.path.is_dir() or any(run.path.iterdir())):
            raise RunFolderError(
                f"{run.path} already holds files: give another folder with -o, or remove it first"
            )
        return run

    def create(self, needed_bytes: int = 0) -> None:
        """Make the folder. Raises `RunFolderError` if it cannot be made or the disk is too full."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(self.path).free
        except OSError as error:
            raise RunFolderError(f"cannot make the folder {self.path}: {error.strerror}") from error
        if free < needed_bytes:
            raise RunFolderError(
                f"{self.path} has {free / 1e6:,.1f} MB free and this run writes about "
                f"{needed_bytes / 1e6:,.1f} MB: free some space, or give another folder with -o"
            )

    @classmethod
    def is_run(cls, path: str | Path) -> bool:
        """Whether `path` is the folder of a finished run."""
        return cls(path).facts.is_file()

    def write_facts(self, facts: RunFacts) -> None:
        """Write `run.json`; this is what marks the run as finished."""
        write_json(self.facts, asdict(facts))

    def read_facts(self) -> RunFacts:
        """Read `run.json`. Raises `RunFolderError` if the run never finished or the file is foreign."""
        if not self.facts.is_file():
            raise RunFolderError(f"{self.path} holds no finished run (run.json is missing)")
        try:
            return RunFacts(**read_json(self.facts))
        except TypeError as error:
            raise RunFolderError(f"{self.facts} is not a run's description ({error})") from error

    def read_metrics(self) -> list[dict[str, Any]]:
        """Read every logged step, oldest first; a last line cut short by a crash is left out."""
        return read_rows(self.metrics)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read JSON lines up to the first that is none; nothing where there is no file."""
    rows = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                break
    return rows


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where a mask came from; carried in its file so that it can be refused where it is foreign."""

    base: str = ""
    """Path or id of the model whose coordinates the mask names."""
    revision: str | None = None
    base_hashes: dict[str, str] = field(default_factory=dict)
    """`dtype:digest` of each base tensor, by checkpoint name (pairs.tensor_hash)."""
    selector: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    """The selector's own settings: density or threshold, budget, scope (selection.Selection)."""
    stored_in: dict[str, list[str]] = field(default_factory=dict)
    """The dtypes in which "base" and "tuned" store the weights in scope."""
    compared_in: str = ""
    """The dtype in which base and tuned weights were subtracted."""
    tuned: str = ""
    """Path or id of what the base was compared with, where there was anything."""
    idle: int = 0
    """Chosen coordinates that did not move (or scored 0), and were drawn among equals by the seed."""
    steps: int | None = None
    """Training steps behind the update, where there were any."""
    stability: list[dict[str, float]] = field(default_factory=list)
    """How the mask settled while it was discovered: rows of "step", "since", "density" and "jaccard",
    the index of the top-k masks of that density after the two steps."""
    seed: int | None = None
    recipe_hash: str | None = None
    version: str = ""
    """The sparseopd that made it."""


@dataclass(frozen=True)
class Interval:
    """A mean with the ends of its bootstrap interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class ArmScores:
    """One arm (a run or a model) on the shared held-out prompts."""

    name: str
    kind: str
    """"source", "teacher", "full", "contrast", "masked", "lora", "shira" or "model"."""
    path: str
    accuracy: Interval | None
    """mean@n over prompts and samples, 0…1; None when no grader applies."""
    gain: Interval | None = None
    """Accuracy minus the source's, paired by prompt."""
    gain_kept: Interval | None = None
    """This arm's gain over the full run's gain, paired by prompt; None without a full run."""
    kl: Interval | None = None
    """Mean per-token KL(arm ‖ teacher) in nats on the arm's own rollouts."""
    agreement: dict[str, float] | None = None
    """Share of parameters within 1e-5 and 1e-4 of the full run's, keyed "1e-05", "1e-04"."""
    truncated: float = 0.0
    """Share of completions that never ended."""
    mean_tokens: float = 0.0
    density: float | None = None
    lr: float | None = None
    steps: int | None = None
    seconds: float | None = None
    curve: list[dict[str, Any]] = field(default_factory=list)
    """Logged training steps ("step", "loss", "entropy", …) for the learning curves."""
    layout: list[dict[str, Any]] = field(default_factory=list)
    """Where the mask lies: rows of "layer" (int or null), "module", "count", "numel"."""
    stability: list[dict[str, float]] = field(default_factory=list)
    """How its mask settled while it was discovered (`Provenance.stability`)."""
    per_prompt: list[float] = field(default_factory=list)
    """Mean accuracy on each prompt, in the shared order."""
    examples: list[dict[str, str]] = field(default_factory=list)
    """A few graded completions: "prompt", "completion", "answer", "correct"."""


@dataclass(frozen=True, kw_only=True)
class Scores:
    """An evaluation: the settings all arms share, and each arm's figures."""

    name: str
    settings: dict[str, Any]
    """prompts, samples, seed, grader, temperature, max_new_tokens, student, teacher, versions."""
    arms: list[ArmScores]
    benchmarks: list[dict[str, Any]] = field(default_factory=list)
    """Rows of public benchmarks (`benchmark_scores.BenchmarkScore`), where any were run."""

    def save(self, path: Path) -> None:
        """Write as JSON."""
        write_json(path, asdict(self))

    @classmethod
    def load(cls, path: Path) -> Scores:
        """Read what `save` wrote. Raises `RunFolderError` on a foreign file."""
        value = read_json(path)
        try:
            arms = [
                ArmScores(**{key: _interval(item) for key, item in arm.items()})
                for arm in value["arms"]
            ]
            return cls(**{**value, "arms": arms})
        except (TypeError, KeyError) as error:
            raise RunFolderError(f"{path} does not hold scores ({error})") from error


def _interval(value: Any) -> Any:
    if isinstance(value, dict) and value.keys() == {"mean", "low", "high"}:
        return Interval(**value)
    return value


class Progress(Protocol):
    """Called while a stage works; the command line draws the bar."""

    def __call__(self, stage: str, done: int, total: int, unit: str = "", detail: str = "") -> None:
        """`unit` says what is counted: "bytes", or "" for steps. `detail` is a short text for the
        stage's line, such as its last figures: the most important first, for a narrow screen cuts it.
        """


def labelled(progress: Progress | None, label: str) -> Progress | None:
    """Return what puts a label before the name of every stage, where there is anything to report to."""
    if progress is None:
        return None

    def report(stage: str, done: int, total: int, unit: str = "", detail: str = "") -> None:
        progress(f"{label}: {stage}", done, total, unit, detail)

    return report
