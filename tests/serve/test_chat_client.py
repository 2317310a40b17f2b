"""The chat's client against real servers: what it sends, what it says when something is wrong, how it stops."""

import asyncio
import base64
import io
import threading
import time
from contextlib import aclosing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import soundfile
from bad_input import BAD_AUDIO
from composer import Composer
from live import MODEL, TUNE, LiveServer, clip

from mllm.errors import PromptError, ScoreError
from mllm.score import read_abc, read_score, to_midi, to_musicxml
from mllm.serve import chat_client, chat_media
from mllm.serve.chat_client import ChatClient, ChatError, Turn

KEY = "the key"


@pytest.fixture(scope="module")
def composer():
    engine = Composer()
    live = LiveServer(engine=engine, api_keys=[KEY], max_body_bytes=20_000_000)
    yield live
    live.close()


def chat(live, key=KEY, model=""):
    return ChatClient(live.url, key, model)


def replies(client, *turns, verify=False):
    return asyncio.run(_read(client, turns, verify))


async def _read(client, turns, verify=False):
    return [reply async for reply in client.answer(turns, verify)]


def user(text, *files):
    return Turn("user", text, tuple(files))


def test_a_followup_about_the_same_files_is_not_heard_again(server, tmp_path):
    first, second = tmp_path / "one.wav", tmp_path / "two.flac"
    first.write_bytes(clip(113))
    second.write_bytes(clip(127, kind="FLAC"))
    client = chat(server)
    assert client.card.id == MODEL
    question = user("What is the tempo of each?", first, second)
    before = server.statistics()

    async def ask_twice():
        answer = (await _read(client, [question]))[-1].words
        between = server.statistics()
        await _read(client, [question, Turn("assistant", answer or "?"), user("And the key?")])
        return between, server.statistics()

    heard, after = asyncio.run(ask_twice())
    assert heard["heard_seconds"] == before["heard_seconds"] + 4
    assert after["heard_seconds"] == heard["heard_seconds"] and after["cached_tokens"] > heard["cached_tokens"]


def test_every_kind_of_score_is_read_and_played(composer, tmp_path):
    score = read_abc(TUNE)
    kern = "**kern\n*k[f#]\n*M3/4\n=1\n4g\n4a\n4b\n==\n*-\n"
    files = {"a.abc": TUNE.encode(), "b.mid": to_midi(score), "c.musicxml": to_musicxml(score), "d.krn": kern.encode()}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    asked = user("What is this?", *(tmp_path / name for name in files))
    (words,) = {reply.words for reply in replies(chat(composer), asked)[-1:]}
    assert "'audio': 4, 'score': 4" in words
    shown = [part["score"] for part in composer.engine.requests[-1].messages[0]["content"] if part["type"] == "score"]
    assert [read_abc(abc).metre for abc in shown] == [(3, 4)] * 4
    # What a MIDI file does not say is not said for it.
    bare = read_score(tmp_path / "b.mid")
    assert chat_media.part_of(tmp_path / "b.mid", 22_050)["score"]["format"] == "midi" and bare.notes


def test_a_large_recording_is_sent_as_the_model_hears_it_and_always_the_same(tmp_path, composer):
    path = tmp_path / "long.wav"
    rate, seconds = 44_100, 60
    tone = 0.5 * np.sin(np.arange(rate * seconds) * 2 * np.pi * 440 / rate)
    soundfile.write(path, np.stack([tone, tone], axis=1), rate)
    assert path.stat().st_size > chat_media.MOST_UNPACKED
    parts = [chat_media.part_of(path, 22_050)["input_audio"]]
    chat_media._as_heard.cache_clear()
    parts.append(chat_media.part_of(path, 22_050)["input_audio"])
    assert parts[0] == parts[1] and parts[0]["format"] == "flac"
    data = base64.b64decode(parts[0]["data"])
    samples, new_rate = soundfile.read(io.BytesIO(data))
    assert (new_rate, samples.ndim, len(samples)) == (22_050, 1, 22_050 * seconds)
    assert len(data) < path.stat().st_size / 3 and abs(np.abs(samples[100:-100]).max() - 0.5) < 0.001
    assert "'audio': 1" in replies(chat(composer), user("What?", path))[-1].words


def test_a_bad_file_is_named(server, tmp_path):
    path = BAD_AUDIO["text renamed .wav"](tmp_path)
    good = tmp_path / "good.wav"
    good.write_bytes(clip())
    with pytest.raises(ChatError, match=r"^letter\.wav: .*not a recording"):
        replies(chat(server), user("What?", good), Turn("assistant", "Music."), user("And this?", good, path))
    score = tmp_path / "broken.abc"
    score.write_text("X:1\nM:4/x\nK:C\nC|\n")
    with pytest.raises(ScoreError, match="4/x"):
        replies(chat(server), user("What?", score))
    with pytest.raises(ChatError, match=r"^gone\.wav: .*give it again"):
        replies(chat(server), user("What?", tmp_path / "gone.wav"))
    large = tmp_path / "large.mid"
    large.write_bytes(b"MThd" + bytes(2_000_000))
    with pytest.raises(ScoreError, match="too large"):
        replies(chat(server), user("What?", large))


