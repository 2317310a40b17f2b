"""Messages with audio and scores in them -> tensors. One format from data recipe to API (OpenAI / HF content parts)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoProcessor, BatchFeature, ProcessorMixin
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from mllm.configuration import MusicLMConfig
from mllm.errors import PromptError
from mllm.feature_extraction import MusicLMFeatureExtractor

AUDIO_TOKEN = "<|audio|>"
ROLES = ("system", "user", "assistant")

# Put before a text model's own chat template: turns list content into one string, so that any template renders it.
FLATTEN_CONTENT = """
{%- set flat = namespace(messages=[]) -%}
{%- for message in messages -%}
{%- if message['content'] is string -%}{%- set text = message['content'] -%}
{%- else -%}
{%- set text -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'text' -%}{{ part['text'] }}
{%- elif 'audio' in part['type'] -%}AUDIO_TOKEN{{ '\n' }}
{%- endif -%}
{%- endfor -%}
{%- endset -%}
{%- endif -%}
{%- set flat.messages = flat.messages + [{'role': message['role'], 'content': text}] -%}
{%- endfor -%}
{%- set messages = flat.messages -%}
""".replace("\n{", "{").replace("AUDIO_TOKEN", AUDIO_TOKEN)

PLAIN_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def multimodal_template(tokenizer: PreTrainedTokenizerBase) -> str:
    """A chat template that renders content parts, made from a text model's own.

    Models that speak ChatML get the bare form of it: their own templates add a persona of another product to every
    prompt, or rewrite earlier turns, which makes a dialogue impossible to train turn by turn.
    """
    speaks_chatml = {"<|im_start|>", "<|im_end|>"} <= tokenizer.get_vocab().keys()
    return FLATTEN_CONTENT + (
        PLAIN_TEMPLATE if speaks_chatml or not tokenizer.chat_template else tokenizer.chat_template
    )


@dataclass
class Conversation:
    """Messages checked and ready to render: text and audio parts only, and the audios in order of appearance."""

    messages: list[dict[str, Any]]
    audios: list[Any]


def read_conversation(messages: Sequence[dict[str, Any]], reserved: Sequence[str] = (AUDIO_TOKEN,)) -> Conversation:
    """Check messages, gather their audios, turn scores into ABC text.

    Args:
        messages: `{"role": …, "content": str | parts}`; parts are `{"type": "text", "text"}`, `{"type": "audio",
            "audio": path | bytes | waveform}`, `{"type": "score", "score": path}`.
        reserved: strings that stand for something in the prompt and may not come from a user's text.

    Raises:
        PromptError: wrong format, or a reserved string in a text.
    """
    if not messages or not all(isinstance(message, dict) for message in messages):
        raise PromptError('expected a list of messages such as {"role": "user", "content": "…"}')
    audios: list[Any] = []
    out = []
    for message in messages:
        if message.get("role") not in ROLES:
            raise PromptError(f"role {message.get('role')!r}: must be one of {', '.join(ROLES)}")
        content = message.get("content")
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if not isinstance(parts, list | tuple):
            raise PromptError(f"content must be a string or a list of parts, not {type(content).__name__}")
        read = [_read_part(part, audios) for part in parts]
        # neighbours stand together in the prompt, so a mark in two halves is a mark
        said = "\0".join("".join(p["text"] for p in run) for is_text, run in groupby(read, _is_text) if is_text)
        for token in reserved:
            if token in said:
                raise PromptError(f"the text holds {token!r}, which is reserved for the prompt's own marks: remove it")
        out.append({"role": message["role"], "content": read})
    return Conversation(out, audios)


def _is_text(part: dict[str, str]) -> bool:
    return part["type"] == "text"


def _read_part(part: dict[str, Any], audios: list[Any]) -> dict[str, str]:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind not in PART_READERS:
        raise PromptError(f"content part of type {kind!r}: must be one of {', '.join(PART_READERS)}")
    if part.get(kind) is None:
        raise PromptError(f'a content part of type {kind!r} needs a field "{kind}"')
    text = PART_READERS[kind](part[kind], audios)
    return {"type": "audio"} if kind == "audio" else {"type": "text", "text": text}


def _read_audio(source: Any, audios: list[Any]) -> str:
    audios.append(source)
    return ""


def _read_score(source: Any, audios: list[Any]) -> str:
    from mllm.score import read_notated, to_abc

    return to_abc(read_notated(source)[0]) + "\n"


PART_READERS: dict[str, Callable[[Any, list[Any]], str]] = {
    "text": lambda text, audios: str(text),
    "audio": _read_audio,
    "score": _read_score,
}


def time_mark(seconds: float) -> str:
    """`[1:05]` for 65 seconds: stands before each window of a recording longer than one window."""
    return f"[{int(seconds) // 60}:{int(seconds) % 60:02d}]"


class MusicLMProcessor(ProcessorMixin):
    """Feature extractor and tokenizer of a music language model.

    `processor.encode(messages)` is the whole way from messages to model inputs; `processor(text=…, audio=…)` is the
    lower face that transformers and vLLM call. They expect one row a recording, the model takes either.
    """

    def __init__(self, feature_extractor, tokenizer, chat_template=None, audio_token: str = AUDIO_TOKEN):
        self.audio_token = audio_token
        self.audio_token_id = tokenizer.convert_tokens_to_ids(audio_token)
        super().__init__(feature_extractor, tokenizer, chat_template=chat_template)

    @property
    def reserved(self) -> list[str]:
        """Strings that the tokenizer reads as single control tokens."""
        return list(self.tokenizer.all_special_tokens) + [self.audio_token]

    def audio_text(self, mask: np.ndarray) -> str:
        """The stretch of prompt that one recording with token mask [windows, tokens] takes."""
        if len(mask) == 1:
            return self.audio_token * int(mask.sum())
        step = self.feature_extractor.window_seconds
        return "".join(time_mark(i * step) + self.audio_token * int(row.sum()) for i, row in enumerate(mask))

    def replace_audio_token(self, audio_inputs: dict, audio_idx: int, **kwargs) -> str:
        counts = audio_inputs["num_windows"]
        start = sum(counts[:audio_idx])
        return self.audio_text(np.asarray(audio_inputs["input_features_mask"])[start : start + counts[audio_idx]])

    @property
    def model_input_names(self) -> list[str]:
        return list(dict.fromkeys([*super().model_input_names, "input_features_mask"]))

    def __call__(self, images=None, text=None, videos=None, audio=None, **kwargs) -> BatchFeature:
        """As `ProcessorMixin`; `input_features` [recordings, windows, …], `input_features_mask` [recordings, windows,
        tokens], filled up to the longest recording with windows that have no token."""
        batch = super().__call__(images, text, videos, audio, **kwargs)
        if "num_windows" in batch:
            counts = [int(count) for count in batch.pop("num_windows")]
            for name in MusicLMFeatureExtractor.model_input_names:
                windows = torch.as_tensor(batch[name]).split(counts)
                batch[name] = torch.nn.utils.rnn.pad_sequence(list(windows), batch_first=True)
        return batch

    def render(self, messages: list[dict[str, Any]], add_generation_prompt: bool = False) -> str:
        """Prompt text of checked messages, one audio token an audio."""
        template = self.chat_template or self.tokenizer.chat_template
        return self.tokenizer.apply_chat_template(
            messages, chat_template=template, tokenize=False, add_generation_prompt=add_generation_prompt
        )

    def load(self, source: Any) -> np.ndarray:
        """Float32 mono waveform [samples] at the tower's rate of a path, bytes or a waveform already at that rate."""
        from mllm.audio import check_waveform, load_audio

        if isinstance(source, np.ndarray):
            return check_waveform(source)
        return load_audio(source, self.feature_extractor.sampling_rate)

    def encode(
        self, conversations: Sequence[Any], add_generation_prompt: bool = True, padding_side: str = "left"
    ) -> BatchFeature:
        """Model inputs for one conversation (a list of messages) or a batch of them (a list of lists).

        Returns:
            BatchFeature of torch tensors: `input_ids`, `attention_mask` [batch, length]; with audio also
            `input_features` [windows, …] and `input_features_mask` [windows, tokens].
        """
        batch = [conversations] if isinstance(conversations[0], dict) else conversations
        read = [read_conversation(messages, self.reserved) for messages in batch]
        audios = [self.load(source) for conversation in read for source in conversation.audios]
        texts = [self.render(conversation.messages, add_generation_prompt) for conversation in read]
        inputs = super().__call__(
            text=texts,
            audio=audios or None,
            padding=True,
            padding_side=padding_side,
            add_special_tokens=False,
            return_tensors="pt",
        )
        inputs.pop("num_windows", None)
        return inputs

    def encode_supervised(
        self, messages: Sequence[dict[str, Any]], masks: Sequence[np.ndarray]
    ) -> dict[str, torch.Tensor]:
        """`input_ids` and `labels` [length] of a whole dialogue; labels are -100 but on the assistant's words.

        Args:
            messages: the dialogue; its audios are not opened.
            masks: token mask [windows, tokens] of each audio, in order (`feature_extractor.token_mask`).
        """
        conversation = read_conversation(messages, self.reserved)
        if len(conversation.audios) != len(masks):
            raise PromptError(f"{len(conversation.audios)} audios in the messages, {len(masks)} token masks")
        ids: list[int] = []
        labels: list[int] = []
        done = ""
        audio_texts = iter([self.audio_text(mask) for mask in masks])
        for i, message in enumerate(conversation.messages):
            if message["role"] != "assistant":
                continue
            prompt = self.render(conversation.messages[:i], add_generation_prompt=True)
            answered = self.render(conversation.messages[: i + 1])
            if not (answered.startswith(prompt) and prompt.startswith(done)):
                raise PromptError(
                    "this model's chat template rewrites earlier turns; it cannot be trained turn by turn"
                )
            for text, supervised in ((prompt[len(done) :], False), (answered[len(prompt) :], True)):
                pieces = text.split(self.audio_token)
                text = pieces[0] + "".join(next(audio_texts) + piece for piece in pieces[1:])
                tokens = self.tokenizer(text, add_special_tokens=False)["input_ids"]
                ids += tokens
                labels += tokens if supervised else [-100] * len(tokens)
            done = answered
        if not ids:
            raise PromptError("no assistant message to learn from")
        return {"input_ids": torch.tensor(ids), "labels": torch.tensor(labels)}


def add_audio_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """Give the tokenizer its audio token when it has none; returns the id."""
    if AUDIO_TOKEN not in tokenizer.get_vocab():
        tokenizer.add_special_tokens({"additional_special_tokens": [AUDIO_TOKEN]}, replace_extra_special_tokens=False)
    return tokenizer.convert_tokens_to_ids(AUDIO_TOKEN)


def build_processor(config: MusicLMConfig, tokenizer: PreTrainedTokenizerBase) -> MusicLMProcessor:
    """The processor of a model with `config` around a text model's tokenizer (which gains the audio token)."""
    config.audio_token_id = add_audio_token(tokenizer)
    template = multimodal_template(tokenizer)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return MusicLMProcessor(MusicLMFeatureExtractor.from_model_config(config), tokenizer, chat_template=template)


def is_score(path: str | Path) -> bool:
    """Whether a file is notation (read as ABC) rather than a recording, by its suffix."""
    return Path(path).suffix.lower() in {".abc", ".mid", ".midi", ".musicxml", ".xml", ".mxl", ".krn"}


AutoProcessor.register(MusicLMConfig, MusicLMProcessor, exist_ok=True)
