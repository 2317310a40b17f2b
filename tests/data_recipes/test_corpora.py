"""Corpora of music21, analyses, MIDI files: what they give, what is skipped and why, the terms of their files."""

import gzip
import zipfile
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from music21 import note, stream

from mllm.data_recipes.config import HERE, Recipe, find_soundfont, load_mixture, load_recipe
from mllm.data_recipes.licences import SHIPPABLE, DataError, refusal
from mllm.data_recipes.sources import collect, file_items
from mllm.data_recipes.sources_midi import performance, program_family
from mllm.data_recipes.sources_music21 import abc_jobs, parse
from mllm.data_recipes.sources_scores import SUFFIXES, TooSlow, collection, processor_limit, score_jobs
from mllm.data_recipes.synthesizer import play
from mllm.data_recipes.tune import METRES, Tune, analysed_key

SPEC = find_spec("music21")
CORPUS = Path(SPEC.origin).parent / "corpus" if SPEC and SPEC.origin else Path("/no-music21")
MUSIC21 = {
    "music21_abc": (".abc",),
    "music21_scores": SUFFIXES,
    "music21_chorales": (".mxl",),
    "music21_roman": (".rntxt",),
}
MIDI = Path("/work/shared/data/scores")
NEW = ("quartets", "monteverdi", "palestrina", "trecento", "essen", "northumbrian", "fife", "piano", "songs",
       "declared_free", "corelli", "share_alike", "josquin", "nottingham_reels", "reserved",
       "roman_bach", "roman_monteverdi", "freedoom")  # fmt: skip


def one(recipe: str, name: str) -> Tune:
    jobs = dict(score_jobs(load_recipe(recipe), CORPUS / load_recipe(recipe).path))
    tune, why = parse(recipe, (f"{recipe}/{name}", jobs[f"{recipe}/{name}"]))
    assert tune is not None, why
    return tune


def test_every_new_recipe_loads_and_says_its_terms() -> None:
    for name in NEW:
        recipe = load_recipe(name)
        assert recipe.name == name and len(recipe.terms) > 30 and recipe.url.startswith("https://")


@pytest.mark.parametrize("name", ["essen", "palestrina", "trecento", "josquin", "reserved"])
def test_what_is_not_free_is_refused_by_default(name: str, tmp_path: Path) -> None:
    assert refusal(load_recipe(name).licence, SHIPPABLE)
    path = tmp_path / "mixture.yaml"
    text = (HERE / "mixtures" / "tiny.yaml").read_text()
    path.write_text(text.replace("recipe: tonal", f"recipe: {name}"))
    assert f"recipe: {name}" in path.read_text()
    with pytest.raises(DataError, match="refused"):
        load_mixture(path)


def test_every_file_of_notation_in_music21s_corpus_stands_in_one_recipe() -> None:
    """What is taken, and what is left with its reason; a second encoding of a piece is named, never taken twice."""
    stands, taken = set(), Counter()
    for path in (HERE / "recipes").glob("*.yaml"):
        recipe = load_recipe(path.stem)
        if recipe.loader in MUSIC21:
            for file, _, why in collection(recipe, CORPUS / recipe.path, MUSIC21[recipe.loader]):
                stands.add(file)
                taken[file] += not why
    notation = {p for p in CORPUS.rglob("*") if p.suffix in {s for suffixes in MUSIC21.values() for s in suffixes}}
    assert len(notation) > 3000 and stands == notation and max(taken.values()) == 1


def decoded(data: bytes) -> str:
    return data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8", "replace")


def text_of(path: Path) -> str:
    if path.suffix != ".mxl":
        return decoded(path.read_bytes())
    with zipfile.ZipFile(path) as packed:
        return "".join(decoded(packed.read(n)) for n in packed.namelist() if "META" not in n)


