"""Models in this process, asked many things at once: each recording is heard once, and read once for its questions.

Batched answers are those of batches of one: a recording's features are computed window by window, whatever the batch,
and `mllm.eval.batched_generation` says how far the same bits go.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from mllm.assemble import MODELS, load_model, text_model_folder
from mllm.errors import AudioError, PromptError, WeightsError
from mllm.eval.batched_generation import answers_in_pieces, generate, weigh
from mllm.eval.kernels import choose_kernels
from mllm.eval.respondents import Failure, folder_hash
from mllm.eval.sounds import Sound
from mllm.eval.task import Messages
from mllm.packed_weights import pack_weights
from mllm.processing import read_conversation
from mllm.token_memory import token_bytes

ROWS, ROW_BYTES = 128, 1 << 30
"""Prompts that are answered at once (an option that is weighed counts as one), and bytes of their keys and values."""
REMEMBERED_SOUNDS = 4096
"""Embeddings of recordings that are kept: some 70 KB each."""


class _Local:
    """What both kinds share: embeddings of prompts in, words or log-likelihoods out."""

    name: str
    sha256: str
    at_once = ROWS
    model: Any
    tokenizer: Any

    @abstractmethod
    def embed(self, messages: Messages) -> torch.Tensor:
        """A prompt [tokens, hidden]. Raises PromptError, AudioError."""

    def answer(self, messages: Sequence[Messages], max_new_tokens: int) -> list[str | Failure]:
        """Greedy answers to conversations, in order."""
        prompts = self._prompts(messages, max_new_tokens)
        out: list[str | Failure] = [p if isinstance(p, Failure) else "" for p in prompts]
        for batch in self._batches(prompts, [1] * len(prompts), max_new_tokens):
            for i, text in zip(batch, self._generate([prompts[i] for i in batch], max_new_tokens), strict=True):
                out[i] = text
        return out

    def option_loglikelihoods(
        self, messages: Sequence[Messages], options: Sequence[Sequence[str]]
    ) -> list[list[tuple[float, int]] | Failure]:
        """For each option as the whole answer, with the token that ends it: sum of log-probabilities, and tokens."""
        prompts = self._prompts(messages, 64)
        ids = [[[*self._tokens(text), self.tokenizer.eos_token_id] for text in texts] for texts in options]
        longest = max((len(tokens) for texts in ids for tokens in texts), default=0)
        out: list[list[tuple[float, int]] | Failure] = [p if isinstance(p, Failure) else [] for p in prompts]
        for batch in self._batches(prompts, [1 + len(texts) for texts in options], longest):
            weighed = self._weigh([prompts[i] for i in batch], [ids[i] for i in batch])
            for i, sums in zip(batch, weighed, strict=True):
                out[i] = [(total, len(tokens)) for total, tokens in zip(sums, ids[i], strict=True)]
        return out

    def _tokens(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _batches(self, prompts: Sequence[Any], rows: Sequence[int], answer: int) -> list[list[int]]:
        """Places of prompts, alike in length, that go together.

        `rows`: that each of them needs; `answer`: tokens behind a prompt at most.
        """
        most_tokens = ROW_BYTES // token_bytes(self.model.config.get_text_config(), self.model.dtype)
        out: list[list[int]] = []
        count = 0
        there = [i for i, prompt in enumerate(prompts) if not isinstance(prompt, Failure)]
        for i in sorted(there, key=lambda i: len(prompts[i])):
            count += rows[i]
            if out and count <= ROWS and count * (len(prompts[i]) + answer) <= most_tokens:
                out[-1].append(i)
            else:
                out.append([i])
                count = rows[i]
        return out

    @property
    def context(self) -> int:
        """Tokens that the model can hold."""
        config = self.model.config
        return int(getattr(config, "text_config", config).max_position_embeddings)

    @cached_property
    def _in_pieces(self) -> bool:
        return answers_in_pieces(self.model)

    @torch.inference_mode()
    def _prompts(self, messages: Sequence[Messages], room: int) -> list[Any]:
        out: list[Any] = []
        for one in messages:
            try:
                prompt = self.embed(one)
            except (PromptError, AudioError) as error:
                out.append(Failure(str(error)))
                continue
            fits = len(prompt) + room <= self.context
            out.append(prompt if fits else Failure(f"{len(prompt)} tokens of prompt, the model holds {self.context}"))
        return out

    @torch.inference_mode()
    def _generate(self, prompts: Sequence[torch.Tensor], max_new_tokens: int) -> list[str]:
        ends = self.model.generation_config.eos_token_id
        ends = ends if isinstance(ends, list) else [ends or self.tokenizer.eos_token_id]
        if self._in_pieces:
            tokens: Any = generate(self.model, prompts, max_new_tokens, frozenset(ends))
        else:
            embeds, mask = _padded(prompts)
            tokens = self.model.generate(
                inputs_embeds=embeds, attention_mask=mask, max_new_tokens=max_new_tokens, do_sample=False,
                pad_token_id=self.tokenizer.pad_token_id or ends[0], eos_token_id=ends,
            )  # fmt: skip
        return [text.strip() for text in self.tokenizer.batch_decode(tokens, skip_special_tokens=True)]

    @torch.inference_mode()
    def _weigh(self, prompts: Sequence[torch.Tensor], options: Sequence[Sequence[Sequence[int]]]) -> list[list[float]]:
        """Log-likelihood of the tokens of each option behind its prompt."""
        if self._in_pieces:
            return weigh(self.model, prompts, options)
        embed = self.model.get_input_embeddings()
        sums: list[list[float]] = []
        for prompt, of_prompt in zip(prompts, options, strict=True):
            sums.append([])
            for tokens in of_prompt:
                said = torch.tensor(tokens)
                whole = torch.cat([prompt, embed(said[:-1])])[None]
                logits = self.model(inputs_embeds=whole, use_cache=False).logits[0, -len(tokens) :]
                sums[-1].append(float(logits.float().log_softmax(-1).gather(1, said[:, None]).sum()))
        return sums


def _padded(prompts: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts [tokens, hidden] -> [batch, longest, hidden] with zeros on the left, and their mask [batch, longest]."""
    longest = max(map(len, prompts))
    embeds = torch.stack([torch.cat([p.new_zeros(longest - len(p), p.shape[1]), p]) for p in prompts])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    return embeds, mask


