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
from prep.exports.relations import Triplets, triplets_of
from prep.exports.request import Request

# Gives an expression its triplets, or None if it has none.
Source = Callable[[Sentence], Triplets | None]


def export(request: Request) -> Exported:
    """Write a line ``{"<image>_<sent_id>": {"entity": ..., "relations": [...]}}`` for each expression."""
    done = Exported(request.layout, request.to)
    output = request.output(done)
    source = _from_phrases(request)
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


def _from_phrases(request: Request) -> Source:
    """Triplets by the rules' grammar from the stored phrases."""
    reader = request.store.require_table("phrases", "pcnet-prep phrases")
    table = reader.read(["row_id", "phrases"])
    phrases = dict(zip(table["row_id"].to_pylist(), table["phrases"].to_pylist(), strict=True))

    def of(sentence: Sentence) -> Triplets | None:
        own = phrases.get(sentence.row.row_id)
        return triplets_of(own) if own else None

    return of
