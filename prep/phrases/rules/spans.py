"""Finds the end of a cue that starts at a word: pure functions over word classes.

The hard part is attachment. "on the left" describes the target; "in a red shirt" describes the person named
last; "with stripes" after clothing describes the clothing.
"""

from __future__ import annotations

import re

from prep.phrases.rules.shapes import NOUN_PHRASE, POSITION, noun_phrase_end, place_end

_PREPOSITIONS = {*"IilwTFNO"}
_HELD = re.compile("Ih[ajcsmo0e]*k")


def predicate_end(tags: str, i: int) -> int:
    """The end of the verb, preposition, clause or negation at ``i``; ``i`` if there is none."""
    tag, after = tags[i], tags[i + 1 : i + 2]
    if tag in "Vvez":
        return verb_end(tags, i + (tag == "V" and after == "z"))  # "about to hit the ball"
    if tag in _PREPOSITIONS:
        return preposition_end(tags, i)
    if tag in "rR" or (tag == "u" and after in "bzVv"):
        return clause_end(tags, i + 1)
    if tag == "b":
        return clause_end(tags, i)
    if tag == "x":
        return negation_end(tags, i)
    if tag == "a" and after in "VvezIilwTFr":
        return predicate_end(tags, i + 1)
    return i


def negation_end(tags: str, i: int) -> int:
    """ "not on the left", "without a hat", "not the one on the left"."""
    j = i + 1
    end = place_end(tags, j)
    if end == j:
        end = predicate_end(tags, j)
    if end > j:
        return end
    j = noun_phrase_end(tags, j)
    if j == i + 1:
        return j
    return _described_other_end(tags, j)


def _described_other_end(tags: str, j: int) -> int:
    """A description of the negated object belongs to the negation."""
    end = place_end(tags, j)
    return end if end > j else predicate_end(tags, j)


def verb_end(tags: str, i: int) -> int:
    """ "holding a bat in his hands", "sits at a table", "dressed in black", "facing left"."""
    j = i + 1
    while tags[j] in "qa" or (tags[j] in "ej" and tags[j + 1] == "T"):  # "getting ready to jump"
        j += 1
    end = place_end(tags, j)
    if end > j and tags[i] != "e":
        # "looking back at the camera"
        return preposition_end(tags, end) if tags[end] in "iT" and not POSITION.match(tags, end) else end
    end = noun_phrase_end(tags, j)
    if end > j:
        j = end
        while tags[j] == "q":
            j += 1
    elif tags[i] == "e" and tags[j] == "O":
        return preposition_end(tags, j)
    elif tags[j] in "IilwTF":
        j = preposition_end(tags, j)
    else:
        return j
    return _complements_end(tags, j)


def _complements_end(tags: str, j: int) -> int:
    """The end of a verb's complements after its object: clauses, and locations of the action."""
    while not POSITION.match(tags, j):
        landmark = noun_phrase_end(tags, j + 1)
        if tags[j] == "l" and landmark > j + 1 and tags[j + 1] not in "hu" and tags[landmark - 1] != "k":
            break  # another cue: "sailing past the pier near the buoy", not "holding a bat behind the back"
        if tags[j] == "r" or (tags[j] == "R" and tags[j - 1] in "pf"):
            j = max(j + 1, predicate_end(tags, j))
        elif tags[j] in "iTlFI":
            if tags[j] == "I" and tags[j + 1] != "h" and tags[noun_phrase_end(tags, j + 1) - 1] in "kc":
                break
            end = preposition_end(tags, j)
            if end == j:
                break
            j = end
        else:
            break
    return j


def preposition_end(tags: str, i: int) -> int:
    """A preposition, its noun phrase, and the description of that noun phrase."""
    j = i
    while tags[j] in _PREPOSITIONS or tags[j] == "a" or tags.startswith("dl", j):  # "behind the left of"
        j += 1
    if tags[j] in "rR":
        return clause_end(tags, j + 1)
    end = place_end(tags, j)
    if end > j:
        return end
    match = NOUN_PHRASE.match(tags, j)
    if match:
        if tags[j - 1] == "T" and match.end() == j + 1 and tags[j + 1] in "dh":  # "trying to cross the road"
            match = NOUN_PHRASE.match(tags, j + 1) or match
        return described_end(tags, i, match)
    if tags[j] in "Vvx" or (tags[j] in "ze" and tags[i] == "T"):
        return predicate_end(tags, j)
    return j


