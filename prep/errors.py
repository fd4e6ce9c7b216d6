"""The error that a person at the command line is meant to read, and its kind for a run asked to stop."""

from __future__ import annotations

import signal


class PrepError(Exception):
    """Something a person can put right: what went wrong, where, and what to do.

    ``message`` names the file, row or key; ``remedy`` says what to type or change. The command line prints
    both and exits non-zero without a traceback.
    """

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}\n{self.remedy}" if self.remedy else self.message

    def __reduce__(self) -> tuple[type[PrepError], tuple[str, str]]:
        # Exceptions are rebuilt from ``args`` when they cross a process; this keeps the remedy.
        return type(self), (self.message, self.remedy)


class NotYet(PrepError):
    """Another command has to run before this one can; nothing is wrong otherwise."""


class Interrupted(PrepError):
    """The run was asked to stop (``signum``) and did, with everything that was finished kept."""

    signum: int = signal.SIGINT

    @property
    def exit_code(self) -> int:
        """What a program ended by this signal exits with."""
        return 128 + self.signum
