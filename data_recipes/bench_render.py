"""How fast clips are made, beside the usual chain of programs, in one run; ends in one JSON line.

    python -m mllm.data_recipes.bench_render [--clips 40] [--workers 2]

Ours, a clip: excerpt, arrangement, performance, synthesis, resampling, augmentation, facts, FLAC; `workers`
processes. The chain, a clip: `abc2midi`, `fluidsynth -F` with the same soundfont, `sox` to 22,050 Hz mono FLAC of 10 s,
as subprocesses one after the other. `whole`: abc2midi cannot cut, so fluidsynth plays the whole tune (melody only) and
sox trims. `excerpt`: the kindest case, fluidsynth plays our clip's own ten seconds of MIDI (the same notes).
On a busy machine read the CPU seconds: they say what a quiet one would need.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import symusic

from mllm.data_recipes.clip import Clip, make_clip, write_flac
from mllm.data_recipes.config import HERE, DataError, Mixture, find_soundfont, load_mixture
from mllm.data_recipes.plan import ClipPlan, plan_clips
from mllm.data_recipes.sources import collect
from mllm.data_recipes.tune import Tune

_NAMES = ("C", "^C", "D", "^D", "E", "F", "^F", "G", "^G", "A", "^A", "B")


def melody_abc(tune: Tune, tempo: float) -> str:
    """The whole tune's melody as ABC, every accidental written out."""
    metre, quarters = f"{tune.metre[0]}/{tune.metre[1]}", round(tempo * tune.beat_quarters)
    lines = [f"X:1\nT:{tune.id}\nM:{metre}\nL:1/4\nQ:1/4={quarters}\nK:C"]
    for bar in (bar for run in tune.runs for bar in run):
        now, out = 0.0, []
        for onset, duration, pitch, voice in sorted(bar):
            if voice or onset < now:
                continue
            if onset > now:
                out.append(f"z{Fraction(onset - now).limit_denominator(96)}")
            octave, pc = divmod(pitch - 60, 12)
            mark = "'" * octave if octave > 0 else "," * -octave
            natural = "" if "^" in _NAMES[pc] else "="
            out.append(f"{natural}{_NAMES[pc]}{mark}{Fraction(duration).limit_denominator(96)}")
            now = onset + duration
        lines.append(" ".join(out) + " |")
    return "\n".join(lines) + "\n"


def chain_clip(name: str, abc: str, midi: bytes | None, folder: Path, font: Path) -> None:
    """One clip by abc2midi, fluidsynth and sox; with `midi`, fluidsynth plays that instead of what abc2midi wrote."""
    (folder / f"{name}.abc").write_text(abc)
    run = partial(subprocess.run, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder)
    run(["abc2midi", f"{name}.abc", "-o", f"{name}.mid"])
    if midi is not None:
        (folder / f"{name}.mid").write_bytes(midi)
    run(["fluidsynth", "-ni", "-F", f"{name}.wav", "-r", "44100", str(font), f"{name}.mid"])
    run(["sox", f"{name}.wav", "-r", "22050", "-c", "1", "-b", "16", f"{name}.flac", "trim", "0", "10"])


def _cpu() -> float:
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def clip_midi(clip: Clip) -> bytes:
    """What sounds in `clip`, as a standard MIDI file (its ticks are milliseconds)."""
    score: Any = symusic.Score(480)
    score.tempos.append(symusic.Tempo(0, 125.0))
    for number, voice in enumerate(clip.voices):
        drums = voice.role == "drums"
        track: Any = symusic.Track(program=0 if drums else voice.program, is_drum=drums)
        for e in clip.events:
            if e.voice == number:
                track.notes.append(
                    symusic.Note(round(e.onset * 1000), round((e.end - e.onset) * 1000), e.pitch, e.velocity)
                )
        score.tracks.append(track)
    return score.dumps_midi()


def our_clip(job: tuple[ClipPlan, Tune], folder: Path, font: Path, mixture: Mixture) -> tuple[str, bytes, float]:
    """One clip by our path: its ABC and MIDI for the chain, and the CPU seconds it took."""
    plan, tune = job
    began = time.process_time()
    clip = make_clip(plan, tune, mixture, font)
    write_flac(folder / f"{plan.id}.flac", clip.samples, mixture.clips.sampling_rate)
    took = time.process_time() - began
    return melody_abc(tune, clip.facts["tempo"]), clip_midi(clip), took


def compare(font_name: str, count: int, workers: int) -> dict[str, object]:
    """Both ways over the same tunes with one soundfont; seconds a clip and their ratio."""
    mixture = load_mixture(HERE / "mixtures" / "mini.yaml")
    mixture = mixture.model_copy(update={"sources": [u for u in mixture.sources if u.recipe == "oneill"]})
    font = next((p for f in mixture.soundfonts if f.name == font_name and (p := find_soundfont(f))), None)
    if font is None:
        raise DataError(f"soundfont {font_name} is not here; install it or name another with --soundfonts")
    found = collect(mixture, workers)
    tunes = {t.id: t for t in found.tunes}
    fonts = {s: {font_name: 1.0} for s in ("train", "validation", "test")}
    units = plan_clips(mixture, found.tunes, fonts)
    plans = [replace(p, short=False) for u in units if u.split == "train" for p in u.clips][:count]
    jobs = [(p, tunes[p.candidates[0]]) for p in plans]
    with tempfile.TemporaryDirectory() as temp:
        folder = Path(temp)
        with ProcessPoolExecutor(workers) as pool:
            make = partial(our_clip, folder=folder, font=font, mixture=mixture)
            list(pool.map(make, jobs[:workers] * 2))  # processes started, soundfont read: both happen once a build
            began = time.perf_counter()
            made = list(pool.map(make, jobs, chunksize=4))
            ours = (time.perf_counter() - began) / len(jobs)
        ours_cpu = sum(row[2] for row in made) / len(jobs)
        result: dict[str, object] = {
            "soundfont": font_name,
            "clips": len(jobs),
            "ours_seconds": round(ours, 4),
            "ours_cpu_seconds": round(ours_cpu, 4),
        }
        for kind in ("whole", "excerpt"):
            began, cpu = time.perf_counter(), _cpu()
            for i, (abc, midi, _) in enumerate(made):
                chain_clip(f"{kind}{i}", abc, midi if kind == "excerpt" else None, folder, font)
            seconds, used = (time.perf_counter() - began) / len(made), (_cpu() - cpu) / len(made)
            result |= {
                f"{kind}_seconds": round(seconds, 4),
                f"{kind}_cpu_seconds": round(used, 4),
                f"ratio_{kind}": round(seconds / ours, 1),
                f"ratio_{kind}_by_cpu": round(used / (ours_cpu / workers), 1),
            }
    return result


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=40)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--soundfonts", nargs="*", default=["FluidR3_GM", "TimGM6mb"])
    args = parser.parse_args()
    for program in ("abc2midi", "fluidsynth", "sox"):
        if not shutil.which(program):
            parser.error(f"{program} is not installed (Debian: abcmidi fluidsynth sox)")
    load = os.getloadavg()[0]
    rows = [compare(name, args.clips, args.workers) for name in args.soundfonts]
    print(
        json.dumps(
            {
                "bench": "render",
                "workers": args.workers,
                "cores": os.cpu_count(),
                "load_before": round(load, 2),
                "rows": rows,
            }
        )
    )


if __name__ == "__main__":
    main()
