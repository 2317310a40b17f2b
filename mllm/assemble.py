"""Tower + projector + language model -> one model; adapters in and out; one self-contained checkpoint."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from mllm.configuration import MusicLMConfig
from mllm.errors import MllmError, WeightsError
from mllm.modeling import MusicLMForConditionalGeneration
from mllm.processing import MusicLMProcessor, build_processor
from mllm.projector import PROJECTORS
from mllm.towers import load_tower
from mllm.weights import language_model

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
MODELS = {"mini": Path(__file__).parent / "mini"}


def text_model_folder(spec: str) -> str:
    """Local folder of a language model: a pinned name of `mllm.weights` or a folder."""
    return spec if Path(spec).is_dir() else str(language_model(spec))


def assemble(
    tower: str | PreTrainedModel = "stack",
    text: str = "smollm2-135m-instruct",
    dtype: torch.dtype = torch.float32,
    quantization: Any = None,
    attention: str | None = None,
    **projector: Any,
) -> tuple[MusicLMForConditionalGeneration, MusicLMProcessor]:
    """Put a model together from pretrained parts; its projector is new and must be trained.

    Args:
        tower: name, path or URI of an audio tower (`mllm.towers.load_tower`) or the tower itself.
        text: pinned name or folder of a causal language model.
        dtype: of language model and projector. A tower given by name is loaded in bfloat16: twice as fast, and its
            features keep a correlation above 0.999 with those of float32 (LOG.md).
        quantization: a quantization config of transformers for the language model (BitsAndBytesConfig), or None.
        attention: `attn_implementation` of the language model; None: what transformers chooses.
        projector: fields of `MusicLMConfig` about projector and tokens.
    """
    audio_tower = load_tower(tower, dtype=torch.bfloat16) if isinstance(tower, str) else tower
    folder = text_model_folder(text)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    language = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=dtype,
        use_safetensors=True,
        quantization_config=quantization,
        attn_implementation=attention,
    )
    config = MusicLMConfig(audio_config=audio_tower.config, text_config=language.config, **projector)
    processor = build_processor(config, tokenizer)
    if len(tokenizer) > language.config.vocab_size:
        # zeros, not random: what is not trained must be the same wherever the parts are put together
        old = language.config.vocab_size
        language.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=64, mean_resizing=False)
        with torch.no_grad():
            language.get_input_embeddings().weight[old:] = 0
            language.get_output_embeddings().weight[old:] = 0
        config.text_config = language.config
    config.tie_word_embeddings = bool(language.config.tie_word_embeddings)
    config.architectures = ["MusicLMForConditionalGeneration"]
    with torch.device("meta"):
        model = MusicLMForConditionalGeneration(config)
    new_projector = PROJECTORS[config.projector_type](config).to(dtype)
    new_projector.apply(model._init_weights)
    model.model.audio_tower = audio_tower.requires_grad_(False).eval()
    model.model.projector = new_projector
    model.model.language_model = getattr(language, language.base_model_prefix)
    model.lm_head = language.get_output_embeddings()
    model.generation_config = GenerationConfig(
        do_sample=False,
        eos_token_id=stop_token_ids(tokenizer, language),
        pad_token_id=tokenizer.pad_token_id,
        suppress_tokens=[config.audio_token_id],
    )
    return model.eval(), processor


def stop_token_ids(tokenizer, language: PreTrainedModel) -> list[int]:
    """Every token that ends an answer: the tokenizer's, and what the model's generation config adds."""
    eos = language.generation_config.eos_token_id
    ids = {tokenizer.eos_token_id, *(eos if isinstance(eos, list) else [eos])}
    return sorted(i for i in ids if i is not None)


def load_model(
    name: str = "mini", dtype: torch.dtype = torch.bfloat16
) -> tuple[MusicLMForConditionalGeneration, MusicLMProcessor]:
    """A shipped model by name or a checkpoint by folder, ready to answer.

    A folder holds either a whole model (`save_model`) or, as `mini` does, an adapter with `provenance.json` that names
    its bases by pinned address.

    Raises:
        WeightsError: no such model, a damaged checkpoint, weights that cannot be fetched.
    """
    folder = MODELS.get(name, Path(name))
    if not (folder / "config.json").is_file() and not (folder / ADAPTER_FILES[0]).is_file():
        raise WeightsError(
            f"no model {name!r}: known are {', '.join(MODELS)}, or the folder of a checkpoint (config.json in it)"
        )
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()  # loading takes seconds; its bars speak to developers
    try:
        return _load_folder(folder, dtype)
    except MllmError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, AttributeError, SafetensorError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise WeightsError(
            f"{folder} is not a checkpoint that can be loaded: {reason}; fetch or train it again"
        ) from error
    finally:
        if bars:
            transformers_logging.enable_progress_bar()


def _load_folder(folder: Path, dtype: torch.dtype) -> tuple[MusicLMForConditionalGeneration, MusicLMProcessor]:
    if (folder / ADAPTER_FILES[0]).is_file():
        return load_adapter(folder, dtype)
    model = MusicLMForConditionalGeneration.from_pretrained(folder, dtype=dtype, use_safetensors=True)
    return model.eval(), MusicLMProcessor.from_pretrained(folder)


def load_adapter(
    folder: Path, dtype: torch.dtype = torch.bfloat16, merge: bool = True
) -> tuple[MusicLMForConditionalGeneration, MusicLMProcessor]:
    """Bases named in `provenance.json` + projector + LoRA. Merged in float32 before the cast, so nothing is lost."""
    from peft import PeftModel

    bases = json.loads((folder / "provenance.json").read_text())["bases"]
    model, processor = assemble(bases["audio_tower"], bases["language_model"], torch.float32, **bases["projector"])
    tuned = PeftModel.from_pretrained(model, str(folder))
    if not merge:
        return tuned, processor
    model = tuned.merge_and_unload()
    for part in (model.model.projector, model.model.language_model, model.lm_head):
        part.to(dtype)
    return model.eval(), processor


def save_model(model: PreTrainedModel, processor: MusicLMProcessor, folder: str | Path, provenance: dict) -> Path:
    """Write one self-contained checkpoint atomically: it appears whole or not at all.

    Raises:
        WeightsError: the folder exists, or the disk is full.
    """
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()):
        raise WeightsError(f"{folder} exists and is not empty: choose a new folder or remove it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    partial.chmod(0o755)  # mkdtemp makes it private, but a server may run under another account
    try:
        model.save_pretrained(partial)
        processor.save_pretrained(partial)
        (partial / "provenance.json").write_text(json.dumps(provenance, indent=1) + "\n")
        if folder.exists():
            folder.rmdir()
        os.replace(partial, folder)
    except (OSError, SafetensorError) as error:  # safetensors hides the operating system's error in its text
        reason = getattr(error, "strerror", None) or error
        raise WeightsError(f"cannot write {folder}: {reason}; nothing was left there") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder
