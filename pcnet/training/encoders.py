"""Chooses the encoders of a run, their tokenizer and their weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pcnet.config import ENCODERS, Recipe
from pcnet.data.table import SampleTable
from pcnet.data.tokenizers import LENGTH, ClipTokenizer, HfTokenizer, Tokenizer, WordTokenizer
from pcnet.model.checkpoint import begin_from
from pcnet.model.clip_weights import load_clip_weights
from pcnet.model.encoders import ClipEncoder
from pcnet.model.pcnet import PCNet
from pcnet.model.tower_weights import load_tower_weights
from pcnet.model.towers import describe, patch_size, text_length
from pcnet.model.vit import VitEncoder
from pcnet.recipes import recipe as named_recipe
from prep.errors import PrepError

if TYPE_CHECKING:
    from pcnet.training.setup import TrainConfig, TrainSetup


def towers_of(config: TrainConfig) -> dict[str, Any] | None:
    """The description of an encoder that is not one of ours; None for RN50, RN101 and ``tiny``.

    :raises PrepError: if it is unknown, or goes with a recipe or size of CLIP's ResNets only.
    """
    if config.encoder in ENCODERS:
        given = {"--text-encoder": config.text_encoder, "--vit-features": config.vit_features != "tokens"}
        for name, value in given.items():
            if value:
                raise PrepError(
                    f"{name} has no effect with --encoder {config.encoder}.", "Remove one of them."
                )
        return None
    towers = describe(config.encoder, config.text_encoder)
    if named_recipe(config.recipe, config.weights).needs_clip:
        raise PrepError(
            f"The recipe {config.recipe} compares with CLIP, whose tokens are not those of {config.encoder}.",
            "Set --weight cbs=0 --weight fg=0, or use --encoder RN50.",
        )
    patch, size = patch_size(towers), config.size or 320
    if size % patch:
        raise PrepError(
            f"--size {size} is not a multiple of {patch}, the patch size of {config.encoder}.",
            f"Use --size {size // patch * patch or patch}.",
        )
    return towers


def make_tokenizer(
    encoder: str,
    recipe: Recipe,
    table: SampleTable,
    towers: dict[str, Any] | None = None,
    text_encoder: str | None = None,
) -> Tokenizer:
    """The encoder's own tokenizer; for ``tiny``, one built from the words of the training texts."""
    if towers is not None:
        length = text_length(towers, LENGTH)
        if towers["kind"] == "hf":
            return HfTokenizer.load((text_encoder or encoder).removeprefix("hf:"), length)
        named = towers["config"]["text_cfg"].get("hf_tokenizer_name")
        return ClipTokenizer(length) if named is None else HfTokenizer.load(named, length, clean=True)
    if encoder != "tiny":
        return ClipTokenizer(released=recipe.released_tokens)
    texts = set(table.expressions).union(*table.phrases)
    return WordTokenizer.from_texts(sorted(texts))


def build_model(config: TrainConfig, job: TrainSetup) -> PCNet:
    """The network before the first step, with the weights of ``begin_from``; otherwise CLIP encoders get
    CLIP's weights (unless ``clip_weights`` is ``random``).
    """
    model = PCNet(job.network, job.recipe)
    model.tokenizer = job.tokenizer
    if config.begin_from is not None:
        begin_from(model, Path(config.begin_from))
    elif config.clip_weights != "random":
        if isinstance(model.backbone, ClipEncoder):
            load_clip_weights(model.backbone, config.encoder, config.clip_weights)
        elif isinstance(model.backbone, VitEncoder):
            load_tower_weights(model.backbone, config.encoder, config.text_encoder, config.clip_weights)
    model.freeze(config.freeze)
    return model
