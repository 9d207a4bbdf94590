"""Give jobs to workers, as soon as what they need is done, and continue the courses that wait for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from pathlib import Path
from typing import Any

from sparseopd.comparison.courses import Course
from sparseopd.comparison.jobs import Job
from sparseopd.comparison.workers import do

Done = Callable[[Job, float], None]
"""Called as done(job, seconds) when a job has been done, not when its result was there already."""


class Foreman:
    """Carries out courses; a job that several ask for is done once."""

    def __init__(self, executor: Executor, root: Path, done: Done, started: Callable[[Job], None]):
        self._executor, self._root = executor, root
        self._report, self._tell_started = done, started
        self._finished: set[str] = set()
        self._waiting: dict[str, Job] = {}
        self._running: dict[Future[float], Job] = {}

    def carry_out(self, courses: Mapping[str, Course]) -> dict[str, Any]:
        """Return what each course ends in. The first error of a job ends the whole."""
        outcomes: dict[str, Any] = {}
        open_jobs: dict[str, list[Job]] = {name: [] for name in courses}
        while len(outcomes) < len(courses):
            moved = False
            for name, course in courses.items():
                if name in outcomes or not all(self._is_done(job) for job in open_jobs[name]):
                    continue
                moved = True
                try:
                    open_jobs[name] = next(course)
                except StopIteration as end:
                    outcomes[name] = end.value
                    continue
                for job in open_jobs[name]:
                    self._ask(job)
            if not moved:
                self._wait()
        return outcomes

    def _is_done(self, job: Job) -> bool:
        return job.key in self._finished

    def _ask(self, job: Job) -> None:
        """Give a job out, after those it needs."""
        running = (other.key for other in self._running.values())
        if self._is_done(job) or job.key in self._waiting or job.key in running:
            return
        if job.is_done(self._root):
            self._finished.add(job.key)
            return
        for need in job.needs():
            self._ask(need)
        if all(self._is_done(need) for need in job.needs()):
            self._submit(job)
        else:
            self._waiting[job.key] = job

    def _submit(self, job: Job) -> None:
        self._running[self._executor.submit(do, job, self._root)] = job
        self._tell_started(job)

    def _wait(self) -> None:
        """Wait for a job to end, and give out what waited for it."""
        ended, _ = wait(self._running, return_when=FIRST_COMPLETED)
        # In the order in which they were given out: that of a set differs from start to start.
        for future in [one for one in self._running if one in ended]:
            job = self._running.pop(future)
            seconds = future.result()
            self._finished.add(job.key)
            self._report(job, seconds)
        for job in list(self._waiting.values()):
            if all(self._is_done(need) for need in job.needs()):
                del self._waiting[job.key]
                self._submit(job)
