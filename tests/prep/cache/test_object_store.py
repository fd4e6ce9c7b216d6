"""A store on S3 is a store: the same rows, one writer, the same recovery (moto's server on the loopback)."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

import cli
from prep.cache import lease, lock
from prep.cache.answers import AnswerCache
from prep.cache.compact import compact
from prep.cache.files import open_files
from prep.cache.lock import holder
from prep.cache.maintain import repair
from prep.cache.row_checks import CHECKS
from prep.cache.schema import SCORES
from prep.cache.state import MANIFEST, state_of
from prep.cache.store import Store, open_store
from prep.cache.verify import verify
from prep.engine.local import Engine
from prep.engine.runner import run_stage
from prep.errors import PrepError
from tests.prep.toy import ToyStage, expected, item, row

pytestmark = pytest.mark.slow
DATA = Path(__file__).parents[2] / "data"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"{host}:{port}"
    server.stop()


@pytest.fixture
def uri(endpoint: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    import boto3

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    bucket = f"b{abs(hash(request.node.name)) % 10**9}"
    client = boto3.client("s3", endpoint_url=f"http://{endpoint}", region_name="us-east-1")
    client.create_bucket(Bucket=bucket)
    return f"s3://{bucket}/some/prepared?endpoint_override={endpoint}&scheme=http&region=us-east-1"


def fill(uri: str, count: int) -> int:
    with open_store(uri, create=True).stage("scores").writer({"toy": 1}, commit_seconds=0) as writer:
        items = map(item, range(count))
        return run_stage(
            Engine(ToyStage()), items, key=str, writer=writer, unit_size=10, selection={"n": count}
        ).done


def rows(store: Store) -> pa.Table:
    return store.stage("scores").reader().read().combine_chunks().sort_by("row_id")


def test_rows_go_in_accumulate_and_come_out(uri: str) -> None:
    with pytest.raises(PrepError, match="no store at s3://"):
        open_store(uri)
    assert fill(uri, 50) == 50
    assert fill(uri, 80) == 30
    assert fill(uri, 80) == 0
    store = open_store(uri)
    assert rows(store).equals(expected(80))
    assert store.stage("scores").reader().keys().contains([item(3), item(90)]).tolist() == [True, False]
    assert verify(store, CHECKS).problems == []


def test_an_object_that_was_put_but_not_listed_is_adopted_and_a_foreign_one_removed(uri: str) -> None:
    fill(uri, 30)
    store = open_store(uri)
    files = store.stage("scores").files
    manifest = json.loads(state_of(files).read(MANIFEST))
    manifest["shards"], manifest["finished"] = manifest["shards"][:1], {}
    state_of(files).write(MANIFEST, json.dumps(manifest).encode())
    files.write("part-00.parquet", b"half a file")
    assert fill(uri, 40) == 10
    assert rows(store).equals(expected(40))
    assert "part-00.parquet" not in files.sizes()


def test_compact_and_repair_work_there(uri: str) -> None:
    fill(uri, 60)
    store = open_store(uri)
    (report,) = compact(store)
    assert (report.shards_before, report.shards_after) == (6, 1)
    assert rows(store).equals(expected(60))
    fill(uri, 70)
    files = store.stage("scores").files
    (added,) = set(files.sizes()) - set(list(store.stage("scores").reader().manifest.shards)[:1])
    files.write(added, files.read(added)[:-1] + b"?")
    assert [problem.kind for problem in verify(store, CHECKS).problems] == ["altered"]
    (repaired,) = repair(store, CHECKS)
    assert repaired.lost_rows == 10
    assert fill(uri, 70) == 10
    assert rows(store).equals(expected(70))


def test_one_writer_at_a_time(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(uri, 10)
    stage = open_store(uri).stage("scores")
    with stage.writer({"toy": 1}), pytest.raises(PrepError, match="is being written by pid"):
        stage.writer({"toy": 1}).__enter__()
    # A lease of a machine that is gone: nobody renews it.
    monkeypatch.setattr(lease, "TAKEOVER_SECONDS", 0.5)
    gone = {"host": "elsewhere", "pid": 1, "started": "2020-01-01T00:00:00+00:00", "token": "x", "beat": 3}
    state_of(stage.files).write("lease-0000000009-feed.json", json.dumps(gone).encode())
    assert fill(uri, 20) == 10


def test_a_lease_that_is_renewed_is_respected_and_one_that_is_lost_ends_the_run(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    monkeypatch.setattr(lease, "TAKEOVER_SECONDS", 5.0)
    monkeypatch.setattr(lease, "HEARTBEAT_SECONDS", 0.2)
    stage = open_store(uri, create=True).stage("scores")
    with stage.writer({"toy": 1}, commit_seconds=0) as writer:
        with monkeypatch.context() as away:
            away.setattr(socket, "gethostname", lambda: "another-machine")
            away.setattr(lock, "_held", set())
            with pytest.raises(PrepError, match="is being written by"):
                stage.writer({"toy": 1}).__enter__()
        # The holder's machine stalls, another waits long enough and takes over, the holder wakes up.
        stolen = {"host": "elsewhere", "pid": 1, "started": "now", "token": "feed", "beat": 0}
        state_of(stage.files).write("lease-0000000009-feed.json", json.dumps(stolen).encode())
        with pytest.raises(PrepError, match="pid 1 on elsewhere"):
            writer.write(pa.Table.from_pylist([row(item(1))], schema=SCORES))
        writer._buffer.clear()
    assert (holder(stage.files) or {})["token"] == "feed"


def test_answers_are_kept_there(uri: str) -> None:
    table = pa.Table.from_pylist([row(item(1)), row(item(2))], schema=SCORES)
    with AnswerCache(uri, "answers", "f" * 64, SCORES) as cache:
        cache.put(table)
    assert AnswerCache(uri, "answers", "f" * 64, SCORES).get(item(2)) == row(item(2)) | {
        "scores": [float(value) for value in row(item(2))["scores"]]
    }


def test_an_old_store_is_moved_over_there(uri: str) -> None:
    """Object by object, as a local one; a lease of the old version that is alive is respected."""
    source = DATA / "inline" / "store"
    root = open_files(uri)
    for path in source.rglob("*"):
        if path.is_file() and path.name != ".writer.json":
            root.write(path.relative_to(source).as_posix(), path.read_bytes())
    store = open_store(uri)
    before = {name: store.stage(name).reader().read().to_pylist() for name in store.stages()}
    assert list(before) == ["phrases", "proposals", "scores"]
    stage = store.stage("scores")
    lease = {"host": socket.gethostname(), "pid": os.getppid(), "started": "now", "token": "x", "beat": 0}
    stage.files.write(".writer.json", json.dumps(lease).encode())
    with pytest.raises(PrepError, match=f"is being written by pid {os.getppid()}"):
        stage.writer(stage.reader().settings).__enter__()
    stage.files.delete(".writer.json")
    for name in before:
        with store.stage(name).writer(store.stage(name).reader().settings):
            pass
        assert all(shard.endswith(".parquet") for shard in store.stage(name).files.sizes())
    assert {name: store.stage(name).reader().read().to_pylist() for name in store.stages()} == before
    assert verify(store).problems == []


def test_a_command_writes_there_with_its_card(uri: str, tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text('{"sent": "the red cup", "image": "1.png"}\n')
    words = ["phrases", "--llm", "rules", "--input", str(tmp_path / "mine.jsonl"), "--out", uri]
    cli.prep_app(words, standalone_mode=False)
    store = open_store(uri)
    assert store.stage("phrases").reader().read(["phrases"]).to_pylist() == [
        {"phrases": ["the cup", "the red cup"]}
    ]
    assert "config_name: phrases" in store.files.read("README.md").decode()
    assert "testing" not in store.files.read("README.md").decode()


def test_a_bucket_that_is_not_there_is_an_error_for_people(uri: str) -> None:
    missing = uri.replace("s3://b", "s3://no-such-bucket-")
    with pytest.raises(PrepError):
        fill(missing, 1)
    with pytest.raises(PrepError, match="A store cannot be at nosuch://x"):
        open_store("nosuch://x")


@pytest.mark.parametrize("uri", ["hf://datasets/me/prepared", "az://c/prepared", "s4://b/p", "http://x/p"])
def test_a_place_that_cannot_hold_a_store_is_refused_by_name(uri: str) -> None:
    with pytest.raises(PrepError, match=f"{uri.partition('://')[0]}:// is not supported") as raised:
        open_files(uri)
    assert "s3://" in raised.value.remedy
