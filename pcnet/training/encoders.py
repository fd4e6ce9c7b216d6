"""Chooses the encoders of a run, their tokenizer and their weights."""

from __future__ import annotations

from torch import nn

from pcnet.config import ENCODERS, Recipe, Towers
from pcnet.data.table import SampleTable
from pcnet.data.tokenizers import LENGTH, ClipTokenizer, HfTokenizer, Tokenizer, WordTokenizer
from pcnet.model.clip_weights import load_clip_weights
from pcnet.model.encoders import ClipEncoder
from pcnet.model.tower_weights import load_tower_weights
from pcnet.model.towers import describe, patch_size, text_length
from pcnet.model.vit import VitEncoder
from prep.errors import PrepError


def towers_of(
    encoder: str, text_encoder: str | None, vit_features: str, recipe: Recipe, size: int
) -> Towers | None:
    """The description of an encoder that is not one of ours; None for RN50, RN101 and ``tiny``.

    :raises PrepError: if it is unknown, or goes with a recipe or size of CLIP's ResNets only.
    """
    if encoder in ENCODERS:
        given = {"--text-encoder": text_encoder, "--vit-features": vit_features != "tokens"}
        for name, value in given.items():
            if value:
                raise PrepError(f"{name} has no effect with --encoder {encoder}.", "Remove one of them.")
        return None
    towers = describe(encoder, text_encoder)
    if recipe.needs_clip:
        raise PrepError(
            f"The recipe {recipe.name} compares with CLIP, whose tokens are not those of {encoder}.",
            "Set --weight cbs=0 --weight fg=0, or use --encoder RN50.",
        )
    patch = patch_size(towers)
    if size % patch:
        raise PrepError(
            f"--size {size} is not a multiple of {patch}, the patch size of {encoder}.",
            f"Use --size {size // patch * patch or patch}.",
        )
    return towers


def make_tokenizer(
    encoder: str,
    recipe: Recipe,
    table: SampleTable,
    towers: Towers | None = None,
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


def load_encoder(backbone: nn.Module, encoder: str, text_encoder: str | None, weights: str) -> None:
    """Load the pretrained weights of ``encoder`` into it: CLIP's, open_clip's or those of transformers.

    ``tiny`` has none; ``weights`` is the value of ``--clip-weights``.
    """
    if weights == "random":
        return
    if isinstance(backbone, ClipEncoder):
        load_clip_weights(backbone, encoder, weights)
    elif isinstance(backbone, VitEncoder):
        load_tower_weights(backbone, encoder, text_encoder, weights)
