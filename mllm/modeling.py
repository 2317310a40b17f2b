"""The model: audio tokens take their places among the text embeddings of a causal language model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from transformers import AutoModel, AutoModelForMultimodalLM, GenerationMixin, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPast, BaseModelOutputWithPooling, CausalLMOutputWithPast

from mllm.configuration import MusicLMConfig
from mllm.errors import PromptError
from mllm.projector import PROJECTORS, FeatureNorm, ResamplerProjector


class MusicLMPreTrainedModel(PreTrainedModel):
    """Base class: what transformers and vLLM need to know of the model."""

    config_class = MusicLMConfig
    base_model_prefix = "model"
    input_modalities = ("audio", "text")
    supports_gradient_checkpointing = True
    _skip_keys_device_placement = ["past_key_values"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = False
    _keep_in_fp32_modules_strict = ["projector.norm."]  # feature statistics; vLLM takes these literally

    @property
    def dtype(self) -> torch.dtype:
        """That of the language model, which a checkpoint's config then states; a tower may have another."""
        return self.get_input_embeddings().weight.dtype

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, FeatureNorm):
            nn.init.zeros_(module.mean)
            nn.init.ones_(module.std)
        elif isinstance(module, ResamplerProjector):
            nn.init.normal_(module.queries, std=0.02)
            nn.init.normal_(module.positions, std=0.02)
        elif isinstance(module, nn.MultiheadAttention):
            nn.init.xavier_uniform_(module.in_proj_weight)
            nn.init.zeros_(module.in_proj_bias)


class MusicLMModel(MusicLMPreTrainedModel):
    """Audio tower, projector and language model without its head. Built from config alone: loads no weights."""

    def __init__(self, config: MusicLMConfig):
        super().__init__(config)
        self.audio_tower = AutoModel.from_config(config.audio_config)
        self.projector = PROJECTORS[config.projector_type](config)
        self.language_model = AutoModel.from_config(config.text_config)
        self.audio_tower.requires_grad_(False)
        self.post_init()

    def train(self, mode: bool = True) -> MusicLMModel:
        """As in torch, but the tower always stays in evaluation mode: it is frozen."""
        super().train(mode)
        self.audio_tower.eval()
        return self

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    def get_decoder(self) -> nn.Module:
        return self.language_model

    def get_encoder(self, modality: str | None = None) -> nn.Module:
        return self.audio_tower

    def get_audio_features(
        self,
        input_features: torch.Tensor | None = None,
        input_features_mask: torch.Tensor | None = None,
        tower_features: torch.Tensor | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPooling:
        """Encode windows of audio into embeddings of the language model.

        Args:
            input_features: [windows, …] what the tower takes (float32 waveform windows for the packaged towers), or
                [recordings, windows, …] beside a mask of that form.
            input_features_mask: [windows, summary_tokens + time_tokens] bool; True where the token stands in the text.
                Or [recordings, windows, tokens], or a list of such rows: then windows without any token fill up.
            tower_features: [windows, frames, tower size]; the tower's output, when it was computed before. Then
                `input_features` is not needed.

        Returns:
            `last_hidden_state` [windows, tokens, hidden] and `pooler_output` [kept tokens of all windows, hidden].
        """
        if isinstance(input_features_mask, list):  # how vLLM hands over recordings of unequal length
            input_features_mask = torch.stack(input_features_mask)
        if input_features_mask is not None and input_features_mask.ndim == 3:
            input_features_mask = input_features_mask.flatten(0, 1)
            filled = input_features_mask.to(torch.bool).any(1)
            input_features_mask = input_features_mask[filled]
            input_features = input_features.flatten(0, 1)[filled.to(input_features.device)]
        if tower_features is None:
            tower_features = self.audio_tower(input_features).last_hidden_state  # no gradient: towers see to it
        hidden = self.projector(tower_features)
        kept = hidden.flatten(0, 1)
        if input_features_mask is not None:
            kept = hidden[input_features_mask.to(hidden.device, torch.bool)]
        return BaseModelOutputWithPooling(last_hidden_state=hidden, pooler_output=kept)

    def merge_audio(
        self, input_ids: torch.Tensor, inputs_embeds: torch.Tensor, audio_embeds: torch.Tensor
    ) -> torch.Tensor:
        """Put `audio_embeds` [tokens, hidden] where `input_ids` [batch, length] holds the audio token."""
        places = input_ids == self.config.audio_token_id
        if int(places.sum()) != audio_embeds.shape[0]:
            raise PromptError(
                f"the prompt has {int(places.sum())} audio tokens but the audio gives {audio_embeds.shape[0]}; "
                "build both with MusicLMProcessor"
            )
        return inputs_embeds.masked_scatter(
            places.unsqueeze(-1).expand_as(inputs_embeds), audio_embeds.to(inputs_embeds.device, inputs_embeds.dtype)
        )

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        input_features: torch.Tensor | None = None,
        input_features_mask: torch.Tensor | None = None,
        tower_features: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPast:
        """See `get_audio_features` for the audio inputs; the rest is as in any decoder of transformers."""
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        if input_ids is not None and (input_features is not None or tower_features is not None):
            audio = self.get_audio_features(input_features, input_features_mask, tower_features).pooler_output
            inputs_embeds = self.merge_audio(input_ids, inputs_embeds, audio)
        return self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
            **kwargs,
        )


