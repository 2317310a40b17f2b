"""Musical key: exact, and weighted by how near a wrong key is (MIREX)."""

from __future__ import annotations

from functools import lru_cache

from mllm.claims import find_claims

QUESTION = "What key is this in?"


@lru_cache(maxsize=100_000)
def read_key(text: str) -> str | None:
    """The one key that an answer names, "F# minor"; None for none, two, one denied, or a tonic without a mode."""
    keys = [claim for claim in find_claims(text, QUESTION) if claim.kind == "key"]
    if not keys or any(claim.negated or "any_of" in claim.value for claim in keys):
        return None
    named = {(claim.value["tonic"], claim.value["mode"]) for claim in keys}
    if len(named) != 1:
        return None
    tonic, mode = named.pop()
    return f"{tonic} {mode}" if tonic and mode else None


def weighted_score(truth: str, said: str | None) -> float:
    """MIREX's score of a key: 1 the same, 0.5 a fifth above, 0.3 the relative, 0.2 the parallel key, else 0.

    Args:
        truth, said: tonic and mode, "Bb major"; enharmonic spellings are the same key. `said` None: not read, 0.

    By mir_eval.key (Raffel et al., ISMIR 2014), which gives nothing to a key a fifth below. A mode that it does not
    compare (dorian, ...) is right or wrong.
    """
    from mir_eval.key import weighted_score as weigh

    if said is None:
        return 0.0
    try:
        return float(weigh(truth, said))
    except ValueError:
        return float(truth.lower() == said.lower())
