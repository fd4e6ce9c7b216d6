"""Defines the settings of models and recipes, which are validated once and stored in every checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, TypedDict

from prep.errors import PrepError
from prep.records import Untyped

ENCODERS = ("RN50", "RN101", "tiny")
VIT_FEATURES = ("tokens", "values")
FREEZE = ("none", "image", "text", "all")
COMPREHENSIONS = ("none", "paper", "released", "plus")
STUDENT = "student"  # the comprehension of a distilled network, which predicts masks and reads no phrases
RAS_FORMS = ("paper", "released", "previous")
IAD_FORMS = ("paper", "released", "soft")
POOLINGS = ("all", "union")
MAX_STAGES = 4  # the released checkpoint has the weights of four stages; more phrases only repeat


class Towers(TypedDict, total=False):
    """The description of an image and a text encoder of another library (:mod:`pcnet.model.towers`)."""

    kind: str
    config: dict[str, Untyped]
    image: dict[str, Untyped]
    text: dict[str, Untyped]
    mean: list[float]
    std: list[float]


@dataclass(frozen=True)
class ModelConfig:
    """The network: its encoders, their projection width and its stages.

    ``encoder`` is ``RN50`` or ``RN101`` (CLIP), ``tiny`` (from scratch), or ``clip`` with the sizes in
    ``clip`` (see :class:`ClipSizes`). ``hidden`` is the shared width C. ``vocabulary`` is the vocabulary size
    of the tiny text encoder. Any other encoder is described by ``towers`` (:mod:`pcnet.model.towers`), and
    ``vit_features`` selects what a vision transformer's features are (:mod:`pcnet.model.vit`).
    """

    encoder: str = "RN50"
    comprehension: str = "paper"
    stages: int = 3
    hidden: int = 1024
    gain: float = 0.1
    vocabulary: int = 0
    clip: ClipSizes | None = None
    towers: Towers | None = None
    vit_features: str = "tokens"

    def __post_init__(self) -> None:
        if self.towers is None:
            _among("encoder", self.encoder, (*ENCODERS, "clip"))
        _among("vit_features", self.vit_features, VIT_FEATURES)
        _among("comprehension", self.comprehension, (*COMPREHENSIONS, STUDENT))
        if not 1 <= self.stages <= MAX_STAGES:
            raise PrepError(
                f"stages = {self.stages} is out of range: the model has 1 to {MAX_STAGES} stages.",
                "Set --stages in that range.",
            )
        if self.comprehension in ("none", STUDENT) and self.stages != 1:
            kind = "A student" if self.comprehension == STUDENT else "A model without comprehension"
            raise PrepError(f"{kind} has exactly one stage.", "Set --stages 1.")

    @property
    def phrases_used(self) -> int:
        """The number of phrases that the stages read; the last released stage reads the whole expression."""
        return {"none": 0, STUDENT: 0, "released": self.stages - 1}.get(self.comprehension, self.stages)

    def as_dict(self) -> dict[str, object]:
        """Plain values, as stored in a checkpoint."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> ModelConfig:
        """The settings from what :meth:`as_dict` returned."""
        known = _known(cls, _without_relative(values))
        if isinstance(known.get("clip"), dict):
            sizes = _known(ClipSizes, known["clip"])
            known["clip"] = ClipSizes(**{**sizes, "vision_layers": tuple(sizes["vision_layers"])})
        return cls(**known)


@dataclass(frozen=True)
class ClipSizes:
    """The sizes of a CLIP with a ResNet image tower; the defaults are RN50's.

    There is one attention head per 64 channels, as in every released CLIP.
    """

    embed_dim: int = 1024
    image_resolution: int = 224
    vision_layers: tuple[int, ...] = (3, 4, 6, 3)
    vision_width: int = 64
    context_length: int = 77
    vocab_size: int = 49408
    text_width: int = 512
    text_layers: int = 12


CLIP_SIZES = {
    "RN50": ClipSizes(),
    "RN101": ClipSizes(embed_dim=512, vision_layers=(3, 4, 23, 3)),
}


