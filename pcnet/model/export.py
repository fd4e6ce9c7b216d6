"""Exports a checkpoint as one ONNX file: pixels and token ids in, the response at the network's size out.

The file needs nothing of this project: its metadata has the tokenizer, the image size and the settings.
"""

from __future__ import annotations

import json
import logging
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pcnet.data.batch import upsample
from pcnet.data.images import normalise_pixels
from pcnet.model.encoders import TinyEncoder
from pcnet.model.pcnet import PCNet
from prep.errors import PrepError, reason_of
from prep.files import replacing

INSTALL = "Run: python -m pip install 'pcnet-prep[onnx]'"


def export_onnx(model: PCNet, path: Path, size: int) -> None:
    """Write ``model`` to ``path``; the number of images per call is free, all other sizes are fixed.

    Inputs: ``pixels`` uint8 (B,3,size,size), RGB, resized without keeping the aspect ratio; ``expression``
    int64 (B,L) token ids, padded with 0; and ``phrases`` int64 (B,P,L), unless the model reads none. Output:
    ``response`` float32 (B,1,size,size), raw: the mask is where it is positive, and the peak its maximum.

    :raises PrepError: if the packages of the extra ``onnx`` are missing, or the model cannot be exported.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise PrepError(f"The export needs the package {error.name}.", INSTALL) from error
    network = _Exported(model, size).eval()
    inputs = network.examples()
    batch = torch.export.Dim("batch", min=1, max=4096)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program: Any = torch.onnx.export(
                network,
                tuple(inputs.values()),
                input_names=list(inputs),
                output_names=["response"],
                dynamic_shapes=tuple({0: batch} for _ in inputs),
                verbose=False,
            )
    except Exception as error:  # the exporter raises many types, and names the layer in the first line
        raise PrepError(
            f"The model with encoder {model.config.encoder} could not be exported: {reason_of(error)}.",
            "Use another version of torch, or report this with the message above.",
        ) from error
    written = program.model_proto
    for key, value in network.metadata().items():
        entry = written.metadata_props.add()
        entry.key, entry.value = key, value
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(written.SerializeToString())


class _Exported(nn.Module):
    """The network from pixels to the response at its own input size."""

    def __init__(self, model: PCNet, size: int) -> None:
        super().__init__()
        self.model, self.size = model, size
        if isinstance(model.backbone, TinyEncoder):
            # The packed sequences of the GRU depend on the data, which a graph cannot express.
            model.backbone.encode_text = partial(_unrolled_text, model.backbone)  # type: ignore[method-assign]

    def forward(self, pixels: Tensor, expression: Tensor, phrases: Tensor | None = None) -> Tensor:
        """(B,3,S,S) uint8, (B,L) and (B,P,L) int64 -> (B,1,S,S) float32."""
        images = normalise_pixels(pixels)
        cues = expression[:, None, :][:, :0] if phrases is None else phrases
        response = self.model.responses(images, expression, cues)[-1]
        return upsample(response.float(), (self.size, self.size))

    def examples(self) -> dict[str, Tensor]:
        """Inputs of two images by name."""
        if self.model.tokenizer is None:
            raise ValueError("The model has no tokenizer. Load it with pcnet.load_model.")
        ids = self.model.tokenizer(["left circle", "red square"])
        inputs = {"pixels": torch.zeros(2, 3, self.size, self.size, dtype=torch.uint8), "expression": ids}
        if count := self.model.config.phrases_used:
            inputs["phrases"] = ids[:, None].repeat(1, count, 1)
        return inputs

    def metadata(self) -> dict[str, str]:
        """What a program needs to call the file, as JSON values."""
        tokenizer = self.model.tokenizer
        known = {"size": self.size, "config": self.model.config.as_dict(), "threshold": 0.0}
        known["tokenizer"] = {} if tokenizer is None else tokenizer.as_dict()
        return {key: json.dumps(value) for key, value in known.items()}


def _unrolled_text(encoder: TinyEncoder, ids: Tensor) -> Tensor:
    """The tiny encoder's bidirectional GRU step by step: (M,L) ids, 0 = padding at the end -> (M,128)."""
    known = ids != 0
    known = torch.cat([torch.ones_like(known[:, :1]), known[:, 1:]], 1)  # an empty text has one word
    words, steps = encoder.words(ids), range(ids.shape[1])
    states = [_last_state(encoder.sentence, words, known, steps, "")]
    states.append(_last_state(encoder.sentence, words, known, steps[::-1], "_reverse"))
    return torch.cat(states, 1)


def _last_state(gru: nn.GRU, words: Tensor, known: Tensor, steps: range, suffix: str) -> Tensor:
    """(M,L,C) words in the order of ``steps`` -> (M,C), the last state; padding leaves it as it is."""
    named = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    w_in, w_state, b_in, b_state = (getattr(gru, f"{name}_l0{suffix}") for name in named)
    inputs = words @ w_in.T + b_in
    state = torch.zeros_like(words[:, 0])
    for step in steps:
        reset, update, new = inputs[:, step].chunk(3, 1)
        reset_state, update_state, new_state = (state @ w_state.T + b_state).chunk(3, 1)
        gate = torch.sigmoid(update + update_state)
        candidate = torch.tanh(new + torch.sigmoid(reset + reset_state) * new_state)
        state = torch.where(known[:, step, None], (1 - gate) * candidate + gate * state, state)
    return state
