"""Builds a self-contained web page: template, styles, scripts and content in one file."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from prep.display import without_secrets
from prep.errors import PrepError
from prep.files import write_whole


def render(package: str, name: str, content: Mapping[str, Any]) -> str:
    """``NAME.html`` of ``package`` with its ``NAME.js``, the shared styles and script, and the content.

    The content is compressed and base64-encoded, so none of its text is parsed as markup; the script decodes
    it.
    """
    shared, own = files("prep.pages"), files(package)
    text = without_secrets(json.dumps(content, separators=(",", ":")))
    packed = gzip.compress(text.encode(), mtime=0)
    return Template((own / f"{name}.html").read_text("utf-8")).substitute(
        css="".join((shared / css).read_text("utf-8") for css in ("page.css", "report.css")),
        js=(shared / "shared.js").read_text("utf-8") + (own / f"{name}.js").read_text("utf-8"),
        content=base64.b64encode(packed).decode(),
    )


def write(page: str, out: Path) -> None:
    """Write a page atomically; raises PrepError if it cannot be written."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(out, page.encode("utf-8"))
    except OSError as error:
        raise PrepError(
            f"{out} cannot be written: {error.strerror or error}.", "Choose another --out."
        ) from error
