"""A vector for a text, a recording or both: the mean of the language model's last hidden states over the prompt.

These models were tuned to answer and not to compare: the vectors are as near as what the model says would be, and no
trained retrieval model.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import torch

from mllm.chat import WINDOWS_AT_ONCE, MusicLM


class Embedder:
    """Makes vectors with a loaded model, one at a time. From any thread."""

    def __init__(self, music: MusicLM):
        self._music = music
        self._lock = threading.Lock()

    @torch.no_grad()
    def embed(self, content: Sequence[dict[str, Any]]) -> tuple[list[float], int]:
        """(unit vector [text hidden size], prompt tokens) of the content parts of a user's message.

        Raises AudioError, ScoreError, PromptError.
        """
        with self._lock:
            draft = self._music.draft([{"role": "user", "content": list(content)}], 0)
            for hearing in draft.hearings:
                while hearing.heard is None:
                    hearing.advance(WINDOWS_AT_ONCE)
            language_model = self._music.model.model.get_decoder()
            states = language_model(inputs_embeds=self._music.embed(draft), use_cache=False).last_hidden_state[0]
            mean = states.float().mean(0)
            return torch.nn.functional.normalize(mean, dim=0).tolist(), draft.ids.shape[1]
