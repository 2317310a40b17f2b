"""`POST /v1/audio/transcriptions`: a recording as notation.

Two ways. The served model writes the bars of a short melody under a header (the question that it was trained on), kept
to notes and bars by a grammar and mended by one pass, so that what comes is always a tune. `basic-pitch` hears the
notes of any recording (Bittner et al., ICASSP 2022) and puts them on the beats that librosa finds.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Annotated, Any, Literal

from fastapi import UploadFile
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field, model_validator
from starlette.requests import Request

from mllm.abc_fields import read_key, read_metre, read_tempo
from mllm.abc_repair import repair_abc
from mllm.audio import load_audio
from mllm.audio_checks import LONGEST, Recording
from mllm.errors import MllmError, ScoreError
from mllm.estimators import RATE
from mllm.score import Key, Note, Score, quantize, read_abc, to_abc, to_midi, to_musicxml
from mllm.score_checks import felt_beat
from mllm.serve import music_facts
from mllm.serve.errors import ApiError, as_api_error, not_found
from mllm.serve.generation import GenerationRequest
from mllm.serve.requests import drop_neutral
from mllm.serve.running import Running, while_connected
from mllm.serve.serving import Serving, client_of

CLASSICAL = "basic-pitch"
MOST_MODEL_SECONDS = 30.0  # of a melody that the model writes down
MOST_CLASSICAL_SECONDS = LONGEST
TOKENS_A_SECOND, MAX_TOKENS = 24, 384  # eight notes a second, three tokens each
QUESTION = "Transcribe this melody to ABC. Write the bars that follow this header:\n"
MOST_BARS = 64
# Bars of notes, rests and triplets; that they are full is left to `repair_abc`, for no grammar counts what was played.
GRAMMAR = r"""
root ::= bar (line bar){0,MORE} " |]"
line ::= " | " | " |\n"
bar ::= sound (" "? sound){0,15}
sound ::= note | "(3" tone tone tone
note ::= tone "-"? | "z" length
tone ::= ("^" | "_" | "=")? [A-Ga-g] ("," | "'"){0,2} length
length ::= "" | [2-9] | "12" | "16" | [1-9] "/" [248] | "/" [248]
"""


class TranscriptionForm(BaseModel):
    """The fields of the form."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())
    file: UploadFile
    """The recording."""
    model: Annotated[str, Field(min_length=1, max_length=256)]
    """The served model, or `basic-pitch`."""
    prompt: Annotated[str, Field(max_length=200)] | None = None
    """What is known: lines of an ABC header, of M:, L:, Q: (quarters) and K:. The rest is asked or estimated."""
    response_format: Literal["json", "text", "abc", "verbose_json", "midi", "musicxml"] = "json"
    """`text` is `abc`."""
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] = 0.0

    @model_validator(mode="before")
    @classmethod
    def _known(cls, data: Any) -> Any:
        return drop_neutral(data, cls.model_fields)


@dataclass
class Header:
    """What stands above the bars, and who said so: "request", "model", "estimate" or "assumed"."""

    key: Key | None = None
    metre: tuple[int, int] | None = None
    tempo: float | None = None  # quarters a minute
    unit: str = "1/8"
    source: dict[str, str] = field(default_factory=dict)

    def put(self, name: str, value: Any, source: str) -> None:
        """Fill what is still open."""
        if getattr(self, name) is None and value is not None:
            setattr(self, name, value)
            self.source[name] = source

    @property
    def abc(self) -> str:
        """The lines, as the model was trained on them: without a tempo."""
        assert self.key is not None and self.metre is not None
        return f"X:1\nM:{self.metre[0]}/{self.metre[1]}\nL:{self.unit}\nK:{abc_key(self.key)}"


def abc_key(key: Key) -> str:
    """As a K: field says it."""
    lines = to_abc(Score(notes=[Note(0, 1, 60)], key=key)).splitlines()
    return next(line for line in lines if line.startswith("K:")).removeprefix("K:")


