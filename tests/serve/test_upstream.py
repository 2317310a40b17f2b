"""Our API in front of another server: the same answers, and all that the other server does not do."""

import asyncio
import contextvars
import json
import logging
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from unittest.mock import patch

import openai
import pytest
from client_suite import CHECKS, SCHEMA
from composer import Composer
from front import front_of, generated
from live import MODEL, LiveServer, asking, audio_part, based, clip, score_part, tiny_music
from test_api_process import Process

from mllm.audio import load_audio
from mllm.errors import PromptError
from mllm.serve.addresses import api_address
from mllm.serve.api import create_app
from mllm.serve.engine import MusicEngine
from mllm.serve.generation import GenerationRequest
from mllm.serve.upstream import UpstreamEngine, served_model

KEY, BEHIND = "key-of-the-front", "key-of-the-server-behind"
CHAT = "/v1/chat/completions"
VLLM_WORDS = ("structured_outputs", "continue_final_message", "add_generation_prompt")
vllm_words = contextvars.ContextVar("vllm_words")


class VllmWords:
    """A middleware that takes out of a request what vLLM has beyond OpenAI; the rest our API holds to its own rules."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http" or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        given = json.loads(body)
        vllm_words.set({name: given.pop(name) for name in VLLM_WORDS if name in given})
        first = [{"type": "http.request", "body": json.dumps(given).encode(), "more_body": False}]
        scope["headers"] = [(name, value) for name, value in scope["headers"] if name != b"content-length"]

        async def receive_rest():
            return first.pop() if first else await receive()

        await self.app(scope, receive_rest, send)


class VllmLike(MusicEngine):
    """Our engine, which does what those words say."""

    def submit(self, request):
        words, values = vllm_words.get({}), dict(vars(request))
        if "structured_outputs" in words:
            values["grammar"] = words["structured_outputs"]["grammar"]
        if words.get("continue_final_message"):
            assert words["add_generation_prompt"] is False
            *values["messages"], last = request.messages
            assert last["role"] == "assistant"
            values["begin"] = last["content"][0]["text"]
        return super().submit(GenerationRequest(**values))


def with_vllm_words(*args):
    app = create_app(*args)
    app.add_middleware(VllmWords)
    return app


@pytest.fixture(scope="module")
def behind():
    with patch("live.create_app", with_vllm_words):
        live = LiveServer(engine=VllmLike(tiny_music()), api_keys=[BEHIND])
    yield live
    live.close()


@pytest.fixture(scope="module")
def front(behind):
    with front_of(behind.url, BEHIND, api_keys=[KEY]) as live:
        yield live


@pytest.fixture
def composer():
    live = LiveServer(engine=Composer())
    yield live
    live.engine.cancelled.set()
    live.server.should_exit = True


@pytest.mark.parametrize("name", sorted(CHECKS))
def test_client_suite(front, name):
    CHECKS[name](f"{front.url}/v1", KEY, MODEL)


def test_answers_are_those_of_the_server_behind(front, behind):
    """Several recordings, a score, a follow-up; text alone; text without a template."""
    talk = [
        {"role": "system", "content": "Be brief."},
        *asking(audio_part(clip(60)), audio_part(clip(150, kind="FLAC")), text="Which is faster?"),
        {"role": "assistant", "content": "The second."},
        *asking(audio_part(clip(90, kind="MP3")), score_part(), text="And this?"),
    ]
    clients = front.client(KEY), behind.client(BEHIND)
    options = {"model": MODEL, "max_tokens": 8, "logprobs": True, "top_logprobs": 2, "n": 2, "seed": 5,
               "temperature": 0.7, "logit_bias": {"7": 5}}  # fmt: skip
    for messages in (talk, asking()):
        answers = [client.chat.completions.create(messages=messages, **options) for client in clients]
        assert len({(answer.usage.prompt_tokens, answer.usage.completion_tokens) for answer in answers}) == 1
        for ours, theirs in zip(answers[0].choices, answers[1].choices, strict=True):
            assert (ours.message, ours.finish_reason) == (theirs.message, theirs.finish_reason)
            for mine, other in zip(ours.logprobs.content, theirs.logprobs.content, strict=True):
                assert (mine.token, mine.bytes) == (other.token, other.bytes)
                assert mine.logprob == pytest.approx(other.logprob, abs=1e-4) and len(mine.top_logprobs) == 2
    answers = [
        client.completions.create(model=MODEL, prompt=["X:1\nK:G\n", "A waltz"], max_tokens=8, logprobs=2, stop="zq")
        for client in clients
    ]
    assert len({(answer.usage.prompt_tokens, answer.usage.completion_tokens) for answer in answers}) == 1
    for ours, theirs in zip(answers[0].choices, answers[1].choices, strict=True):
        assert (ours.text, ours.finish_reason) == (theirs.text, theirs.finish_reason)
        assert ours.logprobs.tokens == theirs.logprobs.tokens


def test_an_engine_keeps_to_grammars_and_goes_on_from_words(behind):
    engine, own = UpstreamEngine(behind.url, MODEL, key=BEHIND), behind.engine
    question = {"messages": [{"role": "user", "content": "What is it?"}], "max_tokens": 40}
    for more in ({"grammar": 'root ::= "G " [0-9]{3}'}, {"begin": "It is in"}, {"grammar": SCHEMA}):
        vllm_words.set({})
        answer = generated(engine, **question, **more)
        assert answer == generated(own, **question, **more)
        assert answer[0] != generated(own, **question)[0]


def test_waveforms_go_as_flac_and_no_path_is_opened(behind):
    def asked(audio):
        content = [{"type": "audio", "audio": audio}, {"type": "text", "text": "What is the tempo?"}]
        return {"messages": [{"role": "user", "content": content}], "max_tokens": 6}

    engine = UpstreamEngine(behind.url, MODEL, key=BEHIND, sampling_rate=22_050)
    assert generated(engine, **asked(load_audio(clip(), 22_050))) == generated(behind.engine, **asked(clip()))
    with pytest.raises(PromptError, match="path"):
        generated(engine, **asked(__file__))
    with pytest.raises(PromptError, match="sampling rate"):
        generated(UpstreamEngine(behind.url, MODEL, key=BEHIND), **asked(load_audio(clip(), 22_050)))


def test_what_is_ours_works_in_front(front, composer):
    """Verification, facts, transcription; vectors need a model."""
    http = front.http(headers={"authorization": f"Bearer {KEY}"})
    facts = {"model": MODEL, "response_format": {"type": "music_facts"}}
    exact = http.post(CHAT, json=facts | {"messages": asking(score_part())}).json()
    assert json.loads(exact["choices"][0]["message"]["content"])["key"]["value"] == "G major"
    asked = front.statistics()["finished"]
    heard = http.post(CHAT, json=facts | {"messages": asking(audio_part())})
    assert heard.status_code == 200 and front.statistics()["finished"] == asked + 6
    tune = http.post("/v1/audio/transcriptions", data={"model": MODEL, "prompt": "M:3/4\nK:D\nQ:90",
                     "response_format": "abc"}, files={"file": clip()})  # fmt: skip
    assert tune.status_code == 200 and "K:D" in tune.text and "|]" in tune.text
    assert http.post("/v1/embeddings", json={"model": MODEL, "input": "a waltz"}).status_code == 501
    assert "mllm_engine_upstream_failed" in http.get("/metrics").text
    with front_of(composer.url) as claims:
        messages = asking({"type": "text", "text": "Claim something.\n"}, score_part(), text="Is it so?")
        answer = claims.client().chat.completions.create(model=MODEL, messages=messages, extra_body={"verify": True})
        verdicts = {one["claim"]["text"]: one["verdict"] for one in answer.choices[0].message.verification}
        assert len(verdicts) == 2 and set(verdicts.values()) == {"contradicted"}


@pytest.mark.parametrize("mark", ["<|im_end|>", "<|audio|>", "<|eot_id|>", "</s>", "[INST]"])
def test_marks_of_the_prompt_never_reach_the_server_behind(composer, mark):
    with front_of(composer.url) as live:
        half = len(mark) // 2
        for parts in ([{"type": "text", "text": mark[:half]}], []):
            with pytest.raises(openai.BadRequestError, match="reserved"):
                live.client().chat.completions.create(
                    model=MODEL, messages=asking(*parts, text=mark[half:] if parts else f"a {mark} b")
                )
        with pytest.raises(openai.BadRequestError, match="reserved"):
            live.client().completions.create(model=MODEL, prompt=f"X{mark}")
    assert not composer.engine.requests


def test_a_client_that_leaves_ends_the_answer_behind(composer):
    with front_of(composer.url) as live:
        stream = live.client().chat.completions.create(model=MODEL, messages=asking(text="Forever"), stream=True)
        next(iter(stream))
        assert live.statistics()["running"] == 1
        stream.close()
        assert composer.engine.cancelled.wait(10)
        assert asyncio.run(live.engine.drain(10))
        assert live.statistics()["cancelled"] == 1 and live.statistics()["running"] == 0


def test_busy_passes_on_with_its_time(composer):
    with front_of(composer.url) as live:
        composer.engine.busy = 1
        with pytest.raises(openai.RateLimitError) as busy:
            live.client().chat.completions.create(model=MODEL, messages=asking())
        assert busy.value.response.headers["retry-after"] == "1"
        assert live.client().chat.completions.create(model=MODEL, messages=asking()).choices


def test_so_many_at_a_time_and_so_many_in_the_queue(composer):
    with front_of(composer.url, engine={"slots": 1, "waiting": 1}, deadline=1.5) as live, ThreadPoolExecutor() as pool:
        body = {"model": MODEL, "messages": asking(text="Forever")}
        answers = [pool.submit(live.http().post, CHAT, json=body) for _ in range(3)]

        def counts():
            return [live.statistics()[name] for name in ("refused", "failed", "running", "waiting")]

        while counts()[0] == 0:
            time.sleep(0.01)
        assert counts() == [1, 0, 1, 1]
        given = sorted((answer.result() for answer in answers), key=lambda answer: answer.status_code)
        assert [answer.status_code for answer in given] == [429, 504, 504]
        assert int(given[0].headers["retry-after"]) >= 1
        assert composer.engine.cancelled.wait(10) and counts() == [1, 2, 0, 0]


CHUNK = b'data: {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [%s]}\n\n'
WORD = CHUNK % b'{"index": 0, "delta": {"content": "A"}, "finish_reason": null}'
FAULT = b'data: {"error": {"message": "out of luck", "type": "server_error", "code": 500}}\n\n'


def canned(status, body, kind="text/event-stream"):
    return f"HTTP/1.1 {status} x\r\ncontent-type: {kind}\r\nconnection: close\r\n\r\n".encode() + body


def error_body(message):
    return json.dumps({"error": {"message": message, "type": "x", "code": None, "param": None}}).encode()


@contextmanager
def says(answer):
    """The address of a server that gives one answer, whatever it is asked; None: nobody listens there."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"

        def serve():
            connection, _ = listening.accept()
            with connection:
                connection.recv(1 << 20)
                connection.sendall(answer)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(1 << 16):  # what is left unread would break the connection off
                    pass

        if answer is None:
            listening.close()
        else:
            threading.Thread(target=serve, daemon=True).start()
        yield address


