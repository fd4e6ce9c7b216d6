"""The engine for an OpenAI-compatible endpoint: bounded concurrency, backoff, a JSON schema on the retry."""

from __future__ import annotations

import json
import os
import random
import re
import ssl
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

import httpx

from prep.errors import PrepError
from prep.phrases.engines.base import (
    Answer,
    Question,
    Sampling,
    answer_settings,
    answers_table,
    quoted_answer,
    whole_lines,
)
from prep.phrases.fallback import needs_retry
from prep.phrases.models import NO_MODEL_NEEDED, Model
from prep.phrases.prompt import Prompt
from prep.phrases.reasons import second_turn
from prep.stage import Resources

if TYPE_CHECKING:
    import pyarrow as pa

KEY_VARIABLE = "OPENAI_API_KEY"
# A request is retried after 1, 2, 4, ... seconds (with jitter, at most 60; or as the server says).
ATTEMPTS = 8
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0
TIMEOUT_SECONDS = 180.0
_NOTHING_THERE = (404, 405, 501)
_BUSY = (408, 409, 425, 429, 500, 502, 503, 504)
# An object around the list, as strict endpoints require one at the root; the checks enforce the lengths.
_SCHEMA = {
    "type": "object",
    "properties": {"phrases": {"type": "array", "items": {"type": "string"}}},
    "required": ["phrases"],
    "additionalProperties": False,
}


class Refused(Exception):
    """The endpoint permanently rejected one request: HTTP status and message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"HTTP {status}: {message}")
        self.status = status


class OpenAIStage:
    """Queries a model at ``/v1/chat/completions``: takes :class:`Question`, returns ``engines.base.ANSWERS``.

    At most ``concurrency`` requests are in flight, across two units. If the endpoint is busy or unreachable,
    a request waits and is retried; one that it rejects becomes an error of its own question. The worker reads
    the key from OPENAI_API_KEY and uses it only in the request's header. ``first_wait`` is the first pause in
    seconds.
    """

    def __init__(
        self,
        model: Model,
        prompt: Prompt,
        sampling: Sampling | None = None,
        *,
        concurrency: int = 32,
        first_wait: float = FIRST_WAIT,
        resources: Resources | None = None,
    ) -> None:
        self.model = model
        self.prompt = prompt
        self.sampling = sampling or Sampling()
        self.concurrency = concurrency
        self.first_wait = first_wait
        self.resources = resources or Resources()
        self._pool: ThreadPoolExecutor | None = None
        self._client: _Client | None = None
        self._limit = "max_tokens"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pool": None, "_client": None}

    def settings(self) -> dict[str, Any]:
        """Everything an answer depends on except the expression."""
        return answer_settings(self.model.settings(), self.prompt, self.sampling, schema=_SCHEMA)

    @property
    def unit_size(self) -> int:
        """Questions per unit: enough to fill all requests in flight, few enough to lose little on a crash."""
        return 4 * self.concurrency

    def open(self) -> None:
        """Request the endpoint's model list; raises PrepError if the endpoint is unusable."""
        if self._pool is not None:
            return
        client = _Client(self.model.url, self.first_wait)
        try:
            listed = client.request("GET", "/models", None)
        except Refused as error:
            if error.status in (401, 403):
                raise _no_entry(self.model.url, error) from error
            listed = {}  # an endpoint that lists no models may still answer
        names = [str(entry.get("id")) for entry in listed.get("data") or [] if isinstance(entry, dict)]
        if names and self.model.source not in names:
            raise PrepError(
                f"{self.model.url} serves no model {self.model.source!r}.",
                f"It serves {', '.join(names[:10])}: put one after the # of --llm. {NO_MODEL_NEEDED}",
            )
        self._client = client
        self._pool = ThreadPoolExecutor(self.concurrency, thread_name_prefix="openai")

    def close(self) -> None:
        """Stop sending."""
        if self._client is not None and self._pool is not None:
            self._client.stopped.set()
            self._pool.shutdown(cancel_futures=True)
            self._client.http.close()
            self._pool = None

    def load(self, unit: list[Question]) -> list[Future[Answer]]:
        """Queue a unit's requests."""
        if self._pool is None:
            raise RuntimeError("OpenAIStage.open() must be called before load() and process()")
        return [self._pool.submit(self._ask, question) for question in unit]

    def process(self, loaded: list[Future[Answer]]) -> pa.Table:
        """Wait for a unit's answers."""
        return answers_table(future.result() for future in loaded)

    def _ask(self, question: Question) -> Answer:
        """The first answer and, if it fails the checks, the retry's."""
        answer = Answer(question)
        user = {"role": "user", "content": self.prompt.render(question.text)}
        try:
            raw, answer.finish = self._complete(answer, [user])
        except Refused as error:
            answer.error = f"refused: {error}"
            return answer
        answer.first = whole_lines(raw, answer.finish)
        if needs_retry(question.text, answer.first):
            said = {"role": "assistant", "content": quoted_answer(answer.first)}
            turns = [user, said, {"role": "user", "content": second_turn(question.text, answer.first)}]
            answer.retry = self._complete_constrained(answer, turns)
        return answer

    def _complete_constrained(self, answer: Answer, turns: list[dict[str, str]]) -> str | None:
        """The retry's answer, by JSON schema or, if the endpoint does not support it, without."""
        schema = {"name": "phrases", "strict": True, "schema": _SCHEMA}
        form = {"response_format": {"type": "json_schema", "json_schema": schema}}
        for options in (form, {}):
            try:
                return self._complete(answer, turns, **options)[0]
            except Refused:
                continue
        return None

    def _complete(self, answer: Answer, messages: list[dict[str, str]], **options: Any) -> tuple[str, str]:
        """One completion: its text and finish reason. Adds its tokens to ``answer``."""
        body = {
            "model": self.model.source,
            "messages": messages,
            "temperature": self.sampling.temperature,
            "top_p": self.sampling.top_p,
            self._limit: self.sampling.max_tokens,
            "seed": self.sampling.seed,
            **options,
        }
        assert self._client is not None  # load() has checked that the stage is open
        try:
            reply = self._client.request("POST", "/chat/completions", body)
        except Refused as error:
            if "max_completion_tokens" not in str(error) or "max_tokens" not in body:
                raise
            self._limit = "max_completion_tokens"  # newer endpoints know the limit by this name alone
            return self._complete(answer, messages, **options)
        try:
            choice = reply["choices"][0]
            usage = reply.get("usage") or {}
            cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
            answer.prompt_tokens += int(usage.get("prompt_tokens") or 0)
            answer.cached_tokens += int(cached)
            answer.output_tokens += int(usage.get("completion_tokens") or 0)
            return str(choice["message"]["content"] or ""), str(choice.get("finish_reason") or "stop")
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise Refused(200, f"unexpected response format ({type(error).__name__})") from error


