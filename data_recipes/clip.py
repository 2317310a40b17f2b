"""One clip: its plan performed, rendered, augmented and written, and its facts."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf

from mllm.data_recipes.arrange import Voice, arrange, starts
from mllm.data_recipes.augment import finish
from mllm.data_recipes.config import Mixture
from mllm.data_recipes.ensembles import choose_ensemble
from mllm.data_recipes.instruments import PROGRAM_NAMES
from mllm.data_recipes.perform import Event, draw_tempo, perform
from mllm.data_recipes.plan import ClipPlan, seed_of
from mllm.data_recipes.synthesizer import play
from mllm.data_recipes.tune import Tune, key_name, note_name

_FEWEST_NOTES = 5
_RING = 0.35


class UnusableTune(Exception):
    """This tune does not give this clip; the message is the reason that the manifest counts."""


@dataclass
class Clip:
    """Samples (float32 mono in -1..1), what is true of them, and the performance that sounds."""

    samples: np.ndarray
    facts: dict[str, Any]
    voices: list[Voice]
    events: list[Event]


def contour(pitches: list[int]) -> str:
    """rising | falling | arch | valley | level, from the means of the first, middle and last third."""
    thirds = [float(np.mean(part)) for part in np.array_split(np.array(pitches, float), 3)]
    a, m, z = thirds
    if max(thirds) - min(thirds) < 1.5:
        return "level"
    if m > max(a, z) + 1:
        return "arch"
    if m < min(a, z) - 1:
        return "valley"
    return "rising" if z > a else "falling"


def make_clip(plan: ClipPlan, tune: Tune, mixture: Mixture, font: Path) -> Clip:
    """The clip that `plan` and `tune` determine together with the mixture's seed. Raises UnusableTune."""
    rng = seed_of(mixture.seed, f"{plan.id} {tune.id}")
    shape = mixture.clips
    tempo = draw_tempo(tune, mixture.sound.tempo_low, mixture.sound.tempo_high, rng)
    bar_seconds = 60 / tempo * tune.bar_quarters / tune.beat_quarters
    lead_in = float(rng.uniform(0.0, 0.25))
    if plan.short:
        shortest = min(shape.short_seconds + bar_seconds, shape.seconds)
        bars = max(1, int(float(rng.uniform(shortest, shape.seconds) - lead_in) // bar_seconds))
        seconds = min(shape.seconds, lead_in + bars * bar_seconds + _RING)
    else:
        bars = int(np.ceil((shape.seconds - lead_in) / bar_seconds))
        seconds = shape.seconds
    choices = starts(tune, bars)
    start = choices[int(rng.integers(len(choices)))]
    ensemble = "plain"
    if plan.split != "test" and mixture.sound.ensembles and rng.random() < mixture.sound.ensembles:
        ensemble = choose_ensemble(tune, plan.family, rng)
    try:
        piece = arrange(
            tune, start, bars, plan.tonic, plan.family, rng, plan.accompanied, plan.second_family, plan.drums, ensemble
        )
    except (ValueError, IndexError) as error:
        raise UnusableTune(str(error)) from error
    events = [e for e in perform(piece, tempo, lead_in, rng) if e.onset < seconds - 0.02]
    if min((e.pitch for e in events), default=-1) < 0 or max((e.pitch for e in events), default=128) > 127:
        raise UnusableTune("notes outside MIDI")
    melody = [e for e in events if e.voice == 0 and e.onset < seconds - 0.1]
    if len(melody) < _FEWEST_NOTES:
        raise UnusableTune("fewer than 5 melody notes in the excerpt")
    samples = play(events, piece.voices, font, seconds, shape.sampling_rate)
    if float(np.sqrt(np.mean(samples**2))) < 1e-4:
        raise UnusableTune("the render is silent")
    codec = mixture.sound.codec if plan.split != "test" else 0.0
    samples, done = finish(samples, shape.sampling_rate, rng, mixture.sound.clean, codec)
    families = list(dict.fromkeys(v.family for v in piece.voices))
    facts = {
        "instruments": families,
        "programs": list(dict.fromkeys(v.program for v in piece.voices if v.role != "drums")),
        "program_names": list(dict.fromkeys(PROGRAM_NAMES[v.program] for v in piece.voices if v.role != "drums")),
        "key": key_name(plan.tonic, tune.mode),
        "tonic": key_name(plan.tonic, tune.mode).split()[0],
        "mode": tune.mode,
        "tempo": tempo,
        "metre": f"{tune.metre[0]}/{tune.metre[1]}",
        **melody_facts(melody, plan.tonic, tune.mode),
        "texture": _texture([v.role for v in piece.voices]),
        "drums": any(v.role == "drums" for v in piece.voices),
        "soundfont": plan.soundfont,
        "augmentation": done,
        "transposition": piece.transposition,
        "tune_id": tune.id,
        "title": tune.title,
        "start_bar": start,
        "lead_in": round(lead_in, 3),
        "seconds": round(seconds, 3),
    }
    return Clip(samples, facts, piece.voices, events)


def melody_facts(melody: list[Event], tonic: int, mode: str) -> dict[str, Any]:
    """Lowest, highest and first three notes (names, 60 = C4) and the contour of the melody that is heard."""
    pitches = [e.pitch for e in sorted(melody, key=lambda e: e.onset)]
    return {
        "lowest": note_name(min(pitches), tonic, mode),
        "highest": note_name(max(pitches), tonic, mode),
        "contour": contour(pitches),
        "first_notes": [note_name(p, tonic, mode) for p in pitches[:3]],
    }


def _texture(roles: list[str]) -> str:
    roles = [r for r in roles if r != "drums"]
    if "chords" in roles:
        return "accompanied"
    return {1: "solo", 2: "duet"}.get(len(roles), "voices")


def write_flac(path: Path, samples: np.ndarray, sampling_rate: int) -> str:
    """Write float32 mono samples as 16-bit FLAC; returns the hex sha256 of the file."""
    buffer = io.BytesIO()
    sf.write(buffer, np.clip(samples, -1, 1), sampling_rate, format="FLAC", subtype="PCM_16")
    path.write_bytes(buffer.getvalue())
    return hashlib.sha256(buffer.getvalue()).hexdigest()
