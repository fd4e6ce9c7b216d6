"""Shows the roles of docstrings (:func:`name`) as plain code on the page of functions and classes."""

import re
from typing import Any

from griffe import Extension, Object

_ROLE = re.compile(r":(?:func|class|data|meth|mod|attr|exc):`~?([^`]+)`")


class Roles(Extension):
    """Replaces each role in a docstring by its target, in code font."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Rewrite the docstring of an object, if it has one."""
        if obj.docstring is not None:
            obj.docstring.value = _ROLE.sub(r"`\1`", obj.docstring.value)
