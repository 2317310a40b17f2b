"""Whose split an item is in: the names that sets give their splits, and what a recipe says of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mllm.data_recipes.adapters_facts import WRONG, text_of
from mllm.data_recipes.adapters_fields import Missing, Place, Skip, parse_field
from mllm.data_recipes.config import Recipe
from mllm.data_recipes.licences import DataError

_NAMES = {
    **dict.fromkeys(("train", "training", "tr"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "va", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "te", "eval", "evaluation"), "test"),
}
LEFT_OUT = "skip"
"""What a recipe maps a split to that it does not want."""


def split_name(theirs: str) -> str:
    """`Valid` -> `validation`; empty for a name that is none of the usual ones."""
    return _NAMES.get(theirs.strip().lower(), "")


class SplitReader:
    """Reads the split of every row of one recipe."""

    def __init__(self, recipe: Recipe):
        """Raises ValueError for a column with an unknown filter."""
        self.name, self.rule = recipe.name, recipe.split
        self.field = parse_field(recipe.split.column) if recipe.split.column else None

    def of(self, row: Mapping[str, Any], place: Place) -> str:
        """The split of a row, empty where its source gives it none: then the hash of its work decides.

        Raises:
            Skip: the recipe leaves the split out, or the column holds what cannot be a split.
            DataError: a split that nobody knows. To guess would put test items into training.
        """
        if self.field is None:
            return split_name(str(row.get("_split") or ""))
        try:
            theirs = _spelled(self.field.of(row, place))
        except Missing:
            if self.field.filters and _has(replace(self.field, filters=()), row, place):
                raise Skip("unusable field split") from None  # a filter found nothing in what is there
            return ""
        except WRONG:
            raise Skip("unusable field split") from None
        ours = self._ours(theirs)
        if ours == LEFT_OUT:
            raise Skip(f"split {theirs} left out")
        if not ours:
            raise DataError(
                f"recipe {self.name}: the split {theirs!r} of the column {self.rule.column!r} is not known; say what "
                f"it is: split: {{column: {self.rule.column}, values: {{{theirs}: SPLIT}}}} with one of train, "
                f"validation, test, or {LEFT_OUT} to leave such items out"
            )
        return ours

    def _ours(self, theirs: str) -> str:
        values = self.rule.values
        # A column of truth values is "True" in one format and "true" in the next.
        alike = next((v for k, v in values.items() if k.lower() == theirs.lower()), values.get("*", ""))
        return values.get(theirs, alike) or split_name(theirs)


def _spelled(value: Any) -> str:
    return (str(value) if isinstance(value, bool) else text_of(value)).strip()


def _has(field: Any, row: Mapping[str, Any], place: Place) -> bool:
    try:
        field.of(row, place)
    except Skip:
        return False
    return True
