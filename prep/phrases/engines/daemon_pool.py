"""A pool of threads that no one waits for: the process may end while they wait for an answer."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class DaemonPool:
    """Runs calls in up to ``size`` daemon threads.

    ``concurrent.futures`` joins its threads when the interpreter exits, which a request that waits for a
    silent server delays by minutes.
    """

    def __init__(self, size: int, name: str) -> None:
        self._size, self._name = size, name
        self._calls: queue.SimpleQueue[tuple[Future[Any], Callable[[], object]] | None] = queue.SimpleQueue()
        self._threads = 0

    def submit(self, call: Callable[..., T], *given: object) -> Future[T]:
        """Queue ``call(*given)``; not to be called by several threads at once."""
        future: Future[T] = Future()
        self._calls.put((future, lambda: call(*given)))
        if self._threads < self._size:
            self._threads += 1
            threading.Thread(target=self._run, name=f"{self._name}-{self._threads}", daemon=True).start()
        return future

    def close(self) -> None:
        """Cancel the calls that have not begun; those that have are not waited for."""
        with contextlib.suppress(queue.Empty):
            while (waiting := self._calls.get_nowait()) is not None:
                waiting[0].cancel()
        for _ in range(self._threads):
            self._calls.put(None)

    def _run(self) -> None:
        while (waiting := self._calls.get()) is not None:
            future, call = waiting
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(call())
            except BaseException as error:  # raised again by ``future.result()``
                future.set_exception(error)
