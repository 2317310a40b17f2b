"""Facts of scores against what their files state in so many words, read here with nothing but `re` and an XML parser.

All are in the public domain: collections of tunes printed before 1920, chorales by Bach, an aria by Verdi, songs by
Josquin, Foster (1854), Liliuokalani (1878) and Berlin (1911).
"""

import re
import zipfile
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple
from xml.etree import ElementTree

import pytest
from test_score_facts import CORPUS

from mllm.score import Score, read_abc, read_score
from mllm.score_facts import AllFacts, all_facts

ALOHA, VERDI, FOSTER, BERLIN, BACH = (
    "liliuokalani/aloha_oe.mxl", "verdi/laDonnaEMobile.mxl", "leadSheet/fosterBrownHair.mxl",
    "leadSheet/berlinAlexandersRagtime.mxl", "bach/bwv41.6.mxl",
)  # fmt: skip
SEMITONES = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}


class Written(NamedTuple):
    """A `<note>` with a pitch."""

    part: int
    measure: str
    onset: float  # quarters
    quarters: float  # 0 of a grace note
    name: str  # "F#"
    pitch: int
    goes_on: bool  # tied to the one before
    lyrics: dict[str, str]  # number of the verse -> syllable


@cache
def score(file: str, number: int | None = None) -> Score:
    if number is None:
        return read_score(CORPUS / file)
    return read_abc((CORPUS / file).read_text("latin-1"), number=number)


@cache
def told(file: str, number: int | None = None) -> AllFacts:
    return all_facts(score(file, number))


@cache
def tune(file: str, number: int) -> str:
    """The text of a tune, without comments."""
    text = re.sub(r"(?<!\\)%.*", "", (CORPUS / file).read_text("latin-1"))
    return next(t for t in re.split(r"^(?=X:)", text, flags=re.MULTILINE) if re.match(rf"X: *0*{number}\s", t))


@cache
def document(file: str) -> ElementTree.Element:
    with zipfile.ZipFile(CORPUS / file) as archive:
        name = next(n for n in archive.namelist() if n.endswith("xml") and "META-INF" not in n)
        return ElementTree.fromstring(archive.read(name))


def written(file: str) -> Iterator[Written]:
    """The notes of a MusicXML file, part by part."""
    for number, part in enumerate(document(file).findall("part")):
        start, divisions = 0.0, 1
        for measure in part:
            now, longest, before = 0.0, 0.0, 0.0
            for one in measure:
                divisions = int(one.findtext("divisions") or divisions)
                length = int(one.findtext("duration") or 0) / divisions
                if one.tag == "backup":
                    now -= length
                elif one.tag == "forward":
                    now += length
                elif one.tag == "note":
                    onset = before if one.find("chord") is not None else now
                    before, now = onset, onset + length
                    if (step := one.findtext("pitch/step")) and one.find("cue") is None:
                        alter = int(one.findtext("pitch/alter") or 0)
                        yield Written(
                            part=number,
                            measure=measure.get("number") or "",
                            onset=start + onset,
                            quarters=length,
                            name=step + ("#" * alter if alter > 0 else "b" * -alter),
                            pitch=SEMITONES[step] + alter + 12 * int(one.findtext("pitch/octave") or 0) + 12,
                            goes_on=any(tie.get("type") == "stop" for tie in one.findall("tie")),
                            lyrics={
                                lyric.get("number") or "1": lyric.findtext("text") or ""
                                for lyric in one.findall("lyric")
                            },
                        )
                longest = max(longest, now)
            start += longest


# ---- title, first notes, instruments --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "number"),
    [("oneills1850/0001-0050.abc", 2), ("airdsAirs/book1.abc", 1), ("nottingham-dataset/reelsa-c.abc", 81)],
)
def test_the_title_of_a_tune_is_its_first_t_field(file: str, number: int) -> None:
    first = re.search(r"^T: *(.*?) *$", tune(file, number), re.MULTILINE)
    assert first and told(file, number)["title"] == first[1]


@pytest.mark.parametrize("file", [ALOHA, FOSTER, BERLIN, VERDI])
def test_the_title_of_a_file_of_musicxml(file: str) -> None:
    """Verdi's has none in its title fields."""
    assert told(file)["title"] == (document(file).findtext("movement-title") or "")
    assert bool(told(file)["title"]) == (file != VERDI)


@pytest.mark.parametrize(
    ("file", "number", "names"),
    [  # read by eye
        ("oneills1850/0001-0050.abc", 2, "F# G A B G A F# E"),
        ("oneills1850/0001-0050.abc", 8, "A A D E D C# D E"),
        ("airdsAirs/book1.abc", 1, "A G B B B A G B"),
        ("nottingham-dataset/reelsa-c.abc", 80, "A A D D C# D E F#"),
    ],
)
def test_the_first_notes_of_tunes(file: str, number: int, names: str) -> None:
    assert told(file, number)["first_notes"] == names.split()


