"""Runs a program, and reports every error as a few lines on standard error and a non-zero exit code."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import threading
from importlib.metadata import version
from typing import Any, NoReturn, Protocol

import typer

from prep.display import shown
from prep.errors import PrepError
from prep.hints import format_error, memory_error, missing_package, remedy_of

SETTINGS: dict[str, Any] = {
    "no_args_is_help": True,
    "rich_markup_mode": None,  # plain help and usage errors: a few lines, no boxes
    "pretty_exceptions_enable": False,
    "context_settings": {"help_option_names": ["-h", "--help"], "max_content_width": 110},
}
INTERRUPTED, TERMINATED = 130, 143
_ALWAYS_CAUGHT = (typer.Abort, KeyboardInterrupt, BrokenPipeError)  # even with --debug


def print_version(program: str, wanted: bool) -> None:
    """Print the version and exit if ``wanted``."""
    if wanted:
        print(f"{program} {version('pcnet-prep')}")
        raise typer.Exit


def run_program(app: typer.Typer) -> None:
    """Run a program with the command line of this process, and exit with its exit code."""
    debug = "--debug" in sys.argv[1:]
    _set_waiting()
    # No Python process that is started from here, by whatever library, imports from the current folder.
    os.environ["PYTHONSAFEPATH"] = "1"
    if not debug:  # a library's thread (such as TensorBoard's writer) would print its traceback
        threading.excepthook = lambda failed: print(shown(f"{failed.exc_value}"), file=sys.stderr)
    for stream in (sys.stdout, sys.stderr):  # what the terminal's encoding cannot show is shown as an escape
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = app(standalone_mode=False)
        if code == INTERRUPTED:  # typer returns it for Ctrl-C outside of a run
            print("Interrupted.", file=sys.stderr)
    except (Exception, KeyboardInterrupt) as error:
        if debug and not isinstance(error, _ALWAYS_CAUGHT):
            raise
        code = _exit_code(error)
    if code in (INTERRUPTED, TERMINATED):
        _end_at_once(code)
    sys.exit(code if isinstance(code, int) else 0)


def _set_waiting() -> None:
    """Let OpenMP threads that wait for each other try a thousand times, then sleep (docs/training.md).

    By default they try for milliseconds, which takes the core from another process; if they sleep at once,
    waking them takes longer than a small operation. OpenMP reads the variables when torch is loaded. GNU's
    library, which torch's packages for Linux contain, knows the number; others sleep at once.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def _end_at_once(code: int) -> NoReturn:
    """End an interrupted process without what libraries do at exit: they wait for their own threads.

    What this program has to finish is finished; processes that a library has started are stopped.
    """
    import multiprocessing

    for child in multiprocessing.active_children():
        child.terminate()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _exit_code(error: BaseException) -> int:
    """Print what went wrong to standard error; return the exit code."""
    if isinstance(error, PrepError):
        print(format_error(error), file=sys.stderr)
        return int(getattr(error, "exit_code", 1))
    if isinstance(error, typer.Abort | KeyboardInterrupt):
        print("Interrupted.", file=sys.stderr)
        return INTERRUPTED
    if isinstance(error, BrokenPipeError):
        return 0
    if hasattr(error, "format_message"):  # click's class, of which typer may bundle a copy
        _print_usage_error(error)
        return 2
    if isinstance(error, ModuleNotFoundError):
        command = next((word for word in sys.argv[1:] if not word.startswith("-")), "")
        if (missing := missing_package(error, command)) is not None:
            print(format_error(missing), file=sys.stderr)
            return 1
    if (exhausted := memory_error(error)) is not None:
        print(format_error(exhausted), file=sys.stderr)
        return 1
    if isinstance(error, OSError):
        where = f" ({error.filename})" if error.filename else ""
        print(
            format_error(PrepError(f"{error.strerror or error}{where}.", remedy_of(error))), file=sys.stderr
        )
        return 1
    remedy = "This is a bug in the program. Run it again with --debug before the command name, and report it."
    print(format_error(PrepError(f"{type(error).__name__}: {error}", remedy)), file=sys.stderr)
    return 70


class _UsageError(Protocol):
    """What is used of click's error."""

    def format_message(self) -> str:
        """What is wrong."""


def _print_usage_error(error: _UsageError) -> None:
    """Print what is wrong with a command line, and how to get help."""
    shows_help = type(error).__name__ == "NoArgsIsHelpError"  # the program was run without arguments
    print(shown(f"{'' if shows_help else 'error: '}{error.format_message()}"), file=sys.stderr)
    context = getattr(error, "ctx", None)
    if context is not None and not shows_help:
        print(f"See: {context.command_path} --help", file=sys.stderr)
