"""`mllm serve` as a process: its options, its end, and what a kill leaves."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx
import openai
import pytest
from live import asking, audio_part
from tiny_checkpoint import tiny_folder
from typer.testing import CliRunner

CHAT = "/v1/chat/completions"
KEY = {"authorization": "Bearer secret-1"}


class Process:
    """`mllm serve` around the tiny model, at a free port."""

    def __init__(self, *options: str):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        command = [sys.executable, "-m", "mllm.cli", "serve", "--model", str(tiny_folder()), "--port", str(self.port)]
        self.process = subprocess.Popen(
            [*command, *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env=os.environ | {"MLLM_API_KEYS": "secret-1,secret-2"},
        )  # fmt: skip
        self.log: list[str] = []
        self._reader = threading.Thread(
            target=lambda: self.log.extend(iter(self.process.stdout.readline, "")), daemon=True
        )
        self._reader.start()
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", headers=KEY, timeout=120, trust_env=False)

    def wait(self):
        for _ in range(1200):
            try:
                if self.http.get("/health").status_code == 200:
                    return self
            except httpx.TransportError:
                assert self.process.poll() is None, "".join(self.log)
                time.sleep(0.1)
        raise AssertionError("".join(self.log))

    def ask(self, **more):
        body = {"model": "tiny", "messages": asking(audio_part()), "max_tokens": 2, **more}
        return self.http.post(CHAT, json=body)


def test_the_verb_teaches_and_checks_its_options():
    from mllm.cli import app

    told = CliRunner(env={"COLUMNS": "200", "TERM": "dumb"}).invoke(app, ["serve", "--help"]).output
    text = re.sub(r"\x1b\[[0-9;]*m", "", told)
    for option in ("--model", "--host", "--port", "--api-key", "--audio-host", "--slots", "--drain", "docs/serving.md"):
        assert option in text
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        answer = CliRunner().invoke(app, ["serve", "--port", port])
    assert answer.exit_code == 1 and "--port" in answer.output


def test_sigterm_lets_answers_finish_and_takes_no_new_ones():
    server = Process("--name", "tiny", "--drain", "500").wait()
    try:
        assert server.http.get("/v1/models", headers={"authorization": "Bearer wrong"}).status_code == 401
        body = {"model": "tiny", "messages": asking(audio_part()), "max_tokens": 60, "stream": True}
        with server.http.stream("POST", CHAT, json=body) as stream:
            lines = stream.iter_lines()
            next(lines)
            server.process.send_signal(signal.SIGTERM)
            codes = set()
            for _ in range(100):  # while the stream goes on
                health = httpx.get(f"http://127.0.0.1:{server.port}/health", trust_env=False)
                codes.add(health.status_code)
                if health.status_code == 503:
                    break
                time.sleep(0.02)
            assert 503 in codes and health.json()["status"] == "draining"
            refused = httpx.post(f"http://127.0.0.1:{server.port}{CHAT}", headers=KEY, json=body, trust_env=False)
            assert refused.status_code == 503 and refused.json()["error"]["code"] == "server_stopping"
            assert int(refused.headers["retry-after"]) >= 1
            rest = [line for line in lines if line.startswith("data: ")]  # others are comments that keep it open
        assert rest[-1] == "data: [DONE]"
        finish = [json.loads(line[6:])["choices"][0]["finish_reason"] for line in rest[:-1]]
        assert finish[-1] in ("length", "stop")
        assert server.process.wait(60) == 0
        log = "".join(server.log)
        assert "Traceback" not in log and "secret" not in log and "tempo" not in log
    finally:
        server.process.kill()


@pytest.mark.slow
def test_a_kill_under_load_is_a_clean_error_and_a_restart_answers_as_before():
    first = Process("--name", "tiny").wait()
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{first.port}/v1", api_key="secret-1", max_retries=0, timeout=60)
    before = first.ask().json()["choices"]
    failures: list[Exception] = []

    def load():
        try:
            for _ in client.chat.completions.create(
                model="tiny", messages=asking(audio_part()), max_tokens=2000, stream=True
            ):
                pass
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=load) for _ in range(8)]
    for thread in threads:
        thread.start()
    time.sleep(2)
    first.process.kill()
    for thread in threads:
        thread.join(60)
    kinds = (openai.APIError, httpx.TransportError)  # the client gives a break within a stream as httpx raises it
    assert len(failures) == 8 and all(isinstance(error, kinds) for error in failures)
    second = Process("--name", "tiny").wait()
    try:
        assert second.ask().json()["choices"] == before
    finally:
        second.process.kill()
