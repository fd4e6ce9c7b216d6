"""Builds batches of tensors: texts are tokenised once, masks and images are gathered by index."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pcnet.data.antonyms import opposite
from pcnet.data.batch import Batch
from pcnet.data.images import Pixels, normalise_pixels
from pcnet.data.sampler import Draw
from pcnet.data.table import SampleTable
from pcnet.data.tokenizers import Tokenizer

T = TypeVar("T")
R = TypeVar("R")


def pad_phrases(phrases: Sequence[str], count: int) -> list[str]:
    """``phrases`` padded to ``count`` by repeating them from the start, or truncated to the first ``count``.

    The paper brings every list to five phrases by duplicating some of them (eq. 1).
    """
    return [phrases[i % len(phrases)] for i in range(count)]


def encode_texts(texts: Sequence[str], tokenizer: Tokenizer) -> NDArray[np.int32]:
    """Ids (N, L) of ``texts``; each distinct text is tokenised once."""
    number: dict[str, int] = {}
    places = [number.setdefault(text, len(number)) for text in texts]
    ids = tokenizer(list(number)).numpy().astype(np.int32)
    return ids[np.asarray(places, dtype=np.int64)]


class BatchMaker:
    """Turns a :class:`Draw` into a :class:`Batch`; safe to call from several threads.

    ``phrases`` is the number of phrases per expression, 0 for a model that reads none. ``opposites`` adds the
    texts with their directions swapped.
    """

    def __init__(
        self, table: SampleTable, pixels: Pixels, tokenizer: Tokenizer, phrases: int, opposites: bool = False
    ) -> None:
        self.table, self.pixels = table, pixels
        self.slots = max(table.max_masks, 1)
        self.expression_ids = encode_texts(table.expressions, tokenizer)
        flat = [text for own in table.phrases for text in pad_phrases(own, phrases)]
        self.phrase_ids = encode_texts(flat, tokenizer).reshape(
            len(table), phrases, self.expression_ids.shape[1]
        )
        self.turned = _Turned(table.expressions, flat, tokenizer) if opposites else None

    def __call__(self, draw: Draw) -> Batch:
        """The batch of a draw; its images are uint8 in [0, 255] (see :func:`finish`)."""
        images = self.table.image[draw.anchors]
        masks, real = self.table.masks(images, self.slots)
        return Batch(
            images=torch.from_numpy(self.pixels.stack(images)),
            expression_ids=_ids(self.expression_ids[draw.anchors]),
            phrase_ids=_ids(self.phrase_ids[draw.anchors]),
            # numpy, because torch would split this small operation over its threads and wait for them.
            grid=torch.from_numpy(masks.astype(np.float32)),
            partner_expression_ids=_ids(self.expression_ids[draw.partners]),
            partner_phrase_ids=_ids(self.phrase_ids[draw.partners]),
            same_image=torch.from_numpy(draw.same_image),
            **(self.turned(draw.anchors) if self.turned else {}),
            negative_ids=_ids(self.expression_ids[draw.negatives]),
            clip_scores=self._scores(draw, real),
            row_ids=tuple(self.table.row_ids[i] for i in draw.anchors),
        )

    def _scores(self, draw: Draw, real: NDArray[np.bool_]) -> Tensor | None:
        if self.table.scores is None:
            return None
        padded = np.full(real.shape, -np.inf, dtype=np.float32)  # padding is never the best
        for row, sample in enumerate(draw.anchors):
            own = self.table.scores[sample]
            padded[row, : len(own)] = own
        return torch.from_numpy(padded)


class _Turned:
    """The token ids of every sample's texts with their directions swapped."""

    def __init__(self, expressions: Sequence[str], phrases: Sequence[str], tokenizer: Tokenizer) -> None:
        turned = [opposite(text) for text in expressions]
        self.known = np.array([new != old for new, old in zip(turned, expressions, strict=True)], dtype=bool)
        self.expression_ids = encode_texts(turned, tokenizer)
        self.phrase_ids = encode_texts([opposite(text) for text in phrases], tokenizer).reshape(
            len(turned), len(phrases) // len(turned), self.expression_ids.shape[1]
        )

    def __call__(self, samples: NDArray[np.int64]) -> dict[str, Tensor]:
        """The batch fields of these samples."""
        return {
            "opposite_expression_ids": _ids(self.expression_ids[samples]),
            "opposite_phrase_ids": _ids(self.phrase_ids[samples]),
            "has_opposite": torch.from_numpy(self.known[samples]),
        }


def _ids(array: NDArray[np.int32]) -> Tensor:
    return torch.from_numpy(array.astype(np.int64))


def finish(batch: Batch, device: torch.device) -> Batch:
    """The batch on ``device`` with normalised float images; uint8 is copied and converted on the device."""
    moved = batch.to(device, non_blocking=True)
    return replace(moved, images=normalise_pixels(moved.images))


def prefetch(make: Callable[[T], R], items: Iterable[T], threads: int) -> Iterator[R]:
    """``make`` of each item, in order, prefetching up to two results per thread; none with 0 threads.

    The results do not depend on the number of threads, because ``make`` depends on its item only.
    """
    if threads <= 0:
        yield from map(make, items)
        return
    with ThreadPoolExecutor(threads, thread_name_prefix="batch") as pool:
        waiting: deque[Future[R]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(make, item))
                if len(waiting) > 2 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
