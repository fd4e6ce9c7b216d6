"""That the shared pass gives the networks what the reference gives them, in the same memory layout."""

from __future__ import annotations

import pytest
import torch
from segment_anything.modeling import Sam

from prep.proposals.sam.decoder import Decoder


@pytest.mark.parametrize("masks", [1, 4])
def test_the_mask_head_gets_the_reference_s_memory_layout(masks: int, ragged: Sam) -> None:
    """torch selects its kernels by it, and other kernels give other bits."""
    torch.manual_seed(3)
    features = torch.randn((1, ragged.prompt_encoder.embed_dim, 8, 8))
    points = torch.rand((4, 2), dtype=torch.float64) * 128
    seen: list[torch.Tensor] = []
    head = ragged.mask_decoder.output_upscaling
    hook = head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        with torch.inference_mode():
            decoder = Decoder(ragged, 4, masks)
            prompts = decoder.prompts(points)
            decoder.reference(features, prompts)
            (expected,) = seen
            iou = decoder.shared(features, prompts, -1).iou
            del seen[:]
            found = decoder.shared(features, prompts, float(iou.sort().values[-2]))
    finally:
        hook.remove()
    assert len(found.index) == 1
    assert {given.stride() for given in seen} == {expected.stride()}


def test_the_shared_pass_is_the_reference(ragged: Sam) -> None:
    torch.manual_seed(3)
    features = torch.randn((1, ragged.prompt_encoder.embed_dim, 8, 8))
    points = torch.rand((5, 2), dtype=torch.float64) * 128
    with torch.inference_mode():
        for group, masks in ((4, 1), (4, 4), (2, 2)):
            decoder = Decoder(ragged, group, masks)
            prompts = decoder.prompts(points)
            logits, iou = decoder.reference(features, prompts)
            found = decoder.shared(features, prompts, -1)
            assert torch.equal(found.index, torch.arange(15))
            torch.testing.assert_close(found.logits, logits.flatten(0, 1), atol=2e-5, rtol=1e-5)
            torch.testing.assert_close(found.iou, iou.flatten(), atol=2e-5, rtol=1e-5)
            threshold = float(found.iou[found.iou > 0].median())
            some = decoder.shared(features, prompts, threshold)
            assert torch.equal(some.index, torch.nonzero(found.iou > threshold).flatten())
            torch.testing.assert_close(some.logits, found.logits[some.index], atol=2e-5, rtol=1e-5)