@pytest.mark.parametrize(
    "path, words",
    [
        ("essenFolksong/license.txt", "non-commercial distribution and use"),
        ("palestrina/Agnus.krn", "Rights to all derivative electronic formats reserved"),
        ("weber/concertino_clarinet.mxl", "Released to Public Domain in 1998"),
        ("leadSheet/fosterBrownHair.mxl", "Public Domain"),
        ("johnson_j_r/lift_every_voice.mxl", "Encoding by MSAC: CC0"),
        ("liliuokalani/aloha_oe.mxl", "Encoding by MSAC, CC0"),
        ("lusitano/allor_che_ignuda.mxl", "released as CC0/Public Domain"),
        ("corelli/opus3no1/1grave.xml", "Creative Commons License (CC-BY)"),
        ("schumann_clara/polonaise_op1n1.mxl", "released under the CC BY-SA 4.0 license"),
        ("ciconia/quod_jactatur.xml", "CC-BY-SA 3.0 license"),
        ("luca/gloria.xml", "CC-BY-SA 3.0 license"),
        ("beach/prayer_of_a_tired_child.musicxml", "CC-SA-BY"),
    ],
)
def test_files_say_the_terms_that_the_recipes_give(path: str, words: str) -> None:
    assert words in " ".join(text_of(CORPUS / path).split())


def test_files_of_a_living_edition_are_skipped_and_no_others_name_one() -> None:
    jobs = dict(score_jobs(load_recipe("monteverdi"), CORPUS / "monteverdi"))
    assert len(jobs) == 49
    for job in jobs.values():
        assert bool(job["skip"]) == ("ORPHEUS" in text_of(Path(job["path"])))


def test_no_recipe_with_nothing_stated_has_a_file_that_states_rights() -> None:
    for name in ("quartets", "piano", "songs"):
        jobs = dict(score_jobs(load_recipe(name), CORPUS))
        assert jobs
        for job in jobs.values():
            text = text_of(Path(job["path"]))
            assert "All Rights Reserved" not in text and "!!!YEC" not in text and "!!!YEM" not in text
            assert "ommercial" not in text and "reative" not in text


@pytest.mark.parametrize(
    "recipe, name, key, metre, voices",
    [
        ("quartets", "haydn/opus1no1/movement1", (10, "major"), (6, 8), 4),
        ("piano", "chopin/mazurka06-2", (1, "minor"), (3, 4), 2),
        ("piano", "joplin/maple_leaf_rag", (8, "major"), (2, 4), 3),
        ("songs", "schubert/Lindenbaum", (4, "major"), (3, 4), 3),
        ("share_alike", "schumann_clara/polonaise_op1n1", (3, "major"), (3, 4), 2),
        ("palestrina", "Agnus_I_36", (5, "major"), (4, 4), 6),
    ],
)
def test_works_of_several_parts_become_tunes_with_voices(
    recipe: str, name: str, key: tuple[int, str], metre: tuple[int, int], voices: int
) -> None:
    tune = one(recipe, name)
    assert (tune.tonic, tune.mode, tune.metre) == (*key, metre) and tune.metre in METRES
    assert {n[3] for run in tune.runs for bar in run for n in bar} == set(range(voices))
    for run in tune.runs:
        for start in range(0, len(run) - 7, 8):
            notes = [n for bar in run[start : start + 8] for n in sorted(bar, key=lambda n: (n[0], -n[2]))]
            assert analysed_key(notes) == key
        for bar in run:
            assert all(0 <= o < tune.bar_quarters and o + d <= tune.bar_quarters + 1e-3 for o, d, _, _ in bar)
            melody = sorted(n for n in bar if n[3] == 0)
            assert all(a[0] + a[1] <= b[0] + 1e-6 for a, b in zip(melody, melody[1:], strict=False))
    assert Tune.from_json(tune.to_json()) == tune


def test_notes_are_those_that_are_written() -> None:
    """The right hand of the C major prelude, BWV 846: its first bar as everyone knows it."""
    tune = one("piano", "bach/bwv846")
    first = sorted(tune.runs[0][0])
    assert [p for _, _, p, v in first if v == 0] == [67, 72, 76, 67, 72, 76] * 2
    assert {p for _, _, p, v in first if v} == {60, 64}


def test_movements_of_one_work_share_a_title() -> None:
    jobs = dict(score_jobs(load_recipe("quartets"), CORPUS))
    titles = {job["title"] for name, job in jobs.items() if "haydn/opus1no1" in name}
    assert titles == {"haydn opus1no1"}
    assert one("palestrina", "Agnus_I_36").title == "Missa Quinti toni"


