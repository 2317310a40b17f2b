"""Columns that a recipe names and its source does not have, told after the first rows with the likeliest name.

What cannot be done without is an error, an optional field's column is counted among what was left out.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Mapping

from mllm.data_recipes.adapters_fields import Field
from mllm.data_recipes.licences import DataError

FIRST = 1000
"""Rows that are looked at: objects of JSON may lack a column that others have."""
_LISTED = 40


class ColumnCheck:
    """Watches the first rows of one source."""

    def __init__(
        self,
        recipe: str,
        needed: Mapping[str, Iterable[str]],
        wished: Mapping[str, Iterable[str]],
        skipped: Counter[str],
    ):
        """`needed`, `wished`: what of the recipe -> the columns that it reads, dotted where they are nested."""
        self.recipe, self.skipped = recipe, skipped
        self.needed, self.wished = ({what: list(columns) for what, columns in x.items()} for x in (needed, wished))
        self.seen, self.columns = 0, dict.fromkeys(("_file", "_split", "_id"))

    def see(self, row: Iterable[str]) -> None:
        """Look at a row. Raises DataError when enough were seen and a needed column was in none of them."""
        if self.seen < FIRST:
            self.seen += 1
            self.columns.update(dict.fromkeys(map(str, row)))
            if self.seen == FIRST:
                self._judge()

    def end(self) -> None:
        """The same for a source that ended before."""
        if 0 < self.seen < FIRST:
            self._judge()

    def _judge(self) -> None:
        names = [name for name in self.columns if not name.startswith("_")]
        for what, columns in self.needed.items():
            for column in filter(self._absent, columns):
                near = _nearest(column, names)
                hint = f"did you mean {near!r}? " if near else ""
                more = " …" if len(names) > _LISTED else ""
                raise DataError(
                    f"recipe {self.recipe}: {what} names the column {_head(column)!r}, which no row has; {hint}"
                    f"The columns are: {', '.join(names[:_LISTED])}{more}"
                )
        for what, columns in self.wished.items():
            if columns and all(map(self._absent, columns)):
                near = _nearest(columns[0], names)
                hint = f" (did you mean {near!r}?)" if near else ""
                self.skipped[f"{what}: no row has the column {_head(columns[0])!r}{hint}, left out"] += 1

    def _absent(self, column: str) -> bool:
        # `.` is the whole row and `*` all of its values.
        return not {column, _head(column)} & {*self.columns, "", "*"}


def _head(column: str) -> str:
    return column.partition(".")[0]


def _nearest(column: str, names: list[str]) -> str:
    return next(iter(difflib.get_close_matches(_head(column), names, n=1)), "")


def needed_columns(fields: Mapping[str, Field], split: Field | None, keep: Iterable[str]) -> dict[str, list[str]]:
    """What a recipe cannot do without: columns of required fields, of the split and of options.keep."""
    needed = {f"fields.{name}": field.columns for name, field in fields.items() if not field.optional}
    needed |= {f"options.keep.{column}": [column] for column in keep}
    # Without its column every item would be split by hash, those of the test too.
    return needed | ({"split.column": split.columns} if split else {})
