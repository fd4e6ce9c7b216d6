"""Tokenises prompts: the fixed part once, padded to whole prefix-cache blocks, then each expression."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, overload

from prep.errors import PrepError
from prep.phrases.engines.base import quoted_answer
from prep.phrases.models import NO_MODEL_NEEDED
from prep.phrases.prompt import Prompt
from prep.phrases.tasks import PHRASES, Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# A multiple of the prefix cache's block sizes: 16 tokens on GPUs, 32 on CPUs.
BLOCK = 32

# Templates take milliseconds.
TEMPLATE_SECONDS = 10.0

_CONTENT, _ANSWER, _AGAIN = "PROMPT-GOES-HERE", "ANSWER-GOES-HERE", "RETRY-GOES-HERE"
# Variables that some templates read: disable hidden reasoning before the answer, and fix the date.
_TEMPLATE_VARIABLES = {"enable_thinking": False, "date_string": "01 Jan 2025"}


class ChatTokens:
    """Converts expressions to token IDs for one tokenizer, prompt and task. Thread-safe.

    The IDs of a first question are ``prefix`` plus a few of its own. ``prefix`` (template head, instruction,
    constraints, examples and the start of the question) is the same for all and a whole number of
    :data:`BLOCK`-token blocks: blank lines are inserted before the question's last line for padding.
    Expressions and answers are tokenised as plain text, so a special token written in one is not interpreted.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, prompt: Prompt, template: str = "", task: Task = PHRASES
    ) -> None:
        self._task = task
        self._tokenizer = tokenizer
        self._chat_template = template or getattr(tokenizer, "chat_template", None)
        self._prompt = prompt
        self._lock = threading.Lock()
        head, tail = self._template([_CONTENT])
        _, _, again, end = self._template([_CONTENT, _ANSWER, _AGAIN])
        cut = prompt.prefix.rfind("\n") + 1
        fixed, self._line = prompt.prefix[:cut], prompt.prefix[cut:]
        start = [*self._ids(head, special=True), *self._ids([fixed])[0]]
        self._newline = self._ids(["\n"])[0]
        self._tail = self._ids(tail, special=True)
        self._again, self._end = self._ids(again, special=True), self._ids(end, special=True)
        shared = self._shared_start()
        pad = -(len(start) + len(shared)) % BLOCK
        blank = self._newline[-1:]
        self._start = [*start, *blank * pad] if blank else start
        self.prefix: list[int] = [*self._start, *shared]

    def questions(self, texts: Sequence[str]) -> list[list[int]]:
        """The token IDs of each expression's first question."""
        return [[*self._start, *ids, *self._tail] for ids in self._last_lines(texts)]

    def retries(self, texts: Sequence[str], raws: Sequence[str]) -> list[list[int]]:
        """The token IDs of the retry's conversation: question, first answer, what is wrong with it."""
        answers = self._ids([quoted_answer(raw) for raw in raws])
        turns = self._ids(list(map(self._task.second_turn, texts, raws)))
        return [
            [*self._start, *line, *self._tail, *answer, *self._again, *turn, *self._end]
            for line, answer, turn in zip(self._last_lines(texts), answers, turns, strict=True)
        ]

    def decode(self, ids: Sequence[Sequence[int]]) -> list[str]:
        """The text of each list of token IDs, without special tokens."""
        with self._lock:
            return list(self._tokenizer.batch_decode([list(i) for i in ids], skip_special_tokens=True))

    def _last_lines(self, texts: Sequence[str]) -> list[list[int]]:
        """The IDs of the question's last line for each expression, as they follow a line break."""
        anchor = self._newline
        lines = ["\n" + self._line + self._prompt.question(text) for text in texts]
        found = []
        for ids, line in zip(self._ids(lines), lines, strict=True):
            if ids[: len(anchor)] == anchor:
                found.append(ids[len(anchor) :])
            else:  # a tokenizer that merges the line break with what follows
                found.append(self._ids([line[1:]])[0])
        return found

    def _shared_start(self) -> list[int]:
        """The IDs that every question's last line starts with."""
        first, *others = self._last_lines(["a man", "the second", "two", "zebra", "on left", "8"])
        length = 0
        while all(ids[: length + 1] == first[: length + 1] for ids in others) and length < len(first):
            length += 1
        return first[:length]

    @overload
    def _ids(self, texts: str, *, special: bool = False) -> list[int]: ...

    @overload
    def _ids(self, texts: list[str], *, special: bool = False) -> list[list[int]]: ...

    def _ids(self, texts: str | list[str], *, special: bool = False) -> list[int] | list[list[int]]:
        """Token IDs of a text or of each of several; ``special`` interprets special tokens."""
        if not texts:
            return []
        with self._lock:
            encoded = self._tokenizer(texts, add_special_tokens=False, split_special_tokens=not special)
        ids: list[int] | list[list[int]] = encoded["input_ids"]
        return ids

    def _template(self, contents: list[str]) -> list[str]:
        """The chat template's text before, between and after the messages of a conversation."""
        roles = ["user", "assistant", "user"]
        messages = [{"role": role, "content": text} for role, text in zip(roles, contents, strict=False)]
        if not self._chat_template:
            raise PrepError(
                "The model has no chat template: it is a base model, or its template is in another file.",
                f"Use an instruct model, or give the template with --chat-template FILE. {NO_MODEL_NEEDED}",
            )
        text = _in_time(
            lambda: self._tokenizer.apply_chat_template(
                messages,
                chat_template=self._chat_template,
                tokenize=False,
                add_generation_prompt=True,
                **_TEMPLATE_VARIABLES,
            )
        )
        parts = []
        for content in contents:
            before, found, text = text.partition(content)
            if not found:
                raise PrepError(
                    "The chat template leaves out a message of the conversation of user, assistant and user.",
                    f"Give one that has every message with --chat-template FILE. {NO_MODEL_NEEDED}",
                )
            parts.append(before)
        return [*parts, text]


def _in_time(render: Callable[[], str]) -> str:
    """The result of a chat template, which is a program of the model's folder and may not end.

    Raises ValueError after :data:`TEMPLATE_SECONDS`, and ends the thread that runs it.
    """
    done: list[str | Exception] = []

    def run() -> None:
        try:
            done.append(render())
        except Exception as error:
            done.append(error)

    thread = threading.Thread(target=run, name="chat template", daemon=True)
    thread.start()
    thread.join(TEMPLATE_SECONDS)
    if not done:
        number = ctypes.c_ulong(thread.ident or 0)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(number, ctypes.py_object(SystemExit))
        raise ValueError(f"the model's chat template did not end within {TEMPLATE_SECONDS:g} s")
    if isinstance(done[0], Exception):
        raise done[0]
    return done[0]
