"""Scores to see and to hear: sheet music, piano roll and sound, from Python and from the command line."""

import io
import re
import threading
from pathlib import Path
from xml.etree import ElementTree

import matplotlib.image
import music21
import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from mllm.cli import app
from mllm.engraving import MOST_NOTES, engrave
from mllm.errors import AudioError, ScoreError
from mllm.piano_roll import piano_roll, piano_roll_figure
from mllm.score import Key, Note, Score, read_score, to_midi, to_musicxml
from mllm.sound_files import FORMATS, sound_file

CORPUS = Path(music21.__file__).parent / "corpus"
TUNES = sorted((CORPUS / "ryansMammoth").glob("*.abc"))[:300:50]
SVG = "{http://www.w3.org/2000/svg}"
SCALE = Score(
    "Up and down",
    [Note(i, 1, p) for i, p in enumerate([60, 62, 64, 65, 67, 69, 71, 72])],
    Key("C"),
    (4, 4),
    120.0,
    instruments=["Flute"],
)
HOSTILE = [
    "<script>alert(1)</script>",
    "A & B <b>\"'",
    "é 你好 Ж 🎵",
    "a\x00b\x1b\ufffe",
    "$x^2 \\frac$ $",
    "]]>",
    "long " * 200,
]


def parts(svg: bytes, kind: str) -> int:
    return sum(element.get("class", "").split()[:1] == [kind] for element in ElementTree.fromstring(svg).iter())


def pixels(png: bytes) -> np.ndarray:
    return matplotlib.image.imread(io.BytesIO(png), format="png")[..., :3]


def is_safe(svg: bytes) -> bool:
    """Whether it holds no script and names nothing outside of itself."""
    for element in ElementTree.fromstring(svg).iter():
        if element.tag.rpartition("}")[2].lower() in ("script", "foreignobject", "image", "iframe", "a"):
            return False
        for name, value in element.attrib.items():
            if name.lower().startswith("on") or ("href" in name and not value.startswith("#")):
                return False
        if "@import" in (element.text or "") and "style" in element.tag or "url(http" in (element.text or ""):
            return False
    return True


@pytest.mark.parametrize("path", TUNES, ids=lambda path: path.stem)
def test_every_note_of_a_tune_has_a_head_and_a_bar(path):
    score = read_score(path)
    sheet = engrave(score)
    tied_heads = to_musicxml(score).count(b'<tie type="stop"')
    assert parts(sheet, "note") == len(score.notes) + len(score.graces) + tied_heads and is_safe(sheet)
    roll = ElementTree.fromstring(piano_roll(score))
    bars = [group for group in roll.iter(f"{SVG}g") if re.fullmatch(r"voice-\d+", group.get("id", ""))]
    assert sum(len(group.findall(f"{SVG}path")) for group in bars) == len(score.notes)


def test_title_tempo_and_bar_numbers_are_shown():
    long = Score("Long", [Note(i / 2, 0.5, 60 + i % 12) for i in range(400)], Key("D"), (4, 4), 96.0)
    words = ["".join(text.itertext()).strip() for text in ElementTree.fromstring(engrave(long)).iter(f"{SVG}text")]
    assert "Long" in words and any(re.sub(r"\s", "", word) == "♩=96" for word in words)
    numbers = [int(word) for word in words if word.isdigit()]
    assert len(numbers) > 3 and numbers == sorted(numbers) and 1 < numbers[0] < 20


def test_the_roll_stands_where_the_notes_are():
    axes = piano_roll_figure(SCALE).axes[0]
    boxes = [path.get_extents() for path in axes.collections[0].get_paths()]
    assert [(box.x0, box.x1, round((box.y0 + box.y1) / 2)) for box in boxes] == [
        (n.onset, n.onset + n.duration, n.pitch) for n in SCALE.notes
    ]


@pytest.mark.parametrize("draw", [engrave, piano_roll])
def test_the_same_score_gives_the_same_bytes(draw):
    assert draw(SCALE) == draw(SCALE) and draw(SCALE, form="png") == draw(SCALE, form="png")


@pytest.mark.parametrize("draw", [engrave, piano_roll])
def test_a_png_shows_something_and_is_as_wide_as_asked(draw):
    for width in (400, 900):
        picture = pixels(draw(SCALE, form="png", width=width))
        assert picture.shape[1] == width * (2 if draw is engrave else 1)
        assert 0.002 < (picture.min(axis=2) < 0.5).mean() < 0.3  # ink
        assert picture[:3].min() > 0.9  # white up to the edge