class MusicModel(_Local):
    """A music language model: `mini`, or the folder of a checkpoint or adapter."""

    def __init__(self, spec: str):
        """Raises WeightsError where there is no such model."""
        folder = MODELS.get(spec, Path(spec))
        if not folder.is_dir():
            raise WeightsError(
                f"no model {spec!r}: known are {', '.join(MODELS)}, the folder of a checkpoint, text:DIR, http://…/v1"
            )
        choose_kernels()
        self.name, self.sha256 = spec, folder_hash(folder)
        self._heard: OrderedDict[str, tuple[torch.Tensor, Any]] = OrderedDict()

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        model, processor = load_model(self.name)
        pack_weights(model)
        return model, processor

    @property
    def model(self) -> Any:
        return self._loaded[0]

    @property
    def processor(self) -> Any:
        return self._loaded[1]

    @property
    def tokenizer(self) -> Any:
        return self.processor.tokenizer

    @torch.inference_mode()
    def embed(self, messages: Messages) -> torch.Tensor:
        processor = self.processor
        conversation = read_conversation(messages, processor.reserved)
        heard = [self._hear(sound) for sound in conversation.audios]
        first, *rest = processor.render(conversation.messages, add_generation_prompt=True).split(processor.audio_token)
        text = first + "".join(processor.audio_text(mask) + piece for (_, mask), piece in zip(heard, rest, strict=True))
        ids = processor.tokenizer(text, add_special_tokens=False, return_tensors="pt", verbose=False)["input_ids"]
        embeds = self.model.get_input_embeddings()(ids)
        if heard:
            embeds = self.model.model.merge_audio(ids, embeds, torch.cat([sound for sound, _ in heard]))
        return embeds[0]

    def _hear(self, sound: Sound) -> tuple[torch.Tensor, Any]:
        """Embeddings [audio tokens, hidden] of a recording and its token mask [windows, tokens], computed once."""
        if sound.key not in self._heard:
            extractor = self.processor.feature_extractor
            waveform = sound.load(extractor.sampling_rate)
            mask = extractor.token_mask(len(waveform))
            windows = extractor(waveform[: len(mask) * extractor.window_samples], return_tensors="pt")
            features = torch.cat(
                [self.model.model.audio_tower(w[None]).last_hidden_state for w in windows["input_features"]]
            )
            embeds = self.model.get_audio_features(
                tower_features=features, input_features_mask=torch.from_numpy(mask)
            ).pooler_output
            self._heard[sound.key] = embeds, mask
            if len(self._heard) > REMEMBERED_SOUNDS:
                self._heard.popitem(last=False)
        self._heard.move_to_end(sound.key)
        return self._heard[sound.key]


class TextModel(_Local):
    """A language model without ears: it is given the words alone."""

    def __init__(self, spec: str):
        """`spec`: a pinned name of `mllm.weights`, or the folder of a causal language model."""
        choose_kernels()
        self._folder = text_model_folder(spec)
        self.name, self.sha256 = f"text:{spec}", folder_hash(Path(self._folder))

    @cached_property
    def model(self) -> Any:  # type: ignore[override]
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(self._folder, dtype=torch.bfloat16, use_safetensors=True).eval()
        pack_weights(model)
        return model

    @cached_property
    def tokenizer(self) -> Any:  # type: ignore[override]
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self._folder)

    @torch.inference_mode()
    def embed(self, messages: Messages) -> torch.Tensor:
        heard = [m | {"content": _words(m["content"])} for m in messages]
        ids = self.tokenizer.apply_chat_template(
            heard, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )["input_ids"]
        return self.model.get_input_embeddings()(ids)[0]


def _words(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content if part["type"] == "text")
