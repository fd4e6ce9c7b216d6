"""Rewrites shards of a table, atomically for its readers: to merge them, and to change or remove rows."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from prep.cache.exchange import aside_of, exchange
from prep.cache.files import Files, open_files
from prep.cache.shards import Shard, complete, encode, is_shard, read_shard
from prep.cache.state import PENDING, put_shard
from prep.files import TEMPORARY

if TYPE_CHECKING:
    from prep.cache.writer import StageWriter

Groups = Sequence[Sequence[str]]
Keep = Callable[[str, pa.Table], pa.Table]


def rewrite(writer: StageWriter, groups: Groups, keep: Keep) -> None:
    """Replace each group by one shard, with the rows of its shards that ``keep(name, table)`` returns.

    The change is atomic for readers of the manifest, and for a glob of a local folder: the new folder is
    built separately and swapped in; a folder that is a link stays one. If folders cannot be swapped, a glob
    may see rows twice while the old files are removed; if the process dies then, the next writer finishes the
    removal.
    """
    writer.flush()
    if not groups:
        return
    writer.forget_keys()
    if writer.files.local is None or not _rewrite_aside(writer, writer.files.local, groups, keep):
        for group in groups:
            added = _merged(writer, writer.files, group, keep)
            same = {shard.name for shard in added}
            writer.list_shards(added, removed=[name for name in group if name not in same])
    writer.save()


def cut_rows(writer: StageWriter, rows: Mapping[str, set[int]]) -> None:
    """Remove rows (shard -> row numbers) from a table, so that they can be written again.

    Selections that earlier runs finished are marked unfinished first, in case the process dies in between.
    """

    def keep(name: str, table: pa.Table) -> pa.Table:
        return table.filter(pa.array([row not in rows[name] for row in range(table.num_rows)]))

    if rows:
        writer.manifest.finished.clear()
        writer.save()
        rewrite(writer, [[name] for name in rows], keep)


def _merged(writer: StageWriter, target: Files, group: Sequence[str], keep: Keep) -> list[Shard]:
    """Write the kept rows of a group to ``target``: one shard, or none."""
    schema = writer.stage.schema
    tables = [complete(keep(name, read_shard(writer.files, name)), schema) for name in group]
    table = pa.concat_tables(tables)
    if not table.num_rows:
        return []
    shard, data = encode(table, writer.meta())
    if target is writer.files:
        put_shard(target, shard.name, data)
    else:
        target.write(shard.name, data)
    return [shard]


def _rewrite_aside(writer: StageWriter, folder: Path, groups: Groups, keep: Keep) -> bool:
    """:func:`rewrite` through a second folder; False, with nothing changed, if that is not possible.

    The folder is swapped in one step and the manifest written in another. Between the two, and if the process
    dies there, the pending manifest is the one whose shards are in the folder.
    """
    folder = folder.resolve()
    if not all(is_shard(name) or name.endswith(TEMPORARY) for name in os.listdir(folder)):
        return False  # somebody's own files would be lost with the folder
    aside = aside_of(folder)
    shutil.rmtree(aside, ignore_errors=True)
    target = open_files(aside)
    try:
        aside.mkdir()
    except OSError:  # the table's folder may be a link into a folder that is not ours to write to
        return False
    leader = {group[0]: group for group in groups}
    replaced = {name for group in groups for name in group}
    shards: dict[str, Shard] = {}
    for name, shard in writer.manifest.shards.items():
        if name in leader:
            shards.update((new.name, new) for new in _merged(writer, target, leader[name], keep))
        elif name not in replaced:
            writer.files.link(name, target)
            shards[name] = shard
    changed = replace(writer.manifest, shards=shards, folded=writer.sequence)
    changed.save(writer.files, PENDING)
    swapped = exchange(aside, folder)
    if swapped:
        changed.save(writer.files)
        writer.manifest = changed
    writer.state.delete(PENDING)
    shutil.rmtree(aside, ignore_errors=True)
    return swapped
