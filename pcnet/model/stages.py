"""Defines the stages between features and response maps: the paper's, the released code's and ours.

Legend: B images, R texts per image (its own expression, then its partner's and its own with the directions
swapped, if given), T texts that an image is scored against, P phrases, N = h*w positions, C channels. In
training every image is scored against the texts of the whole batch, T = R*G with G the images of all
processes: first every image's own text, then every partner's, and so on. Where texts do not read each other
(single stage, plus), only the own texts of other images are needed: T = G + R - 1, with the image's own
partner and swapped text last. In evaluation an image is scored against its own text only, T = 1, so its
result does not depend on other images.

Each ``*_stages`` function returns the raw responses of every stage, (B,T,h,w) each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import sqrt
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pcnet.maps import normalised
from pcnet.model.inputs import Inputs, unit

FLOOR = 0.05  # gate value at a position where the previous response is 0


def single_stages(stages: Sequence[nn.Module], inputs: Inputs) -> tuple[Tensor, ...]:
    """No comprehension: a single stage with every position's cosine with the whole expression."""
    return (inputs.score(unit(_places(inputs.visual)), inputs.expressions),)


class PaperStage(nn.Module):
    """One stage of equations 2 to 4; every attention has its own projections and a two-layer MLP.

    The last layers are initialised to zero, so that training starts from the stage without comprehension.
    """

    def __init__(self, channels: int, gain: float, first: bool) -> None:
        super().__init__()
        self.gain = gain
        self.cue_from_visual = _Attention(channels)
        self.query_from_cues = _Attention(channels)
        self.visual_from_query = _Attention(channels)

    def forward(self, visual: Tensor, query: Tensor, cue: Tensor) -> tuple[Tensor, Tensor]:
        """(B,N,C) positions, (B,T,C) queries and cues -> the next positions and queries.

        The cues of other images are the negatives of equation 2, and for image i they are keys of equation 3.
        """
        cue = cue + self.cue_from_visual(cue, visual)
        query = query + self.gain * self.query_from_cues(query, cue)
        return visual + self.gain * self.visual_from_query(visual, query), query


def paper_stages(stages: Sequence[PaperStage], inputs: Inputs) -> tuple[Tensor, ...]:
    """The paper: Q_0 is the whole expression, phrase n refines it, V_{n+1} Q_{n+1}^T is the response."""
    places, query = unit(_places(inputs.visual)), inputs.expressions
    responses = []
    for number, stage in enumerate(stages):
        places, query = stage(places, query, inputs.phrase(number))
        responses.append(inputs.score(unit(places), unit(query)))
    return tuple(responses)


class PlusStage(nn.Module):
    """One stage of plus: the cue's attention to the image, and the gate by the previous response.

    A ``gain`` of 0 removes the attention to the image.
    """

    def __init__(self, channels: int, gain: float, first: bool) -> None:
        super().__init__()
        self.gain = gain
        if gain:
            self.cue_from_visual = _Attention(channels)
        if not first:
            self.gate = nn.Parameter(torch.ones(()))

    def forward(self, places: Tensor, query: Tensor, cue: Tensor) -> Tensor:
        """(B,N,C) positions, (B,T,C) sums of cues and this stage's cue -> (B,T,C) queries of unit length."""
        if not self.gain:
            return unit(query)
        return unit(query + self.gain * self.cue_from_visual(cue, places))


def plus_stages(stages: Sequence[PlusStage], inputs: Inputs) -> tuple[Tensor, ...]:
    """Ours: the query is the sum of the cues so far, and each stage is gated by the previous response.

    Q_n = sum of q_0 to q_n (and the whole expression at the last stage) + gain * MLP(q_n's attention to V);
    L_n = scale * V Q_n^T + 2 * gate_n * log(R_{n-1} + 0.05), with R the previous response in
    [0, 1], detached. The product form keeps the peak from moving to the object that a later phrase
    matches best, which in a relation ("the circle left of the blue square") is the anchor and not the target.
    """
    places, total = unit(_places(inputs.visual)), inputs.visual.new_zeros(())
    responses: list[Tensor] = []
    for number, stage in enumerate(stages):
        cue = inputs.phrase(number)
        total = total + cue
        if number == len(stages) - 1:
            total = total + inputs.expressions
        response = inputs.score(places, stage(places, unit(total), cue))
        if responses:
            before = normalised(responses[-1].detach())
            response = response + 2 * stage.gate * torch.log(before + FLOOR)
        responses.append(response)
    return tuple(responses)


