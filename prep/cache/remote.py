"""Calls an object store so that a signal ends the wait for it, and says for what a command waits."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from prep.display import tell

T = TypeVar("T")
NOTICE_SECONDS = 5.0
REPEAT_SECONDS = 30.0


def waiting_for(where: str, call: Callable[[], T]) -> T:
    """``call()``, in a thread of its own if this is the main thread.

    pyarrow's calls return only when they are done, a minute later if a server does not answer, and Python
    handles signals between calls of the main thread. An abandoned call ends with the process.
    """
    if threading.current_thread() is not threading.main_thread():
        return call()
    done, result = threading.Event(), list[T]()
    failed: list[BaseException] = []

    def run() -> None:
        try:
            result.append(call())
        except BaseException as error:  # raised again in the main thread
            failed.append(error)
        finally:
            done.set()

    threading.Thread(target=run, name="object store", daemon=True).start()
    seconds = NOTICE_SECONDS
    while not done.wait(seconds):
        tell(f"Waiting for {where}.")
        seconds = REPEAT_SECONDS
    if failed:
        raise failed[0]
    return result[0]
