"""The vLLM engine as a stage: takes units of questions, returns tables of answers, two units in flight."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

from prep.display import tell
from prep.engine.chatter import chatter_to
from prep.errors import PrepError
from prep.phrases.engines.base import Answer, Question, Sampling, answer_settings, answers_table, whole_lines
from prep.phrases.engines.vllm_boot import VllmOptions
from prep.phrases.engines.vllm_engine import Batch, Engine, Finished, Request
from prep.phrases.models import Model
from prep.phrases.prompt import Prompt
from prep.phrases.tasks import PHRASES, Task
from prep.stage import Resources

if TYPE_CHECKING:
    import pyarrow as pa

# Crashes of the engine process without an answer in between, after which a run fails.
MAX_DEATHS = 3


class VllmStage:
    """Queries a model through vLLM. Items are :class:`Question`, rows those of ``engines.base.ANSWERS``.

    ``load`` submits a unit's prompts to the engine and ``process`` waits for them, so the next unit already
    fills the batch while the last answers of one arrive. A first answer that fails the checks is retried
    under a JSON schema, in the same batch. If the engine process dies, a new one takes over the unanswered
    requests. ``resources`` is what a worker occupies (:class:`prep.stage.Resources`); ``log`` takes what vLLM
    prints.
    """

    def __init__(
        self,
        model: Model,
        prompt: Prompt,
        sampling: Sampling | None = None,
        options: VllmOptions | None = None,
        *,
        task: Task = PHRASES,
        resources: Resources | None = None,
        log: Path | None = None,
    ) -> None:
        self.model = model
        self.prompt = prompt
        self.task = task
        self.sampling = sampling or Sampling(max_tokens=task.max_tokens)
        self.options = options or VllmOptions()
        self.resources = resources or Resources()
        self.log = log
        self.deaths = 0
        self._deaths_in_a_row = 0
        self._engine: Engine | None = None
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_engine": None, "_lock": None}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()

    def settings(self) -> dict[str, object]:
        """Everything an answer depends on except the expression."""
        own = self.options.settings()
        named = self.model.settings()
        return answer_settings(named, self.prompt, self.sampling, task=self.task, schema=None, **own)

    def open(self) -> None:
        """Load the model if it is not loaded. Raises PrepError if it cannot be loaded."""
        if self._engine is not None:
            return
        where = "" if self.log is None else f"; its log is {self.log}"
        tell(f"Starting vLLM with {self.model.name} (about a minute){where}.")
        with chatter_to(self.log) as log:
            self._engine = Engine(self.model, self.prompt, self.task, self.sampling, self.options, log)

    @property
    def unit_size(self) -> int:
        """Questions per unit: two units fill the engine's batch twice, and little is lost if a run dies."""
        return self.options.max_num_seqs or (1024 if self.resources.gpus else 128)

    @property
    def engine(self) -> Engine:
        """The open engine."""
        if self._engine is None:
            raise RuntimeError("VllmStage.open() must be called before load() and process()")
        return self._engine

    def close(self) -> None:
        """Stop the engine process."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def load(self, unit: list[Question]) -> Batch:
        """Tokenise a unit and submit it to the engine."""
        batch = Batch([Answer(question) for question in unit])
        engine = self.engine
        ids = engine.chat.questions([question.text for question in unit])
        self._ask(batch, engine, [Request(batch, i, False, prompt) for i, prompt in enumerate(ids)])
        return batch

    def process(self, loaded: Batch) -> pa.Table:
        """Wait for a unit's answers and retry the ones that fail."""
        deaths = self.deaths
        while loaded.waiting:
            arrived = [loaded.finished.get()]
            while not loaded.finished.empty():
                arrived.append(loaded.finished.get())
            outputs = [entry for entry in arrived if entry is not None]
            self._take(loaded, outputs)
            if len(outputs) < len(arrived) and loaded.engine is not None and loaded.engine.dead:
                self._take_over(loaded)
        return answers_table(loaded.answers, deaths=self.deaths - deaths)

    def _ask(self, batch: Batch, engine: Engine, requests: list[Request]) -> None:
        """Submit prompts; one that is too long for the engine becomes an error of its own question."""
        batch.engine = engine
        fitting = []
        for request in requests:
            answer, room = batch.answers[request.number], engine.max_model_len - self.sampling.max_tokens
            if len(request.ids) <= room:
                fitting.append(request)
                batch.waiting[request.number, request.retry] = request
            elif not request.retry:
                answer.error = f"prompt_too_long: {len(request.ids)} tokens, but the engine's limit is {room}"
        engine.submit(fitting)

    def _take(self, batch: Batch, outputs: list[Finished]) -> None:
        """Store an output, and submit the retry if a first answer fails."""
        if not outputs:
            return
        self._deaths_in_a_row = 0
        engine = self.engine
        for request, refusal in [entry for entry in outputs if isinstance(entry[1], ValueError)]:
            del batch.waiting[request.number, request.retry]
            if not request.retry:
                batch.answers[request.number].error = f"refused: {refusal}"
        made = [(request, out) for request, out in outputs if not isinstance(out, ValueError)]
        raws = engine.chat.decode([output.outputs[0].token_ids for _, output in made])
        again: list[tuple[int, str, str]] = []
        for (request, output), raw in zip(made, raws, strict=True):
            del batch.waiting[request.number, request.retry]
            answer, finish = batch.answers[request.number], str(output.outputs[0].finish_reason)
            answer.prompt_tokens += len(request.ids)
            answer.cached_tokens += output.num_cached_tokens or 0
            answer.output_tokens += len(output.outputs[0].token_ids)
            if request.retry:
                answer.retry = raw
                continue
            answer.first, answer.finish = whole_lines(raw, finish), finish
            if self.options.retry and self.task.needs_retry(answer.question.text, answer.first):
                again.append((request.number, answer.question.text, answer.first))
        if again:
            ids = engine.chat.retries([text for _, text, _ in again], [raw for _, _, raw in again])
            requests = [
                Request(batch, index, True, prompt) for (index, *_), prompt in zip(again, ids, strict=True)
            ]
            self._ask(batch, engine, requests)

    def _take_over(self, batch: Batch) -> None:
        """Continue with a new engine if the batch's engine has died."""
        with self._lock:
            if self._engine is batch.engine:
                dead = self.engine
                self.deaths += 1
                self._deaths_in_a_row += 1
                if self._deaths_in_a_row >= MAX_DEATHS:
                    raise PrepError(
                        f"vLLM's engine process died {MAX_DEATHS} times without an answer in between (the "
                        f"last time: {dead.cause}).",
                        "Committed answers are kept. See the engine's log above; if memory is short, lower "
                        "--max-num-seqs or --gpu-memory-utilization. Then run the same command again.",
                    )
                dead.close()
                self._engine = Engine(self.model, self.prompt, self.task, self.sampling, self.options)
        self._ask(batch, self.engine, list(batch.waiting.values()))
