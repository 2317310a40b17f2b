"""Messages of a request -> messages of the model: recordings to bytes, scores to ABC, calls of functions to text.

Nothing in a request is ever taken for a file of this machine.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import json
import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any, TypeVar

import soundfile
from anyio import to_thread

from mllm.audio import load_audio
from mllm.errors import AudioError, MllmError, ScoreError
from mllm.score import Score, quantize, read_abc, read_midi, read_notation, to_abc
from mllm.serve.errors import ApiError, as_api_error
from mllm.serve.fair_threads import FairThreads
from mllm.serve.fetching import Fetcher
from mllm.serve.requests import (
    AssistantMessage,
    AudioUrlPart,
    InputAudioPart,
    Message,
    Part,
    ScoreData,
    ScorePart,
    TextPart,
    ToolMessage,
)
from mllm.serve.settings import ServeSettings
from mllm.serve.tools import call_text, result_text

T = TypeVar("T")
_DATA_URI = re.compile(r"data:(?:audio/[\w.+-]+|application/(?:octet-stream|ogg))?(?:;[\w.+=-]+)*;base64,", re.I)
_CHECK_RATE = 2_000  # Hz: a recording is decoded here only to see that it can be, and how long it is
_MOST_SAMPLES = 96_000 * 2 * 1800  # of all channels: half an hour of fine stereo, which no body is large enough for
_LARGE = 1 << 20  # bytes
_REMEMBERED = 512
_PLAY_RATE = 22_050  # Hz
MOST_SCORE_SECONDS = 20.0  # of processor time to read MusicXML
MOST_SCORE_BYTES = 4_000_000


@dataclass
class Shown:
    """A conversation as an engine takes it, with what it is about.

    Attributes:
        messages: as `mllm.processing.read_conversation` takes them.
        media: bytes of recordings and scores, in the order in which the model is shown them.
        question: the user's last words.
    """

    messages: list[dict[str, Any]] = field(default_factory=list)
    media: list[bytes | Score] = field(default_factory=list)
    question: str = ""


class MediaReader:
    """Reads what requests show; decoding runs in threads, so that nobody waits for another's recording."""

    def __init__(self, settings: ServeSettings, fetcher: Fetcher | None = None):
        self._settings = settings
        self._fetcher = fetcher or Fetcher(settings.audio_hosts, settings.max_fetch_bytes, settings.fetch_seconds)
        self._threads = FairThreads(settings.max_preparing)
        self._lengths: OrderedDict[bytes, float] = OrderedDict()  # seconds, by digest

    async def in_thread(self, work: Callable[..., T], *args: Any) -> T:
        """Run what takes a while beside the event loop, a few at one time; clients take turns."""
        return await self._threads.run(partial(work, *args))

    async def read(self, messages: Sequence[Message]) -> Shown:
        """A whole conversation.

        Raises ApiError, with the place of what cannot be used.
        """
        shown = Shown()
        for number, message in enumerate(messages):
            shown.messages.append(await self._message(message, f"messages[{number}]", shown))
        return shown

    async def parts(self, parts: Sequence[Part], place: str, shown: Shown) -> list[dict[str, Any]]:
        """Content parts; recordings and scores are added to `shown.media`."""
        out: list[dict[str, Any]] = []
        for number, part in enumerate(parts):
            where = f"{place}[{number}]"
            try:
                out += await self._part(part, where, shown)
            except MllmError as error:
                raise as_api_error(error, param=getattr(error, "param", None) or where) from error
            if len(shown.media) > self._settings.max_audios:
                most = self._settings.max_audios
                raise ApiError(f"more than {most} recordings and scores in one request", param=where)
        return out

    async def seconds(self, data: bytes, place: str) -> float:
        """The length of a recording; ApiError for one that cannot be decoded or is too long.

        What was decoded is not kept for the engine, which hears it later: half an hour is 160 MB that way.
        """
        mark = await _aside(len(data), _digest, data)
        if mark not in self._lengths:
            try:
                self._lengths[mark] = await self.in_thread(_length, data, self._settings.max_audio_seconds)
            except MllmError as error:
                raise as_api_error(error, param=place) from error
            while len(self._lengths) > _REMEMBERED:
                self._lengths.popitem(last=False)
        return self._lengths[mark]

    async def _message(self, message: Message, place: str, shown: Shown) -> dict[str, Any]:
        content = message.content
        if content is None or isinstance(content, str):
            said = [{"type": "text", "text": content}] if content else []
        else:
            said = await self.parts(content, f"{place}.content", shown)
        if isinstance(message, ToolMessage):
            return {"role": "user", "content": [{"type": "text", "text": result_text(_words(said))}]}
        if isinstance(message, AssistantMessage):
            calls = [call_text(c.function.name, _arguments(c.function.arguments)) for c in message.tool_calls or ()]
            words = "\n".join(filter(None, [_words(said), *calls]))
            return {"role": "assistant", "content": [{"type": "text", "text": words}]}
        if message.role == "user":
            shown.question = _words(said)
            return {"role": "user", "content": said}
        return {"role": "system", "content": said}

    async def _part(self, part: Part, place: str, shown: Shown) -> list[dict[str, Any]]:
        if isinstance(part, TextPart):
            return [{"type": "text", "text": part.text}]
        if isinstance(part, ScorePart):
            return await self._score(part.score, f"{place}.score", shown)
        if isinstance(part, InputAudioPart):
            place = f"{place}.input_audio.data"
            data = await _bytes_of(part.input_audio.data, place)
        else:
            assert isinstance(part, AudioUrlPart)
            place = f"{place}.audio_url.url"
            data = await self._at(part.audio_url.url, place)
        await self.seconds(data, place)
        shown.media.append(data)
        return [{"type": "audio", "audio": data}]

    async def _at(self, url: str, place: str) -> bytes:
        if url[:5].lower() == "data:":
            head = _DATA_URI.match(url[:200])
            if head is None:
                raise ApiError("a data: URI here is data:audio/wav;base64,… with base64 in it", param=place)
            return await _bytes_of(url[head.end() :], place)
        try:
            return await self._fetcher.fetch(url)
        except ApiError as error:
            error.param = place
            raise

    async def _score(self, given: ScoreData, place: str, shown: Shown) -> list[dict[str, Any]]:
        try:
            score, abc = await self.in_thread(read_given_score, given, place)
            parts: list[dict[str, Any]] = [{"type": "score", "score": abc}]
            if given.hear:
                parts.insert(0, {"type": "audio", "audio": await self.in_thread(_played, abc)})
        except ModuleNotFoundError as error:
            raise ApiError(f"this server cannot read {given.format}", 501, "not_installed", param=place) from error
        shown.media.append(score)
        return parts


