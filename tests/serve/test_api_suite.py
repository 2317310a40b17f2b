"""The client suite that vLLM has to pass as well, and the same in Node, against our server."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from client_suite import CHECKS
from live import MODEL, LiveServer, asking, audio_part

KEY = "suite-key"
OPENAI_FOR_NODE = "openai@7.57.0"


@pytest.fixture(scope="module")
def keyed():
    live = LiveServer(api_keys=[KEY])
    yield live
    live.close()


@pytest.mark.parametrize("name", sorted(CHECKS))
def test_client_suite(keyed, name):
    CHECKS[name](f"{keyed.url}/v1", KEY, MODEL)


@pytest.mark.slow
def test_node_client(keyed, tmp_path):
    npm, node = shutil.which("npm"), shutil.which("node")
    if not npm or not node:
        pytest.skip("no Node here")
    (tmp_path / "package.json").write_text('{"type": "module"}')
    done = subprocess.run([npm, "install", "--no-audit", "--no-fund", OPENAI_FOR_NODE], cwd=tmp_path, check=False,
                          capture_output=True, text=True)  # fmt: skip
    if done.returncode:
        pytest.skip(f"npm cannot fetch {OPENAI_FOR_NODE}: {done.stderr[-200:]}")
    shutil.copy(Path(__file__).with_name("client.mjs"), tmp_path)
    given = {"url": f"{keyed.url}/v1", "key": KEY, "model": MODEL, "messages": asking(audio_part())}
    done = subprocess.run([node, "client.mjs"], cwd=tmp_path, input=json.dumps(given), check=False, timeout=300,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == ["whole", "stream", "logprobs", "schema", "tools", "errors", "models"]
