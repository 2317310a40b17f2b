"""The model that is trained: which parts learn, at which rate, in which precision."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from safetensors.torch import load_file
from transformers import BitsAndBytesConfig, PreTrainedModel

from mllm.assemble import MODELS, assemble
from mllm.modeling import MusicLMForConditionalGeneration
from mllm.processing import MusicLMProcessor
from mllm.train.config import ConfigError, TrainConfig
from mllm.train.grouped_attention import NAME

PROJECTOR_FILE = "projector.safetensors"
"""What a run with `method: projector` and the warm-up give."""

QUANTIZATIONS: dict[str, Callable[[], BitsAndBytesConfig | None]] = {
    "none": lambda: None,
    "nf4": lambda: BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    ),
    "int8": lambda: BitsAndBytesConfig(load_in_8bit=True),
}


def build_model(config: TrainConfig, bf16: bool = True) -> tuple[PreTrainedModel | PeftModel, MusicLMProcessor]:
    """The parts put together, with `requires_grad` on what learns, and the processor.

    Frozen weights are kept in bfloat16 where `bf16`; what learns is float32 and cast where it is used, as mixed
    precision wants it.

    Raises:
        ConfigError: weights that are not there or do not fit, modules that the settings name and the model lacks.
    """
    full = config.method == "full"
    dtype = torch.bfloat16 if bf16 and not full else torch.float32
    try:
        model, processor = assemble(
            config.model.audio_tower,
            config.model.language_model,
            dtype,
            quantization=QUANTIZATIONS[config.model.quantization](),
            attention="sdpa" if config.model.attention in ("auto", NAME) else config.model.attention,
            **config.model.projector,
        )
    except ImportError as error:  # a kernel or a quantization that is not installed
        raise ConfigError(f"model: {' '.join(str(error).split())}") from error
    if config.liger:
        _apply_liger(model.get_decoder())
    _choose_attention(model.get_decoder(), config)
    model.model.projector.float()
    _load_projector(model.model.projector, config.model.projector_weights)
    model.requires_grad_(full)
    model.model.audio_tower.requires_grad_(False)
    model.model.projector.requires_grad_(True)
    tuned: PreTrainedModel | PeftModel = model
    if config.method in ("lora", "dora"):
        try:
            tuned = get_peft_model(model, lora_config(config))
        except ValueError as error:
            raise ConfigError(f"lora: {' '.join(str(error).split())}") from error
        if config.learning_rates.tower and not _matches(model.model.audio_tower, "lora_"):
            raise ConfigError(f"lora.tower_modules {config.lora.tower_modules!r} matches nothing in this tower")
        if config.model.adapter:
            _go_on_from(tuned, adapter_file(config.model.adapter))
            _load_projector(trained_projector(tuned), config.model.projector_weights)
        for module in tuned.modules():
            if isinstance(module, BaseTunerLayer):  # autocast casts; peft would copy every activation to float32 first
                module.cast_input_dtype_enabled = not bf16
    if config.compile_layers:
        for layer in model.get_decoder().layers:
            layer.compile(dynamic=True)
    return tuned, processor


def _choose_attention(decoder: PreTrainedModel, config: TrainConfig) -> None:
    wanted, text = config.model.attention, decoder.config
    if wanted not in ("auto", NAME):
        return
    why = ""
    if sliding_window(text):
        why = "this language model has sliding attention"
    elif getattr(text, "attention_dropout", 0.0):
        why = "this language model drops attention out"
    elif not config.packing:
        why = "it is for packed rows"
    elif torch.cuda.is_available():
        why = "its kernel is for processors"
    if not why:
        decoder.set_attn_implementation(NAME)
    elif wanted == NAME:
        raise ConfigError(f"model.attention: grouped cannot be used, {why}: leave it out")


def attention_of(model: PreTrainedModel | PeftModel) -> str:
    """Kernel of the language model's attention."""
    return str(inner_model(model).get_decoder().config._attn_implementation)


