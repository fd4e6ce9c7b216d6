"""The stages against their equations written as plain loops, and against two processes that share a batch."""

from __future__ import annotations

import threading
from dataclasses import replace
from math import sqrt
from typing import Any

import pytest
import torch
from torch import Tensor

from pcnet.model.inputs import Inputs, Scope
from pcnet.model.stages import (
    COMPREHENSIONS,
    PaperStage,
    PlusStage,
    ReleasedStage,
    paper_stages,
    plus_stages,
    released_stages,
    single_stages,
)

C, H, W = 6, 3, 4


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)


def stages(kind: str, number: int = 3, gain: float = 0.5) -> torch.nn.ModuleList:
    torch.manual_seed(4)
    make = COMPREHENSIONS[kind].make
    made = torch.nn.ModuleList(make(C, gain, first=k == 0) for k in range(number))
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return made


def inputs(images: int = 3, texts: int = 1, pairwise: bool = True) -> Inputs:
    torch.manual_seed(5)
    return Inputs(
        scale=torch.tensor(4.0),
        visual=torch.randn(images, C, H, W),
        text=torch.randn(texts, images, C),
        cues=torch.randn(texts, images, 3, C),
        scope=Scope(pairwise),
    )


def attend(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """One query (C) over keys and values (n,C)."""
    weights = torch.softmax(torch.stack([query @ key / sqrt(C) for key in keys]), 0)
    return sum((w * v for w, v in zip(weights, values, strict=True)), torch.zeros(C))


def attention(module: Any, query: Tensor, context: Tensor) -> Tensor:
    keys, values = module.key(context), module.value(context)
    return module.mlp(attend(module.query(query), keys, values))


def test_single_is_the_scaled_cosine() -> None:
    given = inputs()
    (got,) = single_stages([], given)
    for i in range(3):
        for j in range(3):
            cosine = torch.cosine_similarity(given.visual[i], given.text[0, j].view(C, 1, 1), dim=0)
            torch.testing.assert_close(got[i, j], 4 * cosine)


def test_paper_stages_are_equations_2_to_4() -> None:
    given, modules = inputs(images=2), stages("paper", 2)
    got = paper_stages(modules, given)
    for i in range(2):
        places = [unit(v) for v in given.visual[i].flatten(1).T]
        queries = [unit(q) for q in given.text[0]]
        for n, stage in enumerate(modules):
            assert isinstance(stage, PaperStage)
            visual = torch.stack(places)
            cues = torch.stack(
                [q + attention(stage.cue_from_visual, q, visual) for q in unit(given.cues[0, :, n])]
            )
            queries = [q + 0.5 * attention(stage.query_from_cues, q, cues) for q in queries]
            texts = torch.stack(queries)
            places = [v + 0.5 * attention(stage.visual_from_query, v, texts) for v in places]
            wanted = torch.stack([torch.stack([4 * unit(v) @ unit(q) for v in places]) for q in queries])
            torch.testing.assert_close(got[n][i].flatten(1), wanted, rtol=1e-4, atol=1e-4)


def test_plus_stages_sum_their_cues_and_gate_by_the_stage_before() -> None:
    given, modules = inputs(images=2), stages("plus")
    got = plus_stages(modules, given)
    for i in range(2):
        places = unit(given.visual[i].flatten(1).T)
        for j in range(2):
            total, before = torch.zeros(C), None
            for n, stage in enumerate(modules):
                assert isinstance(stage, PlusStage)
                cue = unit(given.cues[0, j, n])
                total = total + cue + (unit(given.text[0, j]) if n == 2 else 0)
                query = unit(unit(total) + 0.5 * attention(stage.cue_from_visual, cue, places))
                response = 4 * places @ query
                if before is not None:
                    positive = before.clamp(min=0)
                    response = response + 2 * stage.gate * torch.log(positive / positive.max() + 0.05)
                torch.testing.assert_close(got[n][i, j].flatten(), response, rtol=1e-4, atol=1e-4)
                before = response


def test_an_image_alone_answers_as_in_a_batch() -> None:
    """Evaluation has one text an image; its responses are those that training computes for all."""
    torch.manual_seed(4)
    made = torch.nn.ModuleList(PlusStage(C, 0.5, first=k == 0) for k in range(3))
    for name, parameter in made.named_parameters():
        if name.endswith("mlp.2.weight"):
            torch.nn.init.normal_(parameter)
    together = plus_stages(made, inputs())
    alone = plus_stages(made, inputs(pairwise=False))
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one[torch.arange(3), torch.arange(3)], other[:, 0])


def test_the_gate_carries_no_gradient_back() -> None:
    given, modules = inputs(images=1), stages("plus", 2)
    got = plus_stages(modules, given)
    got[1].sum().backward()
    first = modules[0]
    assert isinstance(first, PlusStage)
    assert all(p.grad is None for p in first.parameters())


