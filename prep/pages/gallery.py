"""The expressions of a report as columns, which are compact and quick to filter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prep.records import Expression


class Column:
    """A dictionary-encoded column of strings."""

    def __init__(self) -> None:
        self.values: list[str] = []
        self.codes: list[int] = []
        self._code: dict[str, int] = {}

    def code(self, value: str | None) -> int:
        """The code of ``value``; -1 for null."""
        if value is None:
            return -1
        at = self._code.setdefault(value, len(self.values))
        if at == len(self.values):
            self.values.append(value)
        return at

    def __contains__(self, value: str) -> bool:
        return value in self._code

    def add(self, value: str | None) -> None:
        """Append a row's value."""
        self.codes.append(self.code(value))

    def to_json(self) -> dict[str, object]:
        """``values`` and the code of each row."""
        return {"values": self.values, "codes": self.codes}


class Gallery:
    """The searchable rows of a store's page."""

    def __init__(self) -> None:
        self.columns = {name: Column() for name in ("dataset", "split", "source", "status", "image", "error")}
        self.violations: list[list[int]] = []
        self.codes = Column()
        self.text: list[str] = []
        self.phrases: list[list[str]] = []
        self.ids: list[list[int | None]] = []
        self.row_ids: list[str] = []
        self.image_ids: list[int | None] = []
        self.split_bys = Column()

    def add(self, row: Mapping[str, Any]) -> None:
        """Add one phrase row."""
        for name, column in self.columns.items():
            column.add(row[name])
        self.violations.append([self.codes.code(code) for code in row["violations"]])
        self.text.append(row["expression"])
        self.phrases.append(row["phrases"])
        self.ids.append([row["ref_id"], row["sent_id"]])
        self.row_ids.append(row["row_id"])
        self.image_ids.append(row["image_id"])
        self.split_bys.add(row["split_by"])

    def image(self, at: int) -> str | None:
        """The image of row ``at``."""
        column = self.columns["image"]
        return column.values[column.codes[at]] if column.codes[at] >= 0 else None

    def pictured(self, pictures: Mapping[str, object]) -> dict[str, int]:
        """``row_id`` -> number of the rows whose image has an entry in ``pictures``, by image number."""
        codes = self.columns["image"].codes
        return {row_id: at for at, row_id in enumerate(self.row_ids) if str(codes[at]) in pictures}

    def expression(self, at: int) -> Expression:
        """Row ``at`` as returned by the dataset's reader."""
        ref_id, sent_id = self.ids[at]
        named = {
            name: column.values[column.codes[at]]
            for name, column in (*self.columns.items(), ("split_by", self.split_bys))
            if name in ("dataset", "split_by", "split", "image") and column.codes[at] >= 0
        }
        return Expression(
            row_id=self.row_ids[at],
            dataset=named["dataset"],
            split_by=named["split_by"],
            split=named["split"],
            ref_id=ref_id,
            sent_id=sent_id,
            image_id=self.image_ids[at],
            image=named.get("image"),
            text=self.text[at],
        )

    def to_json(self) -> dict[str, object]:
        """The columns that the page needs."""
        return {
            **{name: column.to_json() for name, column in self.columns.items()},
            "violations": {"values": self.codes.values, "lists": self.violations},
            "text": self.text,
            "phrases": self.phrases,
            "ids": self.ids,
        }
