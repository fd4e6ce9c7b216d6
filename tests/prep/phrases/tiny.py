"""How the tests make tiny Mistral models: with random weights, or taught a few dozen expressions."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

# Expression -> what the taught model answers, in the prompt's line format.
LESSONS = {
    "woman in red shirt": "the woman\nthe woman in red shirt",
    "man on the left": "the man\nthe man on the left",
    "the small brown dog": "the dog\nthe small dog\nthe brown dog",
    "guy with a blue hat": "the guy\nthe guy with a blue hat",
    "second horse from the right": "the horse\nthe second horse\nthe horse from the right",
    "girl holding an umbrella": "the girl\nthe girl holding an umbrella",
    "white car behind the bus": "the car\nthe white car\nthe car behind the bus",
    "tall giraffe": "the giraffe\nthe tall giraffe",
    "the chair next to the window": "the chair\nthe chair next to the window",
    "boy in green jumping": "the boy\nthe boy in green\nthe boy jumping",
    "black cat sleeping on the bed": "the cat\nthe black cat\nthe cat sleeping on the bed",
    "biggest elephant": "the elephant\nthe biggest elephant",
    "zebra eating grass": "the zebra\nthe zebra eating grass",
    "bowl of soup": "the bowl\nthe bowl of soup",
    "old man wearing glasses": "the man\nthe old man\nthe man wearing glasses",
    "yellow banana on top": "the banana\nthe yellow banana\nthe banana on top",
    "bike by the wall": "the bike\nthe bike by the wall",
    "player in blue": "the player\nthe player in blue",
    "kid not wearing a helmet": "the kid\nthe kid not wearing a helmet",
    "woman's purse": "the purse\nwoman's purse",
    "cup": "the cup",
    "red truck": "the truck\nthe red truck",
    "lady sitting near the door": "the lady\nthe lady sitting near the door",
    "pizza with mushrooms": "the pizza\nthe pizza with mushrooms",
}
# Expression -> a first answer that breaks the rules and what the model answers when it is asked again.
CORRECTIONS = {
    "blue boat far back": ("the ship\nthe purple ship", '["the boat","the blue boat","the boat far back"]'),
    "sheep in front": ("I do not know.", '["the sheep","the sheep in front"]'),
}
UNTAUGHT = ["a clock above the green sofa", "third bottle from left", "surfer riding a wave", "in red"]

_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "[INST] {{ message['content'] }}[/INST]"
    "{% else %} {{ message['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)


def make_tokenizer(folder: Path, size: int = 1200) -> Any:
    """A byte-level BPE tokenizer with a Mistral chat template, trained on our prompt and sentences."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    from prep.phrases.prompt import load_prompt
    from prep.phrases.reasons import second_turn

    turns = [second_turn(text, bad) for text, (bad, _) in CORRECTIONS.items()]
    text = [load_prompt().prefix, *turns, *LESSONS, *LESSONS.values(), *UNTAUGHT]
    text += [part for expression, parts in CORRECTIONS.items() for part in (expression, *parts)]
    text.append('{"phrases":["')
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<s>", "</s>", "<unk>", "[INST]", "[/INST]"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(text * 2, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="</s>"
    )
    tokenizer.chat_template = _TEMPLATE
    tokenizer.save_pretrained(folder)
    return tokenizer


def make_mistral(vocabulary: int, *, hidden: int = 128, layers: int = 2) -> Any:
    """A seeded MistralForCausalLM of about a million weights."""
    import torch
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 32,
        num_key_value_heads=hidden // 64,
        head_dim=32,
        max_position_embeddings=4096,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
        sliding_window=None,
    )
    return MistralForCausalLM(config)


def teach(model: Any, tokenizer: Any, *, max_steps: int = 600) -> int:
    """Overfit ``model`` on the lessons and corrections, as the engine and as a chat server word them.

    The prompt's fixed part is run once a step and its keys and values are shared by all examples, so that a
    step costs little more than the answers. Returns the number of steps; RuntimeError if it did not learn.
    """
    import torch

    groups = _examples(tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0, betas=(0.9, 0.98))
    worst = [9.0] * len(groups)
    for step in range(max_steps):
        at = step % len(groups)
        worst[at] = _learn(model, *groups[at])
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for parameters in optimizer.param_groups:  # smaller steps as the last tokens fall into place
            parameters["lr"] = 3e-3 * min(1.0, (step + 1) / 10, max(worst) + 0.05)
        if max(worst) < 0.1:
            return step
        optimizer.step()
        optimizer.zero_grad()
    raise RuntimeError(f"the tiny model did not learn: its worst token still has loss {max(worst):.2f}")


