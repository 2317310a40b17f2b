"""What each time token of a recording has to say of its melody, and throw-away heads that ask for it.

A time token stands for a few frames (0.2 s in `mini`). Of the frames: which note sounds, and where one begins. Of the
first note that begins in the token: its letter as ABC writes it under the key, its length in units of L:, and its bar.
The letter is asked for like a word (see `fact_heads`): the token has to lie near the language model's own embedding of
"G" or "c", so that the language model finds in a recording what it finds in a score.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase

LETTERS = tuple("CDEFGABcdefgab")
LENGTHS = ("", "2", "3", "4", "6", "8", "/2", "3/2", "3/4", "/4")
BARS = 8
LOWEST, PITCHES = 21, 88
"""MIDI number of class 1; class 0 is that nothing sounds."""
_FIELD = re.compile(r"^(?:[A-Za-z]:.*)$", re.MULTILINE)
_TOKEN = re.compile(r"\||(\^\^|\^|__|_|=)?([A-Ga-gz])([,']*)(\d*/?\d*)(-?)")


def abc_notes(abc: str) -> list[tuple[str, str, int]]:
    """(letter, length, bar from 0) of each sounding note of one melody in ABC; tied notes are one, by their first."""
    notes: list[tuple[str, str, int]] = []
    bar, tied = 0, False
    for match in _TOKEN.finditer(_FIELD.sub("", abc)):
        letter = match[2]
        if letter is None:
            bar += 1
            continue
        if letter != "z" and not tied:
            length = match[4] + "2" * match[4].endswith("/")
            notes.append((letter, length, bar))
        tied = bool(match[5])
    return notes


class NoteTargets:
    """Targets of recordings as tensors; -1 where nothing is asked.

    Args:
        facts: of each recording: `notes` ([onset and end in seconds, MIDI number] of the melody), `seconds`, and `abc`.
        tokens, frames: time tokens of a window, and frames of a token.
        rate: frames a second.
    """

    def __init__(self, facts: Sequence[Mapping[str, Any]], tokens: int, frames: int, rate: float):
        count = len(facts)
        pitch = torch.zeros(count, tokens * frames, dtype=torch.long)
        onset = torch.zeros(count, tokens * frames)
        self.letter = torch.full((count, tokens), len(LETTERS))  # none begins
        self.length = torch.full((count, tokens), -1)
        self.bar = torch.full((count, tokens), -1)
        self.heard = torch.zeros(count, tokens, dtype=torch.bool)
        for i, fact in enumerate(facts):
            self.heard[i, : max(1, round(fact["seconds"] * rate / frames))] = True
            written = abc_notes(fact["abc"])
            known = len(written) == len(fact["notes"])
            if not known:  # nothing can be said of letters
                self.letter[i] = -1
            for number, (begin, end, midi) in enumerate(fact["notes"]):
                first, last = round(begin * rate), round(end * rate)
                if first >= tokens * frames:
                    continue
                pitch[i, first : max(last, first + 1)] = midi - LOWEST + 1 if LOWEST <= midi < LOWEST + PITCHES else -1
                onset[i, first] = 1
                token = first // frames
                if known and self.letter[i, token] == len(LETTERS):
                    letter, length, bar = written[number]
                    self.letter[i, token] = LETTERS.index(letter)
                    self.length[i, token] = LENGTHS.index(length) if length in LENGTHS else -1
                    self.bar[i, token] = min(bar, BARS - 1)
        self.pitch = torch.where(self._of_frames(frames), pitch, -1).unflatten(1, (tokens, frames))
        self.onset = onset.unflatten(1, (tokens, frames))
        self.letter[~self.heard] = -1

    def _of_frames(self, frames: int) -> torch.Tensor:
        return self.heard.repeat_interleave(frames, dim=1)

    def losses(self, logits: dict[str, torch.Tensor], index: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        """Sum of the losses for recordings `index` whose notes were rolled by `shift` semitones.

        A letter belongs to a key, so it is asked of those alone that were not rolled.
        """
        pitch = self.pitch[index]
        moved = pitch + shift[:, None, None]
        moved = torch.where((moved >= 1) & (moved <= PITCHES), moved, -1)
        pitch = torch.where(pitch > 0, moved, pitch)
        heard = self.heard[index]
        letter = torch.where((shift == 0)[:, None], self.letter[index], -1)
        loss = F.cross_entropy(logits["pitch"].flatten(0, 2), pitch.flatten(), ignore_index=-1)
        begins = F.binary_cross_entropy_with_logits(logits["onset"], self.onset[index], reduction="none")
        loss = loss + 2 * begins[heard].mean()
        targets = {"letter": letter, "length": self.length[index], "bar": self.bar[index]}
        for name, target in targets.items():
            if (target >= 0).any():
                loss = loss + F.cross_entropy(logits[name].flatten(0, 1), target.flatten(), ignore_index=-1)
        return loss

    def accuracy(self, logits: dict[str, torch.Tensor]) -> dict[str, float]:
        """Share of right frames (pitch), of right tokens (letter where a note begins, length, bar), F1 of onsets."""
        begins, truth = (logits["onset"] > 0) & self.heard[..., None], self.onset > 0
        hits = (begins & truth).sum()
        out = {"onset F1": 2 * hits / (begins.sum() + truth.sum()).clamp(min=1)}
        sounding = self.pitch > 0
        out["pitch"] = (logits["pitch"].argmax(-1) == self.pitch)[sounding].float().mean()
        where = (self.letter >= 0) & (self.letter < len(LETTERS))
        out["letter"] = (logits["letter"].argmax(-1) == self.letter)[where].float().mean()
        for name in ("length", "bar"):
            of = getattr(self, name)
            out[name] = (logits[name].argmax(-1) == of)[of >= 0].float().mean()
        return {name: round(float(value), 3) for name, value in out.items()}


class NoteHeads(nn.Module):
    """Heads on time tokens [recordings, tokens, hidden]: linear ones, and the cosine to the embeddings of letters.

    Args:
        frames: of a token.
        tokenizer, embeddings: of the language model, [vocabulary, hidden].
    """

    def __init__(self, frames: int, tokenizer: PreTrainedTokenizerBase, embeddings: torch.Tensor):
        super().__init__()
        hidden = embeddings.shape[1]
        self.frames = frames
        self.pitch = nn.Linear(hidden, frames * (PITCHES + 1))
        self.onset = nn.Linear(hidden, frames)
        self.length = nn.Linear(hidden, len(LENGTHS))
        self.bar = nn.Linear(hidden, BARS)
        ids = [tokenizer(text, add_special_tokens=False)["input_ids"][0] for text in (*LETTERS, "-")]
        directions = embeddings[ids].detach().float()
        # what all letters have in common tells none of them from another
        self.centre = directions.mean(0)
        self.directions = F.normalize(directions - self.centre, dim=1)
        self.scale = nn.Parameter(torch.tensor(2.5))

    def forward(self, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
        """Logits: pitch [recordings, tokens, frames, 89], onset [.., frames], letter, length and bar [.., classes]."""
        cosine = F.normalize(tokens - self.centre, dim=-1) @ self.directions.T
        return {
            "pitch": self.pitch(tokens).unflatten(-1, (self.frames, PITCHES + 1)),
            "onset": self.onset(tokens),
            "letter": cosine * self.scale.exp(),
            "length": self.length(tokens),
            "bar": self.bar(tokens),
        }
