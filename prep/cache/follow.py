"""Keeps a table in line with its input: updates what no model computes, and sets aside rows that left it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from prep.cache.keyset import column_hashes, hash_keys
from prep.cache.rewrite import cut_rows, rewrite
from prep.cache.shards import complete, read_shard
from prep.cache.sources import Hashes, Origin, check_place, predecessor, read_keys, record

if TYPE_CHECKING:
    from prep.cache.store import StageReader
    from prep.cache.writer import StageWriter

# A row's key, the values of its followed columns (empty if the input does not say), and the error that it
# must have: "" for none, None for any.
Entry = tuple[str, Mapping[str, object], str | None]

# The columns of each table that come from the input and are not part of a row's key.
FOLLOWED: dict[str, tuple[str, ...]] = {
    "phrases": ("split", "image_id"),
    "triplets": ("split", "image_id"),
    "proposals": ("image_id",),
    "scores": (),
    "concepts": (),
}
# The columns that tell which dataset a row of an older store belongs to.
_OWNER = {"phrases": ("dataset", "split_by"), "triplets": ("dataset", "split_by")}
_BLOCK = 4096


@dataclass
class Followed:
    """What changed: rows with updated columns, set aside, taken back, and removed to be made again."""

    updated: int = 0
    set_aside: int = 0
    taken_back: int = 0
    remade: int = 0
    missing: int = 0

    def counts(self) -> dict[str, int]:
        """The counts above zero, by what is shown for them."""
        shown = {
            "rows updated from the input": self.updated,
            "rows set aside, as the input no longer has them": self.set_aside,
            "rows taken back, as the input has them again": self.taken_back,
            "rows made again, as the input's problem with them changed": self.remade,
            "rows kept that the input no longer has": self.missing,
        }
        return {name: count for name, count in shown.items() if count}


def follow(
    writer: StageWriter, origin: Origin, entries: Iterable[Entry], *, keep_missing: bool = False
) -> Followed:
    """Bring the rows of ``origin`` in line with ``entries``: all of its input, whatever the run selects.

    Rows whose followed columns differ are rewritten with the new values. Rows of this source that the input
    no longer has move to the table's rows set aside (unless ``keep_missing``), and back if the input has them
    again; rows that another source has too stay. A row whose error the input no longer causes, or now causes,
    is removed, so that the run makes it again. A repetition after the process died has the same result: rows
    are written where they go before they are removed where they were. In a replacement nothing is taken back:
    its first committed row would end the rows that it replaces before the run has begun.

    Raises :class:`PrepError` if the table has rows of another file of this name that still exists.
    """
    check_place(writer, origin)
    writer.flush()
    stored = _Stored(writer, origin)
    changes = _compare(stored, entries, FOLLOWED[writer.stage.name])
    gone = stored.owned & ~np.isin(stored.keys, changes.keys)
    done = Followed(updated=len(changes.values), remade=len(changes.remade))
    if keep_missing:
        done.missing = int(gone.sum())
    else:
        changes.gone = stored.keys[gone]
        done.set_aside = len(changes.gone)
        _set_aside(writer, changes.gone)
    _apply(writer, changes)
    if not writer.replaces:
        done.taken_back = _take_back(writer, changes)
    record(writer, origin, changes.keys, keep_missing)
    return done


@dataclass
class _Changes:
    """The differences between an input and a table: by the hash of a row's key."""

    keys: Hashes  # of the whole input, sorted
    values: dict[int, Mapping[str, object]]  # the new values of the followed columns
    back: dict[int, Mapping[str, object]]  # the same, of entries whose row is set aside
    remade: Hashes
    gone: Hashes = field(default_factory=lambda: np.empty(0, np.uint64))


class _Stored:
    """The table's rows: ``keys`` sorted, their followed columns, errors, and which the source ``owned``."""

    def __init__(self, writer: StageWriter, origin: Origin) -> None:
        name = writer.stage.name
        columns, owner = FOLLOWED[name], _OWNER.get(name, ())
        wanted = [writer.stage.key_column, *columns, *owner, *_error_column(writer)]
        keys, states, errors, owned = [], [], [], []
        for shard in writer.manifest.shards:
            table = read_shard(writer.files, shard, wanted)
            for batch in table.to_batches(max_chunksize=_BLOCK):
                rows = batch.to_pydict()
                keys.append(hash_keys(rows[writer.stage.key_column]))
                states.append(_states(rows, columns, len(batch)))
                errors.append(hash_keys(error or "" for error in rows.get("error", [""] * len(batch))))
                pairs = zip(*(rows[column] for column in owner), strict=True) if owner else ()
                owned.append(np.array([pair == origin.owner for pair in pairs] or [False] * len(batch), bool))
        every = _joined(keys)
        order = np.argsort(every, kind="stable")
        self.keys, self.states, self.errors = every[order], _joined(states)[order], _joined(errors)[order]
        by_default = np.concatenate(owned)[order] if owned else np.empty(0, bool)
        self.aside = _hashes_of(writer.stage.aside.reader())
        before = read_keys(writer.files, writer.manifest, predecessor(writer, origin))
        names = [name for name in writer.manifest.sources if name != origin.name]
        others = [read_keys(writer.files, writer.manifest, name) for name in names]
        elsewhere = np.isin(self.keys, _joined([keys for keys in others if keys is not None]))
        mine = by_default if before is None else np.isin(self.keys, before)
        self.owned = mine & ~elsewhere

    def find(self, hashes: Hashes) -> npt.NDArray[np.int64]:
        """The position of each hash in ``keys``; -1 if it is not there."""
        if not len(self.keys):
            return np.full(len(hashes), -1)
        position = np.minimum(np.searchsorted(self.keys, hashes), len(self.keys) - 1)
        return np.where(self.keys[position] == hashes, position, -1)


