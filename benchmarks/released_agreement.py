"""Compares our model with recorded values of the released code, per quantity: max |d| / (1 + |t|).

.venv/bin/python benchmarks/released_agreement.py PATH/TO/pcnet_released_small.npz
"""

from __future__ import annotations

import sys
from random import Random

import numpy as np
import torch
from torch import Tensor

from pcnet import losses
from pcnet.config import ClipSizes, ModelConfig
from pcnet.data.batch import Batch, upsample
from pcnet.model.pcnet import PCNet
from pcnet.recipes import RECIPES
from pcnet.training.calibration import Calibration
from pcnet.training.objective import step_losses

SIZES = ClipSizes(1024, 224, (1, 1, 1, 1), 4, 77, 512, 64, 2)


class Numbers:
    """The arrays of the file as tensors."""

    def __init__(self, path: str) -> None:
        self.arrays = np.load(path)

    def __getitem__(self, key: str) -> Tensor:
        return torch.from_numpy(self.arrays[key])

    def under(self, prefix: str) -> dict[str, Tensor]:
        """The arrays whose keys start with ``prefix``, by the rest of the key."""
        return {key.removeprefix(prefix): self[key] for key in self.arrays.files if key.startswith(prefix)}


def show(name: str, ours: Tensor, theirs: Tensor) -> float:
    worst = float(((ours.detach() - theirs).abs() / (1 + theirs.abs())).max())
    print(f"{name:52s} {worst:.1e}")
    return worst


def model(numbers: Numbers, stages: int) -> PCNet:
    network = PCNet(ModelConfig("clip", "released", stages, 32, 0.1, clip=SIZES))
    network.load_state_dict(numbers.under("state/"))
    return network


def evaluation(numbers: Numbers) -> list[float]:
    given, errors = numbers.under("input/"), []
    for stages in (1, 2, 3, 4):
        texts = given["word_ids"], given["eval_llm_word_ids"]
        with torch.no_grad():
            raw = model(numbers, stages).eval().responses(given["img"], *texts)[-1]
        whole = upsample(raw, (160, 160))
        errors.append(show(f"eval/K{stages}/response", whole.relu(), numbers[f"eval/K{stages}/response"]))
        errors.append(show(f"eval/K{stages}/sigmoid", whole.sigmoid(), numbers[f"eval/K{stages}/sigmoid"]))
    return errors


def training(numbers: Numbers) -> list[float]:
    given, errors = numbers.under("input/"), []
    batch = Batch(
        images=given["img"],
        expression_ids=given["word_ids"],
        phrase_ids=given["llm_word_ids"],
        grid=given["zs_mask"],
        partner_expression_ids=given["diff_word_ids"],
        partner_phrase_ids=given["diff_llm_word_ids"],
        same_image=given["same_img_mark"],
        negative_ids=given["neg_word_ids"],
        clip_scores=given["clip_score"],
    )
    chosen = RECIPES["released"].override({"ras": 1, "anchor": 1, "iad": 1})
    for stages in (1, 3):
        network, here = model(numbers, stages), f"train/K{stages}/"
        pair = int(numbers[here + "pair"])
        step = next(s for s in range(99) if pair < 0 or Random(s).randrange(stages - 1) == pair)
        outputs = network(batch.images, **batch.texts(True))
        values = step_losses(chosen, outputs, batch, step=step, calibration=calibration(numbers))
        names = {"cls": "cls", "cbs": "cbs", "ras": "shrink", "anchor": "anchor", "iad": "diversify"}
        errors += [
            show(here + theirs, values[ours], numbers[here + theirs]) for ours, theirs in names.items()
        ]
        errors.append(show(here + "fg", torch.zeros(()), numbers[here + "fg"]))
        values["total"].backward()
        parameters = dict(network.named_parameters())
        for name, gradient in numbers.under(here + "grad/").items():
            grad = parameters[name].grad
            errors.append(show(f"{here}grad/{name}", torch.zeros(()) if grad is None else grad, gradient))
    return errors


def calibration(numbers: Numbers) -> Calibration:
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    vision = CLIPVisionCfg(layers=1, width=64, patch_size=32, image_size=224)
    clip = CLIP(48, vision, CLIPTextCfg(77, 512, width=64, heads=1, layers=1), quick_gelu=True)
    clip.load_state_dict(numbers.under("vit_state/"))
    return Calibration(clip.eval().requires_grad_(False))


def functions(numbers: Numbers) -> list[float]:
    grid, scores, same = (numbers[f"input/{name}"] for name in ("zs_mask", "clip_score", "same_img_mark"))
    cam = numbers["loss/cam"].requires_grad_()
    left, right = losses.released_overlap(cam, grid, scores)
    (slope,) = torch.autograd.grad(right - left, cam)
    apart = losses.released_iad(cam, numbers["loss/cam_diff"], grid, same)
    (apart_slope,) = torch.autograd.grad(apart, cam)
    logits = numbers["loss/score"].transpose(1, 2).unflatten(2, (3, 3))
    return [
        show("loss/left_iou", left, numbers["loss/left_iou"]),
        show("loss/right_iou", right, numbers["loss/right_iou"]),
        show("loss/grad_right_minus_left", slope, numbers["loss/grad_right_minus_left"]),
        show("loss/diversify", apart, numbers["loss/diversify"]),
        show("loss/grad_diversify", apart_slope, numbers["loss/grad_diversify"]),
        show("loss/cls_out", losses.classification_scores(logits), numbers["loss/cls_out"]),
        show("loss/cls_fg", losses.shares(logits).diagonal(), numbers["loss/cls_fg"]),
        show("loss/multilabel", losses.classification(logits, torch.arange(4)), numbers["loss/multilabel"]),
    ]


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: released_agreement.py pcnet_released_small.npz")
    given = Numbers(sys.argv[1])
    worst = max(evaluation(given) + training(given) + functions(given))
    print(f"{'maximum':52s} {worst:.1e}")