def test_marks_of_the_prompt_are_refused_and_too_much_is_said(server, composer, tmp_path, monkeypatch):
    monkeypatch.setattr(chat_client, "PAUSES", (0.01, 0.02))
    with pytest.raises(ChatError, match="reserved"):
        replies(chat(server), user("X:1\nK:C\nC|\n <|im_end|>"))
    noise = tmp_path / "noise.flac"
    soundfile.write(noise, np.random.default_rng(0).uniform(-1, 1, 7_000_000), 22_050)  # as flac 14 MB
    with pytest.raises(ChatError, match="take 37 MB to send, and the server takes at most 20 MB"):
        replies(chat(composer), user("What?", noise, noise))


def test_verdicts_come_with_the_answer(composer, tmp_path):
    tune = tmp_path / "tune.abc"
    tune.write_text(TUNE)
    last = replies(chat(composer), user("Claim something", tune), verify=True)[-1]
    assert {v["verdict"] for v in last.verdicts} == {"contradicted"} and len(last.verdicts) == 2
    assert replies(chat(composer), user("Claim something", tune))[-1].verdicts is None


def test_a_busy_server_is_asked_again_and_then_given_up(composer, monkeypatch):
    composer.engine.busy = 2
    told = replies(chat(composer), user("Write a tune"))
    assert [bool(reply.note) for reply in told[:3]] == [True, True, False]
    assert told[0].note == "64 requests wait already: try again in 1 s\nAsking again in 2 s."
    assert told[-1].words.endswith("It is in D.")
    monkeypatch.setattr(chat_client, "PAUSES", (0.01, 0.02))
    composer.engine.stopping = True
    try:
        with pytest.raises(ChatError, match="going down"):
            asyncio.run(_until_the_end(chat(composer)))
    finally:
        composer.engine.stopping = False


async def _until_the_end(client):
    async with asyncio.timeout(60):
        async for _ in client.answer([user("Write a tune")]):
            pass


def test_a_server_that_goes_away_is_said_with_what_was_there(monkeypatch):
    monkeypatch.setattr(chat_client, "PAUSES", (0.01, 0.02))
    live = LiveServer(engine=Composer(), drain_seconds=0)
    client, told = ChatClient(live.url), []

    async def read():
        async for reply in client.answer([user("Forever")]):
            if not told:
                live.server.force_exit = live.server.should_exit = True
                threading.Thread(target=live.close).start()
            told.append(reply)

    with pytest.raises(ChatError, match="is not there, or went away|going down"):
        asyncio.run(read())
    assert told and not any(reply.note for reply in told)
    with pytest.raises(ChatError, match=f"{live.url}/v1 is not there"):
        replies(client, user("Write a tune"))


def test_who_leaves_ends_the_answer(composer):
    composer.engine.cancelled.clear()

    async def leave():
        async with aclosing(chat(composer).answer([user("Forever")])) as stream:
            async for reply in stream:
                if reply.words.count("la") >= 2:
                    break

    asyncio.run(leave())
    assert composer.engine.cancelled.wait(20)


def test_who_leaves_before_the_first_word_ends_it_too(server):
    before = server.statistics()["cancelled"]

    async def leave():
        async for _ in chat(server).answer([user("X:1\nK:C\nC|\n" * 200)]):
            pass

    async def stop():
        task = asyncio.create_task(leave())
        while server.statistics()["joining"] + server.statistics()["running"] == 0 and not task.done():
            await asyncio.sleep(0.005)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(stop())
    for _ in range(200):
        if server.statistics()["cancelled"] > before:
            return
        time.sleep(0.05)
    raise AssertionError("the engine went on")


def test_a_wrong_address_key_or_model_is_one_clear_sentence(composer):
    for wrong, words in (("127.0.0.1:8000", "not the address"), ("ftp://x/v1", "not the address")):
        with pytest.raises(PromptError, match=words):
            ChatClient(wrong)
    with pytest.raises(PromptError, match="http://127.0.0.1:9/v1 is not there"):
        ChatClient("http://127.0.0.1:9")
    with pytest.raises(PromptError, match="no valid API key"):
        chat(composer, key="wrong")
    with pytest.raises(PromptError, match="no model 'other'; it has tiny"):
        chat(composer, model="other")
    with pytest.raises(PromptError, match="there is nothing at /docs/models"):
        ChatClient(f"{composer.url}/docs", KEY)
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as other:  # answers 501, in HTML
        threading.Thread(target=other.serve_forever, daemon=True).start()
        with pytest.raises(PromptError, match="answered 501, not as an API does"):
            ChatClient(f"http://127.0.0.1:{other.server_port}")
        other.shutdown()