def test_the_released_text_attention_reshapes_where_it_should_transpose() -> None:
    (stage,) = stages("released", 1)
    assert isinstance(stage, ReleasedStage)
    texts, context = torch.randn(4, 1, C), torch.randn(1, 4, C).expand(4, 4, C)
    got = stage.text_from_text(texts, context)
    keys, values = stage.t_proj2(context), stage.t_proj3(context)
    for row in range(4):
        flat_keys, flat_values = keys[row].flatten(), values[row].flatten()
        # "Key" n holds number c * 4 + n of the memory at channel c; the true key n holds n * C + c.
        mixed = [torch.stack([flat_keys[c * 4 + n] for c in range(C)]) for n in range(4)]
        carried = [torch.stack([flat_values[c * 4 + n] for c in range(C)]) for n in range(4)]
        wanted = stage.t_output(
            attend(stage.t_proj1(texts)[row, 0], torch.stack(mixed), torch.stack(carried))
        )
        torch.testing.assert_close(got[row, 0], wanted)
    alone = stage.text_from_text(texts[:1], context[:1, :1])
    torch.testing.assert_close(alone[0, 0], stage.t_output(stage.t_proj3(context[0, 0])))


def test_the_released_visual_update_vanishes_with_one_text() -> None:
    (stage,) = stages("released", 1)
    assert isinstance(stage, ReleasedStage)
    update = stage.visual_from_text(torch.randn(2, C, H, W), torch.randn(2, 1, C))
    bias = stage.v_output[1].bias.view(1, C, 1, 1).expand_as(update)
    torch.testing.assert_close(update, bias, atol=2e-3, rtol=0)


@pytest.mark.parametrize(("kind", "run"), [("paper", paper_stages), ("plus", plus_stages)])
def test_in_evaluation_no_other_text_has_a_say(kind: str, run: Any) -> None:
    modules, given = stages(kind), inputs(pairwise=False)
    whole = run(modules, given)
    for i in range(3):
        one = Inputs(
            given.scale,
            given.visual[i : i + 1],
            given.text[:, i : i + 1],
            given.cues[:, i : i + 1],
            given.scope,
        )
        for got, alone in zip(whole, run(modules, one), strict=True):
            torch.testing.assert_close(got[i], alone[0])


class Meeting:
    """Two threads that gather each other's tensors as two processes would."""

    def __init__(self) -> None:
        self.barrier = threading.Barrier(2)
        self.given: list[Tensor | None] = [None, None]

    def gather(self, rank: int) -> Any:
        def gathered(local: Tensor) -> Tensor:
            self.given[rank] = local
            self.barrier.wait(10)
            whole = torch.cat([one for one in self.given if one is not None])
            self.barrier.wait(10)
            return whole

        return gathered


@pytest.mark.parametrize(("kind", "run"), [("none", single_stages), ("plus", plus_stages)])
def test_the_other_texts_of_an_image_are_scored_against_it_alone_where_texts_do_not_read_each_other(
    kind: str, run: Any
) -> None:
    images, modules, given = 3, stages(kind), inputs(texts=3)
    assert COMPREHENSIONS[kind].independent
    every, needed = run(modules, given), run(modules, replace(given, independent=True))
    for whole, part in zip(every, needed, strict=True):
        own = torch.arange(images)
        partners, swapped = whole[own, images + own], whole[own, 2 * images + own]
        wanted = torch.cat([whole[:, :images], partners[:, None], swapped[:, None]], 1)
        torch.testing.assert_close(part, wanted)


@pytest.mark.parametrize("texts", [1, 2])
@pytest.mark.parametrize(
    ("kind", "run"), [("paper", paper_stages), ("plus", plus_stages), ("released", released_stages)]
)
def test_two_processes_see_what_one_does(kind: str, run: Any, texts: int) -> None:
    modules = stages(kind)
    given = replace(inputs(images=4, texts=texts), independent=COMPREHENSIONS[kind].independent)
    with torch.no_grad():
        whole = run(modules, given)
    meeting, parts = Meeting(), [(), ()]

    def work(rank: int) -> None:
        mine = slice(2 * rank, 2 * rank + 2)
        scope = Scope(pairwise=True, gather=meeting.gather(rank), rank=rank)
        parts_of = {"visual": given.visual[mine], "text": given.text[:, mine], "cues": given.cues[:, mine]}
        local = replace(given, **parts_of, scope=scope)
        with torch.no_grad():
            parts[rank] = run(modules, local)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    for n, expected in enumerate(whole):
        torch.testing.assert_close(torch.cat([parts[0][n], parts[1][n]]), expected, rtol=1e-4, atol=1e-5)