def test_a_corrupt_file_a_slow_one_and_a_wrong_key_are_skipped_with_a_reason(tmp_path: Path) -> None:
    (tmp_path / "bad.mxl").write_bytes(gzip.compress(b"no score"))
    piece = stream.Stream([note.Note(p, quarterLength=1) for p in (61, 66, 70, 61) * 100])
    piece.write("musicxml", tmp_path / "odd.musicxml")  # F# major under a signature without sharps
    recipe = Recipe(name="mine", title="t", loader="music21_scores", licence="cc0", terms="mine")
    jobs = list(score_jobs(recipe, tmp_path))
    assert [name for name, _ in jobs] == ["mine/bad", "mine/odd"]
    reasons = [parse("mine", job)[1] for job in jobs]
    assert "cannot read" in reasons[0] and reasons[1] == "signature and analysed key disagree"
    assert parse("mine", jobs[1], seconds=0.01) == (None, "took longer than 0.01 s")
    with processor_limit(5):
        assert sum(range(1000)) == 499_500


def test_a_file_that_was_too_slow_is_refused_though_its_reader_goes_on():
    def reader() -> bool:
        try:
            while True:
                sum(range(1000))
        except:  # noqa: E722  as music21 has them
            return True

    with pytest.raises(TooSlow), processor_limit(0.02):
        assert reader()


@pytest.mark.parametrize("options", [{"files": ["../*.mxl"]}, {"files": ["/etc/*"]}, {"files": "x"}, {"skip": []}])
def test_a_recipe_cannot_leave_its_collection(tmp_path: Path, options: dict) -> None:
    recipe = Recipe(name="m", title="t", loader="music21_scores", licence="cc0", terms="m", options=options)
    with pytest.raises(DataError, match="recipe m"):
        list(score_jobs(recipe, tmp_path))