class _Client:
    """JSON over HTTP, from any number of threads; ``stopped`` ends their pauses."""

    def __init__(self, url: str, first_wait: float) -> None:
        self.url, self._first_wait = url, first_wait
        self.stopped = threading.Event()
        headers = {
            **dict.fromkeys(("Content-Type", "Accept"), "application/json"),
            "Accept-Encoding": "identity",
        }
        if key := os.environ.get(KEY_VARIABLE):
            if not re.fullmatch("[!-~]+", key):  # the error of a header would show it
                raise _no_entry(url, ValueError("it has characters that a header cannot have"))
            headers["Authorization"] = f"Bearer {key}"
        # httpx follows no redirects unless told to; a proxy or a password of .netrc is not used either.
        tls, any_number = ssl.create_default_context(), httpx.Limits()
        self.http = httpx.Client(
            headers=headers, timeout=TIMEOUT_SECONDS, limits=any_number, verify=tls, trust_env=False
        )

    def request(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        """The reply to one request, retried up to :data:`ATTEMPTS` times.

        Raises :class:`Refused` for a bad request, PrepError for an endpoint that stays unreachable or rejects
        the key.
        """
        payload = None if body is None else json.dumps(body).encode()
        trouble = ""
        for attempt in range(ATTEMPTS):
            wait = min(LONGEST_WAIT, self._first_wait * 2**attempt) * random.uniform(0.5, 1.0)
            try:
                reply = self.http.request(method, self.url + path, content=payload)
            except (httpx.RequestError, httpx.InvalidURL) as error:
                trouble = f"{type(error).__name__}: {error}"
            else:
                status = reply.status_code
                if status == 200:
                    return _json(reply.content)
                message = _message(reply.content)
                trouble = f"HTTP {status}: {message}"
                if status in (401, 403) and method == "POST":
                    raise _no_entry(self.url, Refused(status, message))
                if status in _NOTHING_THERE and method == "POST":
                    raise _nothing_there(self.url + path, trouble)
                if status not in _BUSY:
                    raise Refused(status, message)
                wait = _retry_after(reply.headers, wait)
            if attempt + 1 < ATTEMPTS and self.stopped.wait(wait):
                break
        raise PrepError(
            f"{self.url} does not respond ({ATTEMPTS} attempts; the last: {trouble}).",
            "Committed answers are kept: run the same command again when the endpoint is back. "
            f"{NO_MODEL_NEEDED}",
        )


def _json(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except ValueError as error:
        raise Refused(200, "a response that is not JSON") from error
    return value if isinstance(value, dict) else {}


def _message(data: bytes) -> str:
    """The endpoint's error message on one line."""
    text = data.decode("utf-8", "replace")
    try:
        value = json.loads(text)
        inner = value.get("error", value)
        text = str(inner.get("message", inner) if isinstance(inner, dict) else inner)
    except (ValueError, AttributeError):
        pass
    return " ".join(text.split())[:300]


def _retry_after(headers: Any, wait: float) -> float:
    """The delay that a busy endpoint requests, if any, within bounds."""
    asked = str(headers.get("Retry-After", ""))
    try:
        seconds = float(asked)
    except ValueError:
        try:  # or the time at which to come back
            seconds = parsedate_to_datetime(asked).timestamp() - time.time()
        except ValueError:
            return wait
    return min(LONGEST_WAIT, max(wait, seconds))


def _nothing_there(url: str, trouble: str) -> PrepError:
    return PrepError(
        f"{url} was not found, or does not serve this model ({trouble}).",
        "Give --llm openai:URL#MODEL with the URL up to and including /v1, and the model's name on the "
        "server. " + NO_MODEL_NEEDED,
    )


def _no_entry(url: str, error: Exception) -> PrepError:
    return PrepError(
        f"{url} rejects the API key ({error}).",
        f"Set {KEY_VARIABLE} to a valid key. {NO_MODEL_NEEDED}",
    )
