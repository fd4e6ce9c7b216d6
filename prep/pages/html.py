"""Builds a self-contained web page: template, styles, scripts and content in one file."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

from prep.display import without_secrets
from prep.errors import PrepError
from prep.files import write_whole

_POLICY = "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'"
_SCRIPTS = ("base.js", "masks.js", "view.js", "cards.js", "charts.js")
_SCRIPTED = """<div id="live" class="unseen" role="status" aria-live="polite"></div>
<div id="tip" role="tooltip" hidden></div>
<noscript>This page needs JavaScript; it loads nothing from the network.</noscript>
<script type="application/octet-stream" id="content">$content</script>
<script>
$js
</script>
"""


def document(title: str, body: str, policy: str = _POLICY) -> str:
    """The page with the shared styles; ``title`` is text, ``body`` is markup whose text is escaped."""
    shared = files("prep.pages")
    return Template((shared / "frame.html").read_text("utf-8")).substitute(
        policy=policy, title=escape(title), css=(shared / "page.css").read_text("utf-8"), body=body
    )


def render(
    package: str, name: str, title: str, content: Mapping[str, object], scripts: Sequence[str] = ()
) -> str:
    """``NAME.html`` of ``package`` with ``scripts``, its ``NAME.js``, what all pages share, and the content.

    The content is compressed and base64-encoded, so none of its text is parsed as markup; the script decodes
    it.
    """
    own, shared = files(package), files("prep.pages")
    parts = [*(shared / one for one in _SCRIPTS), *(own / one for one in (*scripts, f"{name}.js"))]
    packed = gzip.compress(without_secrets(json.dumps(content, separators=(",", ":"))).encode(), 6, mtime=0)
    body = Template((own / f"{name}.html").read_text("utf-8") + _SCRIPTED).substitute(
        title=escape(title),
        js="".join(part.read_text("utf-8") for part in parts),
        content=base64.b64encode(packed).decode(),
    )
    return document(title, body, f"{_POLICY}; script-src 'unsafe-inline'")


def write(page: str, out: Path) -> None:
    """Write a page atomically; raises PrepError if it cannot be written."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(out, page.encode("utf-8"))
    except OSError as error:
        raise PrepError(
            f"{out} cannot be written: {error.strerror or error}.", "Choose another --out."
        ) from error
