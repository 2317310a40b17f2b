"""Requests that are too large or too many: who sends them learns it, and others notice nothing."""

import asyncio
import json
import socket
import threading

import openai
import pytest
from composer import Composer
from live import MODEL, LiveServer

from mllm.serve.fair_threads import CLIENT, FairThreads
from mllm.serve.guard import network_of

CHAT = "/v1/chat/completions"
LIMIT = 1_000_000  # bytes of a body here
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def small():
    live = LiveServer(engine=Composer(), max_body_bytes=LIMIT, max_held_bytes=4 * LIMIT)
    yield live
    live.close()


def body(size: int) -> bytes:
    return json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "x" * size}]}).encode()


@pytest.mark.parametrize("times", [3, 10])
@pytest.mark.parametrize("kind", ["blocking", "asynchronous"])
def test_the_official_clients_are_told_that_a_body_is_too_large(small, kind, times):
    asked = {"model": MODEL, "messages": [{"role": "user", "content": "x" * times * LIMIT}]}

    async def ask():
        async with openai.AsyncOpenAI(base_url=f"{small.url}/v1", api_key="none", max_retries=0) as client:
            await client.chat.completions.create(**asked)

    with pytest.raises(openai.APIStatusError, match="larger than 1 MB") as caught:
        small.client().chat.completions.create(**asked) if kind == "blocking" else asyncio.run(ask())
    assert (caught.value.status_code, caught.value.code) == (413, "too_large")


@pytest.mark.parametrize("times", [3, 10])
@pytest.mark.parametrize("chunked", [False, True], ids=["content-length", "chunked"])
def test_a_plain_client_is_told_so_too(small, times, chunked):
    content = body(times * LIMIT)
    pieces = (content[start : start + 65_536] for start in range(0, len(content), 65_536))
    with small.http() as http:
        answer = http.post(CHAT, content=pieces if chunked else content, headers=JSON)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")
    assert answer.headers["connection"] == "close"


def test_a_socket_gets_answer_and_end_and_no_reset(small):
    """The answer comes while the body is still on its way, and the connection ends as it should when all has come."""
    size = 8 * LIMIT
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {size}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", small.port), timeout=20) as sock:
        sock.sendall(head.encode())
        answer = sock.recv(65_536)
        while b"}}" not in answer:  # head and body may come one after the other
            answer += sock.recv(65_536)
        assert b" 413 " in answer.splitlines()[0] and b'"too_large"' in answer
        for _ in range(8):
            sock.sendall(b"x" * LIMIT)
        assert sock.recv(65_536) == b""  # a reset would raise


def test_who_sends_on_without_end_is_cut_off(small):
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    piece = b"10000\r\n" + b"x" * 65_536 + b"\r\n"
    with socket.create_connection(("127.0.0.1", small.port), timeout=20) as sock:
        sock.sendall(head.encode())
        with pytest.raises(OSError):
            for _ in range(100 * LIMIT // len(piece)):
                sock.sendall(piece)
        assert b" 413 " in sock.recv(65_536).splitlines()[0]
    assert small.http().get("/health").status_code == 200


FORM = {"content-type": "application/x-www-form-urlencoded"}
MANY = {
    "fields": (CHAT, json.dumps({f"field {n}": n for n in range(1000)}), JSON, 400, "invalid_value"),
    "values": (CHAT, '{"messages": [' + "[]," * 260_000 + "[]]}", JSON, 400, "too_many_values"),
    "form-fields": ("/v1/audio/transcriptions", "a=1&" * 30_000, FORM, 413, "too_large"),
    "body-for-nobody": ("/health", "x" * 100_000, JSON, 413, "too_large"),
}


@pytest.mark.parametrize("name", MANY)
def test_what_would_take_much_more_memory_than_its_bytes_is_refused(small, name):
    path, content, headers, status, code = MANY[name]
    with small.http() as http:
        answer = http.post(path, content=content, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


WORDS = "waltz " * 100_000  # the tiny model holds 8192 tokens


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        (CHAT, {"messages": [{"role": "user", "content": WORDS}]}),
        ("/v1/completions", {"prompt": [WORDS]}),
        ("/v1/embeddings", {"input": [WORDS]}),
    ],
    ids=["chat", "completions", "embeddings"],
)
def test_text_that_cannot_fit_is_not_cut_into_tokens(server, path, asked):
    with server.http() as http:
        error = http.post(path, json={"model": MODEL, **asked}).json()["error"]
    assert error["code"] == "invalid_prompt" and "600,000 letters" in error["message"]


@pytest.fixture
def for_two():
    live = LiveServer(engine=Composer(), api_keys=["one", "two"], max_body_bytes=LIMIT, max_held_bytes=3 * LIMIT)
    yield live
    live.close()


def test_one_client_cannot_hold_all_the_bytes(for_two):
    """The first has two bodies on the way; its third is refused, and the second's is answered."""
    half_sent = []
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer one\r\nContent-Type: application/json\r\n"
    for _ in range(2):
        sock = socket.create_connection(("127.0.0.1", for_two.port), timeout=20)
        sock.sendall(f"{head}Content-Length: 800000\r\n\r\n".encode() + b"x" * 700_000)
        half_sent.append(sock)
    asked = {"model": MODEL, "messages": [{"role": "user", "content": "x" * 500_000}]}
    try:
        with pytest.raises(openai.RateLimitError, match="one client"):
            for _ in range(50):  # until all that was sent has come
                for_two.client("one").chat.completions.create(**asked)
        assert for_two.client("two").chat.completions.create(**asked).choices
    finally:
        for sock in half_sent:
            sock.close()


def test_one_client_cannot_have_all_the_threads():
    go_on, begun = threading.Event(), []

    async def ask(threads, client):
        CLIENT.set(client)
        work = (lambda: begun.append("two")) if client == "two" else (lambda: begun.append("one") or go_on.wait(20))
        await threads.run(work)

    async def both():
        threads = FairThreads(3)
        first = [asyncio.create_task(ask(threads, "one")) for _ in range(6)]
        await asyncio.sleep(0)
        await asyncio.wait_for(ask(threads, "two"), 10)
        assert begun.count("one") <= 2
        first.pop().cancel()  # one that waits
        go_on.set()
        await asyncio.gather(*first)
        await asyncio.wait_for(ask(threads, "two"), 10)

    asyncio.run(both())
    assert begun.count("one") == 5 and begun.count("two") == 2


@pytest.mark.parametrize(
    ("address", "network"),
    [("192.0.2.7", "192.0.2.7"), ("::ffff:192.0.2.7", "192.0.2.7"), ("2001:db8:1:2:3::4", "2001:db8:1:2::/64")],
)
def test_who_has_many_addresses_is_one_client(address, network):
    assert network_of(address) == network
