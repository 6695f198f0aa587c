"""Clusters of worker processes on this machine, for `MultiWorkerMirroredStrategy`."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import multiprocessing
import multiprocessing.connection
import os
import socket
import time
import traceback
from collections.abc import Callable
from typing import Any

from tests.helpers.processes import Ended, Process

LIMIT = 60  # seconds until the processes of a cluster are killed
AS_LONG_AS_THE_TESTS = 24 * 3600.0  # seconds


def free_addresses(count: int) -> list[str]:
    """Returns addresses of free ports on this machine."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("localhost", 0))
        return [f"localhost:{one.getsockname()[1]}" for one in sockets]


def environments(count: int, has_chief: bool = False) -> list[dict[str, str]]:
    """Returns the environment variables of each process; a single process is no cluster."""
    addresses = free_addresses(count)
    cluster = {"worker": addresses}
    if has_chief:
        cluster = {"chief": addresses[:1], "worker": addresses[1:]}
    tasks = [{"type": job, "index": n} for job in cluster for n in range(len(cluster[job]))]
    if len(tasks) == 1:
        return [{}]
    return [{"TF_CONFIG": json.dumps({"cluster": cluster, "task": task})} for task in tasks]


def number_and_count() -> tuple[int, int]:
    """Returns the number of this process in its cluster, and how many processes that has."""
    if "TF_CONFIG" not in os.environ:
        return 0, 1
    config = json.loads(os.environ["TF_CONFIG"])
    tasks = [
        (job, n) for job, all_of_it in config["cluster"].items() for n in range(len(all_of_it))
    ]
    return tasks.index((config["task"]["type"], config["task"]["index"])), len(tasks)


def run(
    function: Callable,
    *arguments: Any,
    count: int = 2,
    has_chief: bool = False,
    suspended: tuple[int, ...] = (),
    limit: float = LIMIT,
) -> list[Ended]:
    """Calls a function in the processes of a new cluster and returns how they ended.

    Args:
        function: a function of a module.
        arguments: its arguments.
        count: how many processes.
        has_chief: whether the first process has the job `chief`.
        suspended: numbers of processes that may not end; they are killed when the others have.
        limit: seconds until all are killed.
    """
    processes = [
        Process(function, *arguments, environment=environment)
        for environment in environments(count, has_chief)
    ]
    with concurrent.futures.ThreadPoolExecutor(count) as threads:
        ended = [threads.submit(process.wait, limit) for process in processes]
        concurrent.futures.wait(e for n, e in enumerate(ended) if n not in suspended)
        for number in suspended:
            processes[number].kill()
        return [one.result() for one in ended]


class Cluster:
    """A cluster whose processes stay alive between calls, so that TensorFlow starts once.

    They start with the first call, and anew with the first call after one that failed.

    Args:
        count: how many processes.
    """

    def __init__(self, count: int = 2):
        self._count = count
        self._processes: list[Process] = []
        self._connections: list[multiprocessing.connection.Connection] = []
        self._threads = concurrent.futures.ThreadPoolExecutor(count)
        self._ended: list[concurrent.futures.Future[Ended]] = []

    def call(self, function: Callable, *arguments: Any, limit: float = LIMIT) -> list[Any]:
        """Calls a function in each process and returns what each call returns.

        Args:
            function: a function of a module.
            arguments: its arguments.
            limit: seconds until the call counts as failed.

        Raises:
            AssertionError: if the call fails in a process; it has what the processes printed.
        """
        if not self._processes:
            self._start()
        for connection in self._connections:
            with contextlib.suppress(BrokenPipeError):  # then there is nothing to receive, either
                connection.send((function, arguments))
        results, failure = self._receive(limit)
        if failure:
            printed = (f"process {n}: {text[-2000:]}" for n, text in enumerate(self.stop()))
            raise AssertionError("\n".join([failure, "The processes printed:", *printed]))
        return [results[connection] for connection in self._connections]

    def stop(self) -> list[str]:
        """Kills the processes and returns what each has printed."""
        for process in self._processes:
            process.kill()
        for connection in self._connections:
            connection.close()
        printed = [ended.result().printed for ended in self._ended]
        self._processes, self._connections, self._ended = [], [], []
        return printed

    def _start(self) -> None:
        for environment in environments(self._count):
            ours, theirs = multiprocessing.Pipe()
            self._connections.append(ours)
            self._processes.append(Process(_serve, theirs, environment=environment))
            theirs.close()
        # Threads read what the processes print: one that prints into a full pipe would stand still.
        self._ended = [self._threads.submit(p.wait, AS_LONG_AS_THE_TESTS) for p in self._processes]

    def _receive(self, limit: float) -> tuple[dict, str]:
        """Returns the result that each connection sends, and a failure, empty if there is none."""
        results: dict[multiprocessing.connection.Connection, Any] = {}
        ends = time.monotonic() + limit
        while missing := [c for c in self._connections if c not in results]:
            ready = multiprocessing.connection.wait(missing, max(0, ends - time.monotonic()))
            if not ready:
                return results, f"The call has not returned after {limit} seconds."
            for connection in ready:
                number = self._connections.index(connection)
                try:
                    returned, result = connection.recv()
                except (EOFError, ConnectionResetError):
                    return results, f"Process {number} has ended."
                if not returned:
                    return results, f"The call failed in process {number}."
                results[connection] = result
        return results, ""


def _serve(connection: multiprocessing.connection.Connection) -> None:
    """Calls the functions that come over `connection` until its other end is closed."""
    with contextlib.suppress(EOFError):
        while True:
            function, arguments = connection.recv()
            try:
                answer = True, function(*arguments)
            except Exception:
                traceback.print_exc()
                answer = False, None
            connection.send(answer)
