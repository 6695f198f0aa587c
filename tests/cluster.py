"""Workers of a cluster on this machine, each forked from a process that has imported TensorFlow."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

LIMIT = 60  # seconds that a cluster may take

# Importing TensorFlow starts no thread, so children may fork until this process uses it.


class Ended(NamedTuple):
    """How a worker ended.

    Attributes:
        code: the exit code, negative for a signal.
        at: when, in seconds of `time.time`.
        printed: what it printed.
    """

    code: int
    at: float
    printed: str


def free_addresses(count: int) -> list[str]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("localhost", 0))
        return [f"localhost:{one.getsockname()[1]}" for one in sockets]


def run(
    train: Callable[[int], None],
    directory: Path,
    count: int = 2,
    *,
    has_chief: bool = False,
    stopped: tuple[int, ...] = (),
    limit: float = LIMIT,
) -> list[Ended]:
    """Runs `train`, given its number, in so many workers; one is no cluster.

    Args:
        train: what to run.
        directory: is given what they print.
        count: how many workers.
        has_chief: whether the first of them is of a job `chief`.
        stopped: those that may stop in their midst; they are killed when the others have ended.
        limit: seconds until all are killed.
    """
    directory.mkdir(parents=True, exist_ok=True)
    cluster = {"worker": free_addresses(count)}
    if has_chief:
        cluster = {"chief": cluster["worker"][:1], "worker": cluster["worker"][1:]}
    started = time.time()
    children = {
        _forked(train, number, cluster, directory / f"printed-{number}"): number
        for number in range(count)
    }
    ended: dict[int, tuple[int, float]] = {}
    while len(ended) < count:
        left = {pid: number for pid, number in children.items() if number not in ended}
        is_over = time.time() - started > limit
        for pid in left if is_over or set(left.values()) <= set(stopped) else ():
            os.kill(pid, signal.SIGKILL)
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            ended[children[pid]] = os.waitstatus_to_exitcode(status), time.time()
        else:
            time.sleep(0.01)
    return [
        Ended(*ended[number], (directory / f"printed-{number}").read_text(errors="replace"))
        for number in range(count)
    ]


def _forked(
    train: Callable[[int], None], number: int, cluster: dict[str, list[str]], printed: Path
) -> int:
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        with printed.open("wb") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        tasks = [(job, index) for job in cluster for index in range(len(cluster[job]))]
        if len(tasks) > 1:
            task = dict(zip(("type", "index"), tasks[number], strict=True))
            os.environ["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": task})
        train(number)
        code = 0
    except SystemExit as ending:
        code = ending.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
