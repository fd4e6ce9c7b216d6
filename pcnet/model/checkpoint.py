"""Writes and reads checkpoints, including released ones, without running code from the file.

A file is a dict with the state dict under ``model``, as the released code has it. Ours add ``format``,
``config``, ``recipe`` and ``tokenizer`` (plain values) and the trainer's state. A file without ``recipe`` is
a released one, whose sizes are inferred from the shapes of its weights.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pcnet.config import CLIP_SIZES, STUDENT, ClipSizes, ModelConfig, Recipe
from pcnet.data.tokenizers import ClipTokenizer, Tokenizer, WordTokenizer, from_dict
from pcnet.model.pcnet import PCNet
from pcnet.model.student import Student
from pcnet.recipes import RECIPES
from pcnet.recipes import recipe as named_recipe
from prep.errors import PrepError, reason_of
from prep.files import replacing
from prep.weights import load_tensors

FORMAT = 1
REMEDY = "Give a checkpoint of pcnet train, or one of the released code (with its state dict under 'model')."


def save_checkpoint(
    path: Path, model: PCNet, recipe: Recipe, tokenizer: Tokenizer, extra: Mapping[str, object] | None = None
) -> None:
    """Write ``model`` with everything needed to use it, and the trainer's ``extra`` entries.

    The write is atomic: a reader sees either the old file or the complete new one.
    """
    payload = {
        **(extra or {}),
        "format": FORMAT,
        "model": {name: value.detach().cpu() for name, value in model.state_dict().items()},
        "config": model.config.as_dict(),
        "recipe": recipe.as_dict(),
        "tokenizer": tokenizer.as_dict(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        torch.save(payload, file)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The file's dict, with a state dict under ``model``; PrepError if it is missing, truncated or another
    file.
    """
    if not path.is_file():
        raise PrepError(f"{path}: no such checkpoint.", REMEDY)
    try:
        payload = load_tensors(path)
    except Exception as error:  # torch raises many types, from zipfile's to pickle's
        raise PrepError(
            f"{path}: not a readable checkpoint (truncated, or another file): {reason_of(error)}.",
            REMEDY,
        ) from error
    if not isinstance(payload, dict) or not _is_state(payload.get("model")):
        raise PrepError(f"{path}: contains no model.", REMEDY)
    parts = [payload.get(name, {}) for name in ("config", "recipe", "tokenizer")]
    if not all(isinstance(part, dict) for part in parts):
        raise PrepError(f"{path}: has settings that are no settings.", REMEDY)
    version = payload.get("format", FORMAT)
    if not isinstance(version, int) or version > FORMAT:
        raise PrepError(
            f"{path}: has checkpoint format {version}; this version reads format {FORMAT}.",
            "Update pcnet-prep.",
        )
    return payload


def load_model(path: str | Path, stages: int | None = None, recipe: str | None = None) -> PCNet:
    """The model of a checkpoint, in evaluation mode, with its ``recipe`` and ``tokenizer`` as attributes.

    ``stages`` defaults to the file's, else 3. ``recipe`` is a name that replaces the file's; a file without
    one is ``released``. Raises PrepError if the file is not a checkpoint, lacks the weights of the recipe's
    stages or has fewer stages than requested.
    """
    path = Path(path)
    payload = read_checkpoint(path)
    state = {name.removeprefix("module."): value for name, value in payload["model"].items()}
    try:
        kept = Recipe.from_dict(payload["recipe"]) if "recipe" in payload else RECIPES["released"]
        chosen = kept if recipe is None or recipe == kept.name else named_recipe(recipe)
        if "config" in payload:
            config = ModelConfig.from_dict(payload["config"])
        else:
            config = _sizes(path, state, chosen)
        config = _adjusted(path, state, config, chosen, stages)
        _check_sizes(path, config, chosen, state)
        model = _new(config, chosen)
        _fill(path, model, state)
        given = payload.get("tokenizer")
        model.tokenizer = ClipTokenizer(released=True) if given is None else from_dict(given)
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError, RuntimeError) as error:
        # A value of another type or size than any of our versions writes.
        raise PrepError(f"{path}: has settings that make no model: {reason_of(error)}.", REMEDY) from error
    return model.eval()


def _new(config: ModelConfig, chosen: Recipe) -> PCNet:
    return Student(config, chosen) if config.comprehension == STUDENT else PCNet(config, chosen)


def _check_sizes(path: Path, config: ModelConfig, chosen: Recipe, state: Mapping[str, Tensor]) -> None:
    """Compare the sizes in a file's settings with its weights, before memory is taken for a model of them."""
    layers = sum(config.clip.vision_layers) + config.clip.text_layers if config.clip else 0
    if layers > len(state):
        raise ValueError(f"{layers} layers with {len(state)} weights")
    held = sum(value.untyped_storage().nbytes() for value in state.values())
    if sum(value.nbytes for value in state.values()) > held:
        raise ValueError("weights that are larger than what the file holds of them")
    if config.encoder in (*CLIP_SIZES, "clip", "tiny"):  # encoders of other packages take named sizes alone
        with torch.device("meta"):
            _check_weights(path, _new(config, chosen), state)


