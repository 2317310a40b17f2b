"""Transcriptions and embeddings through the API."""

import numpy as np
import openai
import pytest
from live import MODEL, audio_part, clip, score_part, sound

from mllm.score import Key, Note, Score, read_abc, read_midi, read_notation

URL = "/v1/audio/transcriptions"
HEADER = "M:3/4\nL:1/8\nQ:1/4=100\nK:G"


def ask(server, file=None, **fields):
    fields = {"model": MODEL, "prompt": HEADER, **fields}
    with server.http() as http:
        return http.post(URL, files={"file": ("a.wav", file or clip())}, data=fields)


def test_the_model_writes_a_whole_tune_in_every_format(server, client):
    text = client.audio.transcriptions.create(model=MODEL, file=("a.wav", clip()), prompt=HEADER).text
    score = read_abc(text)
    assert score.key == Key("G") and score.metre == (3, 4) and score.tempo == 100
    assert score.notes and score.length in (3, 6)  # whole bars, as many as fit into two seconds
    abc = ask(server, response_format="abc")
    assert abc.text == text == ask(server, response_format="text").text
    assert abc.headers["content-type"].startswith("text/vnd.abc")
    sounding = [(n.onset, n.pitch) for n in score.notes]
    midi = ask(server, response_format="midi")
    assert midi.headers["content-type"] == "audio/midi"
    assert [n.pitch for n in read_midi(midi.content).notes] == [pitch for _, pitch in sounding]
    xml = ask(server, response_format="musicxml")
    assert [n.pitch for n in read_notation(xml.content, "musicxml").notes] == [pitch for _, pitch in sounding]
    told = ask(server, response_format="verbose_json").json()
    assert told["text"] == text and told["duration"] == pytest.approx(2.0, abs=0.01)
    assert told["header"]["key"] == {"value": "G major", "source": "request"}
    assert [n["pitch"] for n in told["notes"]] == [pitch for _, pitch in sounding]
    assert told["notes"][0]["start"] == pytest.approx(sounding[0][0] * 0.6, abs=1e-3)


def test_what_the_request_does_not_say_is_asked_or_assumed(server):
    told = ask(server, prompt="", response_format="verbose_json").json()
    assert told["header"]["metre"] == {"value": "4/4", "source": "assumed"}  # a random model knows none
    assert read_abc(told["text"]).metre == (4, 4)


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"response_format": "srt"}, 400, "response_format"),
        ({"model": "whisper-1"}, 404, "model"),
        ({"prompt": "a song about rain"}, 400, "prompt"),
        ({"prompt": "K:H"}, 400, "prompt"),
        ({"language": "en"}, 400, "language"),
        ({"temperature": "9"}, 400, "temperature"),
        ({"speed": "2"}, 400, "speed"),
        ({"model": "basic-pitch", "temperature": "1"}, 400, "temperature"),
    ],
)
def test_forms_are_as_strict_as_json(server, fields, status, param):
    answer = ask(server, **fields)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (status, param), error


def test_files_that_cannot_be_transcribed(server):
    assert ask(server, file=b"no sound").json()["error"]["code"] == "invalid_audio"
    long = sound(np.random.default_rng(0).normal(0, 0.1, 8000 * 40).astype(np.float32), rate=8000)
    error = ask(server, file=long).json()["error"]
    assert error["code"] == "too_long" and "basic-pitch" in error["message"]
    with server.http() as http:
        answer = http.post(URL, data={"model": MODEL})
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "file"


@pytest.mark.slow  # librosa and Basic Pitch; test_api_docs.py goes that way quickly
def test_basic_pitch_hears_a_scale(server):
    pytest.importorskip("librosa")
    from mllm.score import to_midi
    from mllm.synthesis import render

    pitches = [60, 62, 64, 65, 67, 69, 71, 72] * 2
    notes = [Note(float(i), 1.0, pitch) for i, pitch in enumerate(pitches)]
    score = Score("scale", notes, Key("C"), (4, 4), 120.0, instruments=["Acoustic Grand Piano"])
    data = sound(render(to_midi(score), sampling_rate=22_050).mean(axis=1))
    told = ask(server, file=data, model="basic-pitch", prompt="", response_format="verbose_json").json()
    found = [n["pitch"] for n in told["notes"]]
    assert sum(p in found for p in set(pitches)) >= 7 and 12 <= len(found) <= 24
    assert told["header"]["key"]["source"] == "estimate" and told["header"]["metre"]["source"] == "assumed"
    abc = read_abc(told["text"])
    assert 60 in [n.pitch for n in abc.notes if n.onset == 0]  # overtones are heard as notes, too
    starts = [n["start"] for n in told["notes"] if n["pitch"] == 67]
    assert starts[0] == pytest.approx(2.0, abs=0.15)  # when it was played, not where it is notated


def vector(client, given):
    row = client.embeddings.create(model=MODEL, input=given, encoding_format="float")
    return np.array([r.embedding for r in row.data]), row


def test_embeddings_of_texts_sounds_and_scores(client):
    texts, row = vector(client, ["a slow waltz", "a fast reel", "a slow waltz"])
    assert texts.shape == (3, 64) and np.allclose(np.linalg.norm(texts, axis=1), 1, atol=1e-4)
    assert np.allclose(texts[0], texts[2]) and not np.allclose(texts[0], texts[1])
    assert row.usage.prompt_tokens > 6 and [r.index for r in row.data] == [0, 1, 2]
    parts = [[audio_part(clip(60))], [audio_part(clip(150))], [score_part(), {"type": "text", "text": "a tune"}]]
    sounds, _ = vector(client, parts)
    assert not np.allclose(sounds[0], sounds[1]) and sounds.shape == (3, 64)
    coded = client.embeddings.create(model=MODEL, input="a slow waltz").data[0].embedding  # base64 on the wire
    assert np.allclose(coded, texts[0], atol=1e-6)


def test_embeddings_refuse_what_they_do_not_know(client):
    for given, param in (([[audio_part(b"x")]], "input[0][0].input_audio.data"), ("<|im_end|>", "input[0]")):
        with pytest.raises(openai.BadRequestError) as caught:
            client.embeddings.create(model=MODEL, input=given)
        assert caught.value.param == param
    with pytest.raises(openai.BadRequestError, match="dimensions"):
        client.embeddings.create(model=MODEL, input="x", dimensions=3)
    with pytest.raises(openai.BadRequestError):
        client.embeddings.create(model=MODEL, input=[1, 2, 3])
