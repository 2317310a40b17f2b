"""Tiny random models of real architectures, made by the tests: no hub, seconds not minutes."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma3TextConfig,
    LlamaConfig,
    PretrainedConfig,
    Qwen3Config,
)

from mllm.assemble import assemble
from mllm.modeling import MusicLMForConditionalGeneration
from mllm.processing import MusicLMProcessor
from mllm.weights import language_model

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 8192,
    "vocab_size": 49152,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 2,
}
TEXT_CONFIGS: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**SIZES, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**SIZES, tie_word_embeddings=False),
    "gemma3": Gemma3TextConfig(**SIZES, tie_word_embeddings=True, sliding_window=512),
}


@functools.cache
def tokenizer_folder() -> Path:
    """SmolLM2's tokenizer, out of the pinned weights."""
    return language_model()


def save_tiny_text_model(folder: Path, name: str = "llama") -> str:
    """Write a tiny random causal language model with a real tokenizer; returns the folder."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(TEXT_CONFIGS[name])
    for parameter in model.parameters():  # livelier than the initialisation: attention must not be flat
        if parameter.dim() > 1:
            parameter.data.mul_(4)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer_folder()).save_pretrained(folder)
    return str(folder)


def tiny_model(
    folder: Path, text: str = "llama", tower: str = "tempogram", **projector
) -> tuple[MusicLMForConditionalGeneration, MusicLMProcessor]:
    """A whole music language model around a tiny text model; the tempogram tower has no weights to fetch."""
    options = {"projector_hidden_size": 64, "projector_layers": 1, "projector_dropout": 0.0} | projector
    torch.manual_seed(1)
    return assemble(tower, save_tiny_text_model(folder, text), **options)


def clicks(bpm: float, seconds: float = 10.0, rate: int = 22050, pitch: float = 1000.0) -> np.ndarray:
    """A click track: float32 mono [samples]."""
    time = np.arange(round(seconds * rate)) / rate
    beat = time % (60 / bpm)
    return (0.5 * np.sin(2 * np.pi * pitch * time) * np.exp(-beat * 40)).astype(np.float32)


def question(*audios: np.ndarray | str, text: str = "What is the tempo?") -> list[dict]:
    """One user turn about some audios."""
    parts: list[dict] = [{"type": "audio", "audio": audio} for audio in audios]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]