def begin_from(model: PCNet, path: Path) -> None:
    """Initialise ``model`` from a checkpoint: all weights except the stages and a student's decoder, and
    those too if they match.

    :raises PrepError: if the file is not a checkpoint, or has another encoder or other token ids.
    """
    payload = read_checkpoint(path)
    state = {name.removeprefix("module."): value for name, value in payload["model"].items()}
    mine, theirs = model.tokenizer, payload.get("tokenizer", {})
    if isinstance(mine, WordTokenizer) and theirs.get("words", list(mine.words)) != list(mine.words):
        raise PrepError(
            f"{path}: the vocabulary differs from that of these texts, so the text encoder cannot be used.",
            "Start from a checkpoint trained on the same texts, or use a CLIP encoder.",
        )
    wanted = model.state_dict()
    same = {name: v for name, v in state.items() if name in wanted and v.shape == wanted[name].shape}
    new = ("attn_fusion_vl.", "decoder.")
    missing = [name for name in wanted if name not in same and not name.startswith(new)]
    if missing:
        raise PrepError(
            f"{path}: has no {missing[0]} with the shape of encoder {model.config.encoder}.",
            "Start from a checkpoint of the same --encoder.",
        )
    model.load_state_dict(same, strict=False)


def _adjusted(
    path: Path, state: Mapping[str, Tensor], config: ModelConfig, chosen: Recipe, stages: int | None
) -> ModelConfig:
    """``config`` with the requested stages and recipe."""
    if (chosen.comprehension == STUDENT) != (config.comprehension == STUDENT):
        raise PrepError(
            f"{path}: a student has no stages of another recipe.", "Omit --recipe: the file names its own."
        )
    # From the highest index: a first stage of plus has no weights and so no entry.
    numbers = {int(name.split(".")[1]) for name in state if name.startswith("attn_fusion_vl.")}
    held = max(numbers, default=0) + 1
    wanted = config.stages if stages is None else stages
    values = {**config.as_dict(), "stages": wanted, "comprehension": chosen.comprehension}
    if chosen.comprehension != config.comprehension:
        values["gain"] = chosen.gain
    adjusted = ModelConfig.from_dict(values)
    if wanted > held and adjusted.comprehension != "none":
        raise PrepError(
            f"{path}: has {held} stages, fewer than the requested {wanted}.", f"Set --stages {held} or less."
        )
    return adjusted


def _fill(path: Path, model: PCNet, state: Mapping[str, Tensor]) -> None:
    """Load ``state`` without the stages that ``model`` does not have; PrepError if anything else differs."""
    model.load_state_dict(_check_weights(path, model, state), strict=False)


def _check_weights(path: Path, model: PCNet, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of ``state`` that ``model`` has; PrepError if it lacks one, has another or one of another
    shape.
    """
    wanted = model.state_dict()
    spare = re.compile(r"attn_fusion_vl\.(\d+)\.")
    used = {
        name: value
        for name, value in state.items()
        if not ((stage := spare.match(name)) and int(stage[1]) >= len(model.attn_fusion_vl))
    }
    problems = [
        f"lacks {name}" for name in wanted if name not in used and not name.endswith("num_batches_tracked")
    ]
    problems += [f"has {name}, which these stages do not have" for name in used if name not in wanted]
    problems += [
        f"has {name} of shape {tuple(used[name].shape)}, not {tuple(wanted[name].shape)}"
        for name in used
        if name in wanted and used[name].shape != wanted[name].shape
    ]
    if problems:
        raise PrepError(
            f"{path}: not a model with {model.config.comprehension!r} stages: it {problems[0]}"
            + (f" (and {len(problems) - 1} more)." if len(problems) > 1 else "."),
            "Omit --recipe to use the file's own, or give a checkpoint of that recipe.",
        )
    return used


def _sizes(path: Path, state: Mapping[str, Tensor], chosen: Recipe) -> ModelConfig:
    """The sizes of a file without a config, inferred from the shapes of its weights."""
    try:
        visual = "backbone.visual."
        sizes = ClipSizes(
            embed_dim=state["backbone.text_projection"].shape[1],
            image_resolution=32
            * round((state[visual + "attnpool.positional_embedding"].shape[0] - 1) ** 0.5),
            vision_layers=tuple(_blocks(state, f"{visual}layer{number}.") for number in (1, 2, 3, 4)),
            vision_width=state[visual + "layer1.0.conv1.weight"].shape[0],
            context_length=state["backbone.positional_embedding"].shape[0],
            vocab_size=state["backbone.token_embedding.weight"].shape[0],
            text_width=state["backbone.ln_final.weight"].shape[0],
            text_layers=_blocks(state, "backbone.transformer.resblocks."),
        )
        hidden = state["c4_vis_project.weight"].shape[0]
    except (KeyError, IndexError) as error:
        raise PrepError(f"{path}: not a PCNet checkpoint: it lacks {error}.", REMEDY) from error
    encoder = next((name for name, known in CLIP_SIZES.items() if known == sizes), "clip")
    clip = sizes if encoder == "clip" else None
    return ModelConfig(encoder, chosen.comprehension, 3, hidden, chosen.gain, clip=clip)


def _blocks(state: Mapping[str, Tensor], prefix: str) -> int:
    return len({name[len(prefix) :].split(".")[0] for name in state if name.startswith(prefix)})


def _is_state(value: object) -> bool:
    return isinstance(value, dict) and bool(value) and all(isinstance(one, Tensor) for one in value.values())
