"""Checkpoints: written whole or not at all, read without running code, released files under their own names.

A file is a dict with the state dict under ``model``, as the released code has it. Ours add ``format``,
``config``, ``recipe`` and ``tokenizer`` (plain values) and whatever the trainer keeps; a file without
``recipe`` is a released one, whose sizes are read off its shapes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pcnet.config import CLIP_SIZES, ClipSizes, ModelConfig, Recipe
from pcnet.data.tokenizers import ClipTokenizer, Tokenizer, WordTokenizer, from_dict
from pcnet.model.pcnet import PCNet
from pcnet.recipes import RECIPES
from pcnet.recipes import recipe as named_recipe
from prep.errors import PrepError
from prep.files import replacing

FORMAT = 1
REMEDY = (
    "Give a checkpoint that pcnet train wrote, or one of the released code (its state dict under 'model')."
)


def save_checkpoint(
    path: Path, model: PCNet, recipe: Recipe, tokenizer: Tokenizer, extra: Mapping[str, Any] | None = None
) -> None:
    """Write ``model`` with all that is needed to use it, and the trainer's ``extra`` entries.

    The file appears under its name only when it is complete and on the disk; a reader sees the old one or the
    new one.
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
    """The file's dict, with ``model`` a state dict; PrepError for a missing, cut or other file."""
    if not path.is_file():
        raise PrepError(f"{path}: no such checkpoint", REMEDY)
    try:
        payload = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds, from zipfile's to pickle's
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise PrepError(
            f"{path}: not a readable checkpoint (cut short, or no checkpoint): {reason[0][:200]}", REMEDY
        ) from error
    if not isinstance(payload, dict) or not _is_state(payload.get("model")):
        raise PrepError(f"{path}: holds no model", REMEDY)
    version = payload.get("format", FORMAT)
    if not isinstance(version, int) or version > FORMAT:
        raise PrepError(
            f"{path}: checkpoint format {version}, and this version reads {FORMAT}", "Update pcnet-prep."
        )
    return payload


def load_model(path: str | Path, stages: int | None = None, recipe: str | None = None) -> PCNet:
    """The model of a checkpoint, in evaluation mode, with its ``recipe`` and ``tokenizer`` as attributes.

    ``stages`` defaults to what the file says, else 3. ``recipe`` is a name that replaces the file's; a file
    that says none is ``released``. Raises PrepError where the file is not a checkpoint, lacks the weights of
    the recipe's stages or holds fewer stages than asked for.
    """
    path = Path(path)
    payload = read_checkpoint(path)
    state = {name.removeprefix("module."): value for name, value in payload["model"].items()}
    kept = Recipe.from_dict(payload["recipe"]) if "recipe" in payload else RECIPES["released"]
    chosen = kept if recipe is None or recipe == kept.name else named_recipe(recipe)
    if "config" in payload:
        config = ModelConfig.from_dict(payload["config"])
    else:
        config = _sizes(path, state, chosen)
    config = _adjusted(path, state, config, chosen, stages)
    model = PCNet(config, chosen)
    _fill(path, model, state)
    tokenizer = from_dict(payload["tokenizer"]) if "tokenizer" in payload else ClipTokenizer(released=True)
    model.tokenizer = tokenizer
    return model.eval()


def begin_from(model: PCNet, path: Path) -> None:
    """Give ``model`` the weights of a checkpoint as its first ones: all but the stages, and those where the
    file has the same.

    :raises PrepError: where the file is no checkpoint, is of another encoder, or reads texts by other ids.
    """
    payload = read_checkpoint(path)
    state = {name.removeprefix("module."): value for name, value in payload["model"].items()}
    mine, theirs = model.tokenizer, payload.get("tokenizer", {})
    if isinstance(mine, WordTokenizer) and theirs.get("words", list(mine.words)) != list(mine.words):
        raise PrepError(
            f"{path}: its words are not those of these texts, so its text encoder would misread them",
            "Begin from a checkpoint trained on the same texts, or use a CLIP encoder.",
        )
    wanted = model.state_dict()
    same = {name: v for name, v in state.items() if name in wanted and v.shape == wanted[name].shape}
    missing = [name for name in wanted if name not in same and not name.startswith("attn_fusion_vl.")]
    if missing:
        raise PrepError(
            f"{path}: has no {missing[0]} of the shape of encoder {model.config.encoder}",
            "Begin from a checkpoint of the same --encoder.",
        )
    model.load_state_dict(same, strict=False)


def _adjusted(
    path: Path, state: Mapping[str, Tensor], config: ModelConfig, chosen: Recipe, stages: int | None
) -> ModelConfig:
    """``config`` with the stages and the recipe asked for."""
    # By the highest number: a first stage of ours that has no weights of its own leaves no name.
    numbers = {int(name.split(".")[1]) for name in state if name.startswith("attn_fusion_vl.")}
    held = max(numbers, default=0) + 1
    wanted = config.stages if stages is None else stages
    values = {**config.as_dict(), "stages": wanted, "comprehension": chosen.comprehension}
    if chosen.comprehension != config.comprehension:
        values["gain"] = chosen.gain
    adjusted = ModelConfig.from_dict(values)
    if wanted > held and adjusted.comprehension != "none":
        raise PrepError(f"{path}: holds {held} stages, {wanted} were asked for", f"Ask for at most {held}.")
    return adjusted


def _fill(path: Path, model: PCNet, state: Mapping[str, Tensor]) -> None:
    """Load ``state``, less the stages that ``model`` does not have; PrepError where anything else differs."""
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
    problems += [f"has {name}, which these stages do not" for name in used if name not in wanted]
    problems += [
        f"has {name} of shape {tuple(used[name].shape)}, not {tuple(wanted[name].shape)}"
        for name in used
        if name in wanted and used[name].shape != wanted[name].shape
    ]
    if problems:
        raise PrepError(
            f"{path}: not a model with {model.config.comprehension!r} stages: it {problems[0]}"
            + (f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""),
            "Leave --recipe out to use the file's own, or give the checkpoint of that recipe.",
        )
    model.load_state_dict(used, strict=False)


def _sizes(path: Path, state: Mapping[str, Tensor], chosen: Recipe) -> ModelConfig:
    """The sizes of a file that does not say them, read off the shapes of its weights."""
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
        raise PrepError(f"{path}: not a PCNet checkpoint, it lacks {error}", REMEDY) from error
    encoder = next((name for name, known in CLIP_SIZES.items() if known == sizes), "clip")
    stages = 1 if chosen.comprehension == "none" else 3
    return ModelConfig(
        encoder, chosen.comprehension, stages, hidden, chosen.gain, clip=sizes if encoder == "clip" else None
    )


def _blocks(state: Mapping[str, Tensor], prefix: str) -> int:
    return len({name[len(prefix) :].split(".")[0] for name in state if name.startswith(prefix)})


def _is_state(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and all(isinstance(one, Tensor) for one in value.values())
