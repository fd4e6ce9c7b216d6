"""The released tree: read as the released class reads it, and back into a store without loss."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cli
from prep.cache.schema import PROPOSALS, SCORES
from prep.cache.store import Store, open_store
from prep.datasets.catalogue import open_dataset
from prep.demo.dataset import write
from prep.engine.local import Engine
from prep.engine.runner import run_stage
from prep.errors import PrepError
from prep.masks import rle
from prep.phrases.stage import RulesStage, rules_settings
from prep.proposals.import_masks import ImportStage
from prep.proposals.job import run_proposals
from prep.proposals.rows import answer, make_row
from prep.records import Proposal
from prep.released.export import Exported, export_official
from prep.released.imports import import_phrases
from prep.released.scores import import_scores
from prep.released.tree import once, repeated
from prep.stage import Resources


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("data"), images=8)


def proposals(random: Random, many: int) -> list[Proposal]:
    made = []
    for _ in range(many):
        mask = np.zeros((64, 64), bool)
        x, y = random.randrange(40), random.randrange(40)
        mask[y : y + random.randint(4, 20), x : x + random.randint(4, 20)] = True
        runs = rle.encode(mask)
        x0, y0, w, h = rle.bounding_box(runs, 64)
        made.append(Proposal(rle.compress(runs), rle.area(runs), (x0, y0, w, h)))
    return sorted(made, key=lambda one: -one.area)


def fill(
    folder: Path,
    data: Path,
    *,
    many: int = 6,
    scored: bool = True,
    between: tuple[float, float] = (-1, 1),
    generator: str = "random",
) -> Store:
    """A store with phrases by rules, random masks, and scores that name their row and place."""
    store, dataset, random = open_store(folder, create=True), open_dataset(data, "refcoco"), Random(3)
    with store.stage("phrases").writer(rules_settings()) as writer:
        items = list(dataset.expressions())
        run_stage(Engine(RulesStage()), items, key=lambda one: one.row_id, writer=writer, unit_size=64)
    keys = {}
    with store.stage("proposals").writer({"generator": generator}) as writer:
        rows = []
        for ref in dataset.images():
            found = answer(proposals(random, many), 64, 64)
            rows.append(
                make_row(ref, None, found, generator, keys.setdefault(ref.image, f"key of {ref.image}"))
            )
        writer.write(pa.Table.from_pylist(rows, schema=PROPOSALS))
    if scored:
        with store.stage("scores").writer({"model": "random"}) as writer:
            rows = [
                {
                    "row_id": item.row_id,
                    "split_by": "unc",
                    "image": item.image,
                    "scores": [random.uniform(*between) for _ in range(many)],
                    "proposals_key": keys[item.image],
                    "model": "random",
                    "key": item.row_id,
                }
                for item in items
            ]
            writer.write(pa.Table.from_pylist(rows, schema=SCORES))
    return store


def by_row(store: Store, stage: str) -> dict[str, dict[str, Any]]:
    key = "image" if stage == "proposals" else "row_id"
    return {row[key]: row for row in store.stage(stage).reader().read().to_pylist()}


def released_class(
    root: Path, dataset: str, split_by: str, zs_model: str = "SAM_Mask"
) -> dict[int, dict[str, Any]]:
    """What the released dataset class takes from the tree for each reference, step by step as it does."""
    folder = root / "refer" / dataset
    candidates = np.load(folder / zs_model / f"{split_by}_candidate_2_4_6_8.npy", allow_pickle=True).item()
    found = {}
    for ref_id, entry in candidates.items():
        name = ref_id
        content = json.loads((folder / "Mistral_7B_Ref_Sents" / f"{name}.json").read_text())
        if (dataset, split_by) == ("refcocog", "umd"):
            name = np.load(folder / "umd_2_google_ref.npy", allow_pickle=True).item()[ref_id]
            content = json.loads((folder / "Mistral_7B_Ref_Sents" / f"{name}.json").read_text())
        masks = np.load(
            folder / zs_model / zs_model.replace("Mask", "out") / Path(entry["sam_mask_path"]).name
        )
        phrases = [content[sent_id][:5] for sent_id in content]
        found[ref_id] = {"phrases": phrases, "masks": masks, **entry}
    return found


def test_the_released_class_finds_what_the_store_holds(data: Path, tmp_path: Path) -> None:
    store, dataset = fill(tmp_path / "store", data), open_dataset(data, "refcoco")
    done = export_official(store, dataset, tmp_path / "out")
    assert (done.ranked_by, done.notes) == ("scores", {})
    read = released_class(tmp_path / "out", "refcoco", "unc")
    phrases, masks, scores = (by_row(store, stage) for stage in ("phrases", "proposals", "scores"))
    refs = [ref for ref in dataset.refs if ref.ref_id is not None]
    assert set(read) == {ref.ref_id for ref in refs}
    rows = {(one.ref_id, one.sent_id): one for one in dataset.expressions()}
    for ref in refs:
        entry = read[ref.ref_id]
        assert entry["masks"].shape == (40, 64, 64)
        assert len(entry["phrases"]) == len(ref.sentences) == len(entry["clip_score"])
        for place, (sent_id, _, _) in enumerate(ref.sentences):
            expression = rows[ref.ref_id, sent_id]
            own = phrases[expression.row_id]["phrases"]
            assert len(entry["phrases"][place]) == 5
            assert entry["phrases"][place] == (own * 5)[:5]
            stored = masks[expression.image]["masks"]
            for number, mask in enumerate(stored):
                whole = rle.decode(rle.expand(mask["counts"]), 64, 64)
                assert np.array_equal(entry["masks"][number], whole)
            assert not entry["masks"][len(stored) :].any()
            score = entry["clip_score"][place]
            assert score.shape == (40,)
            assert np.allclose(score[: len(stored)], scores[expression.row_id]["scores"])
            assert score[len(stored) :].max() < score[: len(stored)].min()
            for count in (2, 4, 6):
                chosen = entry[f"candidate_{count}"][place]
                assert chosen.sum() == count
                assert score[chosen == 1].min() >= score[chosen == 0].max()
    assert not list((tmp_path / "out").rglob("*.tmp"))


@pytest.mark.parametrize("between", [(-0.3, -0.1), (-90.0, -20.0), (-3e8, -1e8), (-2e20, -1e20)])
def test_padding_is_below_every_score(data: Path, tmp_path: Path, between: tuple[float, float]) -> None:
    store, dataset = fill(tmp_path / "store", data, between=between), open_dataset(data, "refcoco")
    export_official(store, dataset, tmp_path / "out")
    for entry in released_class(tmp_path / "out", "refcoco", "unc").values():
        for score in entry["clip_score"]:
            assert np.isfinite(score).all()
            assert score[6:].max() < score[:6].min()


VARIANTS = [("random", "SAM_Mask", "SAM_out"), ("freesolo", "SOLO_Mask", "SOLO_out")]


@pytest.mark.parametrize(("generator", "variant", "masks"), VARIANTS)
def test_each_variant_has_its_folder(
    data: Path, tmp_path: Path, generator: str, variant: str, masks: str
) -> None:
    store, dataset = fill(tmp_path / "store", data, generator=generator), open_dataset(data, "refcoco")
    folder = export_official(store, dataset, tmp_path / "out").folder
    assert {one.name for one in folder.iterdir()} == {"Mistral_7B_Ref_Sents", variant}
    assert (folder / variant / masks).is_dir()
    read = released_class(tmp_path / "out", "refcoco", "unc", variant)
    assert read.keys() == {ref.ref_id for ref in dataset.refs}
    assert all(entry["masks"].shape == (40, 64, 64) and entry["masks"].any() for entry in read.values())


@pytest.mark.parametrize(("generator", "variant", "masks"), VARIANTS)
def test_the_round_trip_loses_nothing(
    data: Path, tmp_path: Path, generator: str, variant: str, masks: str
) -> None:
    store, dataset = fill(tmp_path / "store", data, generator=generator), open_dataset(data, "refcoco")
    folder = export_official(store, dataset, tmp_path / "out").folder
    again = open_store(tmp_path / "again", create=True)
    summary = import_phrases(folder, dataset, again)
    assert (summary.total, summary.failed) == (len(list(dataset.expressions())), 0)
    run_proposals(
        ImportStage("official", folder / variant / masks, resources=Resources()),
        [(open_dataset(data, "refcoco"))],
        again,
    )
    count = import_scores(folder, dataset, again, variant=variant).done
    before, after = by_row(store, "phrases"), by_row(again, "phrases")
    assert {row: one["phrases"] for row, one in after.items()} == {
        row: one["phrases"] for row, one in before.items()
    }
    assert {one["source"] for one in after.values()} == {"import"}
    for image, row in by_row(store, "proposals").items():
        kept = by_row(again, "proposals")[image]
        assert [mask["counts"] for mask in kept["masks"]] == [mask["counts"] for mask in row["masks"]]
        assert kept["grid32"] == row["grid32"]
    before, after = by_row(store, "scores"), by_row(again, "scores")
    assert count == len(before)
    for row_id, row in before.items():
        assert np.allclose(after[row_id]["scores"], row["scores"])
        assert after[row_id]["proposals_key"] == by_row(again, "proposals")[row["image"]]["key"]


def test_without_scores_masks_are_ranked_by_area(data: Path, tmp_path: Path) -> None:
    store = fill(tmp_path / "store", data, scored=False)
    done = export_official(store, open_dataset(data, "refcoco"), tmp_path / "out")
    assert done.ranked_by == "area"
    for entry in released_class(tmp_path / "out", "refcoco", "unc").values():
        areas = entry["masks"].sum((1, 2))
        assert np.allclose(entry["clip_score"][0][:6], areas[:6] / 64**2)


def test_only_the_40_largest_go_out_and_are_counted(data: Path, tmp_path: Path) -> None:
    store = fill(tmp_path / "store", data, many=43, scored=False)
    done = export_official(store, open_dataset(data, "refcoco"), tmp_path / "out", side=32)
    assert done.notes == {"masks beyond the 40 largest of an image: left out": 3 * 8}
    for entry in released_class(tmp_path / "out", "refcoco", "unc").values():
        assert entry["masks"].shape == (40, 32, 32)


def umd_tree(data: Path, folder: Path) -> Path:
    """The synthetic data as RefCOCOg, split by google and by umd with the ids turned round."""
    source, target = data / "refer" / "refcoco", folder / "refer" / "refcocog"
    target.mkdir(parents=True)
    (folder / "train2014").symlink_to(data / "train2014")
    (target / "instances.json").write_bytes((source / "instances.json").read_bytes())
    refs = pickle.loads((source / "refs(unc).p").read_bytes())
    (target / "refs(google).p").write_bytes(pickle.dumps(refs[:-1]))
    last = len(refs) - 1
    turned = [{**ref, "ref_id": last - at} for at, ref in enumerate(refs)]
    (target / "refs(umd).p").write_bytes(pickle.dumps(turned))
    return folder


def test_the_umd_split_goes_through_googles_ids(data: Path, tmp_path: Path) -> None:
    tree = umd_tree(data, tmp_path / "umd")
    dataset, store = open_dataset(tree, "refcocog", "umd"), open_store(tmp_path / "store", create=True)
    with store.stage("phrases").writer(rules_settings()) as writer:
        run_stage(
            Engine(RulesStage()),
            dataset.expressions(),
            key=lambda one: one.row_id,
            writer=writer,
            unit_size=64,
        )
    with store.stage("proposals").writer({"generator": "random"}) as writer:
        rows = [
            make_row(ref, None, answer(proposals(Random(1), 3), 64, 64), "random", ref.image)
            for ref in dataset.images()
        ]
        writer.write(pa.Table.from_pylist(rows, schema=PROPOSALS))
    done = export_official(store, dataset, tmp_path / "out")
    assert list(done.notes.values()) == [1]  # one reference was kept from google's list
    mapped = np.load(done.folder / "umd_2_google_ref.npy", allow_pickle=True).item()
    assert sorted(mapped)[1:] == [len(mapped) - 1 - mapped[ref_id] for ref_id in sorted(mapped)[1:]]
    read = released_class(tmp_path / "out", "refcocog", "umd")
    phrases = by_row(store, "phrases")
    for ref_id, entry in read.items():
        own = [row for row in phrases.values() if row["ref_id"] == ref_id]
        assert sorted(map(tuple, entry["phrases"])) == sorted(tuple(repeated(row["phrases"])) for row in own)
    again = open_store(tmp_path / "again", create=True)
    assert import_phrases(done.folder, dataset, again).failed == 0
    for row_id, row in by_row(again, "phrases").items():
        assert row["phrases"] == phrases[row_id]["phrases"]


def test_what_is_missing_is_said(data: Path, tmp_path: Path) -> None:
    dataset = open_dataset(data, "refcoco")
    store = open_store(tmp_path / "store", create=True)
    with pytest.raises(PrepError, match="no phrases yet"):
        export_official(store, dataset, tmp_path / "out")
    with store.stage("phrases").writer(rules_settings()) as writer:
        first = list(dataset.expressions())[:1]
        run_stage(Engine(RulesStage()), first, key=lambda one: one.row_id, writer=writer, unit_size=64)
    with pytest.raises(PrepError, match="has no phrases in the store"):
        export_official(store, dataset, tmp_path / "out")
    with pytest.raises(PrepError, match="Mistral_7B_Ref_Sents"):
        import_phrases(tmp_path, dataset, store)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "is missing"),
        ("{", "could not be read"),
        ("[1]", "contains no lists of phrases"),
        ('{"0": "a red circle"}', "contains 1 lists of phrases"),
        ('{"a": [1], "b": [2], "c": [3], "d": [4]}', "something other than phrases"),
        ('{"a": [], "b": [" "], "c": [""], "d": []}', "contains no phrases for sentence"),
    ],
)
def test_a_bad_file_makes_rows_with_a_reason(
    data: Path, tmp_path: Path, content: str | None, reason: str
) -> None:
    dataset = open_dataset(data, "refcoco")
    ref = next(one for one in dataset.refs if len(one.sentences) > 1)
    folder = tmp_path / "Mistral_7B_Ref_Sents"
    folder.mkdir()
    if content is not None:
        (folder / f"{ref.ref_id}.json").write_text(content)
    store = open_store(tmp_path / "store", create=True)
    import_phrases(tmp_path, dataset, store)
    rows = [row for row in by_row(store, "phrases").values() if row["ref_id"] == ref.ref_id]
    assert len(rows) == len(ref.sentences)
    assert all(row["status"] == "error" and reason in row["error"] for row in rows)


@given(st.lists(st.text("ab", min_size=1, max_size=2), min_size=1, max_size=5, unique=True))
def test_repeating_phrases_can_be_undone(phrases: list[str]) -> None:
    assert once(repeated(phrases)) == phrases


def test_notes_count() -> None:
    done = Exported(Path("out"))
    done.note("a")
    done.note("a", 2)
    done.note("b", 0)
    assert done.notes == {"a": 3}


def test_an_import_follows_the_tree_and_the_dataset(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Phrases, masks and ranking that change are imported again, and rows that the dataset lost set aside."""
    root = write(tmp_path / "data", images=4)
    dataset = open_dataset(root, "refcoco")
    folder = export_official(fill(tmp_path / "store", root), dataset, tmp_path / "out").folder
    again = tmp_path / "again"

    def imported() -> str:
        words = ["import", str(folder), "--layout", "official", "--data", str(root), "--out", str(again)]
        cli.prep_app(words, standalone_mode=False)
        return capsys.readouterr().out

    imported()
    before = {name: by_row(open_store(again), name) for name in ("phrases", "proposals", "scores")}
    assert "changed" not in imported()  # and nothing was written twice
    assert {name: by_row(open_store(again), name) for name in before} == before
    one = next(iter(dataset.expressions()))
    file = folder / "Mistral_7B_Ref_Sents" / f"{one.ref_id}.json"
    file.write_text(json.dumps({name: ["the new one"] for name in json.loads(file.read_text())}))
    masks = folder / "SAM_Mask/SAM_out" / f"{Path(str(one.image)).stem}.npy"
    turned = np.load(masks)
    turned[0] = np.roll(turned[0], 1)
    np.save(masks, turned)
    told = imported()
    siblings = sum(other.ref_id == one.ref_id for other in dataset.expressions())
    assert f"changed: {siblings}" in told
    after = {name: by_row(open_store(again), name) for name in before}
    assert after["phrases"][one.row_id]["phrases"] == ["the new one"]
    assert after["proposals"][one.image] != before["proposals"][one.image]
    assert after["scores"][one.row_id]["proposals_key"] == after["proposals"][one.image]["key"]
    unchanged = [image for image in after["proposals"] if image != one.image]
    assert all(after["proposals"][image] == before["proposals"][image] for image in unchanged)
    refs = root / "refer/refcoco/refs(unc).p"
    kept = [ref for ref in pickle.loads(refs.read_bytes()) if ref["ref_id"] != one.ref_id]
    refs.write_bytes(pickle.dumps(kept))
    assert f"rows set aside, as the input no longer has them: {siblings}" in imported()
    assert one.row_id not in by_row(open_store(again), "phrases")
    assert one.row_id not in by_row(open_store(again), "scores")
