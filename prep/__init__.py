"""Data preparation for weakly supervised referring segmentation: phrases, proposals and their store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prep.moved import install

if TYPE_CHECKING:
    from prep.loaders.hf import to_hf as to_hf
    from prep.loaders.torch_dataset import TorchImages as TorchImages
    from prep.loaders.web import to_webdataset as to_webdataset

install()
del install

__all__ = ["TorchImages", "to_hf", "to_webdataset"]


def __getattr__(name: str) -> Any:
    # Lazy, so that importing the package does not import numpy and pyarrow.
    if name == "__version__":
        from importlib.metadata import version

        return version("pcnet-prep")
    if name == "to_hf":
        from prep.loaders.hf import to_hf

        return to_hf
    if name == "TorchImages":
        from prep.loaders.torch_dataset import TorchImages

        return TorchImages
    if name == "to_webdataset":
        from prep.loaders.web import to_webdataset

        return to_webdataset
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