def read_header(prompt: str) -> Header:
    """The lines of a request's prompt; ApiError for what is no such line."""
    header = Header()
    for line in filter(None, map(str.strip, prompt.splitlines())):
        name, value = line[:2], line[2:].strip()
        try:
            if name == "K:":
                header.put("key", read_key(value)[0], "request")
            elif name == "M:":
                header.put("metre", read_metre(value), "request")
            elif name == "Q:":
                header.put("tempo", read_tempo(value, Fraction(1)), "request")
            elif name == "L:" and re.fullmatch(r"1/(4|8|16)", value):
                header.unit = value
            else:
                raise ScoreError(f"{line[:40]!r} is not a line of M:, L: (1/4, 1/8, 1/16), Q: or K:")
        except MllmError as error:
            raise as_api_error(error, param="prompt") from error
    return header


async def transcribe(serving: Serving, form: TranscriptionForm, request: Request) -> Response:
    """Answer a request.

    Raises MllmError, ReaderLeft.
    """
    if form.model not in (serving.model, CLASSICAL):
        raise not_found(f"there is no model {form.model!r} here: take {serving.model!r} or {CLASSICAL!r}",
                        "model_not_found", "model")  # fmt: skip
    header = read_header(form.prompt or "")
    data = await form.file.read()
    seconds = await serving.media.seconds(data, "file")
    most = MOST_MODEL_SECONDS if form.model == serving.model else MOST_CLASSICAL_SECONDS
    if seconds > most:
        raise ApiError(
            f"the recording takes {seconds:.0f} s; {form.model} writes down at most {most:g} s"
            + (f", {CLASSICAL} up to {MOST_CLASSICAL_SECONDS:g} s" if most < MOST_CLASSICAL_SECONDS else ""),
            code="too_long", param="file",
        )  # fmt: skip
    if form.model == CLASSICAL:
        if form.temperature:
            raise ApiError(f"temperature has no meaning with {CLASSICAL}: leave it out", code="unsupported_parameter",
                           param="temperature")  # fmt: skip
        try:
            played, score = await while_connected(request, serving.media.in_thread(heard_by_basic_pitch, data, header))
        except ModuleNotFoundError as error:
            raise ApiError(f"this server cannot run {CLASSICAL}: `pip install 'mllm[eval]'`", 501, "not_installed",
                           kind="server_error") from error  # fmt: skip
    else:
        score = await while_connected(request, _by_model(serving, data, seconds, header, form.temperature, request))
        played = score
    done = Transcription(score, played, header, seconds)
    return await serving.media.in_thread(WRITERS[form.response_format], done)


async def _by_model(
    serving: Serving, data: bytes, seconds: float, header: Header, temperature: float, request: Request
) -> Score:
    client, deadline = client_of(request), serving.settings.deadline
    if header.key is None or header.metre is None or header.tempo is None:
        asked = await Running(serving.engine, music_facts.requests_for(data, client, deadline)[:3]).collect()
        found = [(a.text, [t.logprob for t in a.logprobs], a.finish == "stop") for a in asked]
        facts = music_facts.read_answers([*found, *[("", [], False)] * (len(music_facts.QUESTIONS) - len(found))])
        header.put("metre", read_metre(facts.metre.value) if facts.metre else None, "model")
        header.put("key", Key(*facts.key.value.split()) if facts.key else None, "model")
        beat = felt_beat(header.metre)
        header.put("tempo", facts.tempo.bpm * beat if facts.tempo else None, "model")
    header.put("metre", (4, 4), "assumed")
    header.put("key", Key("C"), "assumed")
    content = [{"type": "audio", "audio": data}, {"type": "text", "text": QUESTION + header.abc}]
    wanted = GenerationRequest(
        messages=[{"role": "user", "content": content}],
        max_tokens=min(32 + round(TOKENS_A_SECOND * seconds), MAX_TOKENS), temperature=temperature,
        grammar=bars_grammar(header, seconds), seconds=deadline, client=client,
    )  # fmt: skip
    (answer,) = await Running(serving.engine, [wanted]).collect()
    return await serving.media.in_thread(written, header, answer.text)


