"""Sends JSON to an endpoint: within a time and a size, and with the API key only where it may go."""

from __future__ import annotations

import ipaddress
import json
import math
import os
import random
import re
import ssl
import threading
import time
from collections.abc import Sequence
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import httpcore

from prep.display import tell
from prep.errors import PrepError
from prep.phrases.engines.deadline import Timed
from prep.phrases.models import NO_MODEL_NEEDED, URL_VARIABLE

KEY_VARIABLE = "OPENAI_API_KEY"
# A request is retried after 1, 2, 4, ... seconds (with jitter, at most 60; or as the server says).
ATTEMPTS = 8
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0
# For a whole request, from the connection to the last byte.
DEADLINE_SECONDS = 180.0
NOTICE_SECONDS = 10.0
MAX_BODY = 1 << 20
# After so many responses in a row that did not end in time, the endpoint counts as one that does not respond.
MAX_UNENDED = 64
_NOTHING_THERE = (404, 405, 501)
_BUSY = (408, 409, 425, 429, 500, 502, 503, 504)
_FAILURES = (
    httpcore.NetworkError,
    httpcore.TimeoutException,
    httpcore.ProtocolError,
    httpcore.UnsupportedProtocol,
)


class Refused(Exception):
    """The endpoint permanently rejected one request: HTTP status and message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"HTTP {status}: {message}")
        self.status = status


def may_get_key(url: str, named: bool) -> bool:
    """Whether the API key may be sent to the endpoint ``url``.

    It goes to api.openai.com and to an endpoint that the user named, on the command line or as
    OPENAI_BASE_URL; never to one that only a file names, and never over http but to this machine.
    """
    origin = _origin(url)
    if origin[0] != "https" and not _is_here(origin[1]):
        return False
    return named or origin in (_origin("https://api.openai.com"), _origin(os.environ.get(URL_VARIABLE, "")))


def key_notice(url: str, named: bool) -> str:
    """What is said about the API key before the first request; empty if there is no key."""
    if not os.environ.get(KEY_VARIABLE):
        return ""
    scheme, host, port = _origin(url)
    place = f"{scheme}://{host}:{port}"
    if may_get_key(url, named):
        return f"The key in {KEY_VARIABLE} is sent to {place}."
    if may_get_key(url, True):
        why = f"only a file names it. To send it, give --llm on the command line, or set {URL_VARIABLE}"
    else:
        why = "http is not encrypted. To send it, use https"
    return f"The key in {KEY_VARIABLE} is not sent to {place}: {why}."


def _origin(url: str) -> tuple[str, str, int]:
    """Scheme, host and port: what says whom a request goes to."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"https": 443}.get(parts.scheme, 80)
    except ValueError:
        return "", "", 0
    return parts.scheme, (parts.hostname or "").rstrip("."), port


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Client:
    """JSON over HTTP, from any number of threads; ``stopped`` ends their pauses.

    No redirect is followed, and no proxy, cookie or password file is used.
    """

    def __init__(self, url: str, first_wait: float, *, send_key: bool) -> None:
        self.url, self._first_wait = url, first_wait
        self.stopped = threading.Event()
        self._head, question, self._query = url.partition("?")
        self._query = question + self._query
        self._unended, self._said, self._lock = 0, -math.inf, threading.Lock()
        self._headers: dict[bytes | str, bytes | str] = {
            **dict.fromkeys(("Content-Type", "Accept"), "application/json"),
            "Accept-Encoding": "identity",
            "User-Agent": "pcnet-prep",
        }
        if send_key and (key := os.environ.get(KEY_VARIABLE)):
            if not re.fullmatch("[!-~]+", key):  # the error of a header would show it
                raise rejected_key(url, ValueError("it has characters that a header cannot have"))
            self._headers["Authorization"] = f"Bearer {key}"
        self._time = Timed(DEADLINE_SECONDS)
        self._pool = httpcore.ConnectionPool(
            ssl.create_default_context(), max_connections=None, network_backend=self._time
        )

    def close(self) -> None:
        """Close every connection."""
        self._pool.close()

    def request(self, method: str, path: str, body: dict[str, object] | None) -> dict[str, Any]:
        """The reply to one request, retried up to :data:`ATTEMPTS` times.

        Raises :class:`Refused` for a bad request or response, PrepError for an endpoint that stays
        unreachable or rejects the key.
        """
        payload = None if body is None else json.dumps(body).encode()
        trouble = ""
        for attempt in range(ATTEMPTS):
            wait = min(LONGEST_WAIT, self._first_wait * 2**attempt) * random.uniform(0.5, 1.0)
            try:
                status, headers, data = self._send(method, self._head + path + self._query, payload)
            except (*_FAILURES, OSError, ValueError) as error:
                trouble = f"{type(error).__name__}: {error}"
            else:
                if status == 200:
                    return _json(data)
                message = _message(data)
                trouble = f"HTTP {status}: {message}"
                if status in (401, 403) and method == "POST":
                    raise rejected_key(self.url, Refused(status, message))
                if status in _NOTHING_THERE and method == "POST":
                    raise _nothing_there(self._head + path, trouble)
                if status not in _BUSY:
                    raise Refused(status, message)
                wait = _retry_after(headers, wait)
            if attempt + 1 < ATTEMPTS:
                self._notice(f"{trouble}; attempt {attempt + 2} of {ATTEMPTS} in {wait:.0f} s")
                if self.stopped.wait(wait):
                    break
        raise self._away(f"{ATTEMPTS} attempts; the last: {trouble}")

    def _send(
        self, method: str, url: str, payload: bytes | None
    ) -> tuple[int, Sequence[tuple[bytes, bytes]], bytes]:
        """Status, headers and at most :data:`MAX_BODY` bytes of one response."""
        self._time.start()
        timeout = {"timeout": dict.fromkeys(("connect", "read", "write", "pool"), DEADLINE_SECONDS)}
        status, data = 0, b""
        try:
            with self._pool.stream(
                method, url, headers=self._headers, content=payload, extensions=timeout
            ) as response:
                status = response.status
                for block in response.iter_stream():
                    data += block
                    if len(data) > MAX_BODY:
                        raise Refused(status, f"a response of more than {MAX_BODY >> 20} MiB")
        except httpcore.ReadTimeout as error:
            if not self._time.heard():
                raise
            self._unended += 1
            if self._unended >= MAX_UNENDED:
                raise self._away(f"{MAX_UNENDED} responses did not end") from error
            raise Refused(status, f"the response did not end within {DEADLINE_SECONDS:g} s") from error
        self._unended = 0
        return status, response.headers, data

    def _notice(self, trouble: str) -> None:
        """Say for what a command waits, for all threads together at most every :data:`NOTICE_SECONDS`."""
        with self._lock:
            now = time.monotonic()
            if now - self._said < NOTICE_SECONDS:
                return
            self._said = now
        tell(f"Waiting for {self._head}: {trouble}.")

    def _away(self, what: str) -> PrepError:
        return PrepError(
            f"{self._head} does not respond ({what}).",
            "Committed answers are kept: run the same command again when the endpoint is back. "
            f"{NO_MODEL_NEEDED}",
        )


