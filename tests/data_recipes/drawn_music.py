"""Facts of clips as a corpus would have them, drawn at random, and the options of a question."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st

from mllm.data_recipes.instruments import NAMES
from mllm.data_recipes.properties import CONTOURS, GENRES, METRES, MOODS, TEXTURES
from mllm.data_recipes.tune import key_name, note_name

KEYS = [key_name(tonic, mode) for tonic in range(12) for mode in ("major", "minor")]
CHORDS = [f"{root}:{quality}" for root in "CDEFGAB" for quality in ("maj", "min", "7", "min7")]
SEED = st.integers(0, 2**32 - 1)


def words(rng: np.random.Generator, groups: Sequence[Sequence[str]]) -> str:
    """One word of all."""
    return str(rng.choice([w for g in groups for w in g]))


def music(rng: np.random.Generator) -> dict[str, Any]:
    """The facts of a clip, all of them, drawn as a corpus would have them."""
    key = KEYS[int(rng.integers(24))]
    low = int(rng.integers(45, 70))
    high = low + int(rng.integers(5, 20))
    names = [str(n) for n in rng.choice(NAMES, size=int(rng.integers(1, 4)), replace=False)]
    tempo = float(rng.uniform(45, 205))
    ends = np.cumsum(rng.uniform(1.5, 4.0, size=6)).round(2)
    chords = [CHORDS[int(i)] for i in rng.permutation(len(CHORDS))[:6]]
    borders = [0.0, *np.cumsum(rng.uniform(8.0, 20.0, size=4)).round(2).tolist()]
    tonic, mode = KEYS.index(key) // 2, key.split()[1]
    drums = bool(rng.random() < 0.5)
    return {
        "instruments": names + ["drums"] * drums,
        "key": key,
        "tempo": tempo,
        "metre": METRES[int(rng.integers(4))],
        "caption": f"A tune that {names[0]} could have played for us.",
        "tags": ["acoustic", "instrumental"],
        "genre": words(rng, GENRES),
        "mood": [words(rng, MOODS)],
        "valence": float(rng.uniform(-1, 1)),
        "arousal": float(rng.uniform(-1, 1)),
        "chords": [[float(a), float(b), c] for a, b, c in zip([0.0, *ends[:-1]], ends, chords, strict=True)],
        "beats": [0.31 + i * 60 / tempo for i in range(40)],
        "sections": [
            {
                "start": borders[i],
                "end": borders[i + 1],
                "label": "ABAC"[i],
                "key": KEYS[int(rng.integers(24))],
                "tempo": float(rng.uniform(45, 205)),
                "metre": METRES[int(rng.integers(4))],
                "instruments": [NAMES[int(rng.integers(len(NAMES)))]],
            }
            for i in range(4)
        ],
        "notes": [[i * 0.5, i * 0.5 + 0.4, int(rng.integers(low, high))] for i in range(int(rng.integers(3, 30)))],
        "lowest": note_name(low, tonic, mode),
        "highest": note_name(high, tonic, mode),
        "contour": CONTOURS[int(rng.integers(5))],
        "first_notes": [note_name(int(rng.integers(low, high)), tonic, mode) for _ in range(3)],
        "texture": TEXTURES[int(rng.integers(4))],
        "drums": drums,
        "bars": int(rng.integers(4, 40)),
        "roman": [[bar, beat, key, numeral] for bar in (1, 2) for beat, numeral in ((1.0, "I"), (2.5, "V7"))],
        "title": "The Secret Waltz of Nobody",
        "composer": "Zebulon Quick",
        "seconds": borders[-1],
    }


def chosen(question: str) -> list[str]:
    """Texts of the options of a question."""
    return re.findall(r"^[A-E]\. (.*)$", question, re.M)