def lora_config(config: TrainConfig) -> LoraConfig:
    """Of the language model and, where it learns, the tower; the projector is trained whole beside them."""
    lora = config.lora
    targets = lora.target_modules
    if config.learning_rates.tower:
        targets = f"({targets})|({lora.tower_modules})"
    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets,
        modules_to_save=["projector"],
        use_dora=config.method == "dora",
    )


def inner_model(model: PreTrainedModel | PeftModel) -> MusicLMForConditionalGeneration:
    """The music model itself, with or without peft around it."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def trained_projector(model: PreTrainedModel | PeftModel) -> torch.nn.Module:
    """The projector that learns: with peft around the model, the copy that it saves."""
    projector = inner_model(model).model.projector
    return projector.modules_to_save["default"] if isinstance(projector, ModulesToSaveWrapper) else projector


def part_of(name: str) -> str:
    """Which part a parameter belongs to, by its name: projector, tower, or language_model."""
    if re.search(r"\bprojector\b", name):
        return "projector"
    return "tower" if ".audio_tower." in name else "language_model"


def adapter_file(name: str) -> Path:
    """The weights of the adapter `name`: a shipped model, or the folder of an earlier run."""
    file = MODELS.get(name, Path(name)) / "adapter_model.safetensors"
    if not file.is_file():
        raise ConfigError(f"model.adapter: {name} holds no adapter_model.safetensors; give `mini` or a run's folder")
    return file


def _apply_liger(decoder: PreTrainedModel) -> None:
    """Liger's kernels in the decoder alone: logits are made where something is supervised, which its own loss is not.

    Untested: needs a GPU, and none has run it yet.
    """
    if not torch.cuda.is_available():
        raise ConfigError("liger: its kernels run on a GPU and there is none here; leave it out")
    try:
        from liger_kernel.transformers.monkey_patch import (
            MODEL_TYPE_TO_APPLY_LIGER_FN,
            _apply_liger_kernel_to_instance,
        )
    except ImportError as error:
        raise ConfigError("liger: not installed; `pip install liger-kernel`, or leave it out") from error
    kind = decoder.config.model_type
    if kind not in MODEL_TYPE_TO_APPLY_LIGER_FN:  # it would do nothing, and say so to nobody
        known = ", ".join(sorted(MODEL_TYPE_TO_APPLY_LIGER_FN))
        raise ConfigError(f"liger: has no kernels for {kind}; it knows {known}")
    _apply_liger_kernel_to_instance(decoder, cross_entropy=False, fused_linear_cross_entropy=False)


def _matches(module: torch.nn.Module, mark: str) -> bool:
    return any(mark in name for name, _ in module.named_parameters())


def _load_projector(projector: torch.nn.Module, given: str | None) -> None:
    if not given:
        return
    file = Path(given)
    if not file.is_file():
        command = f"python -m mllm.train.warmup CONFIG.yaml --output_dir {file.parent}"
        raise ConfigError(f"no projector weights at {file}: make them first with `{command}`")
    try:
        projector.load_state_dict(load_file(file))
    except RuntimeError as error:
        raise ConfigError(
            f"{file} is of another shape than model.projector says: {str(error).splitlines()[-1].strip()}"
        ) from error


def _go_on_from(tuned: PeftModel, file: Path) -> None:
    try:
        result = set_peft_model_state_dict(tuned, load_file(file))
    except RuntimeError as error:
        raise ConfigError(
            f"{file} is of another shape than `lora` and `projector` say: {str(error).splitlines()[-1].strip()}"
        ) from error
    missing = [name for name in result.missing_keys if "lora_" in name or "modules_to_save" in name]
    if missing or result.unexpected_keys:
        first = [*missing, *result.unexpected_keys][0]
        raise ConfigError(
            f"{file} does not fit this model ({first}): use the language model, tower and lora it was made with"
        )


def sliding_window(config: Any) -> int | None:
    """Positions that a text model's sliding layers look back, or None where it has no such layers."""
    slides = "sliding_attention" in (getattr(config, "layer_types", None) or ())
    return int(config.sliding_window) if slides else None
