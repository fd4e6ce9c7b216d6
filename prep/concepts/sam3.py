"""Finds masks of noun phrases with SAM 3: image features once an image, text features once a phrase."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from prep.concepts.found import Found, Pixels, xywh
from prep.masks import rle

if TYPE_CHECKING:
    import torch
    from transformers import Sam3Model, Sam3Processor
    from transformers.models.sam3.modeling_sam3 import Sam3ImageSegmentationOutput, Sam3VisionEncoderOutput

TOKENS = 32  # Sam3Processor.__call__ pads every text to so many; a longer one is cut off here
MASK_THRESHOLD = 0.5  # the default of Sam3Processor.post_process_instance_segmentation
TEXTS_REMEMBERED = 2048  # 32 KiB each with the released model


class Sam3Finder:
    """The instances that ``transformers.Sam3Model`` finds for a text, with the results of its processor.

    Scores, boxes and masks are those of ``Sam3Processor.post_process_instance_segmentation`` (transformers
    5.19, image_processing_sam3.py): the score is the product of the sigmoids of an instance's logit and of
    the presence logit; mask probabilities are enlarged bilinearly and cut at 0.5. Its phrases are looked for
    one by one; ours share the image's features, in batches, which changes the last bits.
    """

    def __init__(self, model: Sam3Model, processor: Sam3Processor, threshold: float, batch: int) -> None:
        self.model, self.processor = model, processor
        self._threshold, self._batch = threshold, batch
        self._texts: OrderedDict[str, tuple[torch.Tensor, torch.Tensor]] = OrderedDict()

    def find(self, pixels: Pixels, phrases: Sequence[str]) -> list[list[Found]]:
        """The instances of each phrase, the highest score first."""
        import torch
        from PIL import Image

        found: list[list[Found]] = []
        with torch.inference_mode():
            inputs = self.processor.image_processor(Image.fromarray(pixels), return_tensors="pt")
            vision = self.model.get_vision_features(inputs["pixel_values"].to(self.model.device))
            for start in range(0, len(phrases), self._batch):
                outputs = self._detect(vision, phrases[start : start + self._batch])
                found += self._instances(outputs, *pixels.shape[:2])
        return found

    def _detect(self, vision: Sam3VisionEncoderOutput, phrases: Sequence[str]) -> Sam3ImageSegmentationOutput:
        """The model's raw outputs for some phrases of one image."""
        import torch
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        texts = [self._text(phrase) for phrase in phrases]
        shared = type(vision)(
            **{
                name: tuple(level.expand(len(texts), -1, -1, -1) for level in vision[name])
                for name in ("fpn_hidden_states", "fpn_position_encoding")
            }
        )
        # Sam3Model.forward reads `pooler_output` of `text_embeds`; its documentation gives it a tensor.
        embedded = BaseModelOutputWithPooling(pooler_output=torch.cat([text for text, _ in texts]))
        mask = torch.cat([mask for _, mask in texts])
        return self.model(vision_embeds=shared, text_embeds=embedded, attention_mask=mask)

    def _text(self, phrase: str) -> tuple[torch.Tensor, torch.Tensor]:
        """The features (1, TOKENS, D) and the mask (1, TOKENS) of a phrase, with a cache of recent ones."""
        if phrase not in self._texts:
            ids = self.processor.tokenizer(
                [phrase], padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt"
            ).to(self.model.device)
            given = {"input_ids": ids["input_ids"], "attention_mask": ids["attention_mask"]}
            features = self.model.get_text_features(**given, return_dict=True).pooler_output
            self._texts[phrase] = features, ids["attention_mask"]
            while len(self._texts) > TEXTS_REMEMBERED:
                self._texts.popitem(last=False)
        self._texts.move_to_end(phrase)
        return self._texts[phrase]

    def _instances(self, outputs: Sam3ImageSegmentationOutput, height: int, width: int) -> list[list[Found]]:
        """The instances above the threshold of each element of a batch."""
        scores = outputs.pred_logits.sigmoid() * outputs.presence_logits.sigmoid()
        boxes = outputs.pred_boxes * scores.new_tensor([width, height, width, height])
        found = []
        for score, box, logits in zip(scores, boxes, outputs.pred_masks, strict=True):
            kept = (score > self._threshold).nonzero().flatten()
            order = kept[score[kept].argsort(descending=True, stable=True)].tolist()
            found.append(
                [
                    _found(logits[at].sigmoid(), box[at].tolist(), float(score[at]), height, width)
                    for at in order
                ]
            )
        return found


def _found(
    probabilities: torch.Tensor, corners: Sequence[float], score: float, height: int, width: int
) -> Found:
    """One instance; its mask is enlarged alone, because all of a large photo's at once would fill memory."""
    from torch.nn.functional import interpolate

    sized = interpolate(probabilities[None, None], size=(height, width), mode="bilinear", align_corners=False)
    runs = rle.encode((sized[0, 0] > MASK_THRESHOLD).cpu().numpy())
    return Found(rle.compress(runs), rle.area(runs), xywh(corners), score)