def test_tune_books_give_tunes() -> None:
    for name, least in (("northumbrian", 100), ("fife", 50), ("essen", 5000)):
        recipe = load_recipe(name)
        jobs = list(abc_jobs(recipe, CORPUS / recipe.path))
        assert len(jobs) >= least
        found = [parse(name, job)[0] for job in jobs[:: len(jobs) // 10]]
        assert sum(t is not None for t in found) >= 2


def test_collect_reads_new_corpora_and_counts_what_it_skips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLLM_CACHE", str(tmp_path))
    mixture = load_mixture(HERE / "mixtures" / "tiny.yaml")
    uses = [mixture.sources[0].model_copy(update={"recipe": n, "limit": 4}) for n in ("piano", "share_alike")]
    mixture = mixture.model_copy(update={"sources": uses})
    found = collect(mixture, workers=2)
    counted = Counter(t.source for t in found.tunes)
    for name in ("piano", "share_alike"):
        assert counted[name] >= 1 and counted[name] + sum(found.skipped[name].values()) == 4
    assert collect(mixture, workers=1).tunes == found.tunes


def test_roman_numerals_stand_where_the_file_has_them() -> None:
    recipe = load_recipe("roman_bach")
    recipe = recipe.model_copy(update={"options": {"files": ["riemenschneider001.rntxt"]}})
    (item,) = file_items(recipe, CORPUS / recipe.path, Counter())
    assert item.licence == "cc-by-sa-4.0" and item.facts["composer"] == "J. S. Bach"
    assert (item.facts["key"], item.facts["metre"], item.facts["bars"]) == ("G major", "3/4", 21)
    # "m0 b3 G: I / m1 b2 IV6 b3 V6 / m2 I b2 V b3 vi": the pickup's chord lasts until the second beat.
    assert [[bar, beat, figure] for bar, beat, _, figure in item.facts["roman"]][:6] == [
        [0, 3.0, "I"], [1, 2.0, "IV6"], [1, 3.0, "V6"], [2, 1.0, "I"], [2, 2.0, "V"], [2, 3.0, "vi"],
    ]  # fmt: skip
    recipe = load_recipe("roman_monteverdi").model_copy(update={"options": {"files": ["madrigal.3.10.rntxt"]}})
    (item,) = file_items(recipe, CORPUS / recipe.path, Counter())
    # "m1 C: vi / m3 b3 iii / m5 b3 VII6/4": a chord that lasts over bar lines stands once.
    assert [r[:2] for r in item.facts["roman"][:3]] == [[1, 1.0], [3, 3.0], [5, 3.0]]


def test_a_broken_analysis_is_counted(tmp_path: Path) -> None:
    (tmp_path / "a.rntxt").write_text("Composer: X\nTime Signature: 4/4\nm1 C: nonsense? b0x\n")
    recipe = Recipe(name="m", title="t", loader="music21_roman", licence="cc0", terms="m")
    counts: Counter[str] = Counter()
    assert list(file_items(recipe, tmp_path, counts)) == [] and counts.total() == 1


def test_every_program_has_a_family() -> None:
    assert program_family(0) == "piano" and program_family(33) == "bass" and program_family(42) == "solo strings"
    assert all(program_family(n) for n in range(128))


def test_facts_of_a_midi_file_are_what_was_written_into_it(tmp_path: Path) -> None:
    import symusic

    midi = symusic.Score(480)
    midi.tempos.append(symusic.Tempo(0, qpm=90))
    midi.time_signatures.append(symusic.TimeSignature(0, 3, 4))
    midi.key_signatures.append(symusic.KeySignature(0, 2, 0))
    track = symusic.Track("flute", 73)
    scale = [62, 66, 69, 67, 64, 61, 62, 69, 66, 62, 69, 62]
    for i, p in enumerate(scale * 3):
        track.notes.append(symusic.Note(480 * i, 480, p, 80))
    midi.tracks.append(track)
    drums = symusic.Track("kit", 0, True)
    drums.notes.append(symusic.Note(0, 100, 36, 90))
    midi.tracks.append(drums)
    midi.dump_midi(tmp_path / "a.mid")
    (tmp_path / "broken.mid").write_bytes(b"MThd no")
    options = {"seconds": 8, "excerpts": 2}
    recipe = Recipe(name="m", title="t", loader="midi_folder", licence="bsd", terms="m", options=options)
    counts: Counter[str] = Counter()
    items = list(file_items(recipe, tmp_path, counts))
    assert len(items) == 2 and counts == {"not a readable MIDI file": 1}
    facts = items[0].facts
    assert (facts["tempo"], facts["metre"], facts["key"], facts["bars"]) == (90.0, "3/4", "D major", 4)
    assert facts["instruments"] == ["flute", "drums"] and facts["drums"] and facts["seconds"] == 8.0
    assert facts["notes"][1] == [pytest.approx(2 / 3, abs=1e-3), pytest.approx(4 / 3, abs=1e-3), 66]
    assert items[1].facts["instruments"] == ["flute"] and not items[1].facts["drums"]
    assert items[1].facts["first_bar"] == 7 and items[1].start == pytest.approx(12.0)
    font = find_soundfont(load_mixture(HERE / "mixtures" / "tiny.yaml").soundfonts[0])
    assert font is not None
    events, voices = performance(tmp_path / "a.mid", items[0].start, items[0].end)
    sound = play(events, voices, font, facts["seconds"], 22050)
    assert len(events) == 13 and np.abs(sound).max() > 0.01


@pytest.mark.skipif(not (MIDI / "freedoom").is_dir(), reason="the shared scores are not on this machine")
def test_freedoom_gives_excerpts_with_exact_facts() -> None:
    recipe = load_recipe("freedoom").model_copy(update={"options": {"files": ["d_dm0*.mid"]}})
    items = list(file_items(recipe, MIDI / recipe.path, Counter()))
    assert len(items) > 10 and len({i.id for i in items}) == len(items)
    for item in items:
        assert item.end - item.start == pytest.approx(item.facts["seconds"], abs=1e-3)
        assert all(0 <= o < item.facts["seconds"] and o < e for o, e, _ in item.facts["notes"])
        assert ("drums" in item.facts["instruments"]) == item.facts["drums"]
    assert "Redistribution and use in source and binary forms" in (MIDI / "freedoom" / "COPYING.adoc").read_text()
