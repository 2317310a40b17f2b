"""Long recordings with known sections: several tunes in a row, each in its own key, tempo, metre and instruments."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mllm.data_recipes.arrange import Arrangement, arrange, choose_second_family, starts
from mllm.data_recipes.augment import normalise
from mllm.data_recipes.ensembles import choose_ensemble
from mllm.data_recipes.instruments import DRUMS, NAMES
from mllm.data_recipes.licences import DataError
from mllm.data_recipes.perform import Event, draw_tempo, perform
from mllm.data_recipes.synthesizer import play
from mllm.data_recipes.tune import Tune, fingerprint, key_name

MINUTES = (1.0, 30.0)
SECTIONS = (3, 12)
"""A medley of more than eleven minutes has as many sections as it needs."""
SECTION_SECONDS = (10.0, 60.0)
_GAP = (0.4, 1.2)
_CROSSFADE = (0.5, 1.5)
_RING = 0.35
"""Seconds that the last notes of a section ring before a gap."""
_SPARE = 2.5
"""Seconds that a crossfade and rests at the ends may take from the shortest section."""
_FADE = 0.02
_LEVEL = 0.6
_TEMPO = (50.0, 200.0)
_RETURNS = 0.3
_FEWEST_NOTES = 8
_ATTEMPTS = 200


@dataclass(frozen=True)
class SectionPlan:
    """One section; `seed` gives all that the other fields leave open."""

    tune: str
    """Id."""
    label: str
    """A letter a tune; a section that comes back has a prime a time: A'."""
    start: int
    """First bar in the tune, as `starts` counts."""
    bars: int
    tonic: int
    tempo: float
    """Felt beats a minute."""
    family: str
    second_family: str | None
    accompanied: bool
    drums: bool
    ensemble: str
    seed: int
    join: float
    """Seconds between this section's last bar and the next one's first: a silence, or (negative) a crossfade."""


@dataclass(frozen=True)
class MedleyPlan:
    """Everything that determines a medley beside the soundfont."""

    sections: tuple[SectionPlan, ...]
    lead_in: float
    """Seconds of silence before the first section."""


def _bar_seconds(tune: Tune, tempo: float) -> float:
    return 60 / tempo * tune.bar_quarters / tune.beat_quarters


def _played(section: SectionPlan, tune: Tune) -> tuple[Arrangement, list[Event]]:
    """Arrangement and events (from 0) of a section. Raises ValueError where the tune does not give it."""
    rng = np.random.default_rng(section.seed)
    piece = arrange(
        tune, section.start, section.bars, section.tonic, section.family, rng,
        section.accompanied, section.second_family, section.drums, section.ensemble,
    )  # fmt: skip
    events = perform(piece, section.tempo, 0.0, rng)
    if not all(0 <= e.pitch <= 127 for e in events):
        raise ValueError("notes outside MIDI")
    if sum(e.voice == 0 for e in events) < _FEWEST_NOTES:
        raise ValueError("too few melody notes")
    if events[0].onset > _bar_seconds(tune, section.tempo):
        raise ValueError("silent at the start")
    return piece, events


def _draw(
    rng: np.random.Generator, tune: Tune, label: str, seconds: float, before: SectionPlan | None, tonic: int | None
) -> SectionPlan:
    """A section of about `seconds` that differs from the one `before` in its melody's family."""
    tempo = draw_tempo(tune, *_TEMPO, rng)
    families = [f for f in NAMES if before is None or f != before.family]
    family = families[int(rng.integers(len(families)))]
    bar = _bar_seconds(tune, tempo)
    bars = min(max(round(seconds / bar), math.ceil((SECTION_SECONDS[0] + _SPARE) / bar)), int(SECTION_SECONDS[1] / bar))
    places = starts(tune, bars)
    return SectionPlan(
        tune=tune.id,
        label=label,
        start=places[int(rng.integers(len(places)))],
        bars=bars,
        tonic=int(rng.integers(12)) if tonic is None else tonic,
        tempo=tempo,
        family=family,
        second_family=choose_second_family(family, rng) if rng.random() < 0.4 else None,
        accompanied=bool(rng.random() < 0.7),
        drums=bool(rng.random() < 0.3),
        ensemble=choose_ensemble(tune, family, rng),
        seed=int(rng.integers(2**31)),
        join=float(rng.uniform(*_GAP)) if rng.random() < 0.6 else -float(rng.uniform(*_CROSSFADE)),
    )


