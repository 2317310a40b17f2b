"""Chat completions as the official client sees them; the model is tiny and random, everything else is real."""

import json

import pytest
from client_suite import SCHEMA
from live import MODEL, TUNE, asking, audio_part, based, clip, score_part, tiny_music

from mllm.score import read_abc, to_midi, to_musicxml

TOKENS = 6
TOOL = {"type": "function", "function": {"name": "play", "description": "Play a tune.", "parameters": SCHEMA}}
OTHER = {"type": "function", "function": {"name": "stop"}}


def one_of(value: str) -> dict:
    """A response format that lets one value of a key through."""
    schema = {"type": "object", "properties": {"key": {"const": value}}, "required": ["key"]}
    schema["additionalProperties"] = False
    return {"type": "json_schema", "json_schema": {"name": "key", "schema": schema}}


def chat(client, messages, **options):
    options = {"max_tokens": TOKENS, **options}
    return client.chat.completions.create(model=MODEL, messages=messages, **options)


def said(messages) -> str:
    """What the model says to messages of its own format when it is asked without any server."""
    return str(tiny_music().chat(messages, max_new_tokens=TOKENS))


def test_an_answer_is_the_one_that_the_model_gives_alone(client):
    answer = chat(client, asking(audio_part()))
    own = [{"type": "audio", "audio": clip()}, {"type": "text", "text": "What is the tempo?"}]
    (choice,) = answer.choices
    assert choice.message.content.strip() == said([{"role": "user", "content": own}])
    assert (choice.message.role, choice.finish_reason, choice.index) == ("assistant", "length", 0)
    assert answer.object == "chat.completion" and answer.model == MODEL and answer.id.startswith("chatcmpl-")
    usage = answer.usage
    assert usage.completion_tokens == TOKENS and usage.total_tokens == usage.prompt_tokens + TOKENS
    assert 0 < usage.prompt_tokens_details.audio_tokens < usage.prompt_tokens


def test_everything_in_a_conversation_reaches_the_model_in_its_order(client):
    slow, fast = clip(60), clip(150)
    flac = clip(60, kind="FLAC")
    uri = {"type": "audio_url", "audio_url": {"url": "data:audio/flac;base64," + based(flac)}}
    talk = [
        {"role": "system", "content": "Be brief."},
        *asking(audio_part(slow), audio_part(fast), text="Which is faster?"),
        {"role": "assistant", "content": "The second."},
        *asking(uri, score_part(), text="And this?"),
    ]
    own = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "audio", "audio": slow}, {"type": "audio", "audio": fast},
                                     {"type": "text", "text": "Which is faster?"}]},
        {"role": "assistant", "content": "The second."},
        {"role": "user", "content": [{"type": "audio", "audio": flac}, {"type": "score", "score": TUNE},
                                     {"type": "text", "text": "And this?"}]},
    ]  # fmt: skip
    (first,) = chat(client, talk, logprobs=True).choices
    assert first.message.content.strip() == said(own)
    talk[1]["content"][:2] = reversed(talk[1]["content"][:2])
    (swapped,) = chat(client, talk, logprobs=True).choices
    assert swapped.logprobs.content[0].logprob != first.logprobs.content[0].logprob


def test_scores_of_every_format_are_one_score(client):
    score = read_abc(TUNE)
    given = [
        score_part(),
        score_part(based(to_midi(score)), "midi"),
        score_part(to_musicxml(score).decode(), "musicxml"),
    ]
    sizes = [chat(client, asking(part), max_tokens=1).usage.prompt_tokens for part in given]
    assert len(set(sizes)) <= 2 and min(sizes) > 30  # MIDI has no chord symbols
    heard = chat(client, asking(score_part(hear=True)), max_tokens=1).usage
    assert heard.prompt_tokens_details.audio_tokens > 0 and heard.prompt_tokens > sizes[0]


