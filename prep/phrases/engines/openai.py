"""The engine for an OpenAI-compatible endpoint: bounded concurrency, backoff, a JSON schema on the retry."""

from __future__ import annotations

from concurrent.futures import Future
from typing import TYPE_CHECKING

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
from prep.phrases.engines.daemon_pool import DaemonPool
from prep.phrases.engines.endpoint import FIRST_WAIT, Client, Refused, may_get_key, rejected_key
from prep.phrases.models import NO_MODEL_NEEDED, Model
from prep.phrases.prompt import Prompt
from prep.phrases.tasks import PHRASES, Task
from prep.stage import Resources

if TYPE_CHECKING:
    import pyarrow as pa

# More tokens than any model's context has.
_MOST_TOKENS = 1_000_000_000


class OpenAIStage:
    """Queries a model at ``/v1/chat/completions``: takes :class:`Question`, returns ``engines.base.ANSWERS``.

    At most ``concurrency`` requests are in flight, across two units. If the endpoint is busy or unreachable,
    a request waits and is retried; one that it rejects, or answers in a form that nobody expects, becomes an
    error of its own question. The worker reads the key from OPENAI_API_KEY and uses it only in the request's
    header, if the endpoint may have it: ``named`` says that the user named the endpoint, and not only a file.
    ``first_wait`` is the first pause in seconds.
    """

    def __init__(
        self,
        model: Model,
        prompt: Prompt,
        sampling: Sampling | None = None,
        *,
        task: Task = PHRASES,
        concurrency: int = 32,
        first_wait: float = FIRST_WAIT,
        named: bool = True,
        resources: Resources | None = None,
    ) -> None:
        self.model = model
        self.prompt = prompt
        self.task = task
        self.sampling = sampling or Sampling(max_tokens=task.max_tokens)
        self.concurrency = concurrency
        self.first_wait = first_wait
        self.send_key = may_get_key(model.url, named)
        self.resources = resources or Resources()
        self._pool: DaemonPool | None = None
        self._client: Client | None = None
        self._limit = "max_tokens"

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_pool": None, "_client": None}

    def settings(self) -> dict[str, object]:
        """Everything an answer depends on except the expression."""
        schema = self.task.object_schema
        return answer_settings(
            self.model.settings(), self.prompt, self.sampling, task=self.task, schema=schema
        )

    @property
    def unit_size(self) -> int:
        """Questions per unit: enough to fill all requests in flight, few enough to lose little on a crash."""
        return 4 * self.concurrency

    def open(self) -> None:
        """Request the endpoint's model list; raises PrepError if the endpoint is unusable."""
        if self._pool is not None:
            return
        client = Client(self.model.url, self.first_wait, send_key=self.send_key)
        pool = DaemonPool(self.concurrency, "openai")
        try:  # in a thread: the look-up of a name cannot be interrupted
            listed = pool.submit(client.request, "GET", "/models", None).result()
        except Refused as error:
            if error.status in (401, 403):
                raise rejected_key(self.model.url, error) from error
            listed = {}  # an endpoint that lists no models may still answer
        entries = listed.get("data")
        ids = (
            [entry.get("id") for entry in entries if isinstance(entry, dict)]
            if isinstance(entries, list)
            else []
        )
        names = [_text(name) for name in ids if isinstance(name, str)]
        if names and self.model.source not in names:
            raise PrepError(
                f"{self.model.url} serves no model {self.model.source!r}.",
                f"It serves {', '.join(names[:10])}: put one after the # of --llm. {NO_MODEL_NEEDED}",
            )
        self._client, self._pool = client, pool

    def close(self) -> None:
        """Stop sending."""
        if self._client is not None and self._pool is not None:
            self._client.stopped.set()
            self._pool.close()
            self._client.close()
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
        if self.task.needs_retry(question.text, answer.first):
            said = {"role": "assistant", "content": quoted_answer(answer.first)}
            turn = self.task.second_turn(question.text, answer.first)
            turns = [user, said, {"role": "user", "content": turn}]
            answer.retry = self._complete_constrained(answer, turns)
        return answer

    def _complete_constrained(self, answer: Answer, turns: list[dict[str, str]]) -> str | None:
        """The retry's answer, by JSON schema or, if the endpoint does not support it, without."""
        schema = {"name": self.task.name, "strict": True, "schema": self.task.object_schema}
        form = {"response_format": {"type": "json_schema", "json_schema": schema}}
        for options in (form, {}):
            try:
                return self._complete(answer, turns, **options)[0]
            except Refused:
                continue
        return None

    def _complete(self, answer: Answer, messages: list[dict[str, str]], **options: object) -> tuple[str, str]:
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
        usage = _dict(reply.get("usage"))
        answer.prompt_tokens += _count(usage.get("prompt_tokens"))
        answer.cached_tokens += _count(_dict(usage.get("prompt_tokens_details")).get("cached_tokens"))
        answer.output_tokens += _count(usage.get("completion_tokens"))
        match reply.get("choices"):
            case [{"message": {"content": str() | None as content}} as choice, *_]:
                finish = choice.get("finish_reason")
                return _text(content or ""), _text(finish)[:40] if isinstance(finish, str) else "stop"
        raise Refused(200, "unexpected response format")


def _dict(value: object) -> dict[str, object]:
    return value if isinstance(value, dict) else {}


def _count(value: object) -> int:
    """A number of tokens; 0 for anything else that an endpoint may say."""
    return value if type(value) is int and 0 <= value <= _MOST_TOKENS else 0


def _text(text: str) -> str:
    """``text`` with ``?`` for the halves of characters that JSON can hold and UTF-8 cannot."""
    return text.encode("utf-8", "replace").decode()
