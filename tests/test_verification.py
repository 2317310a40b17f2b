"""Verdicts on claims: exact from scores, careful from recordings."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from tiny import clicks
from tiny_checkpoint import tiny_folder
from typer.testing import CliRunner

from mllm import cli
from mllm.audio_checks import Recording
from mllm.cli import app
from mllm.errors import AudioError, PromptError, ScoreError
from mllm.estimators import RATE
from mllm.note_events import decode_notes
from mllm.score import read_score, to_midi
from mllm.synthesis import render
from mllm.verification import verify

JIG = """X:1
T:Jig
M:6/8
L:1/8
Q:3/8=100
K:G
"G"GAB cde|"D7"d2B AGF|"Em"E3 "Am7"A3|"G"G6|]
"""
SCALES = "CDEF GABc|cBAG FEDC|CEGE CEGc|GECE DB,C2|" * 3
SONG = f"X:1\nM:4/4\nL:1/8\nQ:1/4=120\nK:C\n{SCALES}]\n"
CHORALE = (
    "X:1\nM:4/4\nL:1/2\nQ:1/4=90\nK:C\nV:1\nEE|FF|GG|EE|EE|FF|GG|EE|]\nV:2\nCC|CC|DD|CC|CC|CC|DD|CC|]\n"
    "V:3\nG,G,|A,A,|B,B,|G,G,|G,G,|A,A,|B,B,|G,G,|]\nV:4\nC,C,|F,F,|G,G,|C,C,|C,C,|F,F,|G,G,|C,C,|]\n"
)


@pytest.fixture(scope="module")
def jig(tmp_path_factory):
    path = tmp_path_factory.mktemp("scores") / "jig.abc"
    path.write_text(JIG)
    return path


def played(abc):
    return Recording(render(to_midi(read_score(abc)), sampling_rate=RATE).mean(1, dtype=np.float32))


@pytest.fixture(scope="module")
def song():
    return played(SONG)


@pytest.fixture(scope="module")
def chorale():
    return played(CHORALE)


def words(answer, media, **options):
    return [v.verdict for v in verify(answer, media, **options)]


V, C, N = "verified", "contradicted", "cannot tell"


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        ("It is in G major.", V), ("It is in E minor.", C), ("It is not in E minor.", V), ("It is not in G major.", C),
        ("Its key is Abb major... it is in C major.", C), ("G major or D major", V), ("C major or D major", C),
        ("key of G", V), ("the mode is minor", C), ("It modulates to D major.", C),
        ("It goes at 100 BPM.", V), ("It goes at 104 BPM.", V), ("It goes at 105 BPM.", C), ("150 BPM", V),
        ("dotted quarter = 100", V), ("quarter note = 100", C), ("between 90 and 110 BPM", V), ("over 120 BPM", V),
        ("over 200 BPM", C), ("50 BPM", C),
        ("in 6/8", V), ("in 3/4", C), ("not in 3/4", V),
        ("It has 4 bars.", V), ("It has 8 bars.", C), ("Bar 2 starts with D5.", V), ("Bar 2 starts with D4.", C),
        ("Bar 2 starts with D.", V), ("Bar 3 contains an A.", V), ("There is a C# in bar 3.", C),
        ("Bar 9 starts with D.", C), ("Something happens in bar 3.", N), ("Something happens in bar 30.", C),
        ("The highest note comes in bar 1.", V), ("The lowest note comes in bar 1.", C),
        ("It starts on G4.", V), ("It starts on G5.", C), ("The first notes are G, A, B", V),
        ("The first notes are G, A, C", C), ("It ends on G.", V), ("The highest note is E5.", V),
        ("The lowest note is Eb4.", C), ("It ranges from E4 to E5.", V), ("a range of 12 semitones", V),
        ("a range of over 12 semitones", V), ("It has 14 notes.", V), ("It has 13 notes.", C),
        ("There is no C#.", V), ("It contains the note Cb.", V),
        ("The first chord is G.", V), ("The chords are G, D7 and Em.", V), ("There is a D major chord in bar 2.", V),
        ("There is a G chord in bar 2.", C), ("The chords are A and B.", C), ("progression: Em - Am - G", V),
        ("progression: G - Em", C), ("The last chord is Em.", C), ("The first chord is G7.", C),
        ("Played by a flute.", N),
    ],
)  # fmt: skip
def test_a_score_decides_exactly(jig, answer, verdict):
    assert set(words(answer, jig)) == {verdict}


def test_enharmonic_keys_are_the_same_and_relatives_are_named(jig):
    sharp = read_score(JIG.replace("K:G", "K:F#"))
    assert words("It is in Gb major.", sharp) == [V]
    (relative,) = verify("It is in E minor.", jig)
    assert "relative" in relative.evidence and relative.found == "G major"
    (parallel,) = verify("It is in G minor.", jig)
    assert "another mode" in parallel.evidence


def test_what_a_score_does_not_say_cannot_be_told():
    bare = read_score("X:1\nL:1/4\nK:none\nCDEF\n")
    answer = "It is in C major, in 4/4, at 120 BPM, with 1 bar, on a flute. The first chord is C."
    assert set(words(answer, bare)) == {N}


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [("a violin plays", V), ("a flute plays", C), ("there are no drums", V), ("a solo violin", C), ("a bass", N),
     ("strings", V), ("a harp", C)],
)  # fmt: skip
def test_instruments_of_a_score(answer, verdict):
    score = read_score(CHORALE)
    names = ["Violin", "Harpsichord", "Acoustic Grand Piano", "Church Organ"]
    if verdict == N:
        names[3] = ""
    assert words(answer, dataclasses.replace(score, instruments=names)) == [verdict]


def test_later_keys_metres_and_tempos_are_not_the_first_ones():
    score = dataclasses.replace(read_score(JIG), tempos=((6.0, 90.0),), metres=((6.0, (3, 4)),))
    assert words("60 BPM. 45 BPM. in 3/4. It changes to 3/4. in 2/4.", score) == [N, C, N, V, C]


def test_a_recording_of_one_voice(song):
    answer = (
        "It is in C major. It is in F# major. It goes at 120 BPM. It goes at 150 BPM. The highest note is C5. "
        "It starts with C, D, E, F. The first notes are F#, G#, A#, B. There is the note F#. It is in 4/4."
    )
    verdicts = verify(answer, song)
    by_text = {v.claim.text: v.verdict for v in verdicts}
    assert by_text["C major"] == V and by_text["F# major"] == C
    assert by_text["first notes are F#, G#, A#, B"] == C
    assert by_text["4/4"] == N
    for text in ("120 BPM", "starts with C, D, E, F", "highest note is C5"):
        assert by_text[text] in (V, N)
    assert by_text["150 BPM"] in (C, N)


def test_chords_of_a_recording(chorale):
    assert words("The first chord is C major. There is an F major chord. There is no G chord.", chorale) == [V, V, C]
    assert words("There is an Eb minor chord in it. The first chord is F# major.", chorale) == [C, C]
    assert words("The first chord is C7. The chord in bar 2 is F. It starts on E4.", chorale) == [N, N, N]


def test_tempo_of_clicks(tmp_path):
    path = tmp_path / "clicks.wav"
    soundfile.write(path, clicks(100, 12), 22_050)
    answer = "100 BPM, 103 BPM, 200 BPM, 66.7 BPM, 120 BPM"
    assert words(answer, path) == [V, V, N, N, C]
    assert words(answer, clicks(100, 12), sampling_rate=22_050) == [V, V, N, N, C]


@pytest.mark.parametrize("seconds", [0.5, 8.0])
def test_silence_and_short_clips_tell_nothing(seconds):
    silence = np.zeros(round(seconds * RATE), np.float32)
    answer = "It is in C major at 120 BPM on a flute, starts on C4, has 4 bars. The first chord is C."
    for verdict in verify(answer, silence, sampling_rate=RATE):
        assert verdict.verdict == N and verdict.evidence == "the recording is silent"
    (short,) = verify("It is in C major.", clicks(100, 2), sampling_rate=22_050)
    assert short.verdict == N and "too short" in short.evidence


def test_several_media(jig):
    other = read_score(JIG.replace("K:G", "K:D"))
    assert words("The first is in G major, the second in D major.", [jig, other]) == [V, V]
    assert words("The first is in D major.", [jig, other]) == [C]
    assert words("It is in 6/8.", [jig, other]) == [V]
    (mixed,) = verify("It is in G major.", [jig, other])
    assert mixed.verdict == N and "jig.abc" in mixed.evidence and "score 2" in mixed.evidence
    assert words("The third clip is in G major.", [jig, other]) == [N]


def test_a_score_goes_before_a_recording(jig):
    silence = np.zeros(RATE, np.float32)
    (verdict,) = verify("It is in G major.", [silence, jig], sampling_rate=RATE)
    assert verdict.verdict == V and verdict.source == str(jig)


def test_verdicts_are_json(jig):
    verdicts = verify("Perhaps it is not in G major; it has 9 bars.", jig)
    rows = json.loads(json.dumps([v.to_dict() for v in verdicts]))
    assert rows == json.loads(json.dumps([dataclasses.asdict(v) for v in verdicts]))
    assert rows[0]["claim"]["negated"] and rows[0]["claim"]["hedged"] and rows[0]["verdict"] == C
    assert rows[1]["found"] == "4 bars" and rows[1]["tolerance"] == "exact" and rows[1]["source"] == str(jig)


def test_an_answer_without_claims_needs_no_media_to_be_read(tmp_path):
    assert verify("A lovely tune!", tmp_path / "not there.wav") == []


def test_what_cannot_be_read_is_said(tmp_path):
    with pytest.raises(PromptError):
        verify("It is in G major.", [])
    with pytest.raises(AudioError, match="sampling rate"):
        verify("It is in G major.", clicks(100))
    with pytest.raises(AudioError, match="no such file"):
        verify("It is in G major.", tmp_path / "not there.wav")
    with pytest.raises(ScoreError):
        verify("It is in G major.", tmp_path / "not there.abc")


def test_ask_verifies_what_it_answers(jig):
    def ask(*options):
        command = ["ask", "--model", tiny_folder(), "--max-new-tokens", "3", "--verify", *options, str(jig)]
        return CliRunner().invoke(app, [str(word) for word in [*command, "What is the metre?"]])

    shown, as_json = ask(), ask("--json")
    assert shown.exit_code == 0 and as_json.exit_code == 0, shown.output + as_json.output
    row = json.loads(as_json.stdout)
    assert [claim["verdict"] for claim in row["claims"]] == words(row["answer"], jig, question="What is the metre?")
    if not row["claims"]:
        assert "no claims" in shown.stdout


def test_the_table_shows_claims_as_they_are_written(jig, capsys):
    cli._print_verdicts(
        verify("It is in G [bold]major[/bold]? No: it is not in [red]C major[/red], but has 4 bars.", jig)
    )
    shown = capsys.readouterr().out
    assert "not: C major" in shown and "verified" in shown


def test_recordings_need_librosa_and_scores_do_not(jig, tmp_path):
    """In a process that has no librosa, as an install without the extra `eval`."""
    wave = tmp_path / "clicks.wav"
    soundfile.write(wave, clicks(100, 6), 22_050)
    code = (
        "import sys; sys.modules['librosa'] = None\n"
        "from mllm.cli import app\n"
        f"sys.argv = ['mllm', 'ask', '--model', {str(tiny_folder())!r}, '--verify', sys.argv[1], 'What key is it in?',"
        " '--max-new-tokens', '2']\napp()\n"
    )
    refused, taken = (
        subprocess.run([sys.executable, "-c", code, file], capture_output=True, text=True, check=False)
        for file in (wave, jig)
    )
    assert refused.returncode == 1 and "pip install 'mllm[eval]'" in refused.stderr
    assert taken.returncode == 0, taken.stderr


def test_note_events_begin_and_end_with_the_notes():
    abc = "X:1\nM:4/4\nL:1/4\nQ:1/4=60\nK:C\nc2 e2|g2 [ce]2|]\n"
    heard = [n for n in played(abc).notes if n.strength > 0.5]
    written = {(0, 72): 2, (2, 76): 4, (4, 79): 6, (6, 72): 8, (6, 76): 8}
    for (start, pitch), end in written.items():
        (note,) = [n for n in heard if n.pitch == pitch and abs(n.start - start) < 0.1]
        assert abs(note.end - end) < 0.6


def test_decoding_keeps_to_the_published_rule():
    note, onset = np.zeros((100, 88)), np.zeros((100, 88))
    note[10:40, 30], onset[10, 30] = 0.8, 0.9  # a note with an onset
    note[45:50, 30] = 0.8  # after a gap that is shorter than the rule's: the same note
    note[60:72, 50], onset[60, 50] = 0.8, 0.9  # just long enough
    note[60:71, 60], onset[60, 60] = 0.8, 0.9  # not longer than 11 frames
    note[70:99, 70] = 0.25  # too faint
    events = decode_notes(note, onset, 0.01)
    assert [(round(e.start, 2), round(e.end, 2), e.pitch) for e in events] == [(0.1, 0.5, 51), (0.6, 0.72, 71)]
    assert decode_notes(np.zeros((0, 88)), np.zeros((0, 88)), 0.01) == []
