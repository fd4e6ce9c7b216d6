"""What a stage is: the protocol that every stage follows, what a worker of it occupies, and how it fails."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from prep.errors import PrepError
from prep.hints import memory_error

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Resources:
    """What one worker of a stage occupies: CPU cores and GPUs, as Ray counts them."""

    cpus: float = 1.0
    gpus: float = 0.0


class Stage(Protocol):
    """Work on units of items. Picklable until it is opened; every worker opens a copy of its own.

    ``open`` loads the model, once. ``load`` does reading and CPU preparation and is called from another
    thread, one unit ahead of ``process``; ``open`` and ``process`` are always called from one and the same
    thread. ``process`` returns the unit's rows, which must not depend on what else is in the unit. An item
    that cannot be done becomes a row that says so; :class:`PrepError` is for an environment that a person has
    to put right.
    """

    resources: Resources

    def open(self) -> None:
        """Load what every unit needs."""

    def load(self, unit: list[Any]) -> Any:
        """Read and prepare one unit."""

    def process(self, loaded: Any) -> pa.Table:
        """The rows of one prepared unit."""


def stage_failure(unit: list[Any], error: BaseException) -> PrepError:
    """The error for a stage that broke on a unit: the program's fault, not the data's, so the run stops."""
    exhausted = memory_error(error)
    if exhausted is not None:
        return exhausted
    first = repr(unit[0]) if unit else "nothing"
    first = first if len(first) <= 200 else first[:200] + "..."
    return PrepError(
        f"A unit of {len(unit)} items, first {first}, failed: {type(error).__name__}: {error}",
        "What was done before is kept. Once the cause is put right, run the same command again.",
    )
