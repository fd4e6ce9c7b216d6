"""`pcnet-prep phrases`: decomposes expressions into short phrases, with a language model or rules."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prep.commands import options as shared
from prep.commands.inputs import gpu_count, open_sources
from prep.commands.outcome import MaxFailed, check_limit, end_run
from prep.commands.output import say
from prep.commands.stage_run import announce, check_recorded, emit_summaries, only_planned, run_options

if TYPE_CHECKING:
    from prep.datasets.catalogue import Dataset
    from prep.phrases.job import AnswerStage
    from prep.phrases.models import Model
    from prep.phrases.prompt import Prompt

Llm = Annotated[
    str,
    typer.Option(
        help="Phrase model: mistral-7b, any Hugging Face ID, model folder or GGUF file (vLLM), "
        "openai:URL#MODEL, or rules (no model)."
    ),
]
PromptFile = Annotated[Path | None, typer.Option(help="Prompt file, instead of the default prompt.")]
Revision = Annotated[str, typer.Option(help="Branch, tag or commit of the model on Hugging Face.")]
ChatTemplate = Annotated[
    Path | None, typer.Option(help="Chat template (Jinja file), for a model without one of its own.")
]
Quantization = Annotated[str | None, typer.Option(help="Quantise the model while loading it (fp8).")]
Dtype = Annotated[str, typer.Option(help="The model's dtype: auto, bfloat16, float16 or float32.")]
TensorParallel = Annotated[
    int, typer.Option("--tensor-parallel", "--tensor-parallel-size", min=1, help="GPUs per model.")
]
MaxModelLen = Annotated[
    int, typer.Option(min=0, help="Maximum tokens of prompt and response; 0: as many as the prompt needs.")
]
MaxNumSeqs = Annotated[
    int | None, typer.Option(min=1, help="Maximum expressions per batch. Default: depends on the device.")
]
MaxNumBatchedTokens = Annotated[
    int | None, typer.Option(min=1, help="Maximum tokens per engine step. Default: depends on the device.")
]
Temperature = Annotated[
    float,
    typer.Option(
        min=0, max=2, help="0: the most likely answer; above, answers are drawn (part of the cache key)."
    ),
]
Concurrency = Annotated[int, typer.Option(min=1, help="Concurrent requests to an openai: endpoint.")]
GpuMemory = Annotated[
    float,
    typer.Option(
        "--gpu-memory",
        "--gpu-memory-utilization",
        min=0.05,
        max=1.0,
        help="Fraction of GPU memory that vLLM may use.",
    ),
]
BatchInvariant = Annotated[
    bool, typer.Option(help="Make responses independent of their batch (slower; part of the cache key).")
]
KeepRaw = Annotated[bool, typer.Option(help="Keep the model's raw responses in the rows.")]


def phrases(
    context: typer.Context,
    llm: Llm = "mistral-7b",
    data: shared.Data = shared.COCO,
    dataset: shared.Datasets = shared.REFCOCO,
    split_by: shared.SplitBy = None,
    split: shared.Splits = None,
    limit: shared.Limit = None,
    input: shared.Input = None,
    image_root: shared.ImageRoot = None,
    out: shared.Out = "prepared",
    cache: shared.Cache = None,
    replace: shared.Replace = False,
    keep_missing: shared.KeepMissing = False,
    max_failed: MaxFailed = "1%",
    prompt: PromptFile = None,
    revision: Revision = "main",
    chat_template: ChatTemplate = None,
    quantization: Quantization = None,
    dtype: Dtype = "auto",
    tensor_parallel: TensorParallel = 1,
    max_model_len: MaxModelLen = 0,
    max_num_seqs: MaxNumSeqs = None,
    max_num_batched_tokens: MaxNumBatchedTokens = None,
    temperature: Temperature = 0.0,
    concurrency: Concurrency = 32,
    gpu_memory: GpuMemory = 0.9,
    batch_invariant: BatchInvariant = False,
    keep_raw: KeepRaw = False,
    gpus: shared.Gpus = None,
    device: shared.Device = None,
    workers: shared.Workers = None,
    ray_address: shared.RayAddress = None,
    plan: shared.PlanOnly = False,
    from_manifest: shared.FromManifest = None,
    as_json: shared.Json = False,
) -> None:
    """Decompose every referring expression into short phrases about its target.

    Reads the expressions of the dataset, not its images; writes <store>/phrases.
    """
    from prep.phrases.models import resolve
    from prep.phrases.prompt import load_prompt

    words, model = load_prompt(prompt), resolve(llm, revision, chat_template)
    sources = open_sources(data, dataset, split_by, input, image_root)
    devices = 0 if model.kind != "vllm" else gpu_count(gpus, ray_address)
    stage = _stage(model, words, context.params, on_gpus=devices > 0, named=shared.was_typed(context, "llm"))
    _run(context, stage, sources, workers or max(1, devices // tensor_parallel))


def _stage(
    model: Model, prompt: Prompt, params: shared.Params, *, on_gpus: bool, named: bool
) -> AnswerStage | None:
    """The stage that queries ``model``, configured by the command's ``params``; None for the rules.

    ``named``: the user named the model, and not only a file.
    """
    from prep.phrases.engines.base import Sampling

    sampling = Sampling(temperature=params["temperature"])
    if model.kind == "openai":
        from prep.phrases.engines.endpoint import key_notice
        from prep.phrases.engines.openai import OpenAIStage

        if not params["plan"] and (notice := key_notice(model.url, named)):
            say(notice, to_stderr=True)
        return OpenAIStage(model, prompt, sampling, concurrency=params["concurrency"], named=named)
    if model.kind != "vllm":
        return None
    from prep.engine.chatter import log_file
    from prep.phrases.engines.vllm import VllmStage
    from prep.phrases.engines.vllm_boot import VllmOptions
    from prep.stage import Resources

    names = (
        "tensor_parallel", "quantization", "dtype", "max_model_len", "max_num_seqs",
        "max_num_batched_tokens", "batch_invariant",
    )  # fmt: skip
    options = VllmOptions(
        gpu_memory_utilization=params["gpu_memory"], **{name: params[name] for name in names}
    )
    resources = Resources(cpus=1, gpus=options.tensor_parallel if on_gpus else 0)
    log = log_file(params["out"], "vllm")
    return VllmStage(model, prompt, sampling, options, resources=resources, log=log)


def _run(context: typer.Context, stage: AnswerStage | None, sources: Sequence[Dataset], workers: int) -> None:
    """Run the stage, or print its plan."""
    from prep.cache.store import open_store
    from prep.engine.sources import First
    from prep.phrases.run import phrase_settings, run_phrases

    params, options = context.params, run_options(context)
    check_limit(params["max_failed"])
    settings = phrase_settings(stage)
    check_recorded(context, settings)

    def keys() -> Iterator[str]:
        found = (text.row_id for source in sources for text in source.expressions(options["splits"]))
        return First(options["limit"]).of(found)

    if only_planned(context, "phrases", settings, keys, workers):
        return
    announce("phrases", "rules" if stage is None else params["llm"], sources, context, workers)
    for source in sources:
        source.expressions(options["splits"])  # a wrong split is refused before the store is touched
    store = open_store(params["out"], create=True)
    summaries = run_phrases(
        stage,
        sources,
        store,
        keep_raw=params["keep_raw"],
        workers=workers,
        count=sys.stderr.isatty(),
        **options,
    )
    emit_summaries(summaries, store, params["as_json"])
    end_run(summaries, params["max_failed"])
