"""`mllm serve` and `mllm chat`: the API, and the page in front of it. What they need is imported when they run."""

from __future__ import annotations

import logging
import os
import socket
from enum import StrEnum
from typing import Annotated, Any

import typer

from mllm.cli_model import ModelName, load_quietly
from mllm.errors import PromptError


def chat(
    model: Annotated[
        str,
        typer.Option(
            "--model", "-m", help="`mini`, the folder of a checkpoint or adapter; with --api what the server calls it."
        ),
    ] = "",
    api: Annotated[
        str, typer.Option(metavar="URL", help="Talk to a server that runs, such as http://127.0.0.1:8000/v1.")
    ] = "",
    api_key: Annotated[str, typer.Option(envvar="OPENAI_API_KEY", help="Opens that server.")] = "",
    host: Annotated[
        str, typer.Option(help="Address to listen at; 0.0.0.0 opens the page to your network.")
    ] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Default: the first free one from 7860.")] = None,
    share: Annotated[bool, typer.Option(help="Also make a public link, through gradio's servers.")] = False,
    browser: Annotated[bool, typer.Option(help="Open the page where there is a display.")] = True,
) -> None:
    """Open the chat page: upload or record music, ask, and ask on.

    mllm chat

    mllm chat --model runs/my-model --port 8000 --no-browser

    mllm chat --api http://127.0.0.1:8000/v1
    """
    if port:
        _refuse_taken(host, port)  # before the model is loaded for nothing
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when gradio is imported
    page: dict[str, Any] = {"host": host, "port": port, "share": share, "browser": browser}
    if api:
        from mllm.serve.chat_client import ChatClient

        client = ChatClient(api, api_key, model)  # before gradio is imported for nothing
        from mllm.serve.chat_page import serve_page

        serve_page(client, **page)
        return
    from mllm.serve.chat_page import serve_page
    from mllm.serve.chat_server import private_api
    from mllm.serve.engine import aside

    logging.getLogger("mllm").setLevel(logging.INFO)
    model = model or "mini"
    typer.echo(f"loading {model} ...", err=True)
    with private_api(aside(load_quietly, model)) as client:
        serve_page(client, **page)


class Precision(StrEnum):
    """What the weights of a served model are held in."""

    bf16 = "bf16"
    int8 = "int8"
    fp32 = "fp32"


def serve(
    model: ModelName = "mini",
    host: Annotated[
        str, typer.Option(help="Address to listen at; 0.0.0.0 opens the API to your network: set keys.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    api_key: Annotated[
        list[str] | None,
        typer.Option(
            help="A key that opens the API; several times for several. Or MLLM_API_KEYS=key,key, which no "
            "list of processes shows."
        ),
    ] = None,
    name: Annotated[str, typer.Option(help="What requests call the model; default: the last part of --model.")] = "",
    audio_host: Annotated[
        list[str] | None,
        typer.Option(help="A host that `audio_url` may fetch from, such as media.example.org; none by default."),
    ] = None,
    precision: Annotated[
        Precision,
        typer.Option(help="Of the weights. int8 writes a single answer faster, and now and then another word."),
    ] = Precision.bf16,
    slots: Annotated[
        int | None, typer.Option(min=1, help="Answers at one time; default 32, in int8 8, with --upstream 64.")
    ] = None,
    waiting: Annotated[int, typer.Option(min=1, help="Requests that may wait; more get a 429.")] = 64,
    max_body_mb: Annotated[int, typer.Option(min=1, help="Largest request; half an hour of noise takes 106.")] = 128,
    max_audio_seconds: Annotated[float, typer.Option(min=1, max=1800, help="Longest recording.")] = 1800,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer where a request does not say.")] = 512,
    deadline: Annotated[float, typer.Option(min=1, help="Seconds that an answer may take, waiting included.")] = 300,
    drain: Annotated[float, typer.Option(min=0, help="Seconds that running answers get after SIGTERM.")] = 60,
    upstream: Annotated[
        str, typer.Option(metavar="URL", help="Forward to the API there, such as vLLM's, and load no model.")
    ] = "",
    upstream_model: Annotated[str, typer.Option(help="What that server calls the model; default: its first.")] = "",
    upstream_key_env: Annotated[
        str, typer.Option(help="The environment variable that holds the key of that server.")
    ] = "MLLM_UPSTREAM_KEY",
) -> None:
    """Serve a model over OpenAI's protocol: chat with recordings and scores, embeddings, transcription.

      mllm serve --model mini

      MLLM_API_KEYS=secret mllm serve --model runs/my-model --host 0.0.0.0 --port 8000

      mllm serve --upstream http://127.0.0.1:8001/v1

    Then, with the openai client: base_url "http://127.0.0.1:8000/v1". What it takes: docs/serving.md, and /docs there.
    """
    _refuse_taken(host, port)  # before the model is loaded for nothing
    from mllm.serve.settings import ServeSettings
    from mllm.settings import check_settings

    # Out of the environment, which whatever is started from here would see.
    keys = [key.strip() for key in os.environ.pop("MLLM_API_KEYS", "").split(",") if key.strip()]
    options = {
        "name": name, "api_keys": [*(api_key or []), *keys], "audio_hosts": audio_host or [],
        "max_body_bytes": max_body_mb << 20, "max_held_bytes": max(512, 4 * max_body_mb) << 20,
        "max_audio_seconds": max_audio_seconds, "max_tokens": max_tokens, "deadline": deadline, "drain_seconds": drain,
    }  # fmt: skip
    settings = check_settings(ServeSettings, options, "mllm serve", PromptError)
    logging.getLogger("mllm").setLevel(logging.INFO)
    if upstream:
        from mllm.serve.addresses import api_address
        from mllm.serve.server import serve_upstream
        from mllm.serve.upstream import served_model

        upstream = api_address(upstream)
        key = os.environ.pop(upstream_key_env, "")
        behind = upstream_model or served_model(upstream, key)
        typer.echo(f"The API is at http://{host}:{port}/v1, in front of {behind} at {upstream}", err=True)
        serve_upstream(upstream, behind, settings, host, port, key=key, slots=slots or 64, waiting=waiting)
        return
    import torch

    from mllm.serve.engine import SLOTS, aside
    from mllm.serve.engine_int8 import ROWS
    from mllm.serve.server import serve as run

    typer.echo(f"loading {model} ...", err=True)
    int8 = precision is Precision.int8
    music = aside(load_quietly, model, dtype=torch.float32 if precision is Precision.fp32 else torch.bfloat16)
    typer.echo(f"The API is at http://{host}:{port}/v1", err=True)
    run(music, settings, host, port, slots=slots or (ROWS if int8 else SLOTS), waiting=waiting, int8=int8)


def _refuse_taken(host: str, port: int) -> None:
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        reason = error.strerror or str(error)
        raise PromptError(f"cannot listen at {host}:{port} ({reason}): choose another one with --port") from error
