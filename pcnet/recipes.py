"""Defines the named recipes: ``paper``, ``released`` and ``plus``."""

from __future__ import annotations

from pcnet.config import STUDENT, LossWeights, ModelConfig, Recipe, Towers
from prep.errors import PrepError

RECIPES = {
    # The paper's equations, every loss with weight 1. The paper has no factor for the residuals; 0.1 is from
    # the released code.
    "paper": Recipe(),
    # The released code's operations and default weights, with which RaS (w2), IaD (div_loc) and the anchor
    # loss (w3) are not trained. Its foreground calibration has weight 1 but is multiplied by 0 unless
    # enabled: --weight fg=1 enables it. Its default of one stage would not read any phrase; three is the
    # paper's number.
    "released": Recipe(
        name="released",
        comprehension="released",
        ras="released",
        iad="released",
        released_tokens=True,
        weights=LossWeights(cls=5.0, ras=0.0, iad=0.0, anchor=0.0, fg=0.0, cbs=2.0),
    ),
    # Ours: cumulative cues, progressive gate, maximum and peak inside the union of the proposals that are not
    # background (those along the image border), and swapped directions. RaS and IaD are not used, nor is the
    # cue's attention to the image (gain 0), with which training from scratch was slower.
    "plus": Recipe(
        name="plus",
        comprehension="plus",
        gain=0.0,
        ras="previous",
        iad="soft",
        pooling="union",
        edge=0.05,
        weights=LossWeights(ras=0.0, iad=0.0, opp=0.1, ins=0.1),
    ),
}


# What a checkpoint of a student names: its losses are those of pcnet.training.distill, none of the above.
STUDENT_RECIPE = Recipe(
    name=STUDENT, comprehension=STUDENT, stages=1, gain=0.0, weights=LossWeights(cls=0.0, ras=0.0, iad=0.0)
)


# What an epoch is: the released code draws one expression per reference.
EPOCHS = {"paper": "refs", "released": "refs", "plus": "sentences"}


def recipe(name: str, weights: dict[str, float] | None = None, **changes: object) -> Recipe:
    """The named recipe with some weights and settings replaced; unknown names raise PrepError."""
    if name not in RECIPES:
        raise PrepError(f"Unknown recipe {name!r}.", f"Choose one of: {', '.join(RECIPES)}.")
    return RECIPES[name].override(weights, **changes)


def model_config(
    recipe: Recipe,
    encoder: str,
    vocabulary: int = 0,
    towers: Towers | None = None,
    vit_features: str = "tokens",
) -> ModelConfig:
    """The network that ``recipe`` trains with ``encoder``; CLIP's features are projected to 1024 channels."""
    if encoder == "tiny" and recipe.needs_clip:
        raise PrepError(
            f"The recipe {recipe.name} uses CLIP, and the tiny encoder's word ids are not CLIP's tokens.",
            "Set --weight cbs=0 --weight fg=0, or use a CLIP encoder.",
        )
    return ModelConfig(
        encoder=encoder,
        comprehension=recipe.comprehension,
        stages=recipe.stages,
        hidden=64 if encoder == "tiny" else 1024,
        gain=recipe.gain,
        vocabulary=vocabulary,
        towers=towers,
        vit_features=vit_features,
    )
