"""`pcnet predict`: grounds texts in images, and writes the mask and a picture of each."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pcnet.commands import masks as kinds
from pcnet.commands.options import TrainedSize, TrainedStages, check_is_there
from prep.commands import options as shared
from prep.commands.outcome import NOTHING_USABLE, SOME_FAILED
from prep.commands.output import emit, say
from prep.errors import PrepError
from prep.hints import format_error

if TYPE_CHECKING:
    from pcnet.evaluation.predict import Prediction
    from prep.cache.store import Store
    from prep.records import Proposal

Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="CHECKPOINT IMAGE... TEXT...",
        help="The checkpoint, image files or folders of images, and the texts to ground in each image.",
    ),
]
# The options of version 0.1.0.
CheckpointOption = Annotated[Path | None, typer.Option("--checkpoint", hidden=True, help="The checkpoint.")]
ImageOption = Annotated[
    list[Path] | None, typer.Option("--image", hidden=True, help="An image, or a folder.")
]
TextOption = Annotated[list[str] | None, typer.Option("--text", hidden=True, help="A text to ground.")]
GivenStore = Annotated[
    str | None,
    typer.Option("--store", help="Store with the image's proposals and the texts' phrases."),
]
GeneratorName = Annotated[
    str | None,
    typer.Option(
        help="Mask generator: sam, segments or hf:<ID or folder>; none: the map's mask. Default: --store, or "
        "segments."
    ),
]
PredictionFolder = Annotated[
    Path,
    typer.Option("--output-dir", "--out", "-o", help="Folder for the mask, the picture and the JSON."),
]


def predict(
    words: Words = None,
    checkpoint: CheckpointOption = None,
    image: ImageOption = None,
    text: TextOption = None,
    store: GivenStore = None,
    generator: GeneratorName = None,
    mask: kinds.MaskKind = None,
    sam: kinds.SamModel = "vit_h",
    sam_checkpoint: kinds.SamCheckpoint = None,
    single_mask: kinds.SingleMask = False,
    cache: kinds.EmbeddingsFolder = None,
    out: PredictionFolder = Path("prediction"),
    size: TrainedSize = None,
    stages: TrainedStages = None,
    as_json: shared.Json = False,
) -> None:
    """Ground each text in each image: pcnet predict best.pt photo.jpg "the dog on the left".

    Writes the mask, a picture of every stage's response map, and both as JSON; with several images or texts
    the files are numbered, and --json prints one line for each.
    """
    from pcnet import load_model
    from pcnet.config import STUDENT
    from pcnet.evaluation.evaluate import input_size
    from pcnet.evaluation.predict import predict as ground
    from pcnet.evaluation.stored import stored_phrases
    from prep.cache.store import open_store

    asked, images, texts = _split(list(words or []), checkpoint, list(image or []), list(text or []))
    check_is_there(asked)
    model = load_model(asked, stages)
    own_mask = generator == "none" or (model.config.comprehension == STUDENT and generator is store is None)
    (kind,) = kinds.kinds_of([mask or ("map" if own_mask else "proposal")], known=kinds.PREDICTED)
    opened = None if store is None else open_store(store)
    propose = _proposer(kind, generator, opened)
    side = size or input_size(asked, model)
    prompter = kinds.prompter_of([kind], sam, sam_checkpoint, single_mask, "auto", cache)

    def grounded(path: Path, masks: Sequence[Proposal], sentence: str) -> Prediction:
        phrases = None if opened is None else stored_phrases(opened, sentence)
        return ground(model, path, sentence, phrases, masks, size=side, prompter=prompter)

    _write_all(images, texts, propose, grounded, out, as_json)


def _split(
    words: list[str], checkpoint: Path | None, images: list[Path], texts: list[str]
) -> tuple[Path, list[Path], list[str]]:
    """The checkpoint, the image files and the texts that a command line names, by position or option.

    Positions: the checkpoint, one or more images (the first, and those after it that exist), the texts.
    """
    left = iter(words)
    if checkpoint is None and (first := next(left, None)) is not None:
        checkpoint = Path(first)
    rest = list(left)
    if not images and rest:
        count = 1 + sum(1 for _ in itertools.takewhile(lambda word: Path(word).exists(), rest[1:]))
        images, rest = [Path(word) for word in rest[:count]], rest[count:]
    texts = [*texts, *rest]
    if checkpoint is None or not images or not texts:
        lacking = "checkpoint" if checkpoint is None else "image" if not images else "text"
        raise PrepError(f"No {lacking} is given.", 'Use: pcnet predict CHECKPOINT IMAGE "TEXT"')
    return checkpoint, [path for one in images for path in _files(one)], texts


def _files(image: Path) -> Iterator[Path]:
    """The image, or the images below it if it is a folder."""
    if not image.exists():
        raise PrepError(f"There is no image {image}.", 'Use: pcnet predict CHECKPOINT IMAGE "TEXT"')
    if not image.is_dir():
        yield image
        return
    from prep.datasets.catalogue import open_image_folder

    found = [Path(ref.path) for ref in open_image_folder(image).images()]
    if not found:
        raise PrepError(f"{image} has no images.", "Give an image file, or a folder with images.")
    yield from found


def _proposer(kind: str, generator: str | None, store: Store | None) -> Callable[[Path], Sequence[Proposal]]:
    """The function that returns the proposals of an image file: none, the stored ones, or generated ones."""
    if kind != "proposal":
        return lambda path: ()
    if generator == "none":
        raise PrepError("--mask proposal needs masks to choose from.", "Add --generator segments or sam.")
    if store is not None and generator is None:
        from pcnet.evaluation.stored import stored_proposals

        return lambda path: stored_proposals(store, path)
    from prep.proposals.generators import build, propose

    chosen = build(generator or "segments")
    chosen.open()
    return lambda path: propose([path], chosen)[0]


def _write_all(
    images: Sequence[Path],
    texts: Sequence[str],
    propose: Callable[[Path], Sequence[Proposal]],
    ground: Callable[[Path, Sequence[Proposal], str], Prediction],
    out: Path,
    as_json: bool,
) -> None:
    """Ground every text in every image; an image that cannot be used is reported, and the others are done."""
    several, number, failed = len(images) * len(texts) > 1, 0, 0
    for path in images:
        try:
            masks = propose(path)
            for text in texts:
                found = ground(path, masks, text)
                number += 1
                _write(found, path, out, number if several else None, as_json)
        except PrepError as error:
            if not several:
                raise
            say(format_error(error), to_stderr=True)
            failed += 1
    if failed:
        raise typer.Exit(SOME_FAILED if number else NOTHING_USABLE)


def _write(found: Prediction, image: Path, out: Path, number: int | None, as_json: bool) -> None:
    from pcnet.evaluation.predict import as_dict, save

    paths = save(found, out, number)
    lines = [f"{image}: {found.text}"] if number is not None else []
    lines += [f"phrases: {' | '.join(found.phrases)}", f"peak: x {found.peak[1]}, y {found.peak[0]}"]
    told = {"image": str(image), **as_dict(found), "files": {name: str(path) for name, path in paths.items()}}
    emit(told, [*lines, *(f"{name}: {path}" for name, path in paths.items())], as_json)
