"""The layout `triplets`: ``<dataset>_<split>_triplets.jsonl``, one object for each expression.

Read by Zeroshot_REC (Show-han/Zeroshot_REC, ``eval_refcoco/main.py`` lines 67-72 and 126-127, keys lines
106-109; relations ``eval_refcoco/interpreter.py`` lines 194-209). It stops at an expression without an entry,
so each gets one: its fallback is that of ``triplets_chatgpt/run.py`` line 103.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable

from prep.exports.output import Exported, file_name
from prep.exports.reclip import COCO_FOLDER, name_with_suffix
from prep.exports.references import Reference, Sentence, references
from prep.exports.request import Request
from prep.phrases.relations import Triplets, triplets_of

# Gives an expression its triplets, or None if it has none.
Source = Callable[[Sentence], Triplets | None]


def export(request: Request) -> Exported:
    """Write a line ``{"<image>_<sent_id>": {"entity": ..., "relations": [...]}}`` for each expression."""
    done = Exported(request.layout, request.to)
    output = request.output(done)
    source = _source(request, done)
    lines: dict[str, list[str]] = defaultdict(list)
    done.count("expressions", 0)
    for reference in references(request.source, request.splits, done):
        image = _image(reference)
        if image is None:
            done.leave_out("expressions whose image name the program would change", len(reference.sentences))
            continue
        name = f"{file_name(f'{reference.dataset}_{reference.split}')}_triplets.jsonl"
        for sentence in reference.sentences:
            found = source(sentence)
            if found is None:
                done.note("expressions without phrases: the expression itself is the entity")
                found = {"entity": sentence.text, "relations": [[sentence.text, "", ""]]}
            done.count("expressions")
            done.count("relations", sum(bool(relation[1]) for relation in found["relations"]))
            lines[name].append(json.dumps({f"{image}_{sentence.sent_id}": found}, ensure_ascii=False) + "\n")
    for name, rows in lines.items():
        output.put(name, "".join(rows).encode("utf-8", "replace"))
    return output.finish()


def _image(reference: Reference) -> str | None:
    """The image's name as the program has it after it dropped the suffix of REFER's ``file_name``."""
    return None if name_with_suffix(reference) is None else reference.image.removeprefix(COCO_FOLDER)


def _source(request: Request, done: Exported) -> Source:
    """The stored triplets or, for an expression without, those of its phrases by the rules' grammar."""
    stored, phrases = _stored_triplets(request), _stored_phrases(request)
    if not stored and not phrases:
        request.store.require_table("phrases", "pcnet-prep phrases")

    def of(sentence: Sentence) -> Triplets | None:
        number = sentence.row.row_id
        if found := stored.get(number):
            done.count("expressions with stored triplets")
            return found
        own = phrases.get(number)
        return triplets_of(own) if own else None

    return of


def _stored_triplets(request: Request) -> dict[str, Triplets]:
    found: dict[str, Triplets] = {}
    for batch in request.store.stage("triplets").reader().batches(["row_id", "entity", "relations"]):
        for row in batch.to_pylist():
            if row["entity"] is not None:
                relations = [[one["subject"], one["predicate"], one["object"]] for one in row["relations"]]
                found[row["row_id"]] = {"entity": row["entity"], "relations": relations}
    return found


def _stored_phrases(request: Request) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for batch in request.store.stage("phrases").reader().batches(["row_id", "phrases"]):
        found.update(zip(*(batch.column(at).to_pylist() for at in range(2)), strict=True))
    return found