@pytest.mark.parametrize(
    ("answer", "status", "code", "words"),
    [
        pytest.param(None, 502, "upstream_failed", "not there", id="down"),
        pytest.param(b"", 502, "upstream_failed", "not there", id="hangs-up"),
        pytest.param(canned(401, error_body("no"), "application/json"), 502, "upstream_failed", "key", id="key"),
        pytest.param(canned(404, error_body("no"), "application/json"), 502, "upstream_failed", "model", id="model"),
        pytest.param(canned(503, b"<html>"), 502, "upstream_failed", "503", id="status-503"),
        pytest.param(canned(400, error_body("too long by 7"), "application/json"), 400, "invalid_prompt",
                     "too long by 7", id="status-400"),
        pytest.param(canned(200, b"<html>Hello</html>", "text/html"), 502, "upstream_failed", "broke", id="no-stream"),
        pytest.param(canned(200, FAULT), 502, "upstream_failed", "500", id="fault-in-the-stream"),
        pytest.param(canned(200, WORD), 502, "upstream_failed", "broke", id="ends-in-the-middle"),
    ],
)  # fmt: skip
def test_a_server_behind_that_fails_is_a_clean_error(answer, status, code, words):
    with says(answer) as address, front_of(address) as live:
        given = live.http().post(CHAT, json={"model": MODEL, "messages": asking()})
    error = given.json()["error"]
    assert (given.status_code, error["code"]) == (status, code) and words in error["message"]
    assert ("retry-after" in given.headers) == (status == 502)


