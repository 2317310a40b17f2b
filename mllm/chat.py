"""Ask a music language model: `load("mini").ask("song.mp3", "What key is this in?")`.

What the model hears in a recording is computed once and kept, so a second question about it starts at once.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LogitsProcessorList, StoppingCriteria, StoppingCriteriaList, TextIteratorStreamer

from mllm.assemble import MODELS, load_model
from mllm.audio import SILENCE, samples_sha256
from mllm.errors import AudioError, PromptError, ScoreError
from mllm.grammar_decoding import GrammarCompiler, masks
from mllm.modeling import MusicLMForConditionalGeneration
from mllm.processing import MusicLMProcessor, is_score, read_conversation
from mllm.provenance import read_provenance

Progress = Callable[[int, int], None]  # windows heard, windows in all
Source = str | Path | bytes | np.ndarray

WINDOWS_AT_ONCE = 8  # bounds the memory that the tower takes, however long the recording
REMEMBERED_CLIPS = 16
MAX_SCORE_SECONDS = 1800.0

log = logging.getLogger(__name__)


class Answer(str):
    """The model's words, with what they cost.

    Attributes:
        seconds: wall-clock seconds from question to last word.
        audio_seconds: length of all recordings in the conversation, seconds.
        audio_tokens, prompt_tokens, answer_tokens: counts; the prompt's hold the audio's.
        complete: False where the answer was cut off at `max_new_tokens`.
    """

    seconds: float
    audio_seconds: float
    audio_tokens: int
    prompt_tokens: int
    answer_tokens: int
    complete: bool


@dataclass(frozen=True)
class Heard:
    """A recording as the model holds it."""

    embeddings: torch.Tensor  # [audio tokens, text hidden size]
    mask: np.ndarray  # [windows, tokens a window] bool, which tokens stand in the prompt
    seconds: float


@dataclass(frozen=True)
class Prompt:
    """A conversation ready for the language model."""

    embeddings: torch.Tensor  # [1, tokens, text hidden size]
    audio_tokens: int
    audio_seconds: float
    begin: str = ""  # what the answer begins with: the model goes on from there
    grammar: Any = None  # of what it may write, compiled


class _Halt(StoppingCriteria):
    """Ends a generation whose reader has left."""

    def __init__(self) -> None:
        self.asked = threading.Event()

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        return torch.full((len(input_ids),), self.asked.is_set(), device=input_ids.device)


class MusicLM:
    """A loaded model to talk to. May be used from several threads; it answers one at a time."""

    def __init__(
        self,
        model: MusicLMForConditionalGeneration,
        processor: MusicLMProcessor,
        name: str = "",
        provenance: Any = None,
    ):
        self.model = model
        self.processor = processor
        self.name = name
        self.provenance: dict[str, Any] = provenance or {}
        self.context: int | None = getattr(model.config.text_config, "max_position_embeddings", None)
        self._heard: OrderedDict[str, Heard] = OrderedDict()
        self._lock = threading.Lock()

    def ask(
        self,
        sources: Source | Sequence[Source],
        question: str,
        *,
        max_new_tokens: int = 64,
        hear: bool = False,
        progress: Progress | None = None,
        **sampling: Any,
    ) -> Answer:
        """Answer one question about recordings and scores.

        Args:
            sources: path of a recording (wav, flac, ogg, mp3, aiff) or score (abc, mid, musicxml, mxl, krn), the bytes
                of a recording, or a float mono waveform [samples] at the model's rate; or a list of these.
            question: the question, in words.
            max_new_tokens: longest answer, in tokens.
            hear: play a score to the model as well; without it a score is read as ABC text only.
            progress: called with (windows heard, windows in all) while a recording is heard.
            sampling: see `chat`.

        Raises:
            AudioError, ScoreError: a source cannot be used.
            PromptError: recordings and question do not fit in the model's context.
        """
        if isinstance(sources, list | tuple) and not sources:
            raise PromptError("nothing to ask about: give at least one recording or score")
        message = self.question(sources, question, hear=hear)
        return self.chat([message], max_new_tokens=max_new_tokens, progress=progress, **sampling)

    def question(self, sources: Source | Sequence[Source], question: str, *, hear: bool = False) -> dict[str, Any]:
        """The user's message with some recordings and scores and a question; arguments as in `ask`."""
        if not isinstance(question, str) or not question.strip():
            raise PromptError('the question is empty: ask something, such as "What key is this in?"')
        given = list(sources) if isinstance(sources, list | tuple) else [sources]
        parts: list[dict[str, Any]] = []
        for source in given:
            if not isinstance(source, str | Path | bytes | np.ndarray):
                raise PromptError(f"a recording or score is a path, bytes or a waveform, not {type(source).__name__}")
            if isinstance(source, str | Path) and is_score(source):
                if hear:
                    parts.append({"type": "audio", "audio": play_score(source, self.sampling_rate)})
                parts.append({"type": "score", "score": source})
            else:
                parts.append({"type": "audio", "audio": source})
        return {"role": "user", "content": [*parts, {"type": "text", "text": question}]}

    def chat(
        self,
        messages: Sequence[dict[str, Any]],
        *,
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        top_p: float = 1.0,
        grammar: str | None = None,
        begin: str = "",
        progress: Progress | None = None,
    ) -> Answer:
        """The assistant's next turn.

        Args:
            messages: `{"role": …, "content": str | parts}`, parts of type text, audio, score; the last one the user's.
            max_new_tokens: longest answer, in tokens.
            temperature: 0 takes the likeliest token each time; above, tokens are drawn.
            top_p: draw from the likeliest tokens that hold this much of the probability.
            grammar: EBNF of xgrammar (rule `root`) that what the model writes keeps to, such as one of
                `mllm.abc_grammar`. An answer that is not `complete` may stop in the middle of it.
            begin: words that the model is to go on from, as if it had written them; they are not part of the answer,
                nor of the grammar.
            progress: called with (windows heard, windows in all) while a recording is heard.
        """
        begun = time.perf_counter()
        with self._lock:
            prompt = self._prepare(messages, max_new_tokens, progress, grammar, begin)
            ids = self._generate(prompt, max_new_tokens, temperature, top_p)
        return self._answer(prompt, ids, begun)

    def stream(
        self,
        messages: Sequence[dict[str, Any]],
        *,
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        top_p: float = 1.0,
        grammar: str | None = None,
        begin: str = "",
        progress: Progress | None = None,
    ) -> Generator[str, None, Answer]:
        """Like `chat`, in pieces of text as they come. The iterator's return value is the `Answer`.

        Closing the iterator ends the generation.
        """
        begun = time.perf_counter()
        with self._lock:
            prompt = self._prepare(messages, max_new_tokens, progress, grammar, begin)
        streamer = TextIteratorStreamer(self.processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
        halt = _Halt()
        result: list[torch.Tensor] = []
        failure: list[BaseException] = []

        def work() -> None:
            try:
                with self._lock:
                    result.append(self._generate(prompt, max_new_tokens, temperature, top_p, streamer, halt))
            except BaseException as error:  # carried over to the reader's thread
                failure.append(error)
            finally:
                streamer.text_queue.put(streamer.stop_signal)

        worker = threading.Thread(target=work, name="mllm-stream", daemon=True)
        worker.start()
        try:
            yield from (piece for piece in streamer if piece)
        finally:
            halt.asked.set()
            worker.join()
        if failure:
            raise failure[0]
        return self._answer(prompt, result[0], begun)

    @property
    def sampling_rate(self) -> int:
        """Hz at which the model listens."""
        return self.processor.feature_extractor.sampling_rate

    def hear(self, source: Source, progress: Progress | None = None) -> Heard:
        """Encode a recording, or remember it: the key is the sha256 of the file, or of the samples of a waveform."""
        key = _fingerprint(source)
        if key in self._heard:
            self._heard.move_to_end(key)
            log.info("heard before: %.1f s", self._heard[key].seconds)
            return self._heard[key]
        begun = time.perf_counter()
        waveform = self.processor.load(source)
        if not isinstance(source, np.ndarray) and float(np.abs(waveform).max()) < SILENCE:
            # a waveform from Python may be silent on purpose: evaluation asks what a model says of nothing
            raise AudioError(f"{source if isinstance(source, str | Path) else 'the recording'}: only silence in it")
        heard = self._encode(waveform, progress)
        log.info("heard %.1f s in %.1f s", heard.seconds, time.perf_counter() - begun)
        self._heard[key] = heard
        while len(self._heard) > REMEMBERED_CLIPS:
            self._heard.popitem(last=False)
        return heard

    @torch.no_grad()
    def _encode(self, waveform: np.ndarray, progress: Progress | None) -> Heard:
        extractor = self.processor.feature_extractor
        mask = extractor.token_mask(len(waveform))
        step = WINDOWS_AT_ONCE * extractor.window_samples
        used = waveform[: len(mask) * extractor.window_samples]
        device, kept = self.model.device, []
        for first in range(0, len(mask), WINDOWS_AT_ONCE):
            start = first * extractor.window_samples
            features = extractor(used[start : start + step], return_tensors="pt")["input_features"].to(device)
            of_batch = torch.from_numpy(mask[first : first + WINDOWS_AT_ONCE])
            kept.append(self.model.get_audio_features(features, of_batch).pooler_output)
            if progress:
                progress(min(first + WINDOWS_AT_ONCE, len(mask)), len(mask))
        return Heard(torch.cat(kept), mask, len(waveform) / extractor.sampling_rate)

    @cached_property
    def grammars(self) -> GrammarCompiler:
        """Compiles grammars for this model."""
        stops = self.model.generation_config.eos_token_id
        vocabulary = self.model.get_output_embeddings().weight.shape[0]
        return GrammarCompiler(self.processor.tokenizer, vocabulary, stops if isinstance(stops, list) else [stops])

    @torch.no_grad()
    def _prepare(
        self,
        messages: Sequence[dict[str, Any]],
        max_new_tokens: int,
        progress: Progress | None,
        grammar: str | None,
        begin: str,
    ) -> Prompt:
        processor = self.processor
        compiled = self.grammars.compile(grammar) if grammar is not None else None
        conversation = read_conversation(messages, processor.reserved)
        heard = [self.hear(source, progress) for source in conversation.audios]
        first, *rest = processor.render(conversation.messages, add_generation_prompt=True).split(processor.audio_token)
        text = first + "".join(processor.audio_text(clip.mask) + piece for clip, piece in zip(heard, rest, strict=True))
        text += begin
        ids = processor.tokenizer(text, add_special_tokens=False, return_tensors="pt", verbose=False)["input_ids"]
        ids = ids.to(self.model.device)
        audio_tokens = sum(len(clip.embeddings) for clip in heard)
        if self.context and ids.shape[1] + max_new_tokens > self.context:
            raise PromptError(
                f"the prompt takes {ids.shape[1]} tokens ({audio_tokens} of them sound) and the answer up to "
                f"{max_new_tokens}, but this model holds {self.context}: give it fewer or shorter recordings and scores"
            )
        embeddings = self.model.get_input_embeddings()(ids)
        if heard:
            sound = torch.cat([clip.embeddings for clip in heard])
            embeddings = self.model.model.merge_audio(ids, embeddings, sound)
        return Prompt(embeddings, audio_tokens, sum(clip.seconds for clip in heard), begin, compiled)

    def _generate(
        self,
        prompt: Prompt,
        max_new_tokens: int,
        temperature: float,
        top_p: float,
        streamer: TextIteratorStreamer | None = None,
        halt: _Halt | None = None,
    ) -> torch.Tensor:
        """Ids [tokens] of the answer alone."""
        sampling = {"do_sample": True, "temperature": temperature, "top_p": top_p} if temperature > 0 else {}
        ids = self.model.generate(
            inputs_embeds=prompt.embeddings,
            attention_mask=torch.ones(prompt.embeddings.shape[:2], dtype=torch.long, device=prompt.embeddings.device),
            max_new_tokens=max_new_tokens,
            streamer=streamer,
            stopping_criteria=StoppingCriteriaList([halt] if halt else []),
            logits_processor=LogitsProcessorList([masks([prompt.grammar])] if prompt.grammar else []),
            **sampling,
        )
        return ids[0]

    def _answer(self, prompt: Prompt, ids: torch.Tensor, begun: float) -> Answer:
        text = self.processor.tokenizer.decode(ids, skip_special_tokens=True)
        # behind words that were given, a space or a line break belongs to the answer
        answer = Answer(text.rstrip() if prompt.begin else text.strip())
        stops = self.model.generation_config.eos_token_id
        answer.seconds = time.perf_counter() - begun
        answer.audio_seconds = prompt.audio_seconds
        answer.audio_tokens = prompt.audio_tokens
        answer.prompt_tokens = prompt.embeddings.shape[1]
        answer.answer_tokens = len(ids)
        answer.complete = bool(len(ids)) and int(ids[-1]) in (stops if isinstance(stops, list) else [stops])
        log.info("answered in %.1f s (%d + %d tokens)", answer.seconds, answer.prompt_tokens, answer.answer_tokens)
        return answer


def load(name: str = "mini", dtype: torch.dtype = torch.bfloat16) -> MusicLM:
    """Load a model: the shipped `"mini"`, or the folder of a checkpoint or adapter.

    The first time, base weights are fetched into the cache (`MLLM_CACHE`).

    Raises:
        WeightsError: no such model, a damaged checkpoint, weights that cannot be fetched.
    """
    model, processor = load_model(name, dtype)
    provenance = read_provenance(MODELS.get(name, Path(name)))
    return MusicLM(model, processor, name, provenance)


def play_score(path: str | Path, sampling_rate: int) -> np.ndarray:
    """Float32 mono waveform [samples] of a score, synthesized; ScoreError when it cannot be read or is too long."""
    from mllm.score import read_score, to_midi
    from mllm.synthesis import render

    score = read_score(path)
    seconds = score.length * 60 / (score.tempo or 120.0)
    if seconds > MAX_SCORE_SECONDS:
        raise ScoreError(
            f"{path}: takes {seconds / 60:.0f} minutes to play, at most {MAX_SCORE_SECONDS / 60:.0f} are heard"
        )
    return render(to_midi(score), sampling_rate=sampling_rate).mean(axis=1, dtype=np.float32)


def _fingerprint(source: Source) -> str:
    if isinstance(source, np.ndarray):
        return "samples:" + samples_sha256(source)
    if isinstance(source, bytes):
        return "file:" + hashlib.sha256(source).hexdigest()
    if not Path(source).is_file():
        return f"path:{source}"  # decoding says what is wrong with it
    try:
        with open(source, "rb") as file:
            return "file:" + hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return f"path:{source}"
