"""Checks the committed state of a table before a writer appends to it, and puts it in its place."""

from __future__ import annotations

from collections.abc import Mapping

from prep.cache.files import Files, repair_command
from prep.cache.manifest import Manifest, differences
from prep.cache.shards import is_shard
from prep.cache.state import PENDING, copy_keys, is_old, remove_old, state_of
from prep.errors import PrepError


def checked_manifest(
    stored: Manifest | None,
    files: Files,
    names: Mapping[str, int],
    settings: Mapping[str, object],
    replace: bool,
) -> Manifest | None:
    """The stored manifest; None if it has other settings and no rows. ``names`` maps each file to its size.

    Raises :class:`PrepError` for shards without a manifest and, unless ``replace``, for rows made with other
    settings.
    """
    shards = any(map(is_shard, names))
    if stored is None and shards:
        raise PrepError(
            f"{files.uri} contains shards but no manifest.",
            f"Run {repair_command(files.uri)} to rebuild it from them, or set another --store.",
        )
    if stored is not None and stored.settings != settings and not shards:
        return None  # no rows were committed, so there is nothing to protect
    if stored is None or stored.settings == settings or replace:
        return stored
    raise PrepError(
        f"{files.uri} was made with other settings:\n" + "\n".join(differences(stored.settings, settings)),
        "Set another --store, or use --replace to overwrite its rows (responses stay cached).",
    )


def check_sizes(files: Files, manifest: Manifest, names: Mapping[str, int]) -> None:
    """Check that every listed shard is there with its size; raises :class:`PrepError` for one that is not."""
    for shard in manifest.shards.values():
        if names.get(shard.name) != shard.bytes:
            found = f"has {names[shard.name]} bytes" if shard.name in names else "is missing"
            raise PrepError(
                f"{files.where(shard.name)} {found}; the manifest lists {shard.bytes} bytes.",
                f"Run {repair_command(files.uri)} to make the lost rows again.",
            )


def settle(files: Files, found: Manifest | None, names: Mapping[str, int]) -> None:
    """Move an older store's bookkeeping out of the table's folder, and end the swap of a killed writer.

    ``found`` is written first: after a kill at any step the table has its manifest in one of the places.
    """
    state = state_of(files)
    if any(map(is_old, names)) or state.exists(PENDING):
        copy_keys(files)
        if found is not None:
            found.save(files)
        remove_old(files)
        state.delete(PENDING)