def test_what_vllm_counts_otherwise_is_set_right():
    """Its last token is the mark that ends an answer, which is none of the words; of sound it counts no tokens."""

    def token(name, logprob):
        row = {"token": name, "logprob": logprob, "bytes": list(name.encode()), "top_logprobs": []}
        return {"content": [row]}

    rows = [
        {"index": 0, "delta": {"content": "A"}, "logprobs": token("A", -0.5), "finish_reason": None},
        {"index": 0, "delta": {"content": ""}, "logprobs": token("<|im_end|>", -3.0), "finish_reason": "stop"},
    ]
    counts = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [],
              "usage": {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}}  # fmt: skip
    stream = b"".join(CHUNK % json.dumps(row).encode() for row in rows)
    stream += b"data: " + json.dumps(counts).encode() + b"\n\ndata: [DONE]\n\n"
    with says(canned(200, stream)) as address, front_of(address) as live:
        answer = live.client().chat.completions.create(model=MODEL, messages=asking(), logprobs=True)
    assert [one.token for one in answer.choices[0].logprobs.content] == ["A"]
    assert (answer.usage.prompt_tokens, answer.usage.prompt_tokens_details.audio_tokens) == (9, None)


def test_an_answer_that_breaks_off_is_an_error_in_the_stream():
    with says(canned(200, WORD + FAULT)) as address, front_of(address) as live:
        body = {"model": MODEL, "messages": asking(), "stream": True}
        lines = live.http().post(CHAT, json=body).text.splitlines()
    events = [json.loads(line[6:]) for line in lines if line.startswith("data: ")]
    assert events[1]["choices"][0]["delta"]["content"] == "A"
    assert events[-1]["error"]["code"] == "upstream_failed" and "[DONE]" not in lines


