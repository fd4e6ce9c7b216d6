"""Counts the tokens of a text in CLIP's text encoder: exact, without torch, with a cache per word."""

from __future__ import annotations

import gzip
import html
import re
from functools import lru_cache
from importlib import resources
from itertools import pairwise

# The released code truncates at 20 tokens including start and end; 18 of the phrase's own keep the end token.
MAX_TOKENS = 18

_MERGES = 49152 - 256 - 2
_ASCII = re.compile(r"<start_of_text>|<end_of_text>|'s|'t|'re|'ve|'m|'ll|'d|[a-z]+|[0-9]|[^\sa-z0-9]+")
# The same over all letters and digits, for the regex package.
_UNICODE = r"<start_of_text>|<end_of_text>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def fits(text: str) -> bool:
    """Whether ``text`` has at most ``MAX_TOKENS`` tokens; a short one is not tokenised: no token is empty."""
    short = len(text) <= MAX_TOKENS and text.isascii() and "&" not in text
    return short or count_tokens(text) <= MAX_TOKENS


@lru_cache(maxsize=1 << 14)
def count_tokens(text: str) -> int:
    """The number of tokens of ``text`` in CLIP's byte-pair encoding, without the start and end tokens.

    Equal to ``len(open_clip.tokenizer.SimpleTokenizer().encode(text))``. ``clip_merges.txt.gz`` holds the
    merges of that tokenizer that CLIP uses, so that phrases by rules need no torch.
    """
    if not (text.isascii() and text.isprintable() and "&" not in text):
        import ftfy

        text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return sum(map(_word, text.lower().split()))


@lru_cache(maxsize=1 << 15)
def _word(word: str) -> int:
    """The number of tokens of one word without white space; no CLIP token spans white space."""
    if word.isascii() and word.isalpha() and f"{word}</w>" in _merges()[1]:
        return 1
    if word.isascii():
        parts = _ASCII.findall(word)
    else:
        import regex  # type: ignore[import-untyped]

        parts = regex.findall(_UNICODE, word, regex.IGNORECASE)
    return sum(1 if part in {"<start_of_text>", "<end_of_text>"} else _pieces(part) for part in parts)


def _pieces(part: str) -> int:
    ranks, known = _merges()
    if part.isascii() and f"{part}</w>" in known:
        # If the merges reduce the end of a longer word to this, they also reduce that end alone to it.
        return 1
    symbols = [_byte_symbols()[byte] for byte in part.encode("utf-8", "replace")]
    symbols[-1] += "</w>"
    while len(symbols) > 1:
        pairs = list(pairwise(symbols))
        best = min(pairs, key=lambda pair: ranks.get(pair, _MERGES))
        if best not in ranks:
            break
        merged: list[str] = []
        i = 0
        while i < len(symbols):
            if i + 1 < len(symbols) and (symbols[i], symbols[i + 1]) == best:
                merged.append(symbols[i] + symbols[i + 1])
                i += 2
            else:
                merged.append(symbols[i])
                i += 1
        symbols = merged
    return len(symbols)


@lru_cache(maxsize=1)
def _merges() -> tuple[dict[tuple[str, str], int], frozenset[str]]:
    """The rank of each pair that CLIP merges, and the results of the merges."""
    packed = resources.files("prep.phrases").joinpath("clip_merges.txt.gz").read_bytes()
    lines = gzip.decompress(packed).decode("utf-8").splitlines()
    ranks = {(first, second): rank for rank, (first, second) in enumerate(map(str.split, lines))}
    return ranks, frozenset(first + second for first, second in ranks)


@lru_cache(maxsize=1)
def _byte_symbols() -> dict[int, str]:
    """CLIP's printable character for each byte: Latin-1's printable ones themselves, then 256 and up."""
    plain = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return {byte: chr(byte) if byte in plain else chr(next(others)) for byte in range(256)}
