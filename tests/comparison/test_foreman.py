"""Jobs in their order, each once, and courses that wait for them."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sparseopd.comparison.courses import Course
from sparseopd.comparison.foreman import Foreman
from sparseopd.comparison.jobs import Job


@dataclass(frozen=True, kw_only=True)
class Note(Job):
    """Writes its label to a file."""

    after: tuple[Note, ...] = ()
    fails: bool = False

    folder = "notes"
    suffix = ".txt"

    def depends_on(self) -> Any:
        return [self.label, [other.hash for other in self.after]]

    def needs(self) -> list[Job]:
        return list(self.after)


class Inline:
    """An executor that does a job as it is handed over, and remembers the order."""

    def __init__(self) -> None:
        self.order: list[str] = []

    def submit(self, do: Any, job: Note, root: Path) -> Future:
        self.order.append(job.label)
        future: Future = Future()
        if job.fails:
            future.set_exception(ValueError(job.label))
            return future
        job.path(root).parent.mkdir(exist_ok=True)
        job.path(root).write_text(job.label)
        future.set_result(0.5)
        return future


def carry_out(root: Path, **courses: Course) -> tuple[dict[str, Any], list[str]]:
    executor = Inline()
    done: list[str] = []
    chief = Foreman(executor, root, lambda job, seconds: done.append(job.label), lambda job: None)  # pyright: ignore
    outcomes = chief.carry_out(courses)
    assert done == executor.order
    return outcomes, executor.order


FIRST = Note(label="first")
SECOND = Note(label="second", after=(FIRST,))
THIRD = Note(label="third", after=(SECOND, FIRST))


def asks(*stages: list[Job], end: Any = None) -> Course:
    yield from stages
    return end


def test_what_a_job_needs_is_done_before_it(tmp_path: Path) -> None:
    outcomes, order = carry_out(tmp_path, one=asks([THIRD], end=7))
    assert order == ["first", "second", "third"]
    assert outcomes == {"one": 7}


def test_a_job_that_several_ask_for_is_done_once(tmp_path: Path) -> None:
    _, order = carry_out(tmp_path, one=asks([THIRD]), two=asks([SECOND], [THIRD]))
    assert sorted(order) == ["first", "second", "third"]


def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    carry_out(tmp_path, one=asks([SECOND]))
    _, order = carry_out(tmp_path, one=asks([THIRD]))
    assert order == ["third"]


def test_a_course_goes_on_when_all_it_asked_for_is_done(tmp_path: Path) -> None:
    def reads() -> Course:
        yield [FIRST, SECOND]
        return [job.path(tmp_path).read_text() for job in (FIRST, SECOND)]

    outcomes, _ = carry_out(tmp_path, one=reads())
    assert outcomes["one"] == ["first", "second"]


def test_the_first_failure_ends_the_whole(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="broken"):
        carry_out(tmp_path, one=asks([Note(label="broken", fails=True)]))


def test_a_name_changes_with_what_it_depends_on_and_not_with_the_label() -> None:
    assert Note(label="third", after=(SECOND, FIRST)).hash == THIRD.hash
    assert Note(label="third", after=(SECOND,)).hash != THIRD.hash


@dataclass(frozen=True, kw_only=True)
class Twin(Note):
    """Depends on nothing, whatever it is called."""

    def depends_on(self) -> Any:
        return []


def test_two_names_of_the_same_work_both_have_a_result(tmp_path: Path) -> None:
    twins: list[Job] = [Twin(label="one"), Twin(label="another")]
    carry_out(tmp_path, arms=asks(twins))
    assert twins[0].hash == twins[1].hash
    assert all(twin.is_done(tmp_path) for twin in twins)
