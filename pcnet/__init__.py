"""PCNet, which grounds an expression phrase by phrase: the network, its losses, the trainer and the
evaluator.
"""

from __future__ import annotations

from typing import Any

from prep.moved import install

__all__ = ["load_model"]

install()
del install


def __getattr__(name: str) -> Any:
    # Lazy, so that importing the package does not import torch.
    if name == "load_model":
        from pcnet.model.checkpoint import load_model

        return load_model
    if name == "__version__":
        from prep import __version__

        return __version__
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
