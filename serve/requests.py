"""What may be asked: our own strict models of OpenAI's requests. What is not here is refused by name, never ignored."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from mllm.serve.request_limits import MOST_TOP_LOGPROBS
from mllm.serve.schema_limits import check_schema

# Options of OpenAI's that are not built, and the values that ask for nothing: many clients send those always.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "audio": (), "best_of": (1,), "dimensions": (), "echo": (False,), "encoding_format": ("float",),
    "frequency_penalty": (0,), "function_call": (), "functions": (), "metadata": ({},), "modalities": (["text"],),
    "moderation": (), "prediction": (), "presence_penalty": (0,), "prompt_cache_key": (), "prompt_cache_retention": (),
    "reasoning_effort": (), "safety_identifier": (), "service_tier": ("auto", "default"), "store": (False,),
    "suffix": (), "verbosity": (), "web_search_options": (), "include": ([],), "chunking_strategy": ("auto",),
    "timestamp_granularities": ([],), "language": (), "known_speaker_names": (), "known_speaker_references": (),
}  # fmt: skip


def _whole(text: str) -> str:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError("half a character: \\ud800 to \\udfff come in pairs in JSON") from None
    return text


MOST_FIELDS = 256  # of one object
Unicode = Annotated[str, AfterValidator(_whole)]
Text = Annotated[Unicode, Field(max_length=2_000_000)]
Given = Annotated[Unicode, Field(min_length=1, max_length=2_000_000)]
Stop = Annotated[Unicode, Field(min_length=1, max_length=256)]


class UnsupportedError(ValueError):
    """An option that is known, and not built or out of place."""

    def __init__(self, name: str, why: str):
        super().__init__(f"{name} {why}: leave it out")
        self.name = name


class Wire(BaseModel):
    """Base of what comes over the wire: no unknown fields, and a number is not a string."""

    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _few(cls, data: Any) -> Any:
        # pydantic would write an error for each: a million took the server half a minute and a gigabyte
        if isinstance(data, dict) and len(data) > MOST_FIELDS:
            raise ValueError(f"{len(data)} fields in one object; at most {MOST_FIELDS} are read")
        return data


def drop_neutral(data: Any, fields: dict[str, Any]) -> Any:
    """The same without options that ask for nothing; an option that asks for what is not built raises."""
    if not isinstance(data, dict):
        return data
    left = {}
    for name, value in data.items():
        if name in fields or name not in NEUTRAL:
            left[name] = value
        elif value is not None and value not in NEUTRAL[name]:
            raise UnsupportedError(name, "is not supported by this server")
    return left


class Request(Wire):
    """Base of whole requests."""

    model: Annotated[str, Field(min_length=1, max_length=256)]
    """The id that `GET /v1/models` lists."""
    user: Annotated[str, Field(max_length=512)] | None = None
    """Taken for the sake of clients that send it; not kept."""

    @model_validator(mode="before")
    @classmethod
    def _known(cls, data: Any) -> Any:
        return drop_neutral(data, cls.model_fields)


class TextPart(Wire):
    """Words."""

    type: Literal["text"]
    text: Text


class InputAudio(Wire):
    """The bytes of a sound file."""

    data: str
    """Base64."""
    format: Literal["wav", "mp3", "flac", "ogg", "opus", "aiff"]
    """For the record: the content decides."""


class InputAudioPart(Wire):
    """A recording in the request."""

    type: Literal["input_audio"]
    input_audio: InputAudio


class AudioUrl(Wire):
    """Where a sound file lies."""

    url: str
    """`data:audio/…;base64,…`, or http(s) of a host that the server allows."""


class AudioUrlPart(Wire):
    """A recording elsewhere."""

    type: Literal["audio_url"]
    audio_url: AudioUrl


class ScoreData(Wire):
    """A score."""

    data: Text
    """ABC and MusicXML as text; MIDI, and packed MusicXML (.mxl), as base64."""
    format: Literal["abc", "midi", "musicxml", "mxl"]
    hear: bool = False
    """Play it to the model as well as showing it."""


class ScorePart(Wire):
    """Notation in the request."""

    type: Literal["score"]
    score: ScoreData


Part = Annotated[TextPart | InputAudioPart | AudioUrlPart | ScorePart, Field(discriminator="type")]
MostParts = Field(min_length=1, max_length=256)


class SystemMessage(Wire):
    """What the model is told before the conversation."""

    role: Literal["system", "developer"]
    content: Text | Annotated[list[TextPart], MostParts]


class UserMessage(Wire):
    """What the user shows and asks."""

    role: Literal["user"]
    content: Text | Annotated[list[Part], MostParts]


class CalledFunction(Wire):
    """A function with the arguments that the model gave it."""

    name: str
    arguments: Text
    """JSON."""


class ToolCall(Wire):
    """A call of an earlier turn."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class AssistantMessage(Wire):
    """An earlier answer; nulls and the `verification` that ours carry may come back with it."""

    role: Literal["assistant"]
    content: Text | Annotated[list[TextPart], MostParts] | None = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=64)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _as_answered(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        empty = ("refusal", "annotations", "audio", "function_call")
        left = {k: v for k, v in data.items() if k != "verification" and not (k in empty and not v)}
        if left.get("content") is None and not left.get("tool_calls"):
            raise ValueError("an assistant's message needs content or tool_calls")
        return left


class ToolMessage(Wire):
    """What a function gave back."""

    role: Literal["tool"]
    tool_call_id: str
    content: Text | Annotated[list[TextPart], MostParts]


Message = Annotated[SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")]


class JsonSchema(Wire):
    """A schema with a name."""

    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=(), serialize_by_alias=True)
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    description: Text | None = None
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    strict: bool | None = None
    """Every schema is kept to strictly, whatever this says."""

    @field_validator("schema_")
    @classmethod
    def _small(cls, schema: dict[str, Any]) -> dict[str, Any]:
        check_schema(schema)
        return schema


class PlainText(Wire):
    """Any words."""

    type: Literal["text"]


class JsonObject(Wire):
    """Some JSON object."""

    type: Literal["json_object"]


class SchemaFormat(Wire):
    """JSON of a schema."""

    type: Literal["json_schema"]
    json_schema: JsonSchema


class FactsFormat(Wire):
    """The facts of the music: docs/serving.md."""

    type: Literal["music_facts"]


ResponseFormat = Annotated[PlainText | JsonObject | SchemaFormat | FactsFormat, Field(discriminator="type")]


class Function(Wire):
    """A function that the model may call."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    description: Text | None = None
    parameters: dict[str, Any] | None = None
    """JSON schema of its arguments; None takes any object."""
    strict: bool | None = None

    @field_validator("parameters")
    @classmethod
    def _small(cls, schema: dict[str, Any] | None) -> dict[str, Any] | None:
        check_schema(schema)
        return schema


class Tool(Wire):
    """What the model may use."""

    type: Literal["function"]
    function: Function


class NamedFunction(Wire):
    """A name."""

    name: str


class NamedTool(Wire):
    """Call this one."""

    type: Literal["function"]
    function: NamedFunction


class StreamOptions(Wire):
    """Of a stream."""

    include_usage: bool = False
    include_obfuscation: Literal[False] | None = None


class Sampling(Request):
    """How an answer is drawn, and how it comes."""

    n: Annotated[int, Field(ge=1, le=128)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    """0, the default, takes the likeliest token."""
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    logit_bias: Annotated[dict[str, Annotated[float, Field(ge=-100, le=100)]], Field(max_length=1024)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @field_validator("logit_bias")
    @classmethod
    def _ids(cls, bias: dict[str, float] | None) -> dict[str, float] | None:
        for name in bias or ():
            if not re.fullmatch(r"\d{1,7}", name):
                raise ValueError(f"{name!r} is not the number of a token")
        return bias

    @model_validator(mode="after")
    def _stream_options(self) -> Sampling:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options need stream: true")
        return self

    @property
    def stops(self) -> tuple[str, ...]:
        """As the engine takes them."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def biases(self) -> dict[int, float]:
        """By the numbers of tokens."""
        return {int(name): value for name, value in (self.logit_bias or {}).items()}


class ChatRequest(Sampling):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=1024)]
    max_completion_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_TOP_LOGPROBS)] | None = None
    response_format: ResponseFormat | None = None
    tools: Annotated[list[Tool], Field(max_length=64)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    verify: bool | None = None
    """Hold what the answer claims against the music and attach the verdicts."""

    @model_validator(mode="after")
    def _together(self) -> ChatRequest:
        if None not in (self.max_tokens, self.max_completion_tokens) and self.max_tokens != self.max_completion_tokens:
            raise ValueError("max_tokens and max_completion_tokens differ: give one of them")
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        names = [tool.function.name for tool in self.tools or ()]
        if len(set(names)) < len(names):
            raise ValueError("two tools have the same name")
        if isinstance(self.tool_choice, NamedTool) and self.tool_choice.function.name not in names:
            raise ValueError(f"tool_choice names {self.tool_choice.function.name!r}, which is not among the tools")
        if self.tool_choice == "required" and not names:
            raise ValueError("tool_choice is required, but there are no tools")
        if isinstance(self.response_format, FactsFormat):
            taken = {"tools": self.tools, "stop": self.stop, "logprobs": self.logprobs, "seed": self.seed,
                     "logit_bias": self.logit_bias, "verify": self.verify, "temperature": self.temperature,
                     "top_p": self.top_p, "n": (self.n or 1) > 1 or None}  # fmt: skip
            for name, value in taken.items():
                if value:
                    raise UnsupportedError(name, "has no meaning with music_facts")
        return self

    @property
    def longest(self) -> int | None:
        """Tokens, where the request says."""
        return self.max_completion_tokens or self.max_tokens


class CompletionRequest(Sampling):
    """`POST /v1/completions`."""

    prompt: Given | Annotated[list[Given], Field(min_length=1, max_length=16)]
    """Text to go on from; lists of tokens are not taken."""
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None

    @property
    def prompts(self) -> list[str]:
        """One or several."""
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt


class EmbeddingRequest(Request):
    """`POST /v1/embeddings`: one vector for each text, or for each list of content parts."""

    input: (
        Given
        | Annotated[
            list[Given | Annotated[list[Part], MostParts]],
            Field(min_length=1, max_length=64),
        ]
    )
    encoding_format: Literal["float", "base64"] | None = None

    @property
    def inputs(self) -> list[str | list[Part]]:
        """One or several."""
        return [self.input] if isinstance(self.input, str) else list(self.input)