@dataclass
class MusicLMOutput(CausalLMOutputWithPast):
    """Output of `MusicLMForConditionalGeneration`: loss, logits, cache."""

    token_losses: torch.FloatTensor | None = None
    """[supervised tokens] float32 cross-entropies in nats, in the order of rows and positions, without gradient."""


class MusicLMForConditionalGeneration(MusicLMPreTrainedModel, GenerationMixin):
    """A music language model with its head: trains and generates."""

    _tied_weights_keys = {"lm_head.weight": "model.language_model.embed_tokens.weight"}

    def __init__(self, config: MusicLMConfig):
        super().__init__(config)
        self.model = MusicLMModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def set_output_embeddings(self, value: nn.Module) -> None:
        self.lm_head = value

    def get_decoder(self) -> nn.Module:
        return self.model.language_model

    def get_encoder(self, modality: str | None = None) -> nn.Module:
        return self.model.audio_tower

    def get_audio_features(self, *args, **kwargs) -> BaseModelOutputWithPooling:
        """See `MusicLMModel.get_audio_features`."""
        return self.model.get_audio_features(*args, **kwargs)

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        input_features: torch.Tensor | None = None,
        input_features_mask: torch.Tensor | None = None,
        tower_features: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        num_items_in_batch: torch.Tensor | int | None = None,
        supervised_logits: bool = True,
        **kwargs,
    ) -> MusicLMOutput:
        """With `labels` [batch, length] (-100: not supervised) logits are made for supervised positions alone.

        Then `logits` is [supervised tokens, vocabulary] (with `supervised_logits=False` [batch, length, vocabulary])
        and `loss` the mean cross-entropy over supervised tokens, or their sum divided by `num_items_in_batch` (the
        Trainer's gradient accumulation).
        """
        outputs = self.model(
            input_ids=input_ids,
            input_features=input_features,
            input_features_mask=input_features_mask,
            tower_features=tower_features,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        hidden = outputs.last_hidden_state
        loss = token_losses = None
        if labels is None:
            kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
            # contiguous: a strided slice falls off the fast bf16 path of the CPU (shared facts, 7)
            logits = self.lm_head(hidden[:, kept].contiguous())
        else:
            targets = nn.functional.pad(labels[:, 1:], (0, 1), value=-100)
            supervised = targets != -100
            # hidden.sum() * 0 keeps the graph whole for a micro-batch with nothing to learn, or DDP waits for ever
            logits = self.lm_head(hidden[supervised] if supervised_logits else hidden)
            learned = logits if supervised_logits else logits[supervised]
            losses = nn.functional.cross_entropy(learned.float(), targets[supervised], reduction="none")
            count = supervised.sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch
            loss = losses.sum() / count + hidden.sum() * 0
            token_losses = losses.detach()
        return MusicLMOutput(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            token_losses=token_losses,
        )


AutoModel.register(MusicLMConfig, MusicLMModel, exist_ok=True)
AutoModelForMultimodalLM.register(MusicLMConfig, MusicLMForConditionalGeneration, exist_ok=True)