def test_no_log_holds_a_recording_or_a_key(front, caplog):
    caplog.set_level(logging.DEBUG)
    front.client(KEY).chat.completions.create(model=MODEL, messages=asking(audio_part()), max_tokens=1)
    assert caplog.text and not [word for word in (KEY, BEHIND, based(clip())[:60]) if word in caplog.text]


def test_the_server_behind_is_found(behind):
    assert served_model(behind.url, BEHIND) == MODEL
    assert api_address("http://host:1") == api_address("http://host:1/v1/") == "http://host:1/v1"
    with pytest.raises(PromptError, match="key"):
        served_model(behind.url, "wrong")
    for wrong in ("host:8000", "ftp://host", "http://name:word@host/v1"):
        with pytest.raises(PromptError):
            UpstreamEngine(wrong, MODEL)


def test_the_verb_forwards_and_ends_cleanly(behind, monkeypatch):
    monkeypatch.setenv("KEY_OF_A_TEST", BEHIND)
    options = ("--upstream", behind.url, "--upstream-key-env", "KEY_OF_A_TEST", "--drain", "5")
    process = Process(*options).wait()
    try:
        (choice,) = process.ask().json()["choices"]
        own = behind.client(BEHIND).chat.completions.create(model=MODEL, messages=asking(audio_part()), max_tokens=2)
        assert choice["message"]["content"] == own.choices[0].message.content
        process.process.send_signal(signal.SIGTERM)
        assert process.process.wait(60) == 0
        assert "Traceback" not in "".join(process.log) and BEHIND not in "".join(process.log)
    finally:
        process.process.kill()