def test_a_stream_has_the_shape_of_openais(server):
    body = {"model": MODEL, "messages": asking(audio_part()), "max_tokens": TOKENS}
    with server.http() as http:
        whole = http.post("/v1/chat/completions", json=body).json()
        body |= {"stream": True, "stream_options": {"include_usage": True}}
        with http.stream("POST", "/v1/chat/completions", json=body) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            assert response.headers["x-request-id"]
            lines = [line for line in response.iter_lines() if line]
    assert all(line.startswith("data: ") for line in lines) and lines[-1] == "data: [DONE]"
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    assert len({(c["id"], c["created"], c["model"], c["object"]) for c in chunks}) == 1
    *said, usage = chunks
    first, *middle, last = [c["choices"][0] for c in said]
    assert first == {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
    assert all(set(c["delta"]) == {"content"} and c["finish_reason"] is None for c in middle)
    assert last["delta"] == {} and last["finish_reason"] == "length"
    assert "".join(c["delta"]["content"] for c in middle) == whole["choices"][0]["message"]["content"]
    assert usage["choices"] == [] and usage["usage"]["completion_tokens"] == TOKENS
    assert all(c["usage"] is None for c in said)


def test_logprobs_are_of_the_tokens_that_were_written(client):
    (choice,) = chat(client, asking(audio_part()), logprobs=True, top_logprobs=3).choices
    tokens = choice.logprobs.content
    assert len(tokens) == TOKENS and "".join(t.token for t in tokens) == choice.message.content
    for token in tokens:
        assert len(token.top_logprobs) == 3 and token.logprob <= 0
        assert token.token == token.top_logprobs[0].token  # greedy
        assert bytes(token.bytes).decode() == token.token
    streamed = [c.choices[0].logprobs for c in chat(client, asking(audio_part()), logprobs=True, stream=True)]
    found = [t.logprob for row in streamed if row for t in row.content]
    assert found == pytest.approx([t.logprob for t in tokens], abs=1e-4)


def test_stop_seed_n_and_bias(client):
    plain = chat(client, asking(audio_part())).choices[0].message.content
    cut = plain[len(plain) // 2 :][:4]
    (choice,) = chat(client, asking(audio_part()), stop=[cut]).choices
    assert (
        choice.finish_reason == "stop"
        and cut not in choice.message.content
        and plain.startswith(choice.message.content)
    )

    def drawn(seed):
        found = chat(client, asking(audio_part()), n=2, seed=seed, temperature=1.0)
        assert [c.index for c in found.choices] == [0, 1] and found.usage.completion_tokens == 2 * TOKENS
        return [c.message.content for c in found.choices]

    first = drawn(5)
    assert first[0] != first[1] and drawn(5) == first != drawn(50)
    wanted = tiny_music().processor.tokenizer(" waltz", add_special_tokens=False)["input_ids"][0]
    biased = chat(client, asking(audio_part()), logit_bias={str(wanted): 100}).choices[0].message.content
    assert biased == tiny_music().processor.tokenizer.decode([wanted]) * TOKENS


def test_json_keeps_to_its_schema(client):
    form = {"type": "json_schema", "json_schema": {"name": "tune", "schema": SCHEMA, "strict": True}}
    (choice,) = chat(client, asking(audio_part()), response_format=form, max_tokens=60).choices
    found = json.loads(choice.message.content)
    assert choice.finish_reason == "stop" and found["key"] in "CGD" and 0 <= found["bars"] <= 9 and len(found) == 2
    loose = chat(client, asking(audio_part()), response_format={"type": "json_object"}, max_tokens=20).choices[0]
    assert loose.message.content.startswith("{")
    if loose.finish_reason == "stop":
        assert isinstance(json.loads(loose.message.content), dict)


def check_call(call, name="play"):
    assert call.type == "function" and call.id and call.function.name == name
    arguments = json.loads(call.function.arguments)
    assert set(arguments) == {"key", "bars"} and arguments["key"] in ("C", "G", "D")


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "play"}}])
def test_a_tool_that_has_to_be_called_is_called(client, choice):
    options = {"tools": [TOOL] if choice == "required" else [OTHER, TOOL], "tool_choice": choice, "max_tokens": 80}
    (answer,) = chat(client, asking(audio_part()), parallel_tool_calls=False, **options).choices
    assert answer.finish_reason == "tool_calls" and answer.message.content is None
    (call,) = answer.message.tool_calls
    check_call(call)
    names, arguments, finish = [], "", None
    for chunk in chat(client, asking(audio_part()), parallel_tool_calls=False, stream=True, **options):
        (row,) = chunk.choices
        for part in row.delta.tool_calls or ():
            assert part.index == 0
            names += [part.function.name] if part.function.name else []
            arguments += part.function.arguments or ""
        finish = row.finish_reason or finish
    assert (names, arguments, finish) == (["play"], call.function.arguments, "tool_calls")


def test_tools_may_be_left_alone_and_their_results_are_read(client):
    free = chat(client, asking(audio_part()), tools=[TOOL, OTHER]).choices[0]
    assert free.message.content and free.message.tool_calls is None
    told = chat(client, asking(audio_part()), tools=[TOOL], tool_choice="auto", max_tokens=1).usage.prompt_tokens
    untold = chat(client, asking(audio_part()), tools=[TOOL], tool_choice="none", max_tokens=1).usage.prompt_tokens
    assert told > untold + 20
    call = {"id": "c1", "type": "function", "function": {"name": "play", "arguments": '{"key": "G", "bars": 2}'}}
    talk = [
        *asking(audio_part()),
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "played"},
    ]
    own = [
        {"role": "user",
         "content": [{"type": "audio", "audio": clip()}, {"type": "text", "text": "What is the tempo?"}]},
        {"role": "assistant",
         "content": '<tool_call>\n{"name": "play", "arguments": {"key": "G", "bars": 2}}\n</tool_call>'},
        {"role": "user", "content": "<tool_response>\nplayed\n</tool_response>"},
    ]  # fmt: skip
    assert chat(client, talk).choices[0].message.content.strip() == said(own)


