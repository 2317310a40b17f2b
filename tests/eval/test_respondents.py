"""Who is asked: batches answer as single questions do, options are weighed exactly, servers are asked again."""

from __future__ import annotations

import base64
import io
import json
import shlex
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from tiny import clicks, save_tiny_text_model
from typer.testing import CliRunner

from mllm.assemble import load_model
from mllm.cli import app
from mllm.errors import WeightsError
from mllm.eval import api_model
from mllm.eval.api_model import ApiModel
from mllm.eval.local_models import MusicModel, TextModel
from mllm.eval.respondents import Failure, respondent, weighs_options
from mllm.eval.run import evaluate
from mllm.eval.sounds import Sound, noise, recording, silence
from mllm.eval.task import EvalError, without_options

OPTIONS = ("C major", "A minor and then some", "4/4")


def sound(wave: np.ndarray, rate: int = 22_050) -> Sound:
    assert rate == 22_050
    return Sound(f"{hash(wave.tobytes())}", lambda rate: wave, lambda: len(wave) / rate)


def asked(*sounds: Sound, text: str = "What is the tempo?") -> list[dict]:
    parts = [{"type": "audio", "audio": one} for one in sounds]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]


@pytest.fixture(scope="module")
def music(model) -> MusicModel:
    return MusicModel(model)


@pytest.fixture
def prompts(waves) -> list[list[dict]]:
    """Prompts of very different lengths: none, one and several recordings, a long text."""
    sounds = [sound(wave) for wave in waves]
    return [
        asked(sounds[0]), asked(sounds[1], text="Key?"), asked(*sounds, text="Which is fastest?"), asked(text="Hello."),
        asked(sounds[2], text="la " * 300), asked(sounds[0], text="And the metre?"),
    ]  # fmt: skip


def test_batched_answers_equal_single_ones(music, prompts):
    together = music.answer(prompts, 6)
    assert together == [music.answer([prompt], 6)[0] for prompt in prompts]
    assert len(set(together)) > 1


@torch.inference_mode()
def test_what_questions_share_is_read_once_and_nothing_changes_to_the_bit(model, music, prompts, waves, same_bits):
    """Recordings of 12 s under questions of different lengths beside others: tokens read, and logits of each step."""
    two = [sound(waves[1]), sound(waves[1][::-1].copy())]
    prompts = prompts + [asked(one, text="la " * n + "Which metre?") for one in two for n in (0, 1, 3, 6)]
    read: list[int] = []
    logits: list[torch.Tensor] = []

    def count(module, arguments, words):
        read.append(words["inputs_embeds"].shape[1])

    hooks = [
        music.model.get_decoder().register_forward_pre_hook(count, with_kwargs=True),
        music.model.lm_head.register_forward_hook(lambda module, given, out: logits.append(out.clone())),
    ]
    plain, _ = load_model(model)
    try:
        together = music.answer(prompts, 3)
        tokens, in_batch = sum(read) - 2 * len(prompts), torch.cat(logits).unique(dim=0)
        assert tokens < 0.8 * sum(len(music.embed(prompt)) for prompt in prompts)
        assert len(in_batch) > len(prompts)  # so the rows do differ
        most = 0 if same_bits else 0.05 * float(in_batch.float().std())
        for prompt, answer in zip(prompts, together, strict=True):
            logits.clear()
            said = music.answer([prompt], 3)
            begun = plain(inputs_embeds=music.embed(prompt)[None]).logits[:, -1]
            for step in [*logits, begun]:
                assert (in_batch - step).abs().amax(1).min() <= most
            assert said == [answer] or not same_bits
    finally:
        for hook in hooks:
            hook.remove()


def test_answers_are_those_of_the_chat(model, music, waves):
    from mllm import load

    talker = load(model)
    for wave in waves:
        answer = talker.ask(wave, "What is the tempo?", max_new_tokens=6)
        assert music.answer([asked(sound(wave))], 6) == [str(answer)]


