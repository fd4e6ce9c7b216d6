"""An expression as words, classes and lemmas: looked up, guessed by ending, settled by neighbours."""

from __future__ import annotations

import re
from functools import lru_cache

from prep.cache.keys import normalise_text
from prep.phrases.lexicon import IRREGULAR, SHADES, lexicon

# What the rules read of an expression; the longest real one has fewer than half as many words.
MAX_WORDS = 80
MAX_LETTERS = 24

_WORD = re.compile(r"w/|'s\b|[^\W_]+(?:['-][^\W_]+)*'?|[&,;:.!?()+@|=/]")
_POSSESSIVE = re.compile(r"(?<=\w)'s$|(?<=s)'$")
_HYPHEN = re.compile(r"(?<=\w) - (?=\w)")
_ORDINAL = re.compile(r"\d+(?:st|nd|rd|th)")
_CONTRACTED = frozenset({"that's", "who's", "it's", "he's", "she's", "there's", "what's"})
_NOUNS = "npkgtf"
_FRUIT = frozenset({"orange", "peach", "lime", "olive"})
_VERB_OR_NOUN = {
    *(
        "drinks",
        "covers",
        "brushes",
        "combs",
        "points",
        "cuts",
        "rests",
        "shows",
        "stands",
        "washes",
        "feeds",
    ),
    *("pets", "poses", "works", "bends", "turns", "crosses", "skis", "surfs", "skates", "catches", "plays"),
    *("looks", "hits", "swings", "walks", "runs", "rides", "see"),
    *("rest", "blows", "bites", "licks", "kicks", "hugs", "kisses"),
    *("lay", "get", "go", "wear", "eat", "ride", "hold"),
}
_KIN = {
    *("baby", "mother", "mom", "mama", "adult", "male", "female", "child", "papa", "father", "infant", "kid"),
    *("teenage", "teen"),
}


@lru_cache(maxsize=1 << 17)
def guess(word: str) -> str:
    """The class of a word by the lexicon or, where it is not there, by its ending and parts."""
    known = lexicon().words.get(word) or lexicon().compounds.get(word)
    if word.endswith(_SIDES) and not known:
        return "l"
    if known:
        return known
    if word.isdigit():
        return "0"
    if _ORDINAL.fullmatch(word):
        return "o"
    if _CHATTER.fullmatch(word):
        return "y"
    if "-" in word:
        first, last = word.split("-", 1)[0], word.rsplit("-", 1)[1]
        if guess(first) in "cjso0m" or last.endswith(("ed", "ing", "like", "free", "shaped")):
            return "j"
        return guess(last) if last else "n"
    return _by_ending(word)


def _by_ending(word: str) -> str:
    size = len(word)
    if size > 3 and word.endswith("s") and not word.endswith("ss"):
        singular = lexicon().words.get(word[:-1], "")
        if singular and singular in "npkgtfj":
            return "n" if singular == "j" else singular
    if size > 4 and word.endswith("ing"):
        return "v"
    if size > 3 and word.endswith("ed") and not word.endswith("eed"):
        return "e"
    if size > 5 and word.endswith("est"):
        return "m"
    if size > 5 and word.endswith(("less", "ful", "like", "ish")):
        return "j"
    if size > 5 and word.endswith("ly") and word not in _NOT_ADVERBS:
        return "a"
    if size > 6 and word.endswith(("woman", "women")):
        return "p"
    return "n"


@lru_cache(maxsize=1 << 17)
def stem(word: str) -> str:
    """The lemma by which words are compared: number, tense and the comparing endings taken off ("wearing":
    "wear").

    It is a key, not always a word: "riding" and "ride" both become "rid".
    """
    return _regular_stem(IRREGULAR.get(word, word))


def _regular_stem(word: str) -> str:
    size = len(word)
    if size > 4 and word.endswith("ies"):
        word = word[:-3] + "y"
    elif size > 4 and word.endswith(("ches", "shes", "sses", "xes", "zes")):
        word = word[:-2]
    elif size > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-1]
    elif size > 5 and word.endswith("ing"):
        word = _undouble(word[:-3])
    elif size > 4 and word.endswith("ed"):
        word = _undouble(word[:-2])
    word = IRREGULAR.get(word, word)
    return word[:-1] if len(word) > 3 and word.endswith("e") else word


def _undouble(word: str) -> str:
    if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "lsz":
        return word[:-1]
    return word


def read(text: str) -> tuple[list[str], str]:
    """The words of ``text``, lower case, compounds such as "next to" as one; and a class letter for each."""
    line = normalise_text(text)
    if not line.isascii():
        line = (
            line.replace("\u2019", "'").replace("\u2018", "'").replace("\u2014", ",").replace("\u2013", ",")
        )
    if " ' " in line or " - " in line:
        line = _HYPHEN.sub("-", line.replace(" ' s ", "'s ").replace(" ' ", "' "))
    words = _split([word[:MAX_LETTERS] for word in _WORD.findall(line)[: 2 * MAX_WORDS]])
    tags = [guess(word) for word in words]
    for i, word in enumerate(words):
        if word in _CONTEXT or tags[i] == "p":
            tags[i] = _in_context(word, tags, words, i)
        elif word in _MADE_UP and i and tags[i - 1] in "jmn" and not (word == "looking" and _ends(tags, i)):
            tags[i - 1] = "a"
        elif tags[i] == "N" and i and words[i - 1].endswith("er"):
            tags[i - 1] = "m"
    return words, "".join(tags)