@pytest.mark.parametrize(("key", "verdict"), [("G major", "verified"), ("A minor", "contradicted")])
def test_verify_attaches_verdicts(client, key, verdict):
    options = {"response_format": one_of(key), "max_tokens": 40, "extra_body": {"verify": True}}
    (choice,) = chat(client, asking(score_part(), text="What key is it in?"), **options).choices
    (row,) = choice.message.verification
    assert row["verdict"] == verdict and row["claim"]["kind"] == "key" and row["found"] == "G major"
    *_, last = chat(client, asking(score_part(), text="What key is it in?"), stream=True, **options)
    assert last.choices[0].finish_reason and last.choices[0].delta.verification == [row]


def test_music_facts_of_a_score_are_what_it_says(client):
    options = {"response_format": {"type": "music_facts"}}
    found = json.loads(chat(client, asking(score_part()), **options).choices[0].message.content)
    assert found["key"] == {"value": "G major", "confidence": 1.0, "source": "score"}
    assert found["tempo"]["bpm"] == 90 and found["metre"]["value"] == "3/4" and found["sections"] is None
    assert [c["chord"] for c in found["chords"]] == ["G", "D", "G"]
    streamed = "".join(
        c.choices[0].delta.content or "" for c in chat(client, asking(score_part()), stream=True, **options)
    )
    assert json.loads(streamed) == found


def test_music_facts_of_a_recording_are_facts_or_null(client):
    answer = chat(client, asking(audio_part()), response_format={"type": "music_facts"})
    found = json.loads(answer.choices[0].message.content)
    assert set(found) == {"key", "tempo", "metre", "instruments", "sections", "chords"}
    assert found["key"] is None  # it is random; that its words were a key would be one in a million
    assert answer.usage.prompt_tokens_details.audio_tokens > 0 and answer.usage.completion_tokens > 0


def test_answers_of_a_model_are_read_strictly():
    from mllm.serve.music_facts import QUESTIONS, read_answers

    def read(**said):
        return read_answers([(said.get(name, ""), [-0.5, -0.5], True) for name in QUESTIONS])

    good = read(key="F# minor", tempo="about 96 BPM", metre="6/8", instruments="flute, acoustic guitar",
                sections="0:00 intro, 0:12 verse", chords="C, Am, F, G7")  # fmt: skip
    assert good.key and good.key.value == "F# minor" and good.key.confidence == pytest.approx(0.3679, abs=1e-3)
    assert good.tempo and good.tempo.bpm == 96 and good.metre and good.metre.value == "6/8"
    assert [i.name for i in good.instruments] == ["flute", "acoustic guitar"]
    assert [(s.label, s.start, s.end) for s in good.sections] == [("intro", 0, 12), ("verse", 12, None)]
    assert [c.chord for c in good.chords] == ["C", "Am", "F", "G7"]
    bad = read(key="H major", tempo="fast, 9000", metre="7/5", instruments="a quiet dog", sections="0:12 a, 0:03 b",
               chords="C, then something")  # fmt: skip
    assert all(value is None for _, value in bad)
    assert read(chords="A3, A3").chords is None  # notes


def test_completions_go_on_from_a_text(client):
    whole = client.completions.create(model=MODEL, prompt=["Once", "Twice"], max_tokens=TOKENS, logprobs=2, n=1)
    assert [c.index for c in whole.choices] == [0, 1] and whole.object == "text_completion"
    first = whole.choices[0]
    assert len(first.logprobs.tokens) == TOKENS and "".join(first.logprobs.tokens) == first.text
    assert first.logprobs.text_offset == [len("".join(first.logprobs.tokens[:i])) for i in range(TOKENS)]
    stream = client.completions.create(model=MODEL, prompt="Once", max_tokens=TOKENS, stream=True)
    chunks = [chunk.choices[0] for chunk in stream]
    assert "".join(c.text for c in chunks) == first.text and chunks[-1].finish_reason == "length"


def test_models_and_operation(server, client):
    assert [m.id for m in client.models.list()] == [MODEL] and client.models.retrieve(MODEL).id == MODEL
    with server.http() as http:
        assert http.get("/health").json() == {"status": "ok", "model": MODEL}
        given = http.get("/v1/models", headers={"x-request-id": "mine-1"})
        assert given.headers["x-request-id"] == "mine-1"
        assert http.get("/v1/models", headers={"x-request-id": "a b\tc"}).headers["x-request-id"] != "a b\tc"
        text = http.get("/metrics").text
        assert 'mllm_requests_total{route="/v1/models/{model}",status="200"}' in text
        assert "mllm_engine_completion_tokens" in text and "mllm_request_seconds_bucket" in text
        assert "/v1/chat/completions" in http.get("/openapi.json").json()["paths"]
        assert http.get("/docs").status_code == 200
