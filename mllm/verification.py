"""Is what an answer says about music true? `verify(answer, "tune.abc")` gives a verdict on each claim in it.

A score decides exactly (`score_checks`), a recording through estimators that may have to pass (`audio_checks`). How
often they are right is measured: docs/verification.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mllm.audio import check_waveform, load_audio
from mllm.audio_checks import Recording, check_recording
from mllm.claims import Claim, find_claims, to_json
from mllm.errors import AudioError, PromptError
from mllm.estimators import RATE
from mllm.processing import is_score
from mllm.score_checks import SCORE_CHECKS, Finding
from mllm.score_types import Score

VERIFIED, CONTRADICTED, CANNOT_TELL = "verified", "contradicted", "cannot tell"
_WORDS = {True: VERIFIED, False: CONTRADICTED, None: CANNOT_TELL}
Medium = str | Path | bytes | np.ndarray | Score | Recording


@dataclass(frozen=True)
class Verdict:
    """A claim and what became of it.

    Attributes:
        claim: what the answer says.
        verdict: "verified", "contradicted" or "cannot tell".
        found: the value found in the medium, in words; None where there is none.
        tolerance: how far the claim may be from it: "exact", "± 4%", or the thresholds of an estimate.
        evidence: where the value comes from, and why nothing can be told where that is so.
        source: the medium that decided: its file name, or "score" and "recording" with their number.
    """

    claim: Claim
    verdict: str
    found: str | None
    tolerance: str
    evidence: str
    source: str

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            "claim": to_json(self.claim), "verdict": self.verdict, "found": self.found, "tolerance": self.tolerance,
            "evidence": self.evidence, "source": self.source,
        }  # fmt: skip


@dataclass(frozen=True)
class _Source:
    """A medium, read."""

    name: str
    content: Score | Recording

    def check(self, claim: Claim) -> Finding:
        """The finding on a claim: of several values left open, whether one of them is true."""
        values = claim.value.get("any_of", [claim.value])
        findings = [self._check_value(claim.kind, value) for value in values]
        for holds in (True, None):
            if chosen := [f for f in findings if f.holds is holds]:
                return chosen[0]
        return findings[0]

    def _check_value(self, kind: str, value: dict[str, Any]) -> Finding:
        if isinstance(self.content, Score):
            return SCORE_CHECKS[kind](value, self.content)
        return check_recording(kind, value, self.content)


def verify(
    answer: str, media: Medium | Sequence[Medium], *, question: str = "", sampling_rate: int | None = None
) -> list[Verdict]:
    """Find the musical claims in an answer and hold each against the score or the recording.

    A claim about "the second clip" is held against the second medium, every other one against all of them: it is
    verified where those that can tell agree that it is true, contradicted where they agree that it is not, and where
    they differ nothing can be told. A score goes before recordings: where a score can tell, no estimate is asked.

    Args:
        answer: any text; see `mllm.claims.find_claims` for what is found in it.
        media: what the answer is about, in the order in which it was shown: paths of recordings and scores, the bytes
            of a recording, waveforms (float mono [samples]), `Score`s, and `Recording`s, which keep what estimators
            said of them for the next answer.
        question: what was asked; needed to know what an answer such as "120" or "Yes." is about.
        sampling_rate: Hz of the waveforms among `media`.

    Returns:
        A verdict a claim, in the order of the answer; none where it claims nothing.

    Raises:
        AudioError, ScoreError: a medium cannot be read. PromptError: no media.
        ModuleNotFoundError: a recording, and librosa is not installed; it comes with the extra `eval`.
        WeightsError: the weights of Basic Pitch can be neither found nor fetched.
    """
    given: list[Any] = list(media) if isinstance(media, list | tuple) else [media]
    if not given:
        raise PromptError("nothing to verify against: give at least one recording or score")
    claims = find_claims(answer, question)
    if not claims:
        return []
    sources = [_read(medium, number, sampling_rate) for number, medium in enumerate(given, 1)]
    return [_decide(claim, sources) for claim in claims]


def _read(medium: Any, number: int, sampling_rate: int | None) -> _Source:
    if isinstance(medium, Score | Recording):
        return _Source(f"{'score' if isinstance(medium, Score) else 'recording'} {number}", medium)
    if isinstance(medium, str | Path) and is_score(medium):
        from mllm.score import read_notated

        score, moved = read_notated(medium)
        return _Source(f"{medium}, as played, quantized" if moved and moved.largest else str(medium), score)
    if not isinstance(medium, np.ndarray):
        name = str(medium) if isinstance(medium, str | Path) else f"recording {number}"
        return _Source(name, Recording(load_audio(medium, RATE)))
    if sampling_rate is None:
        raise AudioError("a waveform needs its sampling rate: verify(answer, waveform, sampling_rate=22050)")
    import soxr

    waveform = check_waveform(medium)
    return _Source(f"recording {number}", Recording(soxr.resample(waveform, sampling_rate, RATE)))


def _decide(claim: Claim, sources: list[_Source]) -> Verdict:
    if claim.clip is not None and len(sources) > 1:
        if claim.clip > len(sources):
            reason = f"the answer speaks of clip {claim.clip}, but {len(sources)} were given"
            return Verdict(claim, CANNOT_TELL, None, "", reason, "")
        sources = [sources[claim.clip - 1]]
    found: list[tuple[_Source, Finding]] = []
    for kind in (Score, Recording):
        found += [(source, source.check(claim)) for source in sources if isinstance(source.content, kind)]
        if any(finding.holds is not None for _, finding in found):
            break  # a score knows; an estimator is not asked
    able = [(source, finding) for source, finding in found if finding.holds is not None]
    source, finding = (able or found)[0]
    if len({finding.holds for _, finding in able}) > 1:
        names = {holds: [s.name for s, f in able if f.holds is holds] for holds in (True, False)}
        what = f"true of {', '.join(names[True])}, not of {', '.join(names[False])}"
        values = "; ".join(f"{s.name}: {f.found}" for s, f in able)
        return Verdict(claim, CANNOT_TELL, values, finding.tolerance, what, "")
    holds = None if finding.holds is None else finding.holds != claim.negated
    return Verdict(claim, _WORDS[holds], finding.found, finding.tolerance, finding.evidence, source.name)