def described_end(tags: str, i: int, match: re.Match[str]) -> int:
    """The end of all descriptions of the noun phrase ``match`` of the preposition (or verb) at ``i``."""
    owned = tags[i] in "wIV" and tags[match.end() - 1] in "kcjG"
    j = match.end()
    while True:
        end = _own_end(tags, i, match, j) if owned else _landmark_end(tags, i, j)
        if end <= j:
            return j
        j = end


def _own_end(tags: str, i: int, match: re.Match[str], j: int) -> int:
    """One more attribute of what the target wears or has: "with a hat on his head", "with legs crossed"."""
    tag, after = tags[j], tags[j + 1 : j + 2]
    if tag in "iIlT" and (after in "huk" or tag == "T"):
        return preposition_end(tags, j)
    if tag in "iIl" and tags[match.start()] == "h" and not POSITION.match(tags, j):
        return preposition_end(tags, j)
    if tags[i] == "w" and tag in "ejqi" and after in "$,&":
        return j + 1
    if tags[j - 1] != "k":
        return j
    if tags[i] == "w" and tag in "ev" and tags[match.start()] == "h":  # "with her back facing the camera"
        return predicate_end(tags, j)
    if tags[i] == "I" and tag == "w":
        end = noun_phrase_end(tags, j + 1)
        return end if tags[end - 1] not in "kpw" else j
    return j


def _landmark_end(tags: str, i: int, j: int) -> int:
    """One more attribute of a landmark: "the man in red", "the one on the left", "the cup with a straw"."""
    tag, after, last = tags[j], tags[j + 1 : j + 2], tags[j - 1]
    living = last in "pf"
    if tag in "iIlT" and after in "hu":
        return preposition_end(tags, j)
    if tag in "iI" and tags[i] == "l" and not living and not POSITION.match(tags, j):
        worn = tags[noun_phrase_end(tags, j + 1) - 1] in "kcIi"
        return j if worn else preposition_end(tags, j)
    if last == "f" and tag in "IilwsFo":
        end = place_end(tags, j)
        return end if end > j else predicate_end(tags, j)
    if tags[i] == "w" and not living:
        return _part_end(tags, i, j)
    if tag in ("VvewrR" if living else "wre"):
        end = predicate_end(tags, j)
        # "by the tent with a lamp in her hand": a tent has no hand.
        return j if tag == "w" and not living and _HELD.search(tags, j, end) else end
    if living and tag == "I":
        end = noun_phrase_end(tags, j + 1)
        return end if tags[end - 1] in "kc" else j
    if tag == "&" and tags[i] not in "wIV":
        end = noun_phrase_end(tags, j + 1)
        return end if end > j + 1 else j
    if tag == "i" and after == "$":
        return j + 1
    return j


def _part_end(tags: str, i: int, j: int) -> int:
    """One more attribute of a part of the target: "with several chairs around it", "with its door open"."""
    tag, after = tags[j], tags[j + 1 : j + 2]
    if tag in "ejqi" and after in "$,&":
        return j + 1
    if tag == "e" and after == "T" and tags[j + 2] not in "dhc":  # "with a bat ready to hit the ball"
        return j
    end = predicate_end(tags, j) if tag in "Vvewr" else j
    if tag == "r":  # "with three wheels that stands closest to the door" is not about the wheels
        return j if "0" in tags[i:j] or (after in "zb" and tags[j + 2] in "msolIi") else end
    if tag in "Vv" and tags[end - 1] != "u" and tags[j - 1] != "t":
        return j
    return end


def subject_end(tags: str, i: int) -> int:
    """The verb whose subject starts at ``i`` ("the man in black is"); ``i`` if there is none."""
    j = noun_phrase_end(tags, i)
    if j > i and tags[j] in "Iilw":
        j = preposition_end(tags, j)
    return j if tags[j] in "bzVvu" else i


def clause_end(tags: str, i: int) -> int:
    """The rest of a relative or finite clause after its pronoun or subject."""
    j = i
    while tags[j] in "bxa":
        j += 1
    end = place_end(tags, j)
    if end == j:
        end = predicate_end(tags, j)
    if end > j:
        return end
    j = noun_phrase_end(tags, j)
    if j == end:
        return j
    if "x" in tags[i:end]:
        return _described_other_end(tags, j)
    if tags[j] in "bx":
        return clause_end(tags, j)
    verb = subject_end(tags, end)
    if verb > end:
        return clause_end(tags, verb)
    if tags[j] in "zVve":
        return predicate_end(tags, j)
    if tags[j] == "N" or (tags[j] in "TIil" and tags[j - 1] in "mjco"):
        return preposition_end(tags, j)
    return j
