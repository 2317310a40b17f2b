"""How often `mllm.verification` is right: 300 synthetic claims with known truth, on scores and on their renders.

    python -m mllm.eval.verification_bench --output runs/verification

Prints the table of docs/verification.md and writes table.md, summary.json and claims.jsonl into the folder.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import track

from mllm.audio_checks import Recording
from mllm.claims import find_claims
from mllm.errors import MllmError
from mllm.estimators import RATE
from mllm.eval.verification_claims import MAKERS, Answer, make_answers
from mllm.eval.verification_pieces import BENCH_TUNES, DEVELOPMENT_TUNES, make_pieces, same_title
from mllm.score import Score, to_midi
from mllm.synthesis import render
from mllm.verification import CANNOT_TELL, CONTRADICTED, VERIFIED, Verdict, verify
from mllm.whole_files import write_whole

MISSED = "not found"
MEDIA = ("score", "recording")
console = Console(stderr=True)
Record = dict[str, Any]


def run_bench(claims: int = 300, pieces: int = 60, seed: int = 0, *, development: bool = False) -> dict[str, Any]:
    """Verify synthetic claims against scores and renders.

    Args:
        claims: how many, over all kinds.
        pieces: how many tunes they are about.
        seed: draws tunes, values and wordings.
        development: take the tunes that thresholds are chosen on instead of those of the bench.

    Returns:
        {"run": settings, "summary": {medium: {kind or "all": measures}}, "unplanted": claims found where none was made,
        "seconds": by medium, "claims": records}.
    """
    begun = time.perf_counter()
    both = make_pieces(DEVELOPMENT_TUNES, pieces, seed)
    taken = frozenset(same_title(piece.score.title) for piece in both)
    chosen = both if development else make_pieces(BENCH_TUNES, pieces, seed, without=taken)
    answers = make_answers(chosen, claims, seed)
    recordings: dict[str, Recording] = {}
    records: list[Record] = []
    seconds = dict.fromkeys(MEDIA, 0.0)
    for answer in track(answers, "verifying", console=console):
        if answer.piece.name not in recordings:
            recordings.clear()  # the answers about a piece follow each other
            recordings[answer.piece.name] = _play(answer.piece.score)
        media: dict[str, Any] = {"score": answer.piece.score, "recording": recordings[answer.piece.name]}
        for medium in MEDIA:
            start = time.perf_counter()
            verdicts = verify(answer.text, media[medium], question=answer.question)
            seconds[medium] += time.perf_counter() - start
            records += _records(answer, medium, verdicts)
    planted = [span for answer in answers for span in answer.planted]
    found = sum(len(find_claims(answer.text, answer.question)) for answer in answers)
    hit = sum(r["verdict"] != MISSED for r in records if r["medium"] == "score")
    return {
        "run": {"claims": len(planted), "pieces": pieces, "seed": seed, "development": development},
        "summary": {medium: _summarise([r for r in records if r["medium"] == medium]) for medium in MEDIA},
        "unplanted": found - hit,
        "seconds": {**{k: round(v, 1) for k, v in seconds.items()}, "all": round(time.perf_counter() - begun, 1)},
        "claims": records,
    }


def _play(score: Score) -> Recording:
    """The score, rendered."""
    return Recording(render(to_midi(score), sampling_rate=RATE).mean(axis=1, dtype="float32"))


def _records(answer: Answer, medium: str, verdicts: list[Verdict]) -> list[Record]:
    """What became of each claim of an answer: the verdict on the claim of its kind that was found in its place."""
    out = []
    for planted in answer.planted:
        start, end = planted.span
        inside = [
            v for v in verdicts if v.claim.kind == planted.kind and start <= v.claim.span[0] and v.claim.span[1] <= end
        ]
        verdict = inside[0] if len(inside) == 1 else None
        out.append({
            "piece": answer.piece.name, "medium": medium, "kind": planted.kind, "style": answer.style,
            "answer": answer.text, "words": answer.text[start:end], "true": planted.true,
            "verdict": verdict.verdict if verdict else MISSED, "found": verdict.found if verdict else None,
            "evidence": verdict.evidence if verdict else None,
        })  # fmt: skip
    return out


def _summarise(records: list[Record]) -> dict[str, Any]:
    groups = {kind: [r for r in records if r["kind"] == kind] for kind in MAKERS} | {"all": records}
    return {name: _measures(group) for name, group in groups.items() if group}


def _measures(records: list[Record]) -> dict[str, Any]:
    """Precision and recall of both verdicts; None where there is nothing to divide by."""
    out: dict[str, Any] = {"claims": len(records), "true": sum(r["true"] for r in records)}
    for verdict, truth in ((VERIFIED, True), (CONTRADICTED, False)):
        given = [r for r in records if r["verdict"] == verdict]
        right = sum(r["true"] is truth for r in given)
        wanted = sum(r["true"] is truth for r in records)
        out[verdict] = {
            "given": len(given), "right": right, "precision": right / len(given) if given else None,
            "recall": right / wanted if wanted else None,
        }  # fmt: skip
    for verdict in (CANNOT_TELL, MISSED):
        out[verdict] = sum(r["verdict"] == verdict for r in records) / len(records)
    return out


def table(result: dict[str, Any]) -> str:
    """The measures as a Markdown table."""
    head = ["medium", "kind", "claims", "verified: precision", "recall", "contradicted: precision", "recall",
            "cannot tell", "not found"]  # fmt: skip
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for medium, kinds in result["summary"].items():
        for kind, m in kinds.items():
            cells = [medium, kind, str(m["claims"])]
            for verdict in (VERIFIED, CONTRADICTED):
                cells += [_part(m[verdict]), _percent(m[verdict]["recall"])]
            cells += [_percent(m[CANNOT_TELL]), _percent(m[MISSED])]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.0f} %"


def _part(measure: dict[str, Any]) -> str:
    return f"{_percent(measure['precision'])} ({measure['right']}/{measure['given']})" if measure["given"] else "–"


def main(
    output: Annotated[Path, typer.Option(help="Folder for table.md, summary.json and claims.jsonl.")],
    claims: Annotated[int, typer.Option(min=14, help="How many claims, over all kinds.")] = 300,
    pieces: Annotated[int, typer.Option(min=2, help="How many tunes they are about.")] = 60,
    seed: int = 0,
    development: Annotated[bool, typer.Option(help="Use the tunes that thresholds are chosen on.")] = False,
) -> None:
    """Measure the verification of claims on scores and on their renders."""
    try:
        result = run_bench(claims, pieces, seed, development=development)
    except MllmError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    records = result.pop("claims")
    text = table(result)
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    write_whole(output / "claims.jsonl", lines)
    write_whole(output / "summary.json", json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    write_whole(output / "table.md", text)
    typer.echo(text, nl=False)
    typer.echo(f"{result['unplanted']} claims found where none was made; seconds: {result['seconds']}")


if __name__ == "__main__":
    typer.run(main)
