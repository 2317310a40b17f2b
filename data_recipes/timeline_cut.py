"""Facts along the time of a recording, brought to the part of it that is heard."""

from __future__ import annotations

from typing import Any

SHORTEST = 0.1
"""Seconds of a chord or section below which a cut end is left out."""


def cut_facts(facts: dict[str, Any], start: float, seconds: float, whole: bool) -> dict[str, Any]:
    """`facts` of a whole recording as they are true of `seconds` from `start`.

    Times count from `start`; what begins or ends outside is cut or left out. Counts that a cut makes wrong (`bars`) and
    what is known of first or last notes are left out unless the `whole` recording is heard.
    """
    out = dict(facts)
    end = start + seconds
    for name in ("chords", "notes"):
        if name in facts:
            out[name] = [
                [round(max(a, start) - start, 3), round(min(b, end) - start, 3), what]
                for a, b, what in facts[name]
                if min(b, end) - max(a, start) > SHORTEST and (name == "chords" or start <= a < end)
            ]
    if "beats" in facts:
        out["beats"] = [round(t - start, 3) for t in facts["beats"] if start <= t < end]
    if "sections" in facts:
        out["sections"] = [
            {**s, "start": round(max(s["start"], start) - start, 3), "end": round(min(s["end"], end) - start, 3)}
            for s in facts["sections"]
            if min(s["end"], end) - max(s["start"], start) > SHORTEST
        ]
    for name in ("chords", "notes", "beats", "sections"):
        if name in out and not out[name]:
            del out[name]
    if not whole:
        for name in ("bars", "first_notes", "contour", "lowest", "highest", "roman"):
            out.pop(name, None)
    return out
