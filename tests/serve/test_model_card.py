"""What `/v1/models` tells of the model, and what the chat page shows of it."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from composer import Composer
from live import MODEL, LiveServer
from openai.types import Model

import mllm
from mllm.serve.chat_client import ChatClient
from mllm.serve.chat_page import about
from mllm.serve.model_card import describe, read_card

MINI = json.loads((Path(mllm.__path__[0]) / "mini" / "provenance.json").read_text())
OTHERS = [
    {"name": "hf:org/tower@0123abc", "uri": "hf:org/tower@0123abc", "revision": "0123abc", "licence": "cc-by-4.0"},
    {"name": "/home/somebody/<b>weights.onnx", "uri": "/home/somebody/<b>weights.onnx", "sha256": "ab" * 32,
     "licence": None},
]  # fmt: skip


@pytest.fixture(scope="module")
def mini():
    bases = MINI["bases"] | {"weights": [*MINI["bases"]["weights"], *OTHERS]}
    about = describe(SimpleNamespace(provenance=MINI | {"bases": bases}, sampling_rate=22_050))
    live = LiveServer(engine=Composer(), about=about, max_audio_seconds=90, max_body_bytes=2_000_000)
    yield live
    live.close()


def test_the_list_and_the_model_tell_licence_parts_and_limits(mini):
    (listed,), one = mini.client().models.list().data, mini.client().models.retrieve(MODEL)
    assert listed == one and one.object == "model" and one.owned_by == "mllm"
    told = one.model_extra
    limits = {"sampling_rate": 22_050, "max_audio_seconds": 90, "max_body_bytes": 2_000_000}
    assert limits.items() <= told.items() and told["licence"] == "Apache-2.0"
    parts = {part["name"]: part for part in told["parts"]}
    assert parts["musicnn-mtt-data"] == {
        "name": "musicnn-mtt-data", "version": "0.1.0", "licence": "ISC",
        "sha256": "041f3935e981a65cea739842d30c188d3a7d2adf4410955c8668eb3de4a5acab",
        "source": "pypi:musicnn==0.1.0/musicnn/MTT_musicnn/.data-00000-of-00001",
    }  # fmt: skip
    assert parts["adapter_model.safetensors"]["sha256"] == MINI["files"]["adapter_model.safetensors"]
    assert parts["hf:org/tower@0123abc"]["version"] == "0123abc"
    assert parts["<b>weights.onnx"]["source"] is None and "somebody" not in json.dumps(told)


def test_the_chat_page_shows_what_the_api_tells(mini):
    card = ChatClient(mini.url).card
    shown = about(card)
    assert "licence Apache-2.0." in shown and "up to 1.5 minutes" in shown
    assert "7 parts under Apache-2.0 and ISC and a licence that is not told and cc-by-4.0" in shown
    assert "Made from 7 parts under Apache-2.0 and ISC and a licence that is not told and cc-by-4.0" in shown
    assert "smollm2-135m-instruct" in shown and "0.1.2" in shown and "b179c9523d0e" in shown
    assert "&lt;b&gt;weights" in shown and "<b>weights" not in shown


@pytest.mark.parametrize("more", [{}, {"parts": "many", "licence": 7}], ids=["openai", "other-words"])
def test_a_server_that_tells_less_is_shown_too(more):
    card = read_card(Model.model_validate({"id": "other", "created": 1, "object": "model", "owned_by": "x", **more}))
    assert card.id == "other" and card.parts is None
    assert "not told by its server" in about(card) and "<details>" not in about(card)