def _length(data: bytes, most: float) -> float:
    """Seconds of a recording; AudioError for one that cannot be decoded, is longer than `most`, or too much work."""
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as sound:
            samples = min(sound.frames, round(most * sound.samplerate)) * sound.channels
    except (soundfile.LibsndfileError, TypeError):
        samples = 0  # `load_audio` knows words for it
    if samples > _MOST_SAMPLES:
        # silence in eight channels at 655 kHz is 10 MB for half an hour, and takes a core half a minute
        raise AudioError(
            f"recording: up to {samples / 1e6:.0f} million samples in all channels, at most {_MOST_SAMPLES / 1e6:.0f} "
            "million are taken; mix it to mono, or lower its sampling rate"
        )
    return len(load_audio(data, _CHECK_RATE, most)) / _CHECK_RATE


def _words(parts: Sequence[dict[str, Any]]) -> str:
    return "".join(part["text"] for part in parts if part["type"] == "text")


def _arguments(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text  # cut off by a limit; it goes back as it came


async def _aside(size: int, work: Callable[..., T], *args: Any) -> T:
    """Short work on many bytes, for which the event loop need not stand still nor anybody wait for a turn."""
    return work(*args) if size < _LARGE else await to_thread.run_sync(work, *args)


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


async def _bytes_of(text: str, place: str) -> bytes:
    return await _aside(len(text), from_base64, text, place)


def from_base64(text: str, place: str) -> bytes:
    """Bytes of base64, strictly; ApiError where it is none or empty."""
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise ApiError("not base64: send the bytes of the file in base64, in one line", code="invalid_base64",
                       param=place) from error  # fmt: skip
    if not data:
        raise ApiError("empty: there are no bytes in it", code="invalid_base64", param=place)
    return data


def read_given_score(given: ScoreData, place: str = "score") -> tuple[Score, str]:
    """A score of a request and its ABC text.

    Raises:
        ScoreError: malformed, too large, too slow to read. ApiError: not base64.
    """
    if len(given.data) > MOST_SCORE_BYTES:
        raise ScoreError(f"the score has {len(given.data) / 1e6:.1f} MB; at most {MOST_SCORE_BYTES / 1e6:g} are read")
    score = _READERS[given.format](given.data, place)
    return score, to_abc(score)


def _read_midi(data: str, place: str) -> Score:
    return quantize(read_midi(from_base64(data, f"{place}.data")))[0]  # it is read, not only heard


def _read_mxl(data: str, place: str) -> Score:
    return _notation(from_base64(data, f"{place}.data"))


def _notation(data: bytes) -> Score:
    return read_notation(data, "musicxml", time_limit=MOST_SCORE_SECONDS, max_bytes=MOST_SCORE_BYTES * 4)


_READERS: dict[str, Callable[[str, str], Score]] = {
    "abc": lambda data, place: read_abc(data),
    "midi": _read_midi,
    "musicxml": lambda data, place: _notation(data.encode()),
    "mxl": _read_mxl,
}


@lru_cache(maxsize=4)
def _played(abc: str) -> bytes:
    """The sound of a score as a wav file; the same score is the same bytes, so it is heard once."""
    from mllm.sound_files import sound_file
    from mllm.synthesis import play

    return sound_file(play(read_abc(abc), _PLAY_RATE), _PLAY_RATE)
