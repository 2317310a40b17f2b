"""Columns that a recipe names and its source does not have: an error after the first rows, with the likeliest name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

from mllm.data_recipes.adapters_fields import Field
from mllm.data_recipes.licences import DataError

FIRST = 1000
"""Rows that are looked at: objects of JSON may lack a column that others have."""
_LISTED = 40


class ColumnCheck:
    """Watches the first rows of one source."""

    def __init__(self, recipe: str, needed: Mapping[str, Iterable[str]]):
        """`needed`: what of the recipe -> the columns that it reads, dotted where they are nested."""
        self.recipe, self.needed = recipe, {what: list(columns) for what, columns in needed.items()}
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
            for column in columns:
                head = column.partition(".")[0]
                # `.` is the whole row and `*` all of its values.
                if column in self.columns or head in self.columns or head in ("", "*"):
                    continue
                near = difflib.get_close_matches(head, names, n=1)
                hint = f"did you mean {near[0]!r}? " if near else ""
                more = " …" if len(names) > _LISTED else ""
                raise DataError(
                    f"recipe {self.recipe}: {what} names the column {head!r}, which no row has; {hint}"
                    f"The columns are: {', '.join(names[:_LISTED])}{more}"
                )


def needed_columns(fields: Mapping[str, Field], split: Field | None, keep: Iterable[str]) -> dict[str, list[str]]:
    """What a recipe cannot do without: columns of required fields, of the split and of options.keep."""
    needed = {f"fields.{name}": field.columns for name, field in fields.items() if not field.optional}
    needed |= {f"options.keep.{column}": [column] for column in keep}
    # Without its column every item would be split by hash, those of the test too.
    return needed | ({"split.column": split.columns} if split else {})
