"""The OpenAPI page says what the API does: schemathesis sends what it allows and what it forbids."""

import subprocess
import sys

import httpx
import pytest
from live import LiveServer


@pytest.mark.slow
def test_no_request_breaks_the_server_or_gets_what_the_page_does_not_say():
    """No 5xx; status, type and body are those of the page; what the page forbids is refused."""
    live = LiveServer(max_tokens=2, deadline=60)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "schemathesis.cli", "run", f"{live.url}/openapi.json", "--max-examples", "25",
             "--seed", "7", "--no-color", "--request-timeout", "120", "--exclude-checks", "positive_data_acceptance"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    finally:
        live.close()


def test_the_page_names_every_route_and_its_errors(server):
    page = httpx.get(f"{server.url}/openapi.json", trust_env=False).json()
    routes = {"/v1/chat/completions", "/v1/completions", "/v1/models", "/v1/models/{model}", "/v1/embeddings",
              "/v1/audio/transcriptions", "/health", "/metrics"}  # fmt: skip
    assert set(page["paths"]) == routes
    answers = page["paths"]["/v1/chat/completions"]["post"]["responses"]
    assert {"200", "400", "401", "404", "413", "429", "503"} <= set(answers) and "422" not in answers
    assert set(answers["200"]["content"]) == {"application/json", "text/event-stream"}