def _json(data: bytes) -> dict[str, object]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Refused(200, "a response that is not JSON") from error
    return value if isinstance(value, dict) else {}


def _message(data: bytes) -> str:
    """The endpoint's error message on one line."""
    text = data.decode("utf-8", "replace")
    try:
        value = json.loads(text)
        inner = value.get("error", value)
        text = str(inner.get("message", inner) if isinstance(inner, dict) else inner)
    except (ValueError, AttributeError, RecursionError):
        pass
    return " ".join(text[:3000].split())[:300].encode("utf-8", "replace").decode()


def _retry_after(headers: Sequence[tuple[bytes, bytes]], wait: float) -> float:
    """The delay in seconds that a busy endpoint requests, if any, within bounds."""
    for name, value in headers:
        if name.lower() == b"retry-after":
            try:
                asked = float(value)
            except ValueError:
                try:  # or the time at which to come back
                    asked = parsedate_to_datetime(value.decode("latin-1")).timestamp() - time.time()
                except (ValueError, OverflowError):
                    return wait
            return wait if math.isnan(asked) else min(LONGEST_WAIT, max(wait, asked))
    return wait


def _nothing_there(url: str, trouble: str) -> PrepError:
    return PrepError(
        f"{url} was not found, or does not serve this model ({trouble}).",
        "Give --llm openai:URL#MODEL with the URL up to and including /v1, and the model's name on the "
        "server. " + NO_MODEL_NEEDED,
    )


def rejected_key(url: str, error: Exception) -> PrepError:
    """The error for an endpoint that asks for another API key, or that the key was not sent to."""
    return PrepError(
        f"{url.partition('?')[0]} rejects the API key ({error}).",
        f"Set {KEY_VARIABLE} to a valid key. {NO_MODEL_NEEDED}",
    )
