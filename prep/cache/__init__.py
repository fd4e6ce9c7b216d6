"""The store: Parquet shards, their manifest, and the response cache of the engines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prep.cache.store import open_store as open_store

__all__ = ["open_store"]


def __getattr__(name: str) -> Any:
    # Lazy, so that importing the package does not import pyarrow.
    if name == "open_store":
        from prep.cache.store import open_store

        return open_store
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
