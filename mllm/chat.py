"""Ask a music language model: `load("mini").ask("song.mp3", "What key is this in?")`.

What the model hears in a recording is computed once and kept, so a second question about it starts at once.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LogitsProcessorList, StoppingCriteria, StoppingCriteriaList, TextIteratorStreamer

from mllm.assemble import MODELS, load_model
from mllm.audio import SILENCE
from mllm.errors import AudioError, PromptError, ScoreError
from mllm.grammar_decoding import GrammarCompiler, masks
from mllm.hearing import Heard, Hearing, Memory, fingerprint
from mllm.modeling import MusicLMForConditionalGeneration
from mllm.processing import MusicLMProcessor, is_score, read_conversation
from mllm.provenance import read_provenance

Progress = Callable[[int, int], None]  # windows heard, windows in all
Source = str | Path | bytes | np.ndarray

WINDOWS_AT_ONCE = 8  # bounds the memory that the tower takes, however long the recording

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
class Draft:
    """A conversation as tokens, its recordings still to be heard."""

    ids: torch.Tensor  # [1, tokens], the audio token wherever a recording stands
    hearings: tuple[Hearing, ...]  # in order of appearance
    begin: str = ""  # what the answer begins with: the model goes on from there

    @property
    def audio_tokens(self) -> int:
        """How many of the tokens are sound."""
        return sum(int(hearing.mask.sum()) for hearing in self.hearings)

    def sounding(self, first: int, audio_token: int) -> tuple[int, tuple[Hearing, ...]]:
        """The recordings that stand at or after token `first`, and how many tokens of theirs stand before it."""
        before = int((self.ids[0, :first] == audio_token).sum())
        for number, hearing in enumerate(self.hearings):
            count = int(hearing.mask.sum())
            if before < count:
                return before, self.hearings[number:]
            before -= count
        return 0, ()


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
        self.memory = Memory()
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
                    parts.append({"type": "audio", "audio": _played(source, self.sampling_rate)})
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
            prompt = self.prepare(messages, max_new_tokens, progress, grammar, begin)
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
            prompt = self.prepare(messages, max_new_tokens, progress, grammar, begin)
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
        return self._finish(self.listen(source), progress)

    def listen(self, source: Source) -> Hearing:
        """Decode a recording to hear it bit by bit; one that is remembered is heard already. From any thread."""
        key = fingerprint(source)
        known = self.memory.recall(key)
        if known:
            log.info("heard before: %.1f s", known.seconds)
            return Hearing(key, known, self.model, self.processor.feature_extractor, self.memory)
        waveform = self.processor.load(source)
        if not isinstance(source, np.ndarray) and float(np.abs(waveform).max()) < SILENCE:
            # a waveform from Python may be silent on purpose: evaluation asks what a model says of nothing
            raise AudioError(f"{source if isinstance(source, str | Path) else 'the recording'}: only silence in it")
        return Hearing(key, waveform, self.model, self.processor.feature_extractor, self.memory)

    def _finish(self, hearing: Hearing, progress: Progress | None) -> Heard:
        if hearing.heard:
            return hearing.heard
        begun = time.perf_counter()
        heard = None
        while heard is None:
            heard = hearing.advance(WINDOWS_AT_ONCE)
            if progress:
                progress(hearing.done, hearing.windows)
        log.info("heard %.1f s in %.1f s", heard.seconds, time.perf_counter() - begun)
        return heard

    @cached_property
    def grammars(self) -> GrammarCompiler:
        """Compiles grammars for this model."""
        return GrammarCompiler(self.processor.tokenizer, self.vocabulary, self.stops)

    @property
    def stops(self) -> list[int]:
        """Ids of the tokens that end an answer."""
        stops = self.model.generation_config.eos_token_id
        return stops if isinstance(stops, list) else [stops]

    @property
    def vocabulary(self) -> int:
        """How many logits the model gives, which may be more than the tokenizer has tokens."""
        return self.model.config.text_config.vocab_size

    def draft(self, messages: Sequence[dict[str, Any]], max_new_tokens: int, begin: str = "") -> Draft:
        """Everything of a prompt but its sound: checked, decoded, rendered, cut into tokens. From any thread.

        Raises:
            AudioError, ScoreError: a recording or score in it cannot be used.
            PromptError: messages of a wrong form, or prompt and answer do not fit in the model's context.
        """
        processor = self.processor
        conversation = read_conversation(messages, processor.reserved)
        listened = [self.listen(source) for source in conversation.audios]
        one = {hearing.key: hearing for hearing in listened}  # a clip that comes twice is heard once
        hearings = tuple(one[hearing.key] for hearing in listened)
        first, *rest = processor.render(conversation.messages, add_generation_prompt=True).split(processor.audio_token)
        sound = [processor.audio_text(hearing.mask) for hearing in hearings]
        text = first + "".join(tokens + piece for tokens, piece in zip(sound, rest, strict=True)) + begin
        return self._tokens(text, max_new_tokens, hearings, begin)

    def draft_text(self, text: str, max_new_tokens: int) -> Draft:
        """A prompt that is plain text, put in no template; PromptError as in `draft`."""
        if not text:
            raise PromptError("the prompt is empty: give the model some text to go on from")
        for token in self.processor.reserved:
            if token in text:
                raise PromptError(f"the text holds {token!r}, which is reserved for the prompt's own marks: remove it")
        return self._tokens(text, max_new_tokens, (), "", special=True)

    def _tokens(
        self, text: str, max_new_tokens: int, hearings: tuple[Hearing, ...], begin: str, special: bool = False
    ) -> Draft:
        ids = self.processor.tokenizer(text, add_special_tokens=special, return_tensors="pt", verbose=False)
        draft = Draft(ids["input_ids"], hearings, begin)
        length = draft.ids.shape[1]
        if self.context and length + max_new_tokens > self.context:
            raise PromptError(
                f"the prompt takes {length} tokens ({draft.audio_tokens} of them sound) and the answer up to "
                f"{max_new_tokens}, but this model holds {self.context}: give it fewer or shorter recordings and scores"
            )
        return draft

    @torch.no_grad()
    def embed(self, draft: Draft, first: int = 0) -> torch.Tensor:
        """[1, tokens, text hidden size] of a prompt from token `first` on, whose recordings from there on are heard."""
        ids = draft.ids[:, first:].to(self.model.device)
        embeddings = self.model.get_input_embeddings()(ids)
        before, hearings = draft.sounding(first, self.processor.audio_token_id)
        heard = [hearing.heard.embeddings for hearing in hearings if hearing.heard]
        if not heard:
            return embeddings
        return self.model.model.merge_audio(ids, embeddings, torch.cat(heard)[before:])

    def prepare(
        self,
        messages: Sequence[dict[str, Any]],
        max_new_tokens: int,
        progress: Progress | None = None,
        grammar: str | None = None,
        begin: str = "",
    ) -> Prompt:
        """A conversation ready for the language model, its recordings heard; arguments and errors as in `chat`."""
        compiled = self.grammars.compile(grammar) if grammar is not None else None
        draft = self.draft(messages, max_new_tokens, begin)
        for hearing in draft.hearings:
            self._finish(hearing, progress)
        seconds = sum(hearing.seconds for hearing in draft.hearings)
        return Prompt(self.embed(draft), draft.audio_tokens, seconds, begin, compiled)

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
        answer.seconds = time.perf_counter() - begun
        answer.audio_seconds = prompt.audio_seconds
        answer.audio_tokens = prompt.audio_tokens
        answer.prompt_tokens = prompt.embeddings.shape[1]
        answer.answer_tokens = len(ids)
        answer.complete = bool(len(ids)) and int(ids[-1]) in self.stops
        log.info("answered in %.1f s (%d + %d tokens)", answer.seconds, answer.prompt_tokens, answer.answer_tokens)
        return answer


def _played(source: str | Path, sampling_rate: int) -> np.ndarray:
    from mllm.score import read_score  # both take a moment to import
    from mllm.synthesis import play

    score = read_score(source)
    try:
        return play(score, sampling_rate)
    except ScoreError as error:
        raise ScoreError(f"{source}: {error}") from error


def load(name: str = "mini", dtype: torch.dtype = torch.bfloat16) -> MusicLM:
    """Load a model: the shipped `"mini"`, or the folder of a checkpoint or adapter.

    The first time, base weights are fetched into the cache (`MLLM_CACHE`).

    Raises:
        WeightsError: no such model, a damaged checkpoint, weights that cannot be fetched.
    """
    model, processor = load_model(name, dtype)
    provenance = read_provenance(MODELS.get(name, Path(name)))
    return MusicLM(model, processor, name, provenance)
