"""Defines the protocol of a stage, the resources of its workers, and its error for a failed unit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from prep.errors import PrepError
from prep.hints import memory_error

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa


@dataclass(frozen=True)
class Resources:
    """The CPU cores and GPUs that one worker of a stage occupies, as Ray counts them."""

    cpus: float = 1.0
    gpus: float = 0.0


class Stage(Protocol):
    """Processes units of items. Picklable until it is opened; every worker opens its own copy.

    ``open`` loads the model, once. ``load`` does reading and CPU preparation and is called from another
    thread, one unit ahead of ``process``; ``open`` and ``process`` are always called from the same thread.
    ``process`` returns the unit's rows, which must not depend on what else is in the unit. An item that fails
    becomes a row with an error; :class:`PrepError` is for problems of the environment that the user has to
    fix.
    """

    resources: Resources

    def open(self) -> None:
        """Load what every unit needs."""

    def load(self, unit: list[Any]) -> object:
        """Read and prepare one unit."""

    def process(self, loaded: Any) -> pa.Table:
        """The rows of one prepared unit."""


def stage_failure(unit: Sequence[object], error: BaseException) -> PrepError:
    """The error for a stage that fails on a unit: a bug rather than bad data, so the run stops."""
    exhausted = memory_error(error)
    if exhausted is not None:
        return exhausted
    first = repr(unit[0]) if unit else "nothing"
    first = first if len(first) <= 200 else first[:200] + "..."
    return PrepError(
        f"A unit of {len(unit)} items, first {first}, failed: {type(error).__name__}: "
        f"{str(error).rstrip('.')}.",
        "Committed rows are kept. Fix the cause, then run the same command again.",
    )
