"""The engine: sends units of work to a stage, in this process or on Ray actors, and yields their rows."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Generic, TypeVar

from prep.errors import PrepError
from prep.stage import Stage, stage_failure

if TYPE_CHECKING:
    import pyarrow as pa

    from prep.engine.ray_pool import Cluster

Item = TypeVar("Item")
AnyStage_co = TypeVar("AnyStage_co", bound=Stage, covariant=True)


class Engine(Generic[AnyStage_co]):
    """A stage and its workers: opened at the first unit, and kept until closed.

    With one worker and no ``ray_address`` all happens in this process and Ray is not imported. Otherwise
    there are up to ``workers`` Ray actors. Used as a context manager.
    """

    def __init__(self, stage: AnyStage_co, *, workers: int = 1, ray_address: str | None = None) -> None:
        if workers < 1:
            raise ValueError("workers is at least 1")
        self.stage, self.workers, self._address = stage, workers, ray_address
        self._opened = False
        self._cluster: Cluster | None = None

    def __enter__(self) -> Engine[AnyStage_co]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, units: Iterable[list[Item]]) -> Generator[tuple[list[Item], pa.Table], None, None]:
        """Process every unit and yield it with its rows, in order of completion.

        Nothing is opened before the first unit, and nothing is submitted between two calls of ``next()``: the
        consumer of the rows sets the pace. A unit whose worker or node dies is given to another worker.
        Raises :class:`PrepError` as a stage does, and for any other exception of a stage, naming the unit.
        """
        waiting = iter(units)
        first = next(waiting, None)
        if first is None:
            return
        everything = itertools.chain([first], waiting)
        if self.workers == 1 and self._address is None:
            yield from self._run_here(everything)
        else:
            yield from self._on_ray().run(everything)

    def close(self) -> None:
        """Release the Ray actors; units in progress are dropped."""
        if self._cluster is not None:
            self._cluster.close()
            self._cluster = None

    def _on_ray(self) -> Cluster:
        from prep.engine.ray_pool import Cluster

        if self._cluster is None:
            self._cluster = Cluster(self.stage, workers=self.workers, address=self._address)
        return self._cluster

    def _run_here(self, units: Iterable[list[Item]]) -> Generator[tuple[list[Item], pa.Table], None, None]:
        if not self._opened:
            self.stage.open()
            self._opened = True
        with ThreadPoolExecutor(1, thread_name_prefix="load") as loader:
            ahead: tuple[list[Item], Future[object]] | None = None
            for unit in units:
                following = (unit, loader.submit(self.stage.load, unit))
                if ahead is not None:
                    yield ahead[0], _finish(self.stage, *ahead)
                ahead = following
            if ahead is not None:
                yield ahead[0], _finish(self.stage, *ahead)


def _finish(stage: Stage, unit: list[Item], loading: Future[object]) -> pa.Table:
    try:
        return stage.process(loading.result())
    except PrepError:
        raise
    except Exception as error:
        raise stage_failure(unit, error) from error
