"""PCNet: maps an image, an expression and its phrases to one response map per stage.

Legend: B images, L tokens per text, P phrases, T texts that an image is scored against, K stages, C the
shared width, (H,W) the image and (h,w) the feature grid.
"""

from __future__ import annotations

from math import log

import torch
from torch import Tensor, nn

from pcnet.config import MAX_STAGES, ModelConfig, Recipe
from pcnet.data.batch import Outputs, upsample
from pcnet.data.tokenizers import Tokenizer
from pcnet.model.encoders import build_encoder
from pcnet.model.inputs import Inputs, Scope
from pcnet.model.stages import COMPREHENSIONS

# The children of an encoder that belong to its image encoder; the others belong to its text encoder.
IMAGE_PARTS = ("visual", "layers", "place", "image")


class PCNet(nn.Module):
    """The network of the paper; ``config.comprehension`` selects its stages.

    In evaluation mode ``model(images, expression_ids, phrase_ids)`` returns the last stage's response after
    ReLU at image size, (B,1,H,W); an image's map does not depend on the others in the batch. In training mode
    it returns :class:`pcnet.data.batch.Outputs`. Parameters have the names of a released checkpoint;
    ``recipe`` is the recipe it was built for.
    """

    def __init__(self, config: ModelConfig, recipe: Recipe | None = None) -> None:
        super().__init__()
        self.config = config
        self.recipe = recipe
        self.frozen = "none"
        self.tokenizer: Tokenizer | None = None
        self.scope = Scope(pairwise=True)  # a data-parallel trainer replaces it with one that gathers
        self.backbone = build_encoder(config)
        self.c4_vis_project = nn.Conv2d(self.backbone.visual_channels, config.hidden, 1)
        self.global_lan_project = nn.Linear(self.backbone.text_width, config.hidden)
        self.logit_scale = nn.Parameter(torch.tensor(log(1 / 0.07)))
        stage, self._run, self._independent = COMPREHENSIONS[config.comprehension]
        # A released file always has four stages; the unused ones are kept, so that they can be saved again.
        held = MAX_STAGES if config.comprehension == "released" else config.stages
        self.attn_fusion_vl = nn.ModuleList(
            stage(config.hidden, config.gain, first=number == 0) for number in range(held)
        )
        for unused in self.attn_fusion_vl[config.stages :].parameters():
            unused.requires_grad_(False)

    def forward(
        self,
        images: Tensor,
        expression_ids: Tensor,
        phrase_ids: Tensor,
        partner_expression_ids: Tensor | None = None,
        partner_phrase_ids: Tensor | None = None,
        opposite_expression_ids: Tensor | None = None,
        opposite_phrase_ids: Tensor | None = None,
    ) -> Tensor | Outputs:
        """(B,3,H,W), (B,L), (B,P,L): a map (evaluation) or ``Outputs`` (training)."""
        size = (images.shape[2], images.shape[3])
        if not self.training:
            return upsample(self.responses(images, expression_ids, phrase_ids)[-1], size).relu()
        expressions, phrases = [expression_ids], [phrase_ids]
        for texts, cues in (
            (partner_expression_ids, partner_phrase_ids),
            (opposite_expression_ids, opposite_phrase_ids),
        ):
            if texts is not None and cues is not None:
                expressions.append(texts)
                phrases.append(cues)
        logits = self._stages(images, torch.stack(expressions), torch.stack(phrases), self.scope)
        own = torch.arange(len(images), device=images.device) + self.scope.rank * len(images)
        others = len(expressions) - 1
        columns = logits[0].shape[1]
        # The columns of the images' other texts: one for each text, or one for each text of each image.
        first = columns - others if self._independent else columns // (1 + others)
        places = [
            torch.full_like(own, first + number) if self._independent else own + first * (1 + number)
            for number in range(others)
        ]
        return Outputs(
            logits,
            own,
            expressions=first,
            image_size=size,
            partner=places[0] if partner_expression_ids is not None else None,
            opposite=places[-1] if opposite_expression_ids is not None else None,
        )

    def responses(self, images: Tensor, expression_ids: Tensor, phrase_ids: Tensor) -> tuple[Tensor, ...]:
        """The raw response of every stage, (B,1,h,w) each, of every image to its own expression."""
        return self._stages(images, expression_ids[None], phrase_ids[None], Scope(pairwise=False))

    def _stages(
        self, images: Tensor, expressions: Tensor, phrases: Tensor, scope: Scope
    ) -> tuple[Tensor, ...]:
        """(B,3,H,W), (R,B,L), (R,B,P,L) -> (B,T,h,w) per stage."""
        used = self.config.phrases_used
        if phrases.shape[2] < used:
            raise ValueError(f"{self.config.stages} stages read {used} phrases, got {phrases.shape[2]}")
        texts = torch.cat([expressions.unsqueeze(2), phrases[:, :, :used]], 2)
        visual, encoded = self.visual(images), self.textual(texts.flatten(0, 2))
        return self.grounded(visual, encoded.view(*texts.shape[:3], -1), scope)

    def visual(self, images: Tensor) -> Tensor:
        """(B,3,H,W) -> (B,C,h,w), the projected image features."""
        features: Tensor = self.c4_vis_project(self.backbone.encode_image(images))
        return features

    def textual(self, ids: Tensor) -> Tensor:
        """(M,L) -> (M,C), the projected text features."""
        features: Tensor = self.global_lan_project(self.backbone.encode_text(ids))
        return features

    def grounded(self, visual: Tensor, encoded: Tensor, scope: Scope) -> tuple[Tensor, ...]:
        """(B,C,h,w) images and (R,B,1+P,C) texts, the expression and its phrases -> (B,T,h,w) per stage."""
        cues = encoded[:, :, 1:]
        inputs = Inputs(self.logit_scale.exp(), visual, encoded[:, :, 0], cues, scope, self._independent)
        return self._run(self.attn_fusion_vl[: self.config.stages], inputs)

    def freeze(self, parts: str) -> None:
        """Do not train the encoder of ``image``, of ``text``, or ``all`` of both; ``none``: train both.

        A frozen image encoder stays in evaluation mode, so that its batch statistics do not change.
        """
        self.frozen = parts
        for name, parameter in self.backbone.named_parameters():
            part = "image" if name.split(".")[0] in IMAGE_PARTS else "text"
            if parts in (part, "all"):
                parameter.requires_grad_(False)

    def train(self, mode: bool = True) -> PCNet:
        """Set the mode of every part but a frozen image encoder."""
        super().train(mode)
        if self.frozen in ("image", "all"):
            for name, child in self.backbone.named_children():
                if name in IMAGE_PARTS:
                    child.eval()
        return self

    def parameter_groups(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """(encoder, new layers): the two parameter groups of the optimiser, without frozen parameters.

        Quirk: the released code excludes ``logit_scale`` from both, so the scores keep their initial scale of
        1/0.07; with the released stages it is excluded here too.
        """
        backbone = [p for p in self.backbone.parameters() if p.requires_grad]
        known = {id(p) for p in self.backbone.parameters()}
        if self.config.comprehension == "released":
            known.add(id(self.logit_scale))
        return backbone, [p for p in self.parameters() if p.requires_grad and id(p) not in known]