@pytest.mark.parametrize("file", [BACH, FOSTER, BERLIN])
def test_the_first_notes_of_musicxml_are_spelled_as_in_the_file(file: str) -> None:
    first = [one.name for one in written(file) if one.part == 0 and one.quarters and not one.goes_on]
    assert told(file)["first_notes"] == first[:8]


# ---- changes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "number", "changes"),
    [
        ("oneills1850/0001-0050.abc", 8, ["key"]),  # D major, then minor
        ("oneills1850/0051-0100.abc", 67, ["key"]),
        ("oneills1850/0051-0100.abc", 89, ["metre"]),
        ("oneills1850/1801-1850.abc", 1850, ["key", "metre"]),
        ("airdsAirs/book4.abc", 783, ["metre", "tempo"]),  # slow, then quick
        ("airdsAirs/book4.abc", 715, ["key"]),
        ("ryansMammoth/RumAndOnionsJig.abc", 1, ["metre"]),
        ("airdsAirs/book1.abc", 1, []),
    ],
)
def test_what_changes_in_a_tune_are_the_fields_that_say_something_else_later(
    file: str, number: int, changes: list[str]
) -> None:
    text = tune(file, number)
    fields = {"K": "key", "M": "metre", "Q": "tempo"}
    values = {
        name: {
            re.sub(r'\s|"[^"]*"', "", whole or inline)
            for whole, inline in re.findall(rf"^{letter}:(.*)|\[{letter}:([^\]]*)\]", text, re.MULTILINE)
        }
        for letter, name in fields.items()
    }
    assert told(file, number)["changes"] == changes == sorted(name for name, said in values.items() if len(said) > 1)


def test_what_changes_in_musicxml() -> None:
    for file in (BACH, ALOHA, VERDI, FOSTER):
        signatures = [
            (one.findtext("key/fifths"), (one.findtext("time/beats"), one.findtext("time/beat-type")))
            for part in document(file).findall("part")[:1]
            for one in part.findall("measure/attributes")
        ]
        fifths = {key for key, _ in signatures if key is not None}
        metres = {metre for _, metre in signatures if metre[0] is not None}
        expected = ["key"] * (len(fifths) > 1) + ["metre"] * (len(metres) > 1)
        assert [name for name in told(file)["changes"] if name != "tempo"] == expected, file
        assert (expected == ["metre"]) == (file == BACH)


# ---- chord symbols and lyrics ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [80, 81])
def test_the_chord_symbols_of_a_tune_are_what_stands_in_quotes(number: int) -> None:
    """The bass may be a small letter there; "D/f+" is no symbol of the standard (4.18) and left out."""
    file = "nottingham-dataset/reelsa-c.abc"
    quoted = [text.strip() for text in re.findall(r'"([^"]*)"', tune(file, number)) if text != "D/f+"]
    expected = [re.sub("/([a-g])$", lambda bass: bass[0].upper(), text) for text in quoted]
    assert expected and [one["symbol"] for one in told(file, number)["chord_symbols"] or []] == expected


@pytest.mark.parametrize("file", [FOSTER, BERLIN])
def test_the_chord_symbols_of_lead_sheets_are_its_harmony_elements(file: str) -> None:
    """Root and kind, and the measure that each stands in."""
    kinds = {"major": "", "minor": "m", "dominant": "7", "minor-seventh": "m7", "major-sixth": "6", "diminished": "dim"}
    expected = []
    for measure in document(file).findall("part/measure"):
        for one in measure.findall("harmony"):
            alter = int(one.findtext("root/root-alter") or 0)
            root = (one.findtext("root/root-step") or "") + ("#" * alter if alter > 0 else "b" * -alter)
            expected.append((int(measure.get("number") or 0), root, kinds.get(one.findtext("kind") or "")))
    found = [(one["bar"], one["symbol"]) for one in told(file)["chord_symbols"] or []]
    assert len(found) == len(expected) > 10
    for (bar, symbol), (measure_number, root, kind) in zip(found, expected, strict=True):
        assert (bar, symbol.startswith(root)) == (measure_number, True)
        assert kind is None or symbol == root + kind


@pytest.mark.parametrize("file", [VERDI, FOSTER, BERLIN, BACH])
def test_lyrics_are_those_of_the_file(file: str) -> None:
    expected = sorted(
        (one.part, round(one.onset, 3), int(verse), " ".join(text.split()))
        for one in written(file)
        for verse, text in one.lyrics.items()
        if text.strip()
    )
    found = [(one.voice, round(one.onset, 3), one.verse, one.text.removesuffix("-")) for one in score(file).lyrics]
    assert sorted(found) == expected and expected