def bars_grammar(header: Header, seconds: float) -> str:
    """EBNF of the bars under a header: no more of them than the recording has room for, where the tempo is known."""
    most = MOST_BARS
    if header.tempo and header.metre:
        most = math.ceil(seconds * header.tempo / 60 / (4 * header.metre[0] / header.metre[1]))
    return GRAMMAR.replace("MORE", str(min(max(most, 1), MOST_BARS) - 1))


def written(header: Header, bars: str) -> Score:
    """The tune of a header and the bars that a model wrote under it; ScoreError where nothing can be read of them."""
    assert header.key is not None
    text = repair_abc(f"{header.abc}\n{bars.strip()}\n", metre=header.metre, key=abc_key(header.key))
    return replace(read_abc(text), tempo=header.tempo, abc=None)


def heard_by_basic_pitch(data: bytes, header: Header) -> tuple[Score, Score]:
    """The notes of a recording as they were played, and on notated moments from the first of them on.

    The key is estimated where nobody states it, and the tempo; the metre is assumed. Raises ScoreError where no notes
    are heard.
    """
    recording = Recording(load_audio(data, RATE))
    notes = recording.notes
    if not notes:
        raise ScoreError(f"{CLASSICAL} hears no notes in this recording")
    header.put("tempo", recording.tempo.bpm or None, "estimate")
    header.put("tempo", 120.0, "assumed")
    header.put("key", recording.key.best, "estimate")
    header.put("metre", (4, 4), "assumed")
    assert header.tempo is not None
    rate = header.tempo / 60  # quarters a second
    about: dict[str, Any] = {"key": header.key, "metre": header.metre, "tempo": header.tempo, "instruments": [""]}
    played = [Note(n.start * rate, (n.end - n.start) * rate, n.pitch) for n in notes]
    first = notes[0].start * rate
    moved, _ = quantize(Score(notes=[replace(n, onset=n.onset - first) for n in played], **about))
    return Score(notes=played, **about), moved


@dataclass(frozen=True)
class Transcription:
    """What was written down.

    Attributes:
        score: on notated moments.
        played: the notes when they were played, where that is known; else `score`.
    """

    score: Score
    played: Score
    header: Header
    seconds: float


def _verbose(done: Transcription) -> Response:
    header, rate = done.header, (done.header.tempo or 120.0) / 60
    notes = [
        {"start": round(n.onset / rate, 3), "end": round((n.onset + n.duration) / rate, 3), "pitch": n.pitch}
        for n in done.played.notes
    ]
    known = {
        "key": header.key.name if header.key else None,
        "metre": f"{header.metre[0]}/{header.metre[1]}" if header.metre else None,
        "tempo": header.tempo,
    }
    about = {name: {"value": value, "source": header.source.get(name)} for name, value in known.items()}
    whole = {"task": "transcribe", "language": "abc", "duration": round(done.seconds, 3), "text": to_abc(done.score)}
    return JSONResponse(whole | {"header": about, "notes": notes})


WRITERS: dict[str, Callable[[Transcription], Response]] = {
    "json": lambda done: JSONResponse({"text": to_abc(done.score)}),
    "abc": lambda done: Response(to_abc(done.score), media_type="text/vnd.abc"),
    "text": lambda done: Response(to_abc(done.score), media_type="text/plain"),
    "verbose_json": _verbose,
    "midi": lambda done: Response(to_midi(done.played), media_type="audio/midi"),
    "musicxml": lambda done: Response(to_musicxml(done.score), media_type="application/vnd.recordare.musicxml+xml"),
}