@pytest.mark.parametrize("words", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize("draw", [engrave, piano_roll])
@pytest.mark.filterwarnings("ignore:Glyph")
def test_titles_and_names_are_text_whatever_is_in_them(draw, words):
    score = Score(words, [Note(0, 1, 60, 0), Note(0, 1, 64, 1)], Key("C"), (4, 4), 120.0, instruments=[words, "Flute"])
    svg = draw(score)
    assert is_safe(svg) and b"<script" not in svg
    if words.startswith("<script>"):
        assert words in "".join(ElementTree.fromstring(svg).itertext())
    assert pixels(draw(score, form="png")).min() < 0.5


@pytest.mark.parametrize(
    "score",
    [
        Score(notes=[Note(0, 4, 60, 0), Note(40, 4, 60, 3)], metre=(4, 4), instruments=["a", "b", "c", "d"]),
        Score(notes=[Note(0, 1, pitch) for pitch in range(35, 82)], metre=(4, 4), instruments=["Drums"]),
        Score(notes=sorted(Note(i, 1, p, v) for i in range(8) for v, p in enumerate(range(36, 84, 4))), metre=(3, 4)),
        Score(notes=[Note(i, 1, pitch) for i, pitch in enumerate([0, 1, 126, 127])], key=Key("C#"), metre=(7, 8)),
        Score(notes=[Note(i / 7, 0.11, 60 + i % 5) for i in range(50)]),
        Score(notes=[Note(0, 400, 60)], metre=(4, 4)),
        Score(notes=[Note(i / 64, 1 / 64, 60) for i in range(64)], metre=(255, 128)),
    ],
    ids=["empty voices", "chord of drums", "12 voices", "ends of MIDI", "off the grid", "one long note", "255/128"],
)
def test_odd_scores_are_drawn(score):
    svg = engrave(score)
    assert parts(svg, "note") >= len(score.notes) and is_safe(svg)
    assert ElementTree.fromstring(piano_roll(score)) is not None


def test_what_was_played_is_drawn_as_it_would_be_written():
    random = np.random.default_rng(1)
    played = [Note(i / 2 + random.integers(0, 15) / 480, 0.45, 60 + i % 8) for i in range(64)]
    assert parts(engrave(Score(notes=played, metre=(4, 4), tempo=100.0)), "note") == 64  # no ties


def test_drums_stand_in_their_staff():
    notes = [Note(i, 1, p) for i, p in enumerate([36, 38, 42, 49])]
    drums = Score(notes=notes, key=Key("D"), metre=(4, 4), instruments=["Drums"])
    svg = engrave(drums).decode()
    assert "E069" in svg and "E0A9" in svg  # SMuFL's percussion clef and cross
    assert parts(engrave(drums), "ledgerLines") < 2 and parts(engrave(drums), "keyAccid") == 0


def test_threads_draw_alike():
    found: list[bytes] = []
    threads = [threading.Thread(target=lambda: found.append(engrave(SCALE))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [engrave(SCALE)] * 4


@pytest.mark.parametrize("draw", [engrave, piano_roll])
def test_what_cannot_be_drawn_is_one_clear_error(draw, tmp_path):
    draw(SCALE, tmp_path / "new" / "a.svg")
    assert (tmp_path / "new" / "a.svg").read_bytes() == draw(SCALE)
    (tmp_path / "file").write_text("")
    with pytest.raises(ScoreError, match="no notes"):
        draw(Score("Empty"))
    with pytest.raises(ScoreError, match=r"a\.pdf.*\.svg or \.png"):
        draw(SCALE, tmp_path / "a.pdf")
    with pytest.raises(ScoreError, match="cannot be written"):
        draw(SCALE, tmp_path / "file" / "a.svg")
    with pytest.raises(ScoreError, match="300 to 4000"):
        draw(SCALE, width=5)


def test_too_much_is_refused_before_it_is_drawn():
    with pytest.raises(ScoreError, match="too many"):
        engrave(Score(notes=[Note(i, 1, 60) for i in range(MOST_NOTES + 1)]))
    with pytest.raises(ScoreError, match="too large; write .svg"):
        engrave(Score(notes=[Note(i, 4, 60) for i in range(0, 4000, 4)], metre=(4, 4)), form="png", scale=10)


@pytest.mark.slow
def test_three_hundred_bars_for_twelve_are_drawn():
    notes = [Note(i, 1, 48 + (i * 7 + v) % 30, v) for i in range(1200) for v in range(12)]
    svg = engrave(Score("Large", notes, Key("D"), (4, 4), 100.0, instruments=["Violin"] * 11 + ["Drums"]))
    assert parts(svg, "note") == 14_400


def run(*words):
    return CliRunner(env={"COLUMNS": "200", "TERM": "dumb"}).invoke(app, ["score", *map(str, words)])


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """The scale in every format that is read."""
    folder = tmp_path_factory.mktemp("sources")
    (folder / "a.abc").write_text("X:1\nT:Up\nM:4/4\nL:1/4\nQ:1/4=120\nK:C\nCDEF|GABc|]\n")
    (folder / "a.krn").write_text("**kern\n*clefG2\n*k[]\n*M4/4\n=1\n4c\n4d\n4e\n4f\n=2\n4g\n4a\n4b\n4cc\n==\n*-\n")
    (folder / "a.mid").write_bytes(to_midi(SCALE))
    (folder / "a.xml").write_bytes(to_musicxml(SCALE))
    music21.converter.parse(folder / "a.xml").write("mxl", folder / "a.mxl")  # and deletes a.musicxml
    (folder / "a.musicxml").write_bytes(to_musicxml(SCALE))
    return folder


@pytest.mark.parametrize("suffix", [".abc", ".mid", ".musicxml", ".mxl", ".krn"])
def test_the_command_draws_every_format(suffix, sources, tmp_path):
    source = sources / f"a{suffix}"
    done = run("render", source, tmp_path / "a.svg")
    assert done.exit_code == 0, done.output
    assert parts((tmp_path / "a.svg").read_bytes(), "note") == 8
    assert run("render", source, tmp_path / "r.png", "--piano-roll").exit_code == 0
    assert pixels((tmp_path / "r.png").read_bytes()).min() < 0.5


def test_the_command_draws_a_png_as_wide_as_asked(sources, tmp_path):
    done = run("render", sources / "a.abc", tmp_path / "a.PNG", "--width", 500)
    assert done.exit_code == 0 and "8 notes" in done.stdout
    assert pixels((tmp_path / "a.PNG").read_bytes()).shape[1] == 1000


@pytest.mark.parametrize("suffix", FORMATS)
def test_the_command_plays_into_every_format(suffix, sources, tmp_path):
    assert run("render", sources / "a.abc", tmp_path / f"a{suffix}").exit_code == 0
    assert soundfile.info(tmp_path / f"a{suffix}").duration == pytest.approx(4, abs=0.3)


@pytest.mark.parametrize(
    "words",
    [
        ("a.pdf", "can make .svg"),
        ("a", "a file without suffix"),
        ("no/a.svg", "cannot be written"),
        ("a.wav --piano-roll", "is a picture"),
        ("a.mp3 --sampling-rate 96000", "choose 44100 Hz"),
    ],
    ids=lambda words: words[0],
)
def test_the_command_says_what_is_wrong_in_one_line(words, sources, tmp_path):
    output, *options = words[0].split()
    done = run("render", sources / "a.abc", tmp_path / output, *options)
    assert done.exit_code == 1 and words[1] in done.output and done.output.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", FORMATS)
def test_minutes_of_sound_are_written_whole(suffix):
    sound = 0.3 * np.sin(np.arange(44_100 * 60) * 0.05)  # Vorbis at once would end the process
    data = sound_file(np.stack([sound, sound], 1), 44_100, suffix)
    back, rate = soundfile.read(io.BytesIO(data))
    assert rate == 44_100 and back.shape[1] == 2 and len(back) / rate == pytest.approx(60, abs=0.2)
    assert np.abs(back[44_100:-44_100]).max() == pytest.approx(0.3, abs=0.05)


def test_a_loud_sound_is_clipped_and_an_unknown_suffix_refused():
    back, _ = soundfile.read(io.BytesIO(sound_file(np.array([0.0, 2.0, -2.0]), 8000)))
    assert back.tolist() == pytest.approx([0, 1, -1], abs=1e-3)
    with pytest.raises(AudioError, match=r"\.xyz.*\.mp3"):
        sound_file(np.zeros(10), 8000, ".xyz")
