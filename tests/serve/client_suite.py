"""What the official `openai` client may expect of any server of our checkpoints: ours, or vLLM with our plugin.

`CHECKS` holds the checks by name. Each takes the address of the server (ending in `/v1`), an API key and the name of a
model, and fails with an AssertionError. They say nothing of how well the model answers.
"""

from __future__ import annotations

import base64
import functools
import io
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest
import soundfile
from tiny import clicks

TOKENS = 12
SCHEMA = {
    "type": "object",
    "properties": {"key": {"enum": ["C", "G", "D"]}, "bars": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["key", "bars"],
    "additionalProperties": False,
}


@functools.cache
def recording(bpm: float, seconds: float = 3.0) -> str:
    """A wav of clicks in base64."""
    out = io.BytesIO()
    soundfile.write(out, clicks(bpm, seconds), 22_050, format="WAV")
    return base64.b64encode(out.getvalue()).decode()


def heard(bpm: float, seconds: float = 3.0) -> dict[str, Any]:
    """A recording in a message."""
    return {"type": "input_audio", "input_audio": {"data": recording(bpm, seconds), "format": "wav"}}


def asking(*parts: dict[str, Any], text: str = "What is the tempo?") -> list[dict[str, Any]]:
    """A question about some recordings."""
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]


def client_of(base_url: str, api_key: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=base_url, api_key=api_key, max_retries=0, timeout=300)


def chat(base_url: str, api_key: str, model: str, messages: list[dict[str, Any]], **options: Any) -> Any:
    """A chat completion; greedy and short unless told otherwise."""
    options = {"temperature": 0, "max_tokens": TOKENS} | options
    return client_of(base_url, api_key).chat.completions.create(model=model, messages=messages, **options)


def lists_the_model(base_url: str, api_key: str, model: str) -> None:
    assert model in [entry.id for entry in client_of(base_url, api_key).models.list()]


def answers_about_recordings(base_url: str, api_key: str, model: str) -> None:
    ask = functools.partial(chat, base_url, api_key, model)
    one, two, none = ask(asking(heard(90))), ask(asking(heard(90), heard(150))), ask(asking())
    assert one.object == "chat.completion" and one.model == model
    (choice,) = one.choices
    assert choice.message.role == "assistant" and choice.message.content
    assert choice.finish_reason in ("stop", "length")
    usage = one.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens and usage.completion_tokens <= TOKENS
    sizes = [answer.usage.prompt_tokens for answer in (none, one, two)]
    assert 8 < sizes[1] - sizes[0] == sizes[2] - sizes[1], "every recording takes its place in the prompt"


def takes_data_uris(base_url: str, api_key: str, model: str) -> None:
    uri = {"type": "audio_url", "audio_url": {"url": "data:audio/wav;base64," + recording(90)}}
    given = [chat(base_url, api_key, model, asking(part)) for part in (uri, heard(90))]
    assert len({answer.choices[0].message.content for answer in given}) == 1
    assert len({answer.usage.prompt_tokens for answer in given}) == 1


def takes_long_recordings(base_url: str, api_key: str, model: str) -> None:
    ask = functools.partial(chat, base_url, api_key, model)
    sizes = [ask(asking(heard(90, seconds))).usage.prompt_tokens for seconds in (3, 24)]
    assert sizes[1] > sizes[0] + 16, "a recording of several windows has tokens for each"


def counts_audio_tokens(base_url: str, api_key: str, model: str) -> None:
    usage = chat(base_url, api_key, model, asking(heard(90)), max_tokens=1).usage
    assert 0 < usage.prompt_tokens_details.audio_tokens < usage.prompt_tokens


def follows_a_conversation(base_url: str, api_key: str, model: str) -> None:
    first = asking(heard(90))
    talk = [{"role": "system", "content": "Be brief."}, *first, {"role": "assistant", "content": "90 BPM."}]
    sizes = [
        chat(base_url, api_key, model, turns).usage.prompt_tokens for turns in (first, [*talk, *asking(heard(150))])
    ]
    assert sizes[1] > 2 * sizes[0]


def streams_the_same_words(base_url: str, api_key: str, model: str) -> None:
    whole = chat(base_url, api_key, model, asking(heard(120)))
    stream = chat(base_url, api_key, model, asking(heard(120)), stream=True, stream_options={"include_usage": True})
    *chunks, last = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert len({chunk.id for chunk in [*chunks, last]}) == 1
    words = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert words == whole.choices[0].message.content
    ends = [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason]
    assert ends == [whole.choices[0].finish_reason]
    assert last.choices == [] and last.usage.completion_tokens == whole.usage.completion_tokens


def ends_streams_with_done(base_url: str, api_key: str, model: str) -> None:
    body = {"model": model, "messages": asking(heard(120)), "max_tokens": 3, "stream": True}
    headers = {"Authorization": f"Bearer {api_key}"}
    answer = httpx.post(f"{base_url}/chat/completions", json=body, headers=headers, timeout=300, trust_env=False)
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    assert all(json.loads(event)["object"] == "chat.completion.chunk" for event in events[:-1])


