"""Makes text safe to show or store, and prints what a run is doing, as --quiet and --verbose want it."""

from __future__ import annotations

import re
import sys
import unicodedata
from typing import Literal

# A user name or password before the host. One with a "/", which no reader of URIs takes, is in messages.
_USER = re.compile(r"""(\b[A-Za-z][\w+.-]*://)(?:[^\s/?#@"'<>]*@|[^\s/?#@"'<>]+:(?!\d+/)[^\s?#@"'<>]*@)+""")
# The value of a parameter of a URI whose name says that it is a secret.
_PARAMETER = re.compile(
    r"""([?&][\w.%-]*(?:key|token|secret|passw|pwd|sig|credential|auth|session)[\w.%-]*=)[^\s&#"'<>]*""", re.I
)
_HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")


def without_secrets(text: str) -> str:
    """``text`` with the credentials of every URI in it left out."""
    if "://" not in text:
        return text
    return _PARAMETER.sub(r"\1...", _USER.sub(r"\1", text))


def shown(text: str) -> str:
    """``text`` as it may be printed: without credentials, and with controls but line breaks as escapes."""
    text = without_secrets(text)
    if text.isascii() and text.replace("\n", "").isprintable():
        return text
    return "".join(
        char.encode("unicode_escape").decode()
        if unicodedata.category(char) in _HIDDEN and char != "\n"
        else char
        for char in text
    )


Level = Literal["quiet", "normal", "verbose"]


class _Said:
    level: Level = "normal"


def set_level(level: Level) -> None:
    """How much this process says from now on: ``quiet`` is errors and results alone."""
    _Said.level = level


def is_quiet() -> bool:
    """Whether nothing but errors and results is printed."""
    return _Said.level == "quiet"


def is_verbose() -> bool:
    """Whether what libraries print goes to the terminal, and not to a log file."""
    return _Said.level == "verbose"


def tell(line: str) -> None:
    """Print what a run is doing, on standard error; nothing if quiet."""
    if not is_quiet():
        print(shown(line), file=sys.stderr, flush=True)