def _ends(tags: list[str], i: int) -> bool:
    """Whether no noun or adjective follows."""
    return i + 1 == len(tags) or tags[i + 1] not in "npkgtfjc"


def _split(found: list[str]) -> list[str]:
    """Possessive marks apart, compounds joined."""
    words: list[str] = []
    for token in found:
        word = token
        if "'" in word and word not in _CONTRACTED and len(word) > 2:
            mark = _POSSESSIVE.search(word)
            if mark:
                words.append(word[: mark.start()])
                words.append("'s")
                continue
            word = word.rstrip("'")
        words.append(word)
    _, compounds, longest = lexicon()
    if not any(word in longest for word in words):
        return words[:MAX_WORDS]
    joined: list[str] = []
    i, n = 0, len(words)
    while i < n:
        for size in range(min(longest.get(words[i], 1), n - i), 1, -1):
            phrase = " ".join(words[i : i + size])
            if joined and phrase in _SIDES and guess(joined[-1]) == "s":
                phrase = f"{joined.pop()} {phrase}"
            if phrase in compounds or phrase.endswith(_SIDES):
                joined.append(phrase)
                i += size
                break
        else:
            joined.append(words[i])
            i += 1
    return joined[:MAX_WORDS]


_NOT_ADVERBS = {
    *(
        "family",
        "butterfly",
        "assembly",
        "supply",
        "trolly",
        "gravely",
        "curly",
        "lovely",
        "friendly",
        "firefly",
    ),
    *(
        "elderly",
        "dragonfly",
        "lonely",
        "likely",
        "smelly",
        "bubbly",
        "deadly",
        "wrinkly",
        "wobbly",
        "cuddly",
    ),
}
# "bottom left of": a place before one of these is part of it.
_SIDES = ("left of", "right of")
_FILLED = {"empty", "full", "open", "naked", "asleep", "done", "gone", "hidden", "dead", "bald"}
# "medium sized", "odd looking", "long haired": the word before belongs to it.
_MADE_UP = {"sized", "shaped", "looking", "haired", "faced", "eyed", "legged", "sleeved", "skinned", "handed"}
_NEAREST = {"nearest", "closest", "closer", "nearer", "furthest", "farthest"}
_MATERIALS = {
    *(
        "denim",
        "leather",
        "marble",
        "metal",
        "plastic",
        "stone",
        "concrete",
        "brick",
        "silk",
        "lace",
        "wicker",
    ),
    *("straw", "cardboard", "rubber", "brass", "steel", "iron", "wood", "glass", "floral", "plaid"),
}
_CONTEXT = frozenset(
    {"that", "one", "top", "back", "half", "quarter", "can", "'s", "number", "right"}
    | {*_NEAREST, *SHADES, *_FRUIT, *_VERB_OR_NOUN, *_KIN, *_MATERIALS}
)
_CHATTER = re.compile(r"u+h+m*|u+m+|h+m+|lo+l+|a+w+|ha(?:ha)+|he(?:he)+|y+e+s+|o+h+|o+k+|ye+a+h+|e+r+m*")


def _in_context(word: str, tags: list[str], words: list[str], i: int) -> str:
    """The class of a word that has several, by its neighbours' classes (those before it are settled)."""
    before = tags[i - 1] if i else ""
    after = tags[i + 1] if i + 1 < len(tags) else ""
    if word == "'s":
        return "'"
    if word == "that":
        return "r" if before and before in "npkgtfucsomeq0" else "d"
    if word == "one":
        return "0" if after and after in "npkgt" and before not in {*"djcsom0"} else "f"
    if word in SHADES:
        if after == "c" or (i + 1 < len(words) and words[i + 1] in SHADES):
            return "a"
        return "j" if after and after in _NOUNS else SHADES[word]
    if word in _FRUIT:
        return "c" if (after and after in "npkgtfc&") or (before and before in "Ic&pa") else "n"
    if word == "top":
        return "k" if before and before in "ce" and (not after or after not in "npkgtfsO") else "s"
    if word in _MATERIALS:
        kinds = "npkgtf" if word == "glass" else "npkgtfjcG"
        return "j" if after and after in kinds else "n"
    if word == "back":
        return "k" if before and before in "h'w" else "s"
    if word in {"half", "quarter"}:
        return (
            "a"
            if after == "e" or (i + 1 < len(words) and words[i + 1] in _FILLED)
            else ("t" if after in {"O", "d"} else "j")
        )
    if word == "right":
        if before and before in "sIidT":
            return "s"
        return "a" if after == "l" or (after in {"I", "i"} and before in {"r", "b", "R"}) else "s"
    if word in _NEAREST:
        return "l" if before in {*"npkgtf"} and after and after in "npkdhf" else "m"
    if word == "number":
        return "0" if after == "0" else "n"
    if word == "can":
        return "n" if before and before in "dcjn" else "b"
    if word in _VERB_OR_NOUN:
        return "z" if before and before in "prRq&fu" and i else ("n" if word != "lay" else "v")
    return _creature(word, before, after)


def _creature(word: str, before: str, after: str) -> str:
    if word in _KIN and after == "p":
        return "j"
    if after == "k" or (after == "n" and word.endswith("s") and stem(word) != word):
        return "G"
    return "p"
