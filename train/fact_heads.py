"""Throw-away heads on the projector's summary tokens, and the facts of clips as their targets.

Linear heads say what can be read from the tokens. Word heads have no weights of their own but a scale: a token scores
by its cosine to the language model's own embeddings of the answer's words. What the warm-up teaches under them is a
token that lies near "F#" or "6" in the embedding space, so the language model need only copy what it is given.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase

from mllm.metronome import nearest_mark

PITCH_CLASSES = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
MODES = ("major", "minor", "dorian", "mixolydian")
METRES = ("2/4", "3/4", "4/4", "6/8")
TEMPO_RANGE = (40.0, 260.0)  # beats per minute
TEMPO_CLASSES = 54  # 3.5 % apart on a logarithmic scale


def pitch_class(tonic: str) -> int:
    """0-11 of a tonic such as "F#" or "Bb"."""
    return (PITCH_CLASSES[tonic[0].upper()] + tonic.count("#") - tonic[1:].count("b")) % 12


def tempo_class(bpm: float) -> float:
    """Position of a tempo on the scale of classes, not rounded."""
    low, high = TEMPO_RANGE
    return math.log(bpm / low) / math.log(high / low) * (TEMPO_CLASSES - 1)


class FactHeads(nn.Module):
    """One linear head a fact, each reading its own two summary tokens."""

    def __init__(self, instruments: Sequence[str], hidden_size: int):
        super().__init__()
        sizes = {"instruments": len(instruments), "tonic": 12, "mode": len(MODES), "tempo": TEMPO_CLASSES}
        sizes |= {"metre": len(METRES)}
        self.tokens = {"instruments": (0, 1), "tonic": (2, 3), "mode": (2, 3), "tempo": (4, 5), "metre": (6, 7)}
        self.heads = nn.ModuleDict({name: nn.Linear(2 * hidden_size, size) for name, size in sizes.items()})

    def forward(self, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
        return {name: head(tokens[:, self.tokens[name]].flatten(1)) for name, head in self.heads.items()}


class Facts:
    """Targets of the clips as tensors; -1 (or an empty row) where a clip does not have the fact.

    Args:
        facts: of each clip, as instruction rows hold them.
        instruments: names of the instrument classes.
        spellings: key such as "C# minor" -> class of its tonic's word ("C#" and "Db" are two).
    """

    def __init__(self, facts: Sequence[dict[str, Any]], instruments: Sequence[str], spellings: dict[str, int]):
        self.spellings = torch.full((12, len(MODES)), -1)
        for name, i in spellings.items():
            tonic, mode = name.split()
            self.spellings[pitch_class(tonic), MODES.index(mode)] = i
        self.digits = torch.full((len(facts), 2), -1)  # the first two of the metronome mark that answers name
        self.instruments = torch.zeros(len(facts), len(instruments))
        self.tonic = torch.full((len(facts),), -1)
        self.mode = torch.full((len(facts),), -1)
        self.metre = torch.full((len(facts),), -1)
        self.tempo = torch.full((len(facts),), -1.0)
        for i, fact in enumerate(facts):
            for name in fact.get("instruments") or []:
                self.instruments[i, instruments.index(name)] = 1
            if fact.get("tonic") and fact.get("mode") in MODES:
                self.tonic[i] = pitch_class(fact["tonic"])
                self.mode[i] = MODES.index(fact["mode"])
            if fact.get("metre") in METRES:
                self.metre[i] = METRES.index(fact["metre"])
            if fact.get("tempo"):
                self.tempo[i] = tempo_class(fact["tempo"])
                self.digits[i] = torch.tensor([int(digit) for digit in str(nearest_mark(fact["tempo"]))[:2]])

    def loss(self, logits: dict[str, torch.Tensor], index: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        """Sum of the facts' losses for clips `index` whose notes were rolled by `shift` semitones."""
        tonic = self.tonic[index]
        tonic = torch.where(tonic >= 0, (tonic + shift) % 12, tonic)
        classes = torch.arange(TEMPO_CLASSES)
        tempo = self.tempo[index]
        near = torch.softmax(-((classes - tempo[:, None]) ** 2) / 0.7, dim=1)  # a neighbour is nearly right
        tempo_loss = -(near * F.log_softmax(logits["tempo"], 1)).sum(1)[tempo >= 0]
        targets = {"tonic": tonic, "mode": self.mode[index], "metre": self.metre[index]}
        loss = self._class_loss(logits, index, targets)
        return loss + tempo_loss.mean() if len(tempo_loss) else loss

    def word_loss(self, logits: dict[str, torch.Tensor], index: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        """The same for the logits of `WordHeads`."""
        return self._class_loss(logits, index, self.word_targets(index, shift))

    def _class_loss(
        self, logits: dict[str, torch.Tensor], index: torch.Tensor, targets: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        """Loss of the instruments, and of each fact whose class some of the clips have."""
        loss = F.binary_cross_entropy_with_logits(logits["instruments"], self.instruments[index]) * 8
        for name, target in targets.items():
            if (target >= 0).any():
                loss = loss + F.cross_entropy(logits[name], target, ignore_index=-1)
        return loss

    def word_targets(self, index: torch.Tensor, shift: torch.Tensor) -> dict[str, torch.Tensor]:
        """Class of the word that answers, -1 where there is none: tonic as it is spelled, mode, digits, metre."""
        tonic, mode = self.tonic[index], self.mode[index]
        spelled = torch.where(tonic >= 0, self.spellings[(tonic + shift) % 12, mode], -1)
        first, second = self.digits[index].unbind(1)
        return {"tonic": spelled, "mode": mode, "first digit": first, "second digit": second,
                "metre": self.metre[index]}  # fmt: skip

    def word_accuracy(self, logits: dict[str, torch.Tensor], index: torch.Tensor) -> dict[str, float]:
        """Share of clips whose token lies nearest to the right word."""
        targets = self.word_targets(index, torch.zeros_like(index))
        out = {name: (logits[name].argmax(1) == of)[of >= 0].float().mean() for name, of in targets.items()}
        out["single instrument"] = self._single_instrument(logits, index)
        return {f"word: {name}": round(float(value), 3) for name, value in out.items()}

    def _single_instrument(self, logits: dict[str, torch.Tensor], index: torch.Tensor) -> torch.Tensor:
        """Share of the clips with one instrument whose best class it is."""
        single = self.instruments[index].sum(1) == 1
        return (logits["instruments"].argmax(1) == self.instruments[index].argmax(1))[single].float().mean()

    def accuracy(self, logits: dict[str, torch.Tensor], index: torch.Tensor) -> dict[str, float]:
        """Share of right answers a fact; tempo within 8 %, instruments as a whole set."""
        out = {"instruments": ((logits["instruments"] > 0) == (self.instruments[index] > 0)).all(1).float().mean()}
        out["single instrument"] = self._single_instrument(logits, index)
        for name in ("tonic", "mode", "metre"):
            target = getattr(self, name)[index]
            out[name] = (logits[name].argmax(1) == target)[target >= 0].float().mean()
        known = self.tonic[index] >= 0
        both = (logits["tonic"].argmax(1) == self.tonic[index]) & (logits["mode"].argmax(1) == self.mode[index])
        out["key"] = both[known].float().mean()
        step = math.log(TEMPO_RANGE[1] / TEMPO_RANGE[0]) / (TEMPO_CLASSES - 1)
        apart = (logits["tempo"].argmax(1) - self.tempo[index]).abs() * step
        out["tempo"] = (apart < math.log(1.08))[self.tempo[index] >= 0].float().mean()
        return {name: round(float(value), 3) for name, value in out.items()}


class WordHeads(nn.Module):
    """Cosine of one summary token a fact to the language model's embeddings of the words that answer it.

    Args:
        words: fact -> one text a class; several tokens of a text count by their mean.
        tokenizer, embeddings: of the language model, [vocabulary, hidden].
    """

    TOKENS = {"instruments": 0, "tonic": 2, "mode": 3, "first digit": 4, "second digit": 5, "metre": 6}

    def __init__(
        self, words: Mapping[str, Sequence[str]], tokenizer: PreTrainedTokenizerBase, embeddings: torch.Tensor
    ):
        super().__init__()
        self.directions: dict[str, torch.Tensor] = {}
        for name, texts in words.items():
            ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
            means = torch.stack([embeddings[i].detach().float().mean(0) for i in ids])
            self.directions[name] = F.normalize(means, dim=1)
        self.scales = nn.ParameterDict({name: nn.Parameter(torch.tensor(2.5)) for name in words})
        self.bias = nn.Parameter(torch.tensor(-4.0))  # of the instruments, most of which are not there

    def forward(self, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
        """Logits [clips, classes] a fact, of summary tokens [clips, tokens, hidden]."""
        out = {}
        for name, directions in self.directions.items():
            cosine = F.normalize(tokens[:, self.TOKENS[name]], dim=1) @ directions.T
            out[name] = cosine * self.scales[name].exp()
        out["instruments"] = out["instruments"] + self.bias
        return out


def answer_words(instruments: Sequence[str], tonics: Sequence[str]) -> dict[str, list[str]]:
    """The words of each class, as answers have them: "F#", " minor", the digits of a metronome mark, "6" of 6/8."""
    digits = [str(digit) for digit in range(10)]
    return {
        "instruments": list(instruments),
        "tonic": list(tonics),
        "mode": [f" {mode}" for mode in MODES],
        "first digit": digits,
        "second digit": digits,
        "metre": [metre.split("/")[0] for metre in METRES],
    }
