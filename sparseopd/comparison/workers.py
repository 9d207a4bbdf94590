"""Worker processes: each does one job after another, with its own share of cores or its own GPU.

A process that starts a comparison locks its folder. Workers end when it does, however it ends.
"""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import wait
from pathlib import Path
from types import FrameType
from typing import Any

from sparseopd.comparison.jobs import Job
from sparseopd.errors import Interrupted, RunFolderError, SparseOPDError

LOCK = ".lock"
_busy = _stopped = False
"""Whether this process, a worker, does a job; and whether it was told to stop, and does no more."""


@contextmanager
def only_one(root: Path) -> Iterator[None]:
    """Hold a comparison's folder. Raises `RunFolderError` while another process does."""
    try:
        handle = (root / LOCK).open("w")
    except OSError as error:
        raise RunFolderError(f"cannot write into {root}: {error.strerror}") from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RunFolderError(
                f"another process is working on {root}: wait for it, or give another folder with -o"
            ) from error
        yield


def sweep(root: Path) -> None:
    """Remove what workers were writing when they were killed; only for whoever holds the folder.

    Files are written under a name that begins with a dot until they are whole.
    """
    for left in [*root.glob(".*"), *root.glob("*/.*")]:
        if left.is_dir():
            shutil.rmtree(left)
        elif left != root / LOCK:
            left.unlink()


@contextmanager
def pool(workers: int, threads: int, gpus: int) -> Iterator[ProcessPoolExecutor]:
    """Yield processes to give jobs to; what waits is dropped at the end, what runs is waited for."""
    context = multiprocessing.get_context("spawn")
    numbers = context.SimpleQueue()
    for number in range(workers):
        numbers.put(number)
    executor = ProcessPoolExecutor(
        workers, context, initializer=_begin, initargs=(numbers, threads, gpus)
    )
    before = _on_terminate(_terminate)
    try:
        yield executor
    except (KeyboardInterrupt, Interrupted) as stop:
        raise Interrupted("stopped: the same line goes on with what is left") from stop
    except BrokenProcessPool as error:
        raise SparseOPDError(
            "a worker died, most likely for want of memory: start the same line again with fewer --workers"
        ) from error
    finally:
        _on_terminate(before)
        executor.shutdown(wait=True, cancel_futures=True)


def do(job: Job, root: Path) -> float:
    """Do a job in a worker; return the seconds it took."""
    from sparseopd.comparison.work import perform

    global _busy, _stopped
    if _stopped:  # the pool has handed out a few jobs that nobody can take back
        raise Interrupted("stopped before it began")
    _busy = True
    try:
        return perform(job, root)
    except (KeyboardInterrupt, Interrupted):
        _stopped = True
        raise
    finally:
        _busy = False


def _on_terminate(handler: Any) -> Any:
    """Set what SIGTERM does, where that can be set, and return what it did."""
    if threading.current_thread() is not threading.main_thread():
        return signal.SIG_DFL
    return signal.signal(signal.SIGTERM, handler)


def _terminate(number: int, frame: FrameType | None) -> None:
    """Pass SIGTERM on to the workers, whose training runs save a state, and stop."""
    for child in multiprocessing.active_children():
        child.terminate()
    raise KeyboardInterrupt


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Stop what a worker does; a worker that waits for its next job is ended by whoever gives them."""
    global _stopped
    _stopped = True
    if _busy:
        raise KeyboardInterrupt


def _begin(numbers: multiprocessing.SimpleQueue, threads: int, gpus: int) -> None:
    """Set a worker up before it imports torch."""
    number = numbers.get()
    if gpus:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(gpus)))
        os.environ["CUDA_VISIBLE_DEVICES"] = visible.split(",")[number % gpus]
    os.environ["OMP_NUM_THREADS"] = str(threads)
    os.environ["MKL_NUM_THREADS"] = str(threads)
    # Ctrl-C reaches the whole group; a training run answers it itself, and saves a state.
    signal.signal(signal.SIGINT, _interrupt)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    from sparseopd.console import quiet_libraries

    quiet_libraries()


def _end_with_parent() -> None:
    """Leave at once when the process that gives out the jobs is gone: nobody else reads the folder then."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