def test_a_recording_is_heard_once(model, waves, monkeypatch):
    music = MusicModel(model)
    heard = []
    load = Sound.load
    monkeypatch.setattr(Sound, "load", lambda self, rate: heard.append(self.key) or load(self, rate))
    music.answer([asked(sound(waves[0]), text=text) for text in ("a", "b", "c")], 2)
    music.answer([asked(sound(waves[0]), text="d")], 2)
    assert len(heard) == 1


def test_options_are_weighed_as_their_tokens_say(music, prompts, same_bits):
    weighed = music.option_loglikelihoods(prompts, [OPTIONS] * len(prompts))
    for prompt, found in zip(prompts, weighed, strict=True):
        ((alone,),) = [music.option_loglikelihoods([prompt], [OPTIONS[1:2]])]
        assert alone[0][0] == (found[1][0] if same_bits else pytest.approx(found[1][0], rel=2e-2))
    tokenizer, model = music.tokenizer, music.model
    for prompt, found in zip(prompts, weighed, strict=True):
        for option, (total, count) in zip(OPTIONS, found, strict=True):
            ids = tokenizer(option, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
            assert count == len(ids)
            with torch.inference_mode():
                start = music.embed(prompt)
                whole = torch.cat([start, model.get_input_embeddings()(torch.tensor(ids))])[None]
                logits = model(inputs_embeds=whole).logits[0, len(start) - 1 : -1].float().log_softmax(-1)
            true = float(logits.gather(1, torch.tensor(ids)[:, None]).sum())
            assert total == pytest.approx(true, rel=2e-2)


def test_what_does_not_fit_is_a_failure_and_the_rest_is_answered(music):
    said = music.answer([asked(text="la " * 9000), asked(text="Hello.")], 4)
    assert isinstance(said[0], Failure) and "tokens of prompt" in said[0].reason and isinstance(said[1], str)


def test_a_text_model_reads_the_words_alone(tmp_path, waves):
    text = TextModel(save_tiny_text_model(tmp_path))
    with_sound, without = asked(sound(waves[0])), asked()
    assert text.answer([with_sound, without, asked(text="Hello.")], 5)[0] == text.answer([without], 5)[0]
    assert weighs_options(text)
    again = respondent(f"text:{tmp_path}")
    assert again.sha256 == text.sha256


def test_names_of_models_that_do_not_exist_are_refused(tmp_path):
    with pytest.raises(WeightsError, match="no model 'nothing'"):
        respondent("nothing")
    with pytest.raises(WeightsError):
        respondent(f"text:{tmp_path / 'none'}")
    with pytest.raises(EvalError, match="--model-name"):
        respondent("http://127.0.0.1:1/v1")


def test_without_options_leaves_the_question():
    prompt = asked(text="Which key?\nA. C major\nB. D major\nAnswer with the letter.")
    assert without_options(prompt)[-1]["content"][-1]["text"] == "Which key?"


def test_sounds_are_what_they_stand_for(tmp_path):
    soundfile.write(tmp_path / "a.wav", clicks(100, 1.0), 22_050)
    found = recording(tmp_path / "a.wav")
    wave, rate = soundfile.read(io.BytesIO(found.wav()))
    assert rate == 22_050 and np.abs(wave - clicks(100, 1.0)).max() < 1e-4
    assert np.abs(silence(1.0).load(8000)).max() == 0 and len(silence(1.0).load(8000)) == 8000
    hiss = noise(1.0).load(8000)
    assert np.sqrt((hiss**2).mean()) == pytest.approx(0.05, rel=0.05) and (hiss == noise(1.0).load(8000)).all()
    moved = found.nudged()
    assert moved.key != found.key and len(moved.load(22_050)) == 22_050 - round(0.03 * 22_050)
    (tmp_path / "b.wav").write_bytes((tmp_path / "a.wav").read_bytes())
    assert recording(tmp_path / "b.wav").key == found.key  # the same samples under another name


# servers


class _Server(ThreadingHTTPServer):
    """Speaks the chat completions of OpenAI: busy to each question at first, never well to one of them."""

    def __init__(self):
        self.seen, self.failing, self.lock = [], True, threading.Lock()
        super().__init__(("127.0.0.1", 0), _Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        parts = body["messages"][-1]["content"]
        key = json.dumps(body["messages"])
        with self.server.lock:
            first = key not in [k for k, _ in self.server.seen]
            self.server.seen.append((key, body))
        audio = [p["input_audio"] for p in parts if p["type"] == "input_audio"]
        status, reply = 200, {"id": "1", "object": "chat.completion", "created": 1, "model": body["model"], "choices": [
            {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": f"{len(audio)} sounds"}}
        ]}  # fmt: skip
        if first:
            status, reply = 503, {"error": {"message": "busy", "type": "busy", "param": None, "code": "busy"}}
        elif self.server.failing and not audio:
            status, reply = 400, {"error": {"message": "no sound", "type": "bad", "param": None, "code": "bad"}}
        data = json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("retry-after-ms", "5")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


@pytest.fixture
def busy():
    server = _Server()
    yield server
    server.shutdown()


def test_a_busy_server_is_asked_again_and_failures_are_counted_and_resumed(busy, data, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    run = {"model_name": "m", "conditions": ("model", "silence", "text"), "tools": False}
    summary = evaluate(busy.url, ["key"], data, tmp_path, **run)
    conditions = summary["tasks"]["key"]
    assert conditions["text"]["failed"] == 4 and "failed" not in conditions["model"]
    assert conditions["model"]["unparsed"] == 4 and conditions["text"]["accuracy"] == 0
    asked_before = len(busy.seen)
    first = [json.loads(asked)[-1]["content"][0] for asked, *_ in busy.seen]  # they come in any order
    audio = next(part["input_audio"] for part in first if isinstance(part, dict) and "input_audio" in part)
    wave, rate = soundfile.read(io.BytesIO(base64.b64decode(audio["data"])))
    assert audio["format"] == "wav" and rate == 22_050 and len(wave) >= 3 * rate
    busy.failing = False
    summary = evaluate(busy.url, ["key"], data, tmp_path, **run)
    assert "failed" not in summary["tasks"]["key"]["text"]
    assert len(busy.seen) == asked_before + 1  # the one question without sound


def test_a_server_that_answers_nothing_ends_the_run_in_one_line(data, tmp_path, monkeypatch):
    monkeypatch.setattr(api_model, "RETRIES", 0)
    monkeypatch.setattr(ApiModel, "at_once", 2)
    with pytest.raises(EvalError, match="answered none of the first 2 questions: Connection error"):
        evaluate("http://127.0.0.1:9/v1", ["key"], data, tmp_path, model_name="m", tools=False)


def test_our_own_server_answers_as_the_model_in_process(data, tmp_path):
    from live import MODEL, LiveServer, tiny_music

    live = LiveServer()
    try:
        found = evaluate(
            f"{live.url}/v1", ["key", "tempo"], data, tmp_path / "api", model_name=MODEL, tools=False,
            conditions=("model", "text"),
        )  # fmt: skip
        words = shlex.split(found["run"]["command"])[1:]
        words[words.index("--output") + 1] = str(tmp_path / "again")
        assert CliRunner().invoke(app, words).exit_code == 0
        again = json.loads((tmp_path / "again" / "summary.json").read_text())
        assert again["tasks"] == found["tasks"] and again["run"]["model_sha256"] == found["run"]["model_sha256"]
    finally:
        live.close()
    assert all("failed" not in found["tasks"][name]["model"] for name in ("key", "tempo"))
    rows = [json.loads(line) for line in (tmp_path / "api" / "results.jsonl").read_text().splitlines()]
    for row in rows:
        if row["condition"] == "model":
            clip = Path(data) / row["audio"][0]
            assert row["answer"] == str(tiny_music().ask(clip, row["question"], max_new_tokens=24))
