"""The bench of verification: pieces and claims with known truth, and measures that are right."""

import json
import subprocess
import sys

import pytest

from mllm.claims import find_claims
from mllm.eval.verification_bench import MEDIA, MISSED, run_bench, table
from mllm.eval.verification_claims import MAKERS, make_answers
from mllm.eval.verification_pieces import BENCH_TUNES, DEVELOPMENT_TUNES, make_pieces, same_title
from mllm.verification import CONTRADICTED, VERIFIED, verify


@pytest.fixture(scope="module")
def pieces():
    return make_pieces(BENCH_TUNES, 20, seed=3)


@pytest.fixture(scope="module")
def answers(pieces):
    return make_answers(pieces, 140, seed=3)


def test_pieces_are_whole_and_half_of_them_have_chords(pieces):
    for piece in pieces:
        assert piece.score.key and piece.score.metre and piece.score.tempo and piece.score.instruments
        lengths = {round(end - start, 6) for start, end in piece.bars[:-1]}
        assert lengths == {piece.score.bar_length}
        assert bool(piece.score.chords) == (len(piece.score.instruments) == 2)
        if piece.score.chords:
            assert [c.onset for c in piece.score.chords] == [start for start, _ in piece.bars]
    assert sum(bool(piece.score.chords) for piece in pieces) == 10


def test_the_same_seed_gives_the_same_bench(pieces, answers):
    again = make_answers(make_pieces(BENCH_TUNES, 20, seed=3), 140, seed=3)
    assert [a.text for a in again] == [a.text for a in answers]
    assert [a.text for a in make_answers(pieces, 140, seed=4)] != [a.text for a in answers]


def test_tunes_for_choosing_thresholds_are_not_those_of_the_bench():
    chosen = {same_title(piece.score.title) for piece in make_pieces(DEVELOPMENT_TUNES, 30, seed=0)}
    bench = make_pieces(BENCH_TUNES, 30, seed=0, without=frozenset(chosen))
    assert not chosen & {same_title(piece.score.title) for piece in bench}
    assert same_title("The Rakes of Mallow -- Reel") == same_title("Rakes Of Mallow")


def test_each_kind_is_claimed_as_often_true_as_false(answers):
    planted = [claim for answer in answers for claim in answer.planted]
    for kind in MAKERS:
        of_kind = [claim.true for claim in planted if claim.kind == kind]
        assert len(of_kind) == 20 and of_kind.count(True) == 10
    for answer in answers:
        for claim in answer.planted:
            assert 0 <= claim.span[0] < claim.span[1] <= len(answer.text)
    assert {answer.style for answer in answers} == {"sentences", "essay", "list", "json", "bare"}


def test_on_scores_nearly_every_verdict_is_right(answers):
    right = total = 0
    for answer in answers:
        verdicts = verify(answer.text, answer.piece.score, question=answer.question)
        assert len(verdicts) == len(find_claims(answer.text, answer.question))
        for claim in answer.planted:
            start, end = claim.span
            inside = [v for v in verdicts if v.claim.kind == claim.kind and start <= v.claim.span[0] < end]
            total += 1
            right += [v.verdict for v in inside] == [VERIFIED if claim.true else CONTRADICTED]
    assert right / total > 0.95


@pytest.mark.slow
def test_the_bench_measures_both_media(tmp_path):
    result = run_bench(claims=28, pieces=4, seed=5)
    for medium in MEDIA:
        whole = result["summary"][medium]["all"]
        assert whole["claims"] == 28
        records = [r for r in result["claims"] if r["medium"] == medium]
        given = [r for r in records if r["verdict"] == VERIFIED]
        assert whole[VERIFIED]["given"] == len(given) and whole[VERIFIED]["right"] == sum(r["true"] for r in given)
        assert whole[MISSED] == sum(r["verdict"] == MISSED for r in records) / 28
    assert "| score | all | 28 |" in table(result)
    command = [sys.executable, "-m", "mllm.eval.verification_bench", "--claims", "14", "--pieces", "2", "--output"]
    done = subprocess.run([*command, tmp_path / "bench"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "bench" / "summary.json").read_text())["run"]["claims"] == 14
    assert len((tmp_path / "bench" / "claims.jsonl").read_text().splitlines()) == 28
