"""A model's greedy answers in batches: each clip's tower features are computed once and shared by all questions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from mllm.assemble import load_model


class Answerer:
    """Asks a model fixed questions about many waveforms, and the same questions about silence or about nothing."""

    def __init__(self, model: str, max_new_tokens: int = 24):
        """`model`: as `mllm.assemble.load_model` takes it; answers are cut at `max_new_tokens`."""
        self.model, self.processor = load_model(model)
        self.max_new_tokens = max_new_tokens
        self._heard_nothing: dict[tuple[int, str], str] = {}

    @property
    def sampling_rate(self) -> int:
        """Hz of the waveforms to give."""
        return self.processor.feature_extractor.sampling_rate

    def load(self, path: Any) -> np.ndarray:
        """Float32 mono waveform of a file, as the model hears it."""
        return self.processor.load(path)

    @torch.inference_mode()
    def ask(self, waveforms: Sequence[np.ndarray], questions: Sequence[str]) -> list[list[str]]:
        """Answers [questions][waveforms]."""
        batch = [_messages(question, wave) for question in questions for wave in waveforms]
        inputs = self.processor.encode(batch)
        # encode kept the order, so the first of as many equal stretches as there are questions holds every clip once
        windows = inputs["input_features"]
        once = windows[: len(windows) // len(questions)]
        features = torch.cat([self.model.model.audio_tower(w[None]).last_hidden_state for w in once])
        audio = self.model.get_audio_features(
            tower_features=features.repeat(len(questions), 1, 1), input_features_mask=inputs["input_features_mask"]
        ).pooler_output
        embeds = self.model.get_input_embeddings()(inputs["input_ids"])
        texts = self._generate(self.model.model.merge_audio(inputs["input_ids"], embeds, audio), inputs)
        return [texts[i : i + len(waveforms)] for i in range(0, len(texts), len(waveforms))]

    def silence(self, samples: int, question: str) -> str:
        """The answer when zeros of the same length stand in the clip's place (decoding is greedy: asked once)."""
        if (samples, question) not in self._heard_nothing:
            answer = self.ask([np.zeros(samples, np.float32)], [question])[0][0]
            self._heard_nothing[samples, question] = answer
        return self._heard_nothing[samples, question]

    @torch.inference_mode()
    def text_only(self, question: str) -> str:
        """The answer to the bare question, with no audio part in the message (asked once)."""
        if (0, question) not in self._heard_nothing:
            inputs = self.processor.encode([_messages(question, None)])
            embeds = self.model.get_input_embeddings()(inputs["input_ids"])
            self._heard_nothing[0, question] = self._generate(embeds, inputs)[0]
        return self._heard_nothing[0, question]

    def _generate(self, embeds: torch.Tensor, inputs: Any) -> list[str]:
        tokens = self.model.generate(
            inputs_embeds=embeds,
            attention_mask=inputs["attention_mask"],
            max_new_tokens=self.max_new_tokens,
            do_sample=False,
            pad_token_id=self.processor.tokenizer.pad_token_id,
        )
        return [t.strip() for t in self.processor.tokenizer.batch_decode(tokens, skip_special_tokens=True)]


def _messages(question: str, waveform: np.ndarray | None) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = [] if waveform is None else [{"type": "audio", "audio": waveform}]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": question}]}]
