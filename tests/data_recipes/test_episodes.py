"""In-context episodes: no shortcut finds the label, nothing leaks, and the query can be answered from the examples."""

import itertools
import re
import time
from collections import Counter
from typing import Any

import numpy as np
import pytest

from mllm.data_recipes.config import HERE
from mllm.data_recipes.episodes import EPISODE_PROPERTIES, LABEL_KINDS, EpisodePool, episode, episodes, made_up_word
from mllm.data_recipes.licences import DataError
from mllm.data_recipes.plan import seed_of
from mllm.data_recipes.row import Item

TUNES = {"2/4": "CD|EF|GA|GE|", "3/4": "CDE|FGA|GFE|DCC|", "4/4": "CDEF|GAGE|FEDC|"}


def clips(count: int, seed: int = 0) -> list[Item]:
    """Recordings, three of each work, in unequal shares, and a tenth as many scores."""
    rng = seed_of(seed, "clips")
    out = []
    for i in range(count):
        facts: dict[str, Any] = {
            "instruments": [str(rng.choice(["flute", "piano", "harp", "choir"], p=[0.55, 0.25, 0.15, 0.05]))],
            "key": str(rng.choice(["A minor", "C major", "D minor", "G major"], p=[0.1, 0.5, 0.1, 0.3])),
            "metre": str(rng.choice(["2/4", "3/4", "4/4", "6/8"])),
            "tempo": float(rng.uniform(50, 200)),
            "contour": str(rng.choice(["rising", "falling", "arch"])),
            "texture": str(rng.choice(["solo", "duet", "accompanied"], p=[0.8, 0.1, 0.1])),
            "drums": bool(rng.random() < 0.1),
        }
        out.append(Item(f"clip{i}", "cc0", work=f"w{i // 3}", split="train", audio=f"clips/{i}.flac", facts=facts))
    for i in range(count // 10):
        metre = ("2/4", "3/4", "4/4")[i % 3]
        text = f"X:1\nT:t\nM:{metre}\nL:1/4\nK:{('C', 'Am', 'Dm', 'G')[i % 4]}\n{TUNES[metre]}\n"
        out.append(Item(f"score{i}", "cc0", work=f"s{i}", split="train", score=text))
    return out


@pytest.fixture(scope="module")
def pool() -> EpisodePool:
    return EpisodePool.of(clips(1500))


@pytest.fixture(scope="module")
def many(pool: EpisodePool) -> list[tuple[list[dict[str, Any]], dict[str, Any]]]:
    return list(episodes(pool, seed_of(1, "episodes"), 4500))


def labels(talk: list[dict[str, Any]]) -> list[str]:
    return [m["content"] for m in talk if m["role"] == "assistant"]


def test_guessers_without_ears_are_right_by_chance(many: list[Any]) -> None:
    gains: dict[str, list[float]] = {}
    for talk, facts in many:
        *shown, answer = labels(talk)
        if len(shown) < 2:
            continue
        counts = Counter(shown)
        most = [label for label, n in counts.items() if n == max(counts.values())]
        least = [label for label in facts["mapping"].values() if counts[label] == min(counts.values())]
        guesses = {
            "last": [shown[-1]],
            "first": [shown[0]],
            "majority": most,
            "minority": least,
            "constant": [min(facts["mapping"].values())],
            "longest": [max(facts["mapping"].values(), key=len)],
            "value": [facts["mapping"][min(facts["classes"])]],
        }
        for name, guess in guesses.items():
            won = (answer in guess) / len(guess) - 1 / len(facts["classes"]) if guess else 0.0
            gains.setdefault(name, []).append(won)
            gains.setdefault(f"{name} {'named' if facts['named'] else 'unnamed'}", []).append(won)
    assert len(gains["last"]) >= 2000
    for name, won in gains.items():
        assert abs(np.mean(won)) < (0.025 if " " not in name else 0.045), (name, np.mean(won))


def test_facts_tell_what_the_messages_show(many: list[Any], pool: EpisodePool) -> None:
    works = {e.item.id: e.work for e in pool.examples}
    values = {e.item.id: v for e, v in zip(pool.examples, pool.values, strict=True)}
    for talk, facts in many:
        ids = [*facts["examples"], facts["query"]]
        assert len(talk) == 2 * len(ids) == 2 * (facts["k"] + 1)
        assert [m["role"] for m in talk] == ["user", "assistant"] * len(ids)
        assert len({works[i] for i in ids}) == len(ids), "a work twice"
        right = [facts["mapping"][values[i][facts["property"]]] for i in ids]
        assert labels(talk) == right and facts["answer"] == right[-1]
        assert len(set(facts["mapping"].values())) == len(facts["classes"]) >= 2
        for message, item in zip(talk[::2], ids, strict=True):
            sound, text = message["content"]
            assert text["type"] == "text" and text["text"]
            if item.startswith("clip"):
                assert sound == {"type": "audio", "audio": f"clips/{item.removeprefix('clip')}.flac"}
            else:
                assert sound["type"] == "text" and sound["text"].startswith("X:1\n")


def test_every_label_asked_is_shown_or_explained(many: list[Any]) -> None:
    for talk, facts in many:
        opening = talk[0]["content"][-1]["text"]
        *shown, answer = labels(talk)
        counts = Counter(shown)
        assert all(label in opening for label in facts["mapping"].values())
        if facts["k"] >= len(facts["classes"]):
            assert answer in counts and max(counts.values()) - min(counts.values()) <= 1
        elif facts["label_kind"] != "ordinary":
            assert all(f"{label} means {value}" in opening for value, label in facts["mapping"].items())
        assert (EPISODE_PROPERTIES[facts["property"]] in opening) == facts["named"]


def test_kinds_of_labels(many: list[Any]) -> None:
    seen: dict[str, dict[tuple[str, str], set[str]]] = {kind: {} for kind in LABEL_KINDS}
    for _, facts in many:
        for value, label in facts["mapping"].items():
            seen[facts["label_kind"]].setdefault((facts["property"], value), set()).add(label)
    assert all(words == {value} for (_, value), words in seen["ordinary"].items())
    assert all(len(words) == 1 for words in seen["made-up"].values())
    assert all(len(words) > 10 for words in seen["changing"].values())
    assert {f["k"] for _, f in many} == set(range(9)) and {f["property"] for _, f in many} >= {"mode", "instrument"}
    assert 0.2 < np.mean([not f["named"] for _, f in many]) < 0.6


def test_unnamed_properties_can_be_found(many: list[Any], pool: EpisodePool) -> None:
    values = {e.item.id: v for e, v in zip(pool.examples, pool.values, strict=True)}
    unnamed = [f for _, f in many if not f["named"]]
    for facts in unnamed:
        for other in EPISODE_PROPERTIES:
            told = [(values[i].get(other), values[i][facts["property"]]) for i in facts["examples"]]
            meaning = dict(told)
            fits = None not in meaning and len(set(told)) == len(meaning) == len(set(meaning.values()))
            if fits and values[facts["query"]].get(other) in meaning:
                assert meaning[values[facts["query"]][other]] == facts["query_value"]


def test_sound_and_score_interleave_where_both_have_the_values(many: list[Any]) -> None:
    mixed = [f for _, f in many if len({i[:4] for i in f["examples"]}) == 2]
    assert len(mixed) > 100 and {f["property"] for f in mixed} <= {"mode", "metre", "melody_contour"}
    for _, facts in many:
        if facts["property"] == "metre" and "6/8" in facts["classes"]:  # no score has it: sound would tell it apart
            assert all(i.startswith("clip") for i in [*facts["examples"], facts["query"]])


def test_made_up_words_can_be_spoken_and_mean_nothing() -> None:
    rng = seed_of(1, "words")
    words = {made_up_word(rng) for _ in range(40_000)}
    assert len(words) > 10_000 and all(len(w) == 5 and w[1] in "aeiou" and w[3] in "aiou" for w in words)
    # Slurs and coarse words are only hinted at: what begins or ends like one is none either.
    for stem in ("naz", "nig", "neg", "fag", "paki", "kik", "dag", "pol", "mong", "tit", "vag", "rap", "pus", "fuk",
                 "kun", "put", "sat", "nud", "sod", "mor", "zob", "kaf", "god", "fat"):  # fmt: skip
        assert not [w for w in words if stem in w], stem
    english = "kebab kabob nabob topaz motif serif kalif demob redub zebub taraf bebop rebab daraf namaz sofa soda"
    assert not words & set(english.split())
    music = {"tempo", "banjo", "piano", "tuba", "viola", "polka", "solo", "sitar", "minor", "major", "rebab"}
    spoken = {w for text in said_by_us() for w in re.findall("[a-z]+", text.lower())}
    assert len(spoken) > 500 and not words & (music | spoken)


def said_by_us() -> list[str]:
    """Every text in which wordings and names of music stand."""
    places = [*HERE.glob("*.yaml"), HERE / "instruments.py", HERE / "properties.py", HERE / "mentions.py"]
    return [place.read_text(encoding="utf-8") for place in places]


def test_an_episode_takes_no_longer_in_a_larger_pool(pool: EpisodePool) -> None:
    large = EpisodePool.of(itertools.chain(clips(12000)))
    seconds = []
    for each in (pool, large):
        began = time.process_time()
        assert sum(1 for _ in episodes(each, seed_of(2, "speed"), 400)) == 400
        seconds.append(time.process_time() - began)
    assert seconds[1] < 3 * seconds[0] + 0.2


def test_the_same_generator_gives_the_same_episodes(pool: EpisodePool) -> None:
    one, two = (list(episodes(pool, seed_of(4, "same"), 60)) for _ in range(2))
    assert one == two != list(episodes(pool, seed_of(5, "same"), 60))


def test_asked_for_by_name(pool: EpisodePool) -> None:
    talk, facts = episode(pool, seed_of(1, "one"), 6, "changing", property="metre", named=False)
    assert facts["property"] == "metre" and facts["k"] == 6 and len(talk) == 14
    few = clips(60)
    assert episode(few, seed_of(1, "list"), 2)[1]["k"] == 2
    assert max(f["k"] for _, f in episodes(clips(24), seed_of(1, "small"), 40)) < 8


@pytest.mark.parametrize(
    "change, why",
    [
        ({"k": 9}, "0 to 8"),
        ({"labels": "odd"}, "unknown kind of labels 'odd'"),
        ({"property": "colour"}, "unknown property 'colour'"),
        ({"property": "genre"}, "too few"),
    ],
)
def test_bad_wishes_are_refused(pool: EpisodePool, change: dict[str, Any], why: str) -> None:
    with pytest.raises(DataError, match=why):
        episode(pool, seed_of(1, "bad"), **{"k": 2, "labels": "ordinary", **change})


def test_bad_items_are_refused_or_counted() -> None:
    items = clips(30)
    items[3].split = "test"
    with pytest.raises(DataError, match="one split"):
        EpisodePool.of(items)
    skipped: Counter[str] = Counter()
    bad = [
        Item("a", "cc0", facts={"key": "A minor"}),
        Item("b", "cc0", audio="b.flac"),
        Item("c", "cc0", score="/etc/passwd"),
        Item("d", "cc0", score="no\nmusic"),
    ]
    assert EpisodePool.of(bad, skipped).examples == []
    assert skipped == {"neither audio nor score": 1, "no property to ask about": 3}
    with pytest.raises(DataError, match="too few"):
        next(episodes([], seed_of(1, "none"), 1))