def _learn(model: Any, prefix: list[int], batches: list[tuple[Any, Any]]) -> float:
    """Add up the gradients of one prefix's batches; the loss of the worst token."""
    worst = 0.0
    for ids, labels in batches:
        loss, largest = _loss(model, prefix, ids, labels)
        loss.backward()
        worst = max(worst, largest)
    return worst


def _examples(tokenizer: Any) -> list[tuple[list[int], list[tuple[Any, Any]]]]:
    """Prefixes that many prompts share, each with batches of (token ids, labels) of what follows it.

    The engine pads the prefix to whole cache blocks, a chat server does not: there is one prefix for each.
    """
    from prep.phrases.engines.chat import ChatTokens
    from prep.phrases.prompt import load_prompt
    from prep.phrases.reasons import second_turn

    prompt = load_prompt()
    chat = ChatTokens(tokenizer, prompt)
    first = {**LESSONS, **{text: bad for text, (bad, _) in CORRECTIONS.items()}}
    padded = [(q, " " + a) for q, a in zip(chat.questions(list(first)), first.values(), strict=True)]
    again = chat.retries(list(CORRECTIONS), [bad for bad, _ in CORRECTIONS.values()])
    padded += [(q, good) for q, (_, good) in zip(again, CORRECTIONS.values(), strict=True)]

    def served(*turns: str) -> list[int]:
        roles = ["user", "assistant", "user"]
        messages = [{"role": r, "content": c} for r, c in zip(roles, turns, strict=False)]
        return list(tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False))

    plain = [(served(prompt.render(text)), " " + answer) for text, answer in first.items()]
    # An endpoint's schema has an object around the list.
    objects = {text: (bad, f'{{"phrases":{good}}}') for text, (bad, good) in CORRECTIONS.items()}
    plain += [
        (served(prompt.render(t), bad, second_turn(t, bad)), good) for t, (bad, good) in objects.items()
    ]
    groups = []
    for pairs in (padded, plain):
        same = itertools.takewhile(lambda at: len(set(at)) == 1, zip(*(q for q, _ in pairs), strict=False))
        shared = [at[0] for at in same]
        tails = []
        for question, answer in pairs:
            ids = [*tokenizer(answer, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
            tails.append(([*question[len(shared) :], *ids], len(question) - len(shared)))
        tails.sort(key=lambda tail: len(tail[0]))
        few = len(CORRECTIONS)  # the retries, by far the longest
        batches = [_padded(part, tokenizer.eos_token_id) for part in (tails[:-few], tails[-few:])]
        groups.append((shared, batches))
    return groups


def _padded(tails: list[tuple[list[int], int]], pad: int) -> tuple[Any, Any]:
    """Token ids and labels (-100 where nothing is learned) of shape (examples, longest tail)."""
    import torch

    longest = max(len(ids) for ids, _ in tails)
    ids = torch.full((len(tails), longest), pad)
    labels = torch.full((len(tails), longest), -100)
    for row, (tail, prompt_length) in enumerate(tails):
        ids[row, : len(tail)] = torch.tensor(tail)
        labels[row, prompt_length : len(tail)] = torch.tensor(tail[prompt_length:])
    return ids, labels


def _loss(model: Any, prefix: list[int], ids: Any, labels: Any) -> tuple[Any, float]:
    """The loss of the answers' tokens, added up and scaled, and that of the worst token."""
    import torch

    with torch.no_grad():
        cache = model(input_ids=torch.tensor([prefix]), use_cache=True).past_key_values
    cache.batch_repeat_interleave(len(ids))
    logits = model(input_ids=ids, past_key_values=cache).logits
    each = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100, reduction="none"
    )
    return each.sum() / 100, float(each.detach().max())


def random_model(folder: Path) -> None:
    """Write a random tiny Mistral, its tokenizer and chat template."""
    tokenizer = make_tokenizer(folder)
    make_mistral(len(tokenizer), hidden=64, layers=1).save_pretrained(folder)


def taught_model(folder: Path) -> None:
    """Write a tiny Mistral that answers LESSONS and CORRECTIONS as given above."""
    tokenizer = make_tokenizer(folder)
    model = make_mistral(len(tokenizer))
    teach(model, tokenizer)
    model.save_pretrained(folder)


def vllm_stage(folder: Path, max_model_len: int = 736) -> Any:
    """A vLLM stage of the model in ``folder``; by default too short for 400 strange letters."""
    from prep.phrases.engines.vllm import VllmStage
    from prep.phrases.engines.vllm_boot import VllmOptions
    from prep.phrases.models import resolve
    from prep.phrases.prompt import load_prompt

    options = VllmOptions(dtype="float32", max_model_len=max_model_len)
    return VllmStage(resolve(str(folder)), load_prompt(), options=options)
