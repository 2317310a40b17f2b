"""Makes what `mllm.train.bench large` trains: a folder with Qwen3-4B's shape in random bfloat16 weights, and rows."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3Config

from mllm.assemble import text_model_folder
from mllm.train.bench_stream import write_noise

SHAPE = {
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "tie_word_embeddings": True,
}


def main(folder: Path) -> None:
    """Write `folder`/text and `folder`/rows.jsonl with four clips of noise."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(Qwen3Config(**SHAPE, dtype=torch.bfloat16), dtype=torch.bfloat16)
    model.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if "norm" in name:
                tensor.fill_(1)
            else:
                tensor.normal_(std=0.02, generator=generator)
    model.save_pretrained(folder / "text", max_shard_size="1GB")
    AutoTokenizer.from_pretrained(text_model_folder("smollm2-135m-instruct")).save_pretrained(folder / "text")
    write_noise(folder, rows=12, clips=4, seconds=10.0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
