"""The layouts of `pcnet-prep export`: what each writes, and what it needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from prep.errors import PrepError
from prep.exports.output import Exported
from prep.exports.request import Request


class Layout(NamedTuple):
    """Whether a layout needs a dataset, and where its masks of references may come from."""

    dataset: bool
    masks: tuple[str, ...] = ()


LAYOUTS = {
    "coco": Layout(dataset=False),
    "labelstudio": Layout(dataset=False),
    "cvat": Layout(dataset=False),
    "croissant": Layout(dataset=False),
    "refer": Layout(dataset=True),
    "reclip": Layout(dataset=True),
    "simrec": Layout(dataset=True, masks=("truth", "best", "folder")),
    "pseudo-png": Layout(dataset=True, masks=("best", "folder")),
    "triplets": Layout(dataset=True),
}


def export(request: Request) -> Exported:
    """Write the files of ``request``; raises PrepError for options that its layout does not have."""
    layout = LAYOUTS[request.layout]
    if request.masks is not None and (
        request.masks not in layout.masks and not ("folder" in layout.masks and request.masks != "truth")
    ):
        allowed = ", ".join(layout.masks[:-1]) + " or a folder" if layout.masks else "none"
        raise PrepError(
            f"--masks {request.masks} is not for the layout {request.layout}.", f"It takes {allowed}."
        )
    if request.layout == "croissant" and request.dataset is not None:
        raise PrepError(
            "The layout croissant describes a whole store.", "Omit --dataset, --input and --split."
        )
    return _writers()[request.layout](request)


def _writers() -> dict[str, Callable[[Request], Exported]]:
    from prep.exports import coco, croissant, cvat, labelstudio, pseudo_png, reclip, refer, simrec, triplets

    return {
        "coco": coco.export,
        "labelstudio": labelstudio.export,
        "cvat": cvat.export,
        "croissant": croissant.export,
        "refer": refer.export,
        "reclip": reclip.export,
        "simrec": simrec.export,
        "pseudo-png": pseudo_png.export,
        "triplets": triplets.export,
    }
