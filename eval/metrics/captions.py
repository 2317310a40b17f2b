"""n-gram scores of captions: for comparison with papers only.

They hardly tell a caption of this recording from a sentence that fits all (docs/published_answers.md): judge captions
by `retrieval` and `facts_in_text`.
"""

from __future__ import annotations

import contextlib
import io
import shutil
import subprocess
from collections.abc import Sequence
from typing import Any

from mllm.errors import MllmError

FOR_COMPARISON_ONLY = "for comparison with papers only"
References = Sequence[Sequence[str]]


class JavaError(MllmError):
    """METEOR and the tokenizer of the COCO captions need Java, which is not here or failed."""


def coco_scores(said: Sequence[str], references: References) -> dict[str, float]:
    """{"bleu1" ... "bleu4", "meteor", "rouge_l", "cider"} as the COCO caption server computes them (Chen et al., 2015).

    Args:
        said: captions. references: what people wrote of each, at least one.

    pycocoevalcap 1.2: texts through the Penn Treebank tokenizer without punctuation, METEOR 1.5 (Denkowski and Lavie,
    WMT 2014; a corpus score), corpus BLEU with the closest length, ROUGE-L with beta 1.2, CIDEr with the references of
    these captions for its document frequencies. All 0 to 1 but CIDEr, which has no upper end.

    Raises JavaError without a Java runtime (Debian: default-jre-headless).
    """
    _check(said, references)
    java_here()
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.meteor.meteor import Meteor
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    try:
        tokenize = PTBTokenizer().tokenize
        true = tokenize({i: [{"caption": _line(text)} for text in texts] for i, texts in enumerate(references)})
        found = tokenize({i: [{"caption": _line(text)}] for i, text in enumerate(said)})
        with contextlib.redirect_stdout(io.StringIO()):
            bleu, _ = Bleu(4).compute_score(true, found)
            meteor, _ = Meteor().compute_score(true, found)
            rouge, _ = Rouge().compute_score(true, found)
            cider, _ = Cider().compute_score(true, found)
    except (OSError, ValueError) as error:
        raise JavaError(
            f"pycocoevalcap could not run Java ({error}): it needs Java and to write beside its own files; "
            "sacre_scores needs neither"
        ) from error
    scores = {f"bleu{order}": float(value) for order, value in enumerate(bleu, 1)}
    return scores | {"meteor": float(meteor), "rouge_l": float(rouge), "cider": float(cider)}


def sacre_scores(said: Sequence[str], references: References) -> dict[str, float]:
    """{"sacre_bleu1", "sacre_bleu4", "rouge_l_f", "rouge_l_recall"}, 0 to 1; needs no Java.

    sacrebleu (Post, WMT 2018): corpus BLEU, tokenizer 13a, lower case, with up to one or four words; rouge-score:
    ROUGE-L with its stemmer, of each caption that of the reference it is nearest to, mean over captions. Its recall,
    which some papers print as ROUGE-L, grows with the length of a caption.
    """
    _check(said, references)
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu.metrics import BLEU

    most = max(map(len, references))
    streams: Any = [[texts[i] if i < len(texts) else None for texts in references] for i in range(most)]
    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    rouge = [max((scorer.score(one, text)["rougeL"] for one in texts), key=lambda s: s.fmeasure)
             for text, texts in zip(said, references, strict=True)]  # fmt: skip
    scores = {
        f"sacre_bleu{order}": BLEU(lowercase=True, max_ngram_order=order).corpus_score(list(said), streams).score / 100
        for order in (1, 4)
    }
    return scores | {
        "rouge_l_f": sum(one.fmeasure for one in rouge) / len(rouge),
        "rouge_l_recall": sum(one.recall for one in rouge) / len(rouge),
    }


def java_here() -> None:
    """Raises JavaError where no Java runtime answers."""
    command = shutil.which("java")
    try:
        works = command and subprocess.run([command, "-version"], capture_output=True, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        works = False
    if not works:
        raise JavaError(
            "METEOR and CIDEr need a Java runtime, and none was found: install one (Debian: default-jre-headless), or "
            "use sacre_scores, which needs none"
        )


def _check(said: Sequence[str], references: References) -> None:
    if not said or len(said) != len(references) or not all(map(len, references)):
        raise ValueError(f"{len(said)} captions and {len(references)} sets of references: give as many, none empty")


def _line(text: str) -> str:
    """One line without METEOR's separator: anything else would shift all answers behind it, or stall the program."""
    return " ".join(text.replace("|||", " ").split()) or "."