@dataclass(frozen=True)
class LossWeights:
    """The weight of each loss in the total; a loss of weight 0 is not computed.

    The defaults are the paper's: classification, RaS and IaD, each with weight 1. ``opp`` and ``ins`` are our
    own (:func:`pcnet.losses.direction_contrast`, :func:`pcnet.losses.inside`).
    """

    cls: float = 1.0
    ras: float = 1.0
    iad: float = 1.0
    anchor: float = 0.0
    fg: float = 0.0
    cbs: float = 0.0
    opp: float = 0.0
    ins: float = 0.0


@dataclass(frozen=True)
class Recipe:
    """The stages, the losses and their weights; :mod:`pcnet.recipes` has the named recipes.

    ``ras`` and ``iad`` select the form of those losses. ``pooling`` is the region in which the maximum of a
    response is taken (``union``: only inside the proposals). ``edge`` excludes from that region the proposals
    with a larger share of their outline on the image border (1 keeps all). ``temperature`` is that of the
    soft IaD. ``released_tokens`` truncates long texts as the released code does, which also drops the end
    token.
    """

    name: str = "paper"
    comprehension: str = "paper"
    stages: int = 3
    gain: float = 0.1
    ras: str = "paper"
    iad: str = "paper"
    pooling: str = "all"
    edge: float = 1.0
    temperature: float = 10.0
    released_tokens: bool = False
    weights: LossWeights = field(default_factory=LossWeights)

    def __post_init__(self) -> None:
        _among("comprehension", self.comprehension, (*COMPREHENSIONS, STUDENT))
        _among("ras", self.ras, RAS_FORMS)
        _among("iad", self.iad, IAD_FORMS)
        _among("pooling", self.pooling, POOLINGS)

    @property
    def needs_partners(self) -> bool:
        """Whether an image is scored against its partner's texts; the released stages always use them as
        keys.
        """
        return self.weights.iad != 0 or self.comprehension == "released"

    @property
    def needs_opposites(self) -> bool:
        """Whether an image is scored against its own text with the directions swapped."""
        return self.weights.opp != 0

    @property
    def needs_clip(self) -> bool:
        """Whether a loss uses the calibration CLIP (ViT-B/32)."""
        return self.weights.cbs != 0 or self.weights.fg != 0

    @property
    def needs_clip_scores(self) -> bool:
        """Whether a loss ranks proposals by their stored similarity to the text."""
        return self.weights.anchor != 0 or (self.weights.ras != 0 and self.ras == "released")

    def as_dict(self) -> dict[str, object]:
        """Plain values, as stored in a checkpoint."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> Recipe:
        """The recipe from what :meth:`as_dict` returned."""
        known = _known(cls, _without_relative(values))
        weights = LossWeights(**_known(LossWeights, known.pop("weights", {})))
        return cls(**known, weights=weights)

    def override(self, weights: dict[str, float] | None = None, **changes: Any) -> Recipe:
        """This recipe with some settings and weights replaced; unknown names raise PrepError."""
        for name in changes:
            _among("recipe setting", name, tuple(f.name for f in fields(self)))
        for name in weights or {}:
            _among("weight", name, tuple(f.name for f in fields(LossWeights)))
        return replace(self, **changes, weights=replace(self.weights, **(weights or {})))


def _among(what: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise PrepError(f"Unknown {what} {value!r}.", f"Choose one of: {', '.join(choices)}.")


def _without_relative(values: Mapping[str, object]) -> dict[str, object]:
    """Settings as version 0.1.0 may have stored them, without ``relative``, which later versions lack."""
    if values.get("relative"):
        raise PrepError(
            "The setting relative (relations between positions) was removed after version 0.1.0.",
            "Use this checkpoint with pcnet-prep 0.1.0, or train again without the setting.",
        )
    return {name: value for name, value in values.items() if name != "relative"}


def _known(
    cls: type[ModelConfig | ClipSizes | LossWeights | Recipe], values: Mapping[str, object]
) -> dict[str, Any]:
    names = {f.name for f in fields(cls)}
    strange = sorted(set(values) - names)
    if strange:
        raise PrepError(
            f"This version does not know the setting {', '.join(strange)} of {cls.__name__}.",
            "Update pcnet-prep: the file was written by a newer version.",
        )
    return dict(values)
