"""Tokenises text: CLIP's byte-pair encoding, or whole words for the tiny encoder."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from prep.errors import PrepError, reason_of
from prep.records import Untyped

if TYPE_CHECKING:
    from open_clip.tokenizer import SimpleTokenizer

LENGTH = 20  # tokens per text, as in the released code
CLIP_CONTEXT = 77
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_WORD = re.compile(r"\w+|[^\w\s]")


class Tokenizer(Protocol):
    """Converts texts to (M,L) int64 ids; a checkpoint stores ``as_dict``."""

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """(M,L) int64 ids, one row per text, padded with 0."""
        ...

    def as_dict(self) -> dict[str, object]:
        """Plain values from which :func:`from_dict` makes the same tokenizer."""
        ...


class ClipTokenizer:
    """CLIP's byte-pair encoding to ``length`` ids: start, the text, end, zeros.

    A longer text is truncated but keeps the end token, at which the text encoder reads its feature. With
    ``released``, texts are truncated as in the released code: the 77-token row is sliced, so a long text has
    no end token (its feature is then read at the largest word id), and a text of more than 77 tokens raises
    PrepError.
    """

    def __init__(self, length: int = LENGTH, released: bool = False) -> None:
        self.length = length
        self.released = released

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """(M,length) int64 ids."""
        ids = torch.zeros(len(texts), self.length, dtype=torch.int64)
        pairs = _byte_pairs()
        for row, text in enumerate(texts):
            tokens = [pairs.sot_token_id, *pairs.encode(text), pairs.eot_token_id]
            if self.released and len(tokens) > CLIP_CONTEXT:
                raise PrepError(
                    f"A text has {len(tokens)} tokens, more than CLIP's {CLIP_CONTEXT}: {text[:60]!r}...",
                    "Use another recipe: only the released one rejects long texts.",
                )
            if len(tokens) > self.length:
                tokens = tokens[: self.length]
                if not self.released:
                    tokens[-1] = pairs.eot_token_id
            ids[row, : len(tokens)] = torch.tensor(tokens)
        return ids

    def as_dict(self) -> dict[str, object]:
        """Plain values for a checkpoint."""
        return {"kind": "clip", "length": self.length, "released": self.released}


class WordTokenizer:
    """Maps lower-cased words and punctuation to ids: 0 is padding, 1 is the unknown word."""

    def __init__(self, words: Sequence[str], length: int = LENGTH) -> None:
        self.words = tuple(words)
        self.length = length
        self._id = {word: index for index, word in enumerate(self.words, start=2)}

    @classmethod
    def from_texts(cls, texts: Iterable[str], length: int = LENGTH, minimum: int = 1) -> WordTokenizer:
        """The tokenizer of the words that occur at least ``minimum`` times, in alphabetical order."""
        counts = Counter(word for text in texts for word in _WORD.findall(text.lower()))
        return cls(sorted(word for word, count in counts.items() if count >= minimum), length)

    @property
    def vocabulary(self) -> int:
        """The number of ids, including padding and the unknown word."""
        return len(self.words) + 2

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """(M,length) int64 ids; longer texts are truncated, an empty one becomes the unknown word."""
        ids = torch.zeros(len(texts), self.length, dtype=torch.int64)
        for row, text in enumerate(texts):
            tokens = [self._id.get(word, 1) for word in _WORD.findall(text.lower())][: self.length] or [1]
            ids[row, : len(tokens)] = torch.tensor(tokens)
        return ids

    def as_dict(self) -> dict[str, object]:
        """Plain values for a checkpoint."""
        return {"kind": "words", "length": self.length, "words": list(self.words)}


class HfTokenizer:
    """A tokenizer of transformers, kept as the text of its tokenizer.json: it needs no download later.

    Texts are padded to ``length`` ids with ``pad`` and truncated before the closing special tokens. With
    ``clean``, lower-cased and without punctuation, as open_clip does for SigLIP.
    """

    def __init__(self, json: str, length: int, pad: int, clean: bool = False) -> None:
        from tokenizers import Tokenizer as Fast

        self.json, self.length, self.pad, self.clean = json, length, pad, clean
        self._fast = Fast.from_str(json)
        self._fast.enable_truncation(length)
        self._fast.enable_padding(length=length, pad_id=pad)

    @classmethod
    def load(cls, source: str, length: int, clean: bool = False) -> HfTokenizer:
        """The tokenizer of a model of the hub or of a folder.

        :raises PrepError: if it cannot be loaded, or has no tokenizer.json.
        """
        from transformers import AutoTokenizer

        try:
            loaded = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
            json = loaded.backend_tokenizer.to_str()
        except Exception as error:  # transformers and the hub raise many types
            raise PrepError(
                f"The tokenizer of {source} could not be loaded: {reason_of(error)}.",
                "Give a folder with tokenizer.json, or download the model first.",
            ) from error
        return cls(json, length, loaded.pad_token_id or 0, clean)

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """(M,length) int64 ids."""
        cleaned = [_canonical(text) for text in texts] if self.clean else list(texts)
        return torch.tensor([one.ids for one in self._fast.encode_batch(cleaned)], dtype=torch.int64)

    def as_dict(self) -> dict[str, object]:
        """Plain values for a checkpoint."""
        return {"kind": "hf", "json": self.json, "length": self.length, "pad": self.pad, "clean": self.clean}


def _canonical(text: str) -> str:
    return " ".join(text.translate(_PUNCTUATION).lower().split())


def from_dict(values: Mapping[str, Untyped]) -> ClipTokenizer | WordTokenizer | HfTokenizer:
    """The tokenizer from what ``as_dict`` returned."""
    if values.get("kind") == "hf":
        return HfTokenizer(values["json"], int(values["length"]), int(values["pad"]), bool(values["clean"]))
    if values.get("kind") == "clip":
        return ClipTokenizer(int(values["length"]), bool(values["released"]))
    if values.get("kind") == "words":
        return WordTokenizer(values["words"], int(values["length"]))
    raise PrepError(f"Unknown tokenizer {values.get('kind')!r}.", "Update pcnet-prep, or train again.")


@cache
def _byte_pairs() -> SimpleTokenizer:
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer()
