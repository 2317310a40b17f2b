"""Recordings by address: only from allowed hosts, only from the open internet, never twice resolved."""

import asyncio
import gzip
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import openai
import pytest
from live import MODEL, LiveServer, asking, clip

from mllm.serve.errors import ApiError
from mllm.serve.fetching import Fetcher, is_public

HOST = "media.example"  # a name that no resolver knows


class Media(BaseHTTPRequestHandler):
    """Serves what the tests fetch; remembers what it was asked."""

    asked: list[tuple[str, str | None]] = []

    def do_GET(self):
        self.asked.append((self.path, self.headers["host"]))
        kind, _, rest = self.path.lstrip("/").partition("/")
        if kind == "to":  # a redirect
            self.send_response(302)
            self.send_header(
                "location", {"loop": "/to/loop", "file": "file:///etc/passwd", "clip": "/clip"}.get(rest, rest)
            )
            self.end_headers()
            return
        data = {"large": b"x" * 300_000, "gzip": gzip.compress(bytes(5_000_000))}.get(kind, clip())
        self.send_response(404 if kind == "none" else 200)
        if kind == "gzip":
            self.send_header("content-encoding", "gzip")
        if kind != "endless":
            self.send_header("content-length", str(len(data)))
        self.end_headers()
        try:
            self.wfile.write(data[:100] if kind == "slow" else data)
            for _ in range(200 if kind in ("endless", "slow") else 0):
                time.sleep(0.02)
                self.wfile.write(b"x" * (10_000 if kind == "endless" else 1))
        except OSError:
            pass  # the client has gone, as it should

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def media():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Media)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()


def fetcher(port, answers=("127.0.0.1",), allowed=lambda address: True, **limits):
    """A fetcher from HOST, whose resolver gives one answer after the other; `calls` counts them."""
    calls = []

    async def resolve(host, _):
        calls.append(host)
        return [answers[min(len(calls), len(answers)) - 1]]

    options = {"max_bytes": 200_000, "seconds": 3.0, **limits}
    made = Fetcher([f"{HOST}:{port}"], resolve=resolve, allowed=allowed, **options)
    made.calls = calls
    return made


def get(made, url) -> bytes:
    return asyncio.run(made.fetch(url))


def test_an_allowed_host_is_fetched_from_the_address_that_was_checked(media):
    made = fetcher(media, answers=("127.0.0.1", "203.0.113.1"))  # the second time it answers otherwise
    assert get(made, f"http://{HOST}:{media}/clip") == clip()
    assert made.calls == [HOST] and Media.asked[-1] == ("/clip", f"{HOST}:{media}")


def test_redirects_are_checked_again(media):
    made = fetcher(media)
    assert get(made, f"http://{HOST}:{media}/to/clip") == clip() and len(made.calls) == 2
    rebound = fetcher(media, ("127.0.0.1", "10.0.0.1"), allowed=lambda a: a == "127.0.0.1")
    refused = {
        "/to/file": "scheme", "/to/http://169.254.169.254/latest": "not one that this server fetches from",
        "/to/loop": "redirects", f"/to/http://user:word@{HOST}:{media}/clip": "password",
        f"/to/http://{HOST}/clip": "not one that",
    }  # fmt: skip
    for path, why in refused.items():
        with pytest.raises(ApiError, match=why):
            get(fetcher(media), f"http://{HOST}:{media}{path}")
    with pytest.raises(ApiError, match="open internet"):
        get(rebound, f"http://{HOST}:{media}/to/clip")


@pytest.mark.parametrize(
    ("path", "why"),
    [("large", "MB"), ("endless", "MB"), ("gzip", "compressed"), ("none", "404")],
)
def test_what_comes_is_bounded(media, path, why):
    with pytest.raises(ApiError, match=why):
        get(fetcher(media), f"http://{HOST}:{media}/{path}")


def test_what_comes_too_slowly_is_left(media):
    begun = time.monotonic()
    with pytest.raises(ApiError, match="took more than"):
        get(fetcher(media, seconds=0.5), f"http://{HOST}:{media}/slow")
    assert time.monotonic() - begun < 4


PRIVATE = [
    "127.0.0.1", "127.9.9.9", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0",
    "255.255.255.255", "224.0.0.1", "198.18.0.1", "::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254",
    "ff02::1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:10.0.0.1", "2002:7f00:1::", "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe", "2001:0:0:0:0:0:80ff:fffe", "not an address", "",
]  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
def test_addresses_inside_are_not_public(media, address):
    assert not is_public(address)
    made = fetcher(media, answers=(address,), allowed=is_public)
    with pytest.raises(ApiError, match="open internet"):
        get(made, f"http://{HOST}:{media}/clip")


@pytest.mark.parametrize("address", ["1.1.1.1", "93.184.216.34", "2606:4700:4700::1111", "::ffff:1.1.1.1"])
def test_addresses_outside_are(address):
    assert is_public(address)


@pytest.mark.parametrize(
    "url",
    ["ftp://{}/a", "gopher://{}/a", "//{}/a", "http://{}@127.0.0.1/", "http://127.0.0.1#{}", "http://{}.evil.example/a",
     "http://2130706433/", "http://0x7f.1/", "http://[::ffff:7f00:1]/", "http://{}:22/", "http://", "http://a b/",
     "\x00"],
)  # fmt: skip
def test_addresses_that_only_look_allowed(media, url):
    asked = len(Media.asked)
    with pytest.raises(ApiError, match="could not be fetched"):
        get(fetcher(media), url.format(f"{HOST}:{media}" if "22" not in url else HOST))
    assert len(Media.asked) == asked


def test_through_the_api(media):
    live = LiveServer(fetcher=fetcher(media))
    try:
        client = live.client()

        def ask(path):
            part = {"type": "audio_url", "audio_url": {"url": f"http://{HOST}:{media}/{path}"}}
            return client.chat.completions.create(model=MODEL, messages=asking(part), max_tokens=1)

        assert ask("clip").usage.prompt_tokens_details.audio_tokens > 0
        with pytest.raises(openai.BadRequestError) as caught:
            ask("large")
        assert caught.value.code == "invalid_url" and caught.value.param == "messages[0].content[0].audio_url.url"
    finally:
        live.close()