class ReleasedStage(nn.Module):
    """One ``bilateral_prompt`` of the released code ([W] model/attn.py), with its parameter names.

    One set of projections is shared by three attentions: t_proj1 computes every text query, t_proj2/3 every
    text key and value, v_proj1/2/3 the visual ones; each ends in a single linear layer (the paper has
    separate projections and MLPs).
    """

    def __init__(self, channels: int, gain: float, first: bool) -> None:
        super().__init__()
        self.gain = gain
        self.v_proj1, self.v_proj2, self.v_proj3 = (
            nn.Sequential(*_normed(channels), nn.ReLU()) for _ in range(3)
        )
        self.t_proj1, self.t_proj2, self.t_proj3 = (
            nn.Sequential(nn.Linear(channels, channels), nn.ReLU()) for _ in range(3)
        )
        self.v_output = nn.Sequential(*_normed(channels))
        self.t_output = nn.Sequential(nn.Linear(channels, channels))

    def text_from_visual(self, texts: Tensor, visual: Tensor) -> Tensor:
        """(B,T,C) texts attend to (B,C,h,w) -> (B,T,C)."""
        keys, values = _places(self.v_proj2(visual)), _places(self.v_proj3(visual))
        return _tensor(self.t_output(_attend(self.t_proj1(texts), keys, values)))

    def visual_from_text(self, visual: Tensor, texts: Tensor) -> Tensor:
        """(B,C,h,w) positions attend to (B,T,C) texts -> (B,C,h,w).

        With one text (evaluation) the softmax is 1 everywhere, so the map is constant and the instance norm
        leaves only its bias: the visual update has no effect at evaluation.
        """
        new = _attend(_places(self.v_proj1(visual)), self.t_proj2(texts), self.t_proj3(texts))
        return _tensor(self.v_output(_grid(new, visual)))

    def text_from_text(self, texts: Tensor, context: Tensor) -> Tensor:
        """(M,1,C) texts attend to (G,T,C) cues -> (M,1,C).

        Quirk: keys and values are reshaped where they should be transposed, so for T > 1 a "key" mixes the
        channels of several cues. G*T*C numbers are assigned to M rows in memory order: with partners (M =
        2G), even rows get their own cues and odd rows the partners'. With one text (evaluation) it has no
        effect.
        """
        rows, _, channels = texts.shape
        keys = self.t_proj2(context).reshape(rows, channels, -1).transpose(1, 2)
        values = self.t_proj3(context).reshape(rows, channels, -1).transpose(1, 2)
        return _tensor(self.t_output(_attend(self.t_proj1(texts), keys, values)))

    def forward(
        self, places: Tensor, main: Tensor, cue: Tensor, inputs: Inputs
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(B,N,C) positions, (M,C) queries, (R,B,C) local cues -> the next of both, and (B,T,C) to score.

        Quirk: cue j attends to image j only and is then shared with all images. The residuals are scaled by
        0.1 (the paper has no factor), and the queries attend to the image once more before they are scored.
        """
        scope, images = inputs.scope, len(places)
        visual, main = _grid(unit(places), inputs.visual), unit(main)
        context = scope.rows(self.text_from_visual(cue.transpose(0, 1), visual).transpose(0, 1))
        if scope.pairwise:
            context = context.expand(len(context) // len(cue), *context.shape)
        else:
            context = context.unsqueeze(1)
        main = main + self.gain * self.text_from_text(main.unsqueeze(1), context).squeeze(1)
        tokens = scope.spread(unit(main), images)
        scored = tokens + self.gain * self.text_from_visual(tokens, visual)
        visual = visual + self.gain * self.visual_from_text(visual, tokens)
        return _places(visual), main, scored


def released_stages(stages: Sequence[ReleasedStage], inputs: Inputs) -> tuple[Tensor, ...]:
    """The released code: stages 0 to K-2 use one phrase each, the last the whole expression as its cue."""
    places, main = unit(_places(inputs.visual)), unit(inputs.scope.rows(inputs.text))
    responses = []
    for number, stage in enumerate(stages):
        cue = inputs.text if number == len(stages) - 1 else inputs.cues[:, :, number]
        places, main, scored = stage(places, main, unit(cue), inputs)
        responses.append(inputs.score(places, scored))
    return tuple(responses)


class Comprehension(NamedTuple):
    """How stages of a ``comprehension`` are made and run, and whether its texts do not read each other."""

    make: Callable[..., nn.Module]
    run: Callable[..., tuple[Tensor, ...]]
    independent: bool


_SINGLE = Comprehension(lambda *_, **__: nn.Identity(), single_stages, independent=True)
COMPREHENSIONS = {
    "none": _SINGLE,
    "student": _SINGLE,
    "paper": Comprehension(PaperStage, paper_stages, independent=False),
    "plus": Comprehension(PlusStage, plus_stages, independent=True),
    "released": Comprehension(ReleasedStage, released_stages, independent=False),
}


class _Attention(nn.Module):
    """MLP(SoftMax(queries W1 (keys W2)^T / sqrt(C)) (keys W3)); the MLP's last layer starts at zero."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query = nn.Linear(channels, channels, bias=False)
        self.key = nn.Linear(channels, channels, bias=False)
        self.value = nn.Linear(channels, channels, bias=False)
        last = nn.Linear(channels, channels)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.mlp = nn.Sequential(nn.Linear(channels, channels), nn.ReLU(), last)

    def forward(self, queries: Tensor, context: Tensor) -> Tensor:
        """(B,n,C) queries over (B,m,C) context -> (B,n,C)."""
        queries = self.query(queries)
        if context.shape[1] <= queries.shape[1]:
            return _tensor(self.mlp(_attend(queries, self.key(context), self.value(context))))
        # Equal by associativity, with the projections applied to the shorter side: many positions, few texts.
        return _tensor(self.mlp(self.value(_attend(queries @ self.key.weight, context, context))))


def _attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """SoftMax(Q K^T / sqrt(C)) V over (..., n, C)."""
    return torch.softmax(queries @ keys.transpose(-1, -2) / sqrt(queries.shape[-1]), -1) @ values


def _normed(channels: int) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(channels, channels, 1), nn.InstanceNorm2d(channels, affine=True)


def _places(grid: Tensor) -> Tensor:
    return grid.flatten(2).transpose(1, 2)


def _grid(places: Tensor, like: Tensor) -> Tensor:
    return places.transpose(1, 2).reshape(like.shape)


def _tensor(value: Tensor) -> Tensor:
    """Declare the type of a module's call, which has none."""
    return value
