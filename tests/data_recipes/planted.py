"""A built folder of clean rows in which faults can be planted, and a benchmark beside it."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile as sf

from mllm.data_recipes.arrange import Voice
from mllm.data_recipes.config import Soundfont, find_soundfont
from mllm.data_recipes.perform import Event
from mllm.data_recipes.plan import seed_of
from mllm.data_recipes.row import SCHEMA, make_row, messages, sha256_text
from mllm.data_recipes.synthesizer import play
from mllm.data_recipes.templates import ask
from mllm.data_recipes.tonal import tonal_tune
from mllm.data_recipes.tune import Tune, key_name, split_of
from mllm.score import Key, Note, Score, to_abc, transpose

RATE = 22050
FONT = find_soundfont(Soundfont(name="TimGM6mb", path=["pretty_midi:TimGM6mb.sf2"], licence="GPL-2.0"))
_WORDS = """slow quick warm bright lonely gentle fierce muddy crisp distant old new quiet roaring soft hollow golden
guitar piano fiddle drum voice choir flute bass organ harp horn whistle trumpet cello bell clap hum shout
plays sings wanders climbs falls shimmers repeats answers drones stumbles rushes waits breathes circles fades swells
over under beside behind through against without before after near river street kitchen cathedral train garden
market winter morning storm wedding march lullaby waltz anthem lament dance groove prayer""".split()


def elsewhere(folder: Path) -> str:
    """An address of a folder that `Store` does not know to be on this machine, and that all processes share."""
    return f"dir://{folder.name}::file://{folder.parent}"


def split_name(work: str) -> str:
    """train, validation or test, in shares that leave enough in each."""
    return split_of(work, 0.7, 0.1)


def sound(tune: Tune, program: int, seed: int, seconds: float = 4.0) -> np.ndarray:
    """A clip of the tune's melody on one instrument, at a tempo and in a key of its own."""
    rng = seed_of(seed, tune.id)
    beat = float(rng.uniform(0.25, 0.55))
    shift = int(rng.integers(-6, 7))
    notes = tune.melody()
    events = [
        Event(o * beat, (o + 0.9 * d) * beat, p + shift, int(rng.integers(60, 110)), 0)
        for o, d, p, _ in notes
        if o * beat < seconds
    ]
    assert FONT is not None
    samples = play(events, [Voice("melody", program, [])], FONT, seconds, RATE)
    return samples * np.float32(0.6 / np.abs(samples).max())


def score_of(tune: Tune, bars: int = 8) -> Score:
    """The first bars of a tune."""
    tonic, mode = key_name(tune.tonic, tune.mode).split()
    notes = [Note(o, d, p) for o, d, p, _ in tune.melody() if o < bars * tune.bar_quarters]
    return Score(title="", notes=notes, key=Key(tonic, mode), metre=tune.metre, instruments=[""])


def varied(score: Score, semitones: int, rng: np.random.Generator) -> str:
    """The same tune in another key, one note of it changed; ABC."""
    notes = list(score.notes)
    at = int(rng.integers(len(notes) // 4))
    notes[at] = Note(notes[at].onset, notes[at].duration, notes[at].pitch + 2)
    changed = Score(title="", notes=notes, key=score.key, metre=score.metre, instruments=[""])
    return to_abc(transpose(changed, semitones))


def sentence(rng: np.random.Generator, length: int = 24) -> str:
    """A caption that nobody else writes."""
    return "A " + " ".join(_WORDS[i] for i in rng.integers(len(_WORDS), size=length)) + "."


class Folder:
    """Rows and clips as a build writes them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict] = []
        (path / "clips").mkdir(parents=True)
        (path / "rows").mkdir()

    def add(self, id: str, task: str, talk: list, **more: object) -> str:
        """One row; everything that is not said is clean."""
        facts = more.pop("facts", {})
        split = more.pop("split", None) or split_name(str(more.get("work") or id))
        given = {"source": "tonal", "licence": "cc0-1.0", "length": 0.0, "source_id": f"tonal/{id}"} | more
        self.rows.append(make_row(id, task, talk, facts, split=split, **given))  # type: ignore[arg-type]
        return id

    def clip(self, id: str, samples: np.ndarray, ending: str = "flac", **more: object) -> str:
        """A row about a recording."""
        name = f"clips/{id}.{ending}"
        sf.write(self.path / name, samples, RATE)
        talk = messages([ask("instrument", {**FACTS}, seed_of(1, id))], [name])
        return self.add(id, "instrument", talk, length=len(samples) / RATE, **more)

    def score(self, id: str, abc: str, **more: object) -> str:
        """A row about a score."""
        return self.add(
            id, "score", messages([("Name the key.", "C major")], score=abc), sha256=sha256_text(abc), **more
        )

    def caption(self, id: str, text: str, **more: object) -> str:
        """A row that answers with a text."""
        return self.add(id, "caption", messages([("Describe the music you have in mind.", text)]), **more)

    def write(self, allow: list[str] | None = None) -> Path:
        """Shards and manifest."""
        import hashlib

        shards = {}
        for split in ("test", "train", "validation"):
            rows = [r for r in self.rows if r["split"] == split]
            for i in range(0, len(rows), 500):
                name = f"rows/{split}-x-{i // 500:05d}.parquet"
                pq.write_table(pa.Table.from_pylist(rows[i : i + 500], schema=SCHEMA), self.path / name)
                shards[name] = hashlib.sha256((self.path / name).read_bytes()).hexdigest()
        config = {"allow_licences": allow} if allow else {}
        manifest = {"name": "planted", "complete": True, "config": config, "shards": shards}
        (self.path / "manifest.json").write_text(json.dumps(manifest))
        return self.path


FACTS = {
    "instruments": ["piano"], "texture": "solo", "contour": "arch", "tempo": 100.0, "metre": "4/4", "key": "C major",
    "lowest": "C4", "highest": "C5", "first_notes": ["C4", "D4", "E4"],
}  # fmt: skip


def clean(folder: Folder, clips: int, scores: int, captions: int) -> Iterator[str]:
    """Clean rows: tunes on a few instruments, their scores (some twice in their split, in another key), captions."""
    rng = seed_of(5, "clean")
    for i in range(clips):
        tune = tonal_tune(i)
        yield folder.clip(f"clip-{i}", sound(tune, (0, 24, 40, 73)[i % 4], 1), work=tune.id)
        if i % 20 == 0:  # the same tune otherwise arranged, in the same split
            yield folder.clip(f"again-{i}", sound(tune, 56, 2), work=tune.id)
    for i in range(scores):
        tune = tonal_tune(i)
        yield folder.score(f"score-{i}", to_abc(score_of(tune)), work=tune.id)
        if i % 20 == 0:
            other = to_abc(transpose(score_of(tune), 3))
            yield folder.score(f"transposed-{i}", other, work=tune.id)
    for i in range(captions):
        text = sentence(rng)
        if i % 4 == 0:  # in our own words
            key = key_name(int(rng.integers(12)), "major")
            text = ask("describe", {**FACTS, "key": key, "tempo": float(rng.integers(60, 180))}, rng)[1]
        yield folder.caption(f"caption-{i}", text, url=f"https://www.youtube.com/watch?v=clean{i:06d}")