@pytest.mark.parametrize("name", ["petiteCamusette", "milleRegrets", "adieuMesAmours"])
def test_the_lyrics_of_abc_are_its_w_fields(name: str) -> None:
    file = f"josquin/{name}.abc"
    text = tune(file, 1)
    said = "".join(re.findall(r"^w:(.*)", text, re.MULTILINE))
    letters = re.sub(r"[\s\-_*|~\\]", "", said)
    found = "".join(re.sub(r"[\s-]", "", one.text) for one in score(file, 1).lyrics if one.verse == 1)
    assert found == letters and letters


# ---- polyphony, contour and form ------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", [ALOHA, VERDI, BACH])
def test_polyphony_is_what_the_durations_of_the_file_add_up_to(file: str) -> None:
    sounding = [(one.onset, one.onset + one.quarters) for one in written(file) if one.quarters]
    moments = sorted({moment for both in sounding for moment in both})
    counts = [sum(start <= moment < end for start, end in sounding) for moment in moments]
    lengths = [b - a for a, b in zip(moments, moments[1:], strict=False)] + [0.0]
    covered = sum(length for length, count in zip(lengths, counts, strict=True) if count)
    assert told(file)["polyphony"] == max(counts)
    mean = sum(length * count for length, count in zip(lengths, counts, strict=True)) / covered
    assert told(file)["mean_polyphony"] == pytest.approx(mean, abs=0.002)


@pytest.mark.parametrize(
    ("file", "shape"), [(ALOHA, "ascending"), (VERDI, "ascending"), (FOSTER, "arch"), (BERLIN, "ascending")]
)
def test_the_contour_of_the_first_part_by_thirds(file: str, shape: str) -> None:
    first = min(one.part for one in written(file))
    highest: dict[float, Written] = {}
    for one in written(file):
        if one.part == first and one.quarters and (one.onset not in highest or one.pitch > highest[one.onset].pitch):
            highest[one.onset] = one
    assert told(file)["contour"] == shape
    start, end = min(highest), max(one.onset + one.quarters for one in highest.values())
    means = []
    for third in range(3):
        inside = [one for one in highest.values() if int((one.onset - start) / (end - start) * 3 + 1e-9) == third]
        means.append(sum(one.pitch * one.quarters for one in inside) / sum(one.quarters for one in inside))
    steps = tuple(int(b - a >= 1) - (a - b >= 1) for a, b in zip(means, means[1:], strict=False))
    assert steps in {"arch": [(1, -1)], "ascending": [(1, 1), (1, 0), (0, 1)]}[shape]


def test_a_part_that_rests_for_a_third_of_the_time_has_no_contour() -> None:
    """The trumpet of Bach's chorale."""
    onsets = [one.onset for one in written(BACH) if one.part == 0]
    third = max(one.onset + one.quarters for one in written(BACH) if one.part == 0) / 3
    assert told(BACH)["contour"] is None and not any(third <= onset < 2 * third for onset in onsets)


@pytest.mark.parametrize(
    ("file", "number", "unit_bars", "letters"),
    [  # sections that the file names P:A, P:B, each written once with a repeat sign
        ("nottingham-dataset/reelsa-c.abc", 80, 8, "AABB"),
        ("airdsAirs/book4.abc", 715, 8, "AABBCC"),
        ("airdsAirs/book6.abc", 1049, 4, "ABABCCDD"),  # eight bars, four, four
    ],
)
def test_the_form_is_that_of_the_sections_which_the_file_names(
    file: str, number: int, unit_bars: int, letters: str
) -> None:
    parts = re.findall(r"^P: *([A-Z]) *$", tune(file, number), re.MULTILINE)
    assert tune(file, number).count(":|") == len(parts) == len({*parts})
    form = next(one for one in told(file, number)["form"] or [] if one["unit_bars"] == unit_bars)
    assert form["letters"] == letters and len(form["letters"]) % 2 == 0


@pytest.mark.parametrize(
    ("file", "number"),
    [("nottingham-dataset/reelsa-c.abc", 81), ("airdsAirs/book1.abc", 2), ("ryansMammoth/RumAndOnionsJig.abc", 1)],
)
def test_repeats_are_as_many_as_the_file_has_signs(file: str, number: int) -> None:
    signs = [mark for _, mark in score(file, number).repeats]
    text = tune(file, number).partition("K:")[2]
    assert signs.count(":|") == len(re.findall(r":\||::", text))
    assert [mark for mark in signs if mark[0] == "["] == re.findall(r"\[[1-9]", text)
