"""`pcnet-prep init`: writes a commented configuration file for `pcnet-prep run`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from prep.commands import options as shared
from prep.commands.output import emit
from prep.errors import PrepError

ConfigFile = Annotated[Path, typer.Argument(help="File to write.", metavar="[FILE]")]
Dataset = Annotated[shared.DatasetName, typer.Option("--dataset", help="Dataset to read.")]

_TEMPLATE = """\
# Run it: pcnet-prep run {file}        See what it would do: pcnet-prep run {file} --plan
# Every flag of a command is allowed in its section: pcnet-prep phrases --help
{source}
store: prepared            # where phrases, proposals and scores are kept

phrases:                   # expressions -> short phrases
  llm: {llm}

sam:                       # images -> masks
{masks}

# score:                   # CLIP scores of the masks, which the released tree needs

train:                     # a network for the phrases and masks
{training}

{evaluation}"""

_EVALUATION = """\
eval:                      # figures on a split, in the run's folder
  mask: [map, proposal]    # or sam: SAM prompted at the map's peak
"""
_WITHOUT_MASKS = """\
# eval:                    # figures; no line of the input has a "mask" yet (docs/datasets.md)
#   mask: [map, proposal]
"""


def init(
    file: ConfigFile = Path("prepare.yaml"),
    data: shared.Data = shared.COCO,
    dataset: Dataset = shared.DatasetName.refcoco,
    input: shared.Input = None,
    image_root: shared.ImageRoot = None,
    as_json: shared.Json = False,
) -> None:
    """Write a commented configuration file for `pcnet-prep run`, for this machine and dataset.

    Without a GPU it names what runs on a CPU: phrases by rules, masks by segments, a tiny encoder.
    """
    from prep.datasets.catalogue import open_jsonl
    from prep.devices import visible_gpus

    scored = input is None or bool(open_jsonl(input, image_root).mask_offsets())
    gpus = visible_gpus()
    text = configuration(file, data, dataset.value, input, image_root, on_gpu=gpus > 0, scored=scored)
    try:
        with open(file, "x", encoding="utf-8") as target:
            target.write(text)
    except FileExistsError:
        raise PrepError(f"{file} exists already.", "Choose another name, or remove it.") from None
    except OSError as error:
        raise PrepError(f"{file} cannot be written: {error.strerror}.", "Choose another place.") from error
    emit({"file": str(file)}, [str(file), f"Next: pcnet-prep run {file} --plan"], as_json)


def configuration(
    file: Path,
    data: Path,
    dataset: str,
    input: Path | None,
    image_root: Path | None,
    *,
    on_gpu: bool,
    scored: bool = True,
) -> str:
    """The text of a configuration for the expressions of a dataset, or of ``input``.

    ``scored`` says whether there are masks to evaluate with; if not, the section is a comment.
    """
    if input is None:
        source = [f"data: {json.dumps(str(data))}", f"dataset: {dataset}"]
    else:
        source = [f"input: {json.dumps(str(input))}"]
        source += [] if image_root is None else [f"image-root: {json.dumps(str(image_root))}"]
    training = ["encoder: tiny           # trained from scratch", "recipe: plus", "epochs: 15"]
    if on_gpu:
        training = ["encoder: RN50           # CLIP's", "recipe: paper           # or plus", "epochs: 15"]
    return _TEMPLATE.format(
        file=file,
        source="\n".join(source),
        llm="mistral-7b" if on_gpu else "rules               # or mistral-7b, on a GPU",
        masks=f"  generator: {'sam' if on_gpu else 'segments      # or sam, with its weights'}",
        training="\n".join(f"  {line}" for line in training),
        evaluation=(_EVALUATION if scored else _WITHOUT_MASKS) + ("  split: val\n" if input is None else ""),
    )