def _compare(stored: _Stored, entries: Iterable[Entry], columns: Sequence[str]) -> _Changes:
    """Compare an input with the table, block by block; memory grows with the differences."""
    stream, keys, remade = iter(entries), list[Hashes](), list[int]()
    changes = _Changes(np.empty(0, np.uint64), {}, {}, np.empty(0, np.uint64))
    while block := list(islice(stream, _BLOCK)):
        hashes = hash_keys(key for key, _, _ in block)
        keys.append(hashes)
        position = stored.find(hashes)
        known = position >= 0
        for number in np.flatnonzero(~known & np.isin(hashes, stored.aside)):
            changes.back[int(hashes[number])] = block[number][1]
        if not known.any():
            continue
        values = {name: [entry[1].get(name) for entry in block] for name in columns}
        differs = known & (_states(values, columns, len(block)) != _at(stored.states, position))
        differs &= np.array([bool(entry[1]) for entry in block])
        reasons = hash_keys(reason or "" for _, _, reason in block)
        told = np.array([reason is not None for _, _, reason in block])
        again = known & told & (reasons != _at(stored.errors, position))
        for number in np.flatnonzero(differs & ~again):
            changes.values[int(hashes[number])] = block[number][1]
        remade += hashes[again].tolist()
    changes.keys, changes.remade = np.unique(_joined(keys)), np.unique(np.array(remade, np.uint64))
    return changes


def _at(hashes: Hashes, position: npt.NDArray[np.int64]) -> Hashes:
    """The hashes at positions; any value where a position is -1, also if there are no hashes."""
    return hashes[position] if len(hashes) else np.zeros(len(position), np.uint64)


def _states(values: Mapping[str, Sequence[object]], columns: Sequence[str], count: int) -> Hashes:
    """The followed columns of rows as one hash per row."""
    return hash_keys(repr([values[name][row] for name in columns]) for row in range(count))


def _error_column(writer: StageWriter) -> list[str]:
    return ["error"] if "error" in writer.stage.schema.names else []


def _apply(writer: StageWriter, changes: _Changes) -> None:
    """Rewrite the shards that have changed rows."""
    removed = np.union1d(changes.gone, changes.remade)
    touched = np.union1d(removed, np.fromiter(changes.values, np.uint64, len(changes.values)))
    key = writer.stage.key_column
    shards = [
        name
        for name in writer.manifest.shards
        if len(touched) and np.isin(column_hashes(read_shard(writer.files, name, [key])[key]), touched).any()
    ]

    def keep(name: str, table: pa.Table) -> pa.Table:
        hashes = column_hashes(table[key])
        return _updated(table, hashes, changes.values).filter(pa.array(~np.isin(hashes, removed)))

    if shards:
        writer.manifest.finished.clear()
        writer.save()
        rewrite(writer, [[name] for name in shards], keep)


def _updated(table: pa.Table, hashes: Hashes, values: Mapping[int, Mapping[str, object]]) -> pa.Table:
    """The table with the new values of the followed columns."""
    new = [values.get(number) for number in hashes.tolist()]
    for name in next(iter(values.values()), {}):
        old, place = table[name].to_pylist(), table.column_names.index(name)
        column = [before if row is None else row[name] for before, row in zip(old, new, strict=True)]
        table = table.set_column(
            place, table.schema.field(name), pa.array(column, table.schema.field(name).type)
        )
    return table


def _set_aside(writer: StageWriter, gone: Hashes) -> None:
    """Copy rows to the table's rows set aside, if they are not there already."""
    if not len(gone):
        return
    with _aside_writer(writer) as aside:
        for name in writer.manifest.shards:
            table = read_shard(writer.files, name)
            hashes = column_hashes(table[writer.stage.key_column])
            wanted = np.isin(hashes, gone) & ~aside.done.contains_hashes(hashes)
            aside.write(complete(table.filter(pa.array(wanted)), writer.stage.schema))


def _take_back(writer: StageWriter, changes: _Changes) -> int:
    """Write the rows that the input has again, with its values; drop rows that are not set aside any more."""
    if not writer.stage.aside.reader().exists:
        return 0
    key, taken = writer.stage.key_column, 0
    back = np.fromiter(changes.back, np.uint64, len(changes.back))
    with _aside_writer(writer) as aside:
        stale = {}
        for name in list(aside.manifest.shards):
            table = complete(read_shard(aside.files, name), writer.stage.schema)
            hashes = column_hashes(table[key])
            wanted = np.isin(hashes, back)
            for name_of_error in _error_column(writer):
                wanted &= np.array([error is None for error in table[name_of_error].to_pylist()], bool)
            writer.write(_updated(table, hashes, changes.back).filter(pa.array(wanted)))
            taken += int(wanted.sum())
            rows = np.flatnonzero(writer.done.contains_hashes(hashes) | np.isin(hashes, changes.keys))
            if len(rows):
                stale[name] = set(rows.tolist())
        writer.flush()
        cut_rows(aside, stale)
    return taken


def _aside_writer(writer: StageWriter) -> StageWriter:
    """A writer of the rows set aside; those of other settings cannot come back, and are replaced."""
    table = writer.stage.aside
    return table.writer(
        writer.settings, replace=table.reader().settings != writer.settings, cache=writer.cache_address
    )


def _hashes_of(reader: StageReader) -> Hashes:
    batches = reader.batches([reader.stage.key_column]) if reader.exists else ()
    return _joined([hash_keys(batch.column(0).to_pylist()) for batch in batches])


def _joined(parts: Sequence[Hashes]) -> Hashes:
    return np.concatenate(parts) if parts else np.empty(0, np.uint64)