def plan_medley(rng: np.random.Generator, tunes: Sequence[Tune], minutes: float) -> MedleyPlan:
    """A medley of 3 to 12 sections of 10 to 60 seconds (beyond eleven minutes of more), about `minutes` long.

    Some sections come back: same tune, key and place, other tempo and instruments, label with a prime. Tunes of one
    opening are taken once.

    Args:
        tunes: of one split, in a fixed order.
        minutes: 1 to 30; no medley is longer than 30.

    Raises:
        DataError: `minutes` out of range, or too few tunes that can be played.
    """
    if not MINUTES[0] <= minutes <= MINUTES[1]:
        raise DataError(f"a medley is {MINUTES[0]:g} to {MINUTES[1]:g} minutes long, not {minutes:g}")
    if not tunes:
        raise DataError("a medley needs tunes, and there are none in this split")
    total = minutes * 60
    fewest = max(SECTIONS[0], math.ceil(total / (SECTION_SECONDS[1] - 5)))
    most = max(fewest, min(SECTIONS[1], int(total / (SECTION_SECONDS[0] + 5))))
    count = int(rng.integers(fewest, most + 1))
    shares = rng.uniform(0.6, 1.4, size=count)
    shares = np.clip(shares / shares.sum() * total, *SECTION_SECONDS)
    out: list[SectionPlan] = []
    first: dict[str, SectionPlan] = {}
    heard: set[str] = set()
    by_id = {t.id: t for t in tunes}
    for attempt in range(_ATTEMPTS):
        seconds, before = float(shares[len(out)]), out[-1] if out else None
        old = [s for name, s in sorted(first.items()) if before and not before.label.startswith(name)]
        if old and attempt < _ATTEMPTS // 2 and rng.random() < _RETURNS:
            model = old[int(rng.integers(len(old)))]
            times = sum(s.label.rstrip("'") == model.label for s in out)
            tune = by_id[model.tune]
            section = _draw(rng, tune, model.label + "'" * times, seconds, before, model.tonic)
            section = replace(section, start=model.start)
        else:
            tune = tunes[int(rng.integers(len(tunes)))]
            if fingerprint(tune) in heard:
                continue
            section = _draw(rng, tune, _label(len(first)), seconds, before, None)
        try:
            _played(section, tune)
        except (ValueError, IndexError):
            continue
        heard.add(fingerprint(tune))
        first.setdefault(section.label.rstrip("'"), section)
        out.append(section)
        if len(out) == count:
            lead_in = float(rng.uniform(0.0, 0.5))
            while _seconds(out, lead_in, by_id) > MINUTES[1] * 60:  # more than anything here listens to
                out.pop()
            return MedleyPlan(tuple(out), lead_in)
    raise DataError(f"{len(tunes)} tunes give only {len(out)} of {count} sections; add tunes to this split")


def _label(number: int) -> str:
    """A, B, … Z, AA, AB, …"""
    letter = chr(ord("A") + number % 26)
    return letter if number < 26 else _label(number // 26 - 1) + letter


def _seconds(sections: Sequence[SectionPlan], lead_in: float, tunes: Mapping[str, Tune]) -> float:
    """Length of the whole."""
    bodies = sum(s.bars * _bar_seconds(tunes[s.tune], s.tempo) for s in sections)
    return lead_in + bodies + sum(s.join for s in sections[:-1]) + _RING


def make_medley(
    plan: MedleyPlan, tunes: Sequence[Tune], font: Path, sampling_rate: int
) -> tuple[np.ndarray, dict[str, Any]]:
    """The recording that `plan` describes, and what is true of it. Holds the result and one section in memory.

    Returns:
        float32 [round(seconds * sampling_rate)] mono in -1..1, and facts: `seconds`; `instruments` of the whole in
        order of entry; `drums`; `tunes`, ids by section; `sections`, a list of {start, end, label, key, tempo, metre,
        instruments, drums, title} in seconds. A section starts with its first onset and ends where its last note was
        let go, or where the next one starts.

    Raises:
        DataError: a tune of the plan is not among `tunes`, or the soundfont cannot be used.
    """
    by_id = {t.id: t for t in tunes}
    if missing := [s.tune for s in plan.sections if s.tune not in by_id]:
        raise DataError(f"tune {missing[0]!r} of the medley is not among those given; give those it was planned with")
    places, at = [], plan.lead_in
    for s in plan.sections:
        places.append(at)
        at += s.bars * _bar_seconds(by_id[s.tune], s.tempo) + s.join
    total = at - plan.sections[-1].join + _RING
    samples = np.zeros(round(total * sampling_rate), np.float32)
    sections: list[dict[str, Any]] = []
    for i, (s, place) in enumerate(zip(plan.sections, places, strict=True)):
        tune = by_id[s.tune]
        piece, events = _played(s, tune)
        body = s.bars * _bar_seconds(tune, s.tempo)
        last = i + 1 == len(plan.sections)
        length = body + (0.0 if s.join < 0 and not last else _RING)
        sound = normalise(play(events, piece.voices, font, length, sampling_rate), _LEVEL)
        fade = round((-s.join if s.join < 0 and not last else _FADE) * sampling_rate)
        # Only what goes is faded: the next section comes in at once, so that its start is exact.
        sound[-fade:] *= np.cos(np.linspace(0, np.pi / 2, fade, dtype=np.float32))
        a = round(place * sampling_rate)
        sound = sound[: len(samples) - a]
        samples[a : a + len(sound)] += sound
        sections.append(
            {
                "start": round(place + events[0].onset, 3),
                "end": round(place + min(max(e.end for e in events), length), 3),
                "label": s.label,
                "key": key_name(s.tonic, tune.mode),
                "tempo": s.tempo,
                "metre": f"{tune.metre[0]}/{tune.metre[1]}",
                "instruments": list(dict.fromkeys(v.family for v in piece.voices)),
                "drums": any(v.role == "drums" for v in piece.voices),
                "title": tune.title,
            }
        )
    for section, after in zip(sections, sections[1:], strict=False):
        section["end"] = min(section["end"], after["start"])
    peak = float(np.abs(samples).max())
    if peak > 1:
        samples /= np.float32(peak)
    instruments = list(dict.fromkeys(name for s in sections for name in s["instruments"]))
    facts = {
        "seconds": round(total, 3),
        "sections": sections,
        "instruments": instruments,
        "drums": DRUMS in instruments,
        "tunes": [s.tune for s in plan.sections],
    }
    return samples, facts