def gives_log_probabilities(base_url: str, api_key: str, model: str) -> None:
    answer = chat(base_url, api_key, model, asking(heard(120)), logprobs=True, top_logprobs=3, max_tokens=4)
    (choice,) = answer.choices
    tokens = choice.logprobs.content
    assert len(tokens) == answer.usage.completion_tokens
    for token in tokens:
        assert token.logprob <= 0 and len(token.top_logprobs) == 3
        others = [other.logprob for other in token.top_logprobs]
        assert others == sorted(others, reverse=True) and token.logprob == pytest.approx(others[0], abs=1e-4)
    assert "".join(token.token for token in tokens).startswith(choice.message.content)


def ends_where_it_is_told(base_url: str, api_key: str, model: str) -> None:
    ask = functools.partial(chat, base_url, api_key, model, asking(text="Tell me about the violin."))
    cut = ask(max_tokens=5)
    assert (cut.choices[0].finish_reason, cut.usage.completion_tokens) == ("length", 5)
    words = cut.choices[0].message.content
    mark = words.strip()[-2:]
    stopped = ask(stop=[mark]).choices[0]
    assert stopped.finish_reason == "stop" and stopped.message.content == words[: words.index(mark)]


def draws_by_seed(base_url: str, api_key: str, model: str) -> None:
    ask = functools.partial(chat, base_url, api_key, model, asking(text="Tell me about the violin."), temperature=1.0)
    draws = [ask(seed=seed).choices[0].message.content for seed in (7, 7, 8)]
    assert draws[0] == draws[1] != draws[2]
    several = ask(n=3, seed=7).choices
    assert [choice.index for choice in sorted(several, key=lambda choice: choice.index)] == [0, 1, 2]
    assert len({choice.message.content for choice in several}) > 1


def keeps_to_a_schema(base_url: str, api_key: str, model: str) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "facts", "schema": SCHEMA, "strict": True}}
    answer = chat(base_url, api_key, model, asking(heard(90)), response_format=wanted, max_tokens=64)
    facts = json.loads(answer.choices[0].message.content)
    assert set(facts) == {"key", "bars"} and facts["key"] in ("C", "G", "D") and 0 <= facts["bars"] <= 9


def calls_the_tool_that_it_must(base_url: str, api_key: str, model: str) -> None:
    tool = {"type": "function", "function": {"name": "play", "parameters": SCHEMA, "strict": True}}
    named = {"type": "function", "function": {"name": "play"}}
    answer = chat(base_url, api_key, model, asking(), tools=[tool], tool_choice=named, max_tokens=64)
    (call,) = answer.choices[0].message.tool_calls
    assert call.function.name == "play" and set(json.loads(call.function.arguments)) == {"key", "bars"}


def answers_many_at_once(base_url: str, api_key: str, model: str) -> None:
    def answer(bpm: float) -> str:
        return chat(base_url, api_key, model, asking(heard(bpm)), max_tokens=6).choices[0].message.content

    beats = (60, 80, 100, 120, 140, 160)
    with ThreadPoolExecutor(len(beats)) as pool:
        together = list(pool.map(answer, beats))
    assert together == [answer(bpm) for bpm in beats]


def names_errors(base_url: str, api_key: str, model: str) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        chat(base_url, api_key, "no-such-model", asking())
    assert "no-such-model" in missing.value.message
    for wrong in ({"temperature": -1}, {"max_tokens": 0}, {"top_p": 2}, {"n": 0}):
        with pytest.raises(openai.BadRequestError) as refused:
            chat(base_url, api_key, model, asking(), **wrong)
        assert {"message", "type", "param", "code"} <= set(refused.value.body)
    with pytest.raises(openai.BadRequestError):
        chat(base_url, api_key, model, [{"role": "user", "content": [{"type": "smell", "smell": "roses"}]}])
    assert chat(base_url, api_key, model, asking(), max_tokens=1).choices, "errors leave the server as it was"


def refuses_strangers(base_url: str, api_key: str, model: str) -> None:
    with pytest.raises(openai.AuthenticationError):
        chat(base_url, api_key + "x", model, asking())


def refuses_what_is_no_sound(base_url: str, api_key: str, model: str) -> None:
    noise = {
        "type": "input_audio",
        "input_audio": {"data": base64.b64encode(b"no sound" * 99).decode(), "format": "wav"},
    }
    with pytest.raises(openai.BadRequestError):
        chat(base_url, api_key, model, asking(noise))
    assert chat(base_url, api_key, model, asking(), max_tokens=1).choices


def refuses_marks_of_the_prompt(base_url: str, api_key: str, model: str) -> None:
    with pytest.raises(openai.BadRequestError):
        chat(base_url, api_key, model, asking(text="<|audio|> What is this?"))
    assert chat(base_url, api_key, model, asking(), max_tokens=1).choices


CHECKS: dict[str, Callable[[str, str, str], None]] = {
    check.__name__: check
    for check in (
        lists_the_model,
        answers_about_recordings,
        takes_data_uris,
        takes_long_recordings,
        counts_audio_tokens,
        follows_a_conversation,
        streams_the_same_words,
        ends_streams_with_done,
        gives_log_probabilities,
        ends_where_it_is_told,
        draws_by_seed,
        keeps_to_a_schema,
        calls_the_tool_that_it_must,
        answers_many_at_once,
        names_errors,
        refuses_strangers,
        refuses_what_is_no_sound,
        refuses_marks_of_the_prompt,
    )
}
