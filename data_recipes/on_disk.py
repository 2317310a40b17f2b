"""Lists that lie in a temporary file, so that what is known of a build's rows fills no memory, however many they are.

The file has no name and is gone with its process; it lies where TMPDIR says. SQLite's own cache is all that is held.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable, Iterator
from typing import Any

_CACHE_KIB = 16_384


def _database(table: str) -> sqlite3.Connection:
    database = sqlite3.connect("", isolation_level=None)
    for setting in (f"cache_size = -{_CACHE_KIB}", "journal_mode = OFF", "synchronous = OFF"):
        database.execute(f"PRAGMA {setting}")
    # One transaction that never ends: nothing here outlives the process, and each row for itself would be slow.
    database.execute("BEGIN")
    database.execute(f"CREATE TABLE {table}")
    return database


class Texts:
    """Texts in the order in which they came, the first of them number 0."""

    def __init__(self) -> None:
        self._database = _database("texts (number INTEGER PRIMARY KEY, text TEXT)")
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, number: int) -> str:
        found = self._database.execute("SELECT text FROM texts WHERE number = ?", (number,)).fetchone()
        if found is None:
            raise IndexError(f"there is no text {number}")
        return _text(found[0])

    def __iter__(self) -> Iterator[str]:
        for (text,) in self._database.execute("SELECT text FROM texts ORDER BY number"):
            yield _text(text)

    def append(self, text: str) -> None:
        self.extend([text])

    def extend(self, texts: Iterable[str]) -> None:
        rows = list(enumerate(map(_kept, texts), self._size))
        self._database.executemany("INSERT INTO texts VALUES (?, ?)", rows)
        self._size += len(rows)


def _kept(text: str) -> str | bytes:
    """As it can be stored: a lone surrogate, which JSON may hold, is no text for a database."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")
    return text


def _text(stored: str | bytes) -> str:
    return stored if isinstance(stored, str) else stored.decode("utf-8", "surrogatepass")


class Known:
    """Which texts came before: each has the number of its first coming among all different ones."""

    def __init__(self) -> None:
        self._database = _database("known (number INTEGER PRIMARY KEY, mark BLOB UNIQUE, times INTEGER)")

    def add(self, text: str) -> tuple[int, int]:
        """The text's number, and how often it came up to now."""
        mark = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:16]
        number, times = self._database.execute(
            "INSERT INTO known VALUES ((SELECT COALESCE(MAX(number) + 1, 0) FROM known), ?, 1) "
            "ON CONFLICT (mark) DO UPDATE SET times = times + 1 RETURNING number, times",
            (mark,),
        ).fetchone()
        return number, times


class Lists:
    """A list of (whole number, number) for each of many keys, which are whole numbers."""

    def __init__(self) -> None:
        self._database = _database("lists (key INTEGER, place INTEGER, value REAL)")
        self._database.execute("CREATE INDEX by_key ON lists (key)")

    def add(self, key: int, place: int, value: float = 0.0) -> None:
        self._database.execute("INSERT INTO lists VALUES (?, ?, ?)", (key, place, value))

    def __getitem__(self, key: int) -> list[int]:
        return [place for place, _ in self.pairs(key)]

    def pairs(self, key: int) -> list[tuple[int, float]]:
        """What was added to `key`, in that order."""
        found: list[Any] = self._database.execute(
            "SELECT place, value FROM lists WHERE key = ? ORDER BY rowid", (key,)
        ).fetchall()
        return found
