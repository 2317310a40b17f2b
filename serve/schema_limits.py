"""JSON schemas of requests become grammars: how large they may be, so that none takes the server's time from others."""

from __future__ import annotations

import json
import re
from typing import Any

MOST_SCHEMA = 64_000  # characters of a JSON schema
DEEPEST_SCHEMA = 24
MOST_REPEATED = 2048  # of minItems, maxLength and the like: each costs the grammar a state
MOST_IN_PATTERN = 256
_COUNTS = {"minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties"}


def check_schema(schema: Any, depth: int = 0) -> None:
    """ValueError where a JSON schema is too large for a grammar."""
    if depth > DEEPEST_SCHEMA:
        raise ValueError(f"the JSON schema is nested more than {DEEPEST_SCHEMA} deep")
    if depth == 0 and len(json.dumps(schema)) > MOST_SCHEMA:
        raise ValueError(f"the JSON schema has more than {MOST_SCHEMA:,} characters")
    if isinstance(schema, dict):
        for name, value in schema.items():
            if name in _COUNTS and isinstance(value, int | float) and value > MOST_REPEATED:
                raise ValueError(f"{name} of a JSON schema is at most {MOST_REPEATED:,}")
            if name == "pattern" and isinstance(value, str):
                check_pattern(value)
            check_schema(value, depth + 1)
    elif isinstance(schema, list):
        for value in schema:
            check_schema(value, depth + 1)


def check_pattern(pattern: str) -> None:
    """ValueError where a regular expression repeats something too often."""
    counts = re.findall(r"\d+", " ".join(re.findall(r"\{[^}]*\}", pattern)))
    if len(pattern) > 1000 or any(len(count) > 3 or int(count) > MOST_IN_PATTERN for count in counts):
        raise ValueError(
            f"a pattern in a JSON schema has at most 1,000 characters and repeats at most {MOST_IN_PATTERN} times"
        )
