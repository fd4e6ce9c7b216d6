"""Defines the errors shown to command-line users, and shortens the messages of libraries for them."""

from __future__ import annotations

import signal


class PrepError(Exception):
    """An error that the user can fix: what went wrong, where, and how to fix it.

    ``message`` names the file, row or key; ``remedy`` says what to type or change. The command line prints
    both and exits with a non-zero code, without a traceback.
    """

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}\n{self.remedy}" if self.remedy else self.message

    def __reduce__(self) -> tuple[type[PrepError], tuple[str, str]]:
        # Exceptions are rebuilt from ``args`` when they cross a process boundary; this keeps the remedy.
        return type(self), (self.message, self.remedy)


class MissingInputError(PrepError):
    """Another command has to run first; nothing else is wrong."""


class Interrupted(PrepError):
    """The run was stopped by a signal (``signum``); all finished work is kept."""

    signum: int = signal.SIGINT

    @property
    def exit_code(self) -> int:
        """The exit code of a program stopped by this signal."""
        return 128 + self.signum


def reason_of(error: BaseException) -> str:
    """The first line of an exception's message, or its type: at most 200 characters, without a full stop."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200].rstrip(".")
