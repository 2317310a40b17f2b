"""The verdicts on an answer as a table of HTML."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

NO_CLAIMS = "Nothing in this answer is a claim about the music that can be checked."


def verdict_table(verdicts: Sequence[dict[str, Any]]) -> str:
    """HTML of verdicts as `mllm.verification.Verdict.to_dict` writes them; one line where there are none."""
    if not verdicts:
        return f'<p class="no-sheet-music">{NO_CLAIMS}</p>'
    head = "".join(f"<th>{name}</th>" for name in ("it says", "verdict", "found", "how it was found"))
    return f'<table class="verdicts"><tr>{head}</tr>{"".join(map(_row, verdicts))}</table>'


def _row(verdict: dict[str, Any]) -> str:
    claim = verdict.get("claim") or {}
    said = ("not: " if claim.get("negated") else "") + str(claim.get("text", ""))
    word = str(verdict.get("verdict", ""))
    how = str(verdict.get("evidence", "")) + (f" ({verdict['source']})" if verdict.get("source") else "")
    cells = [html.escape(words) for words in (said, word, str(verdict.get("found") or "–"), how)]
    cells[1] = f'<span class="{html.escape(word.replace(" ", "-"))}">{cells[1]}</span>'
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
