"""What turns say: articles and verbs fit what is inserted, and no dialogue asks for what it has said already."""

import re
from collections import Counter

import numpy as np
import pytest
import yaml
from test_makers import music

from mllm.data_recipes.choices import Pool
from mllm.data_recipes.config import HERE
from mllm.data_recipes.makers import MAKERS, dialogue, make_turns
from mllm.data_recipes.plan import seed_of
from mllm.data_recipes.properties import CONTOURS, INSTRUMENTS, TEXTURES
from mllm.data_recipes.score_rows import QUESTIONS
from mllm.data_recipes.sources_midi import program_family
from mllm.data_recipes.templates import wordings
from mllm.score_types import instrument_name

VOWEL = re.compile(r"\b[Aa] (?=[aeioAEIO])|\b[Aa] u(?!k|n)|\b[Aa]n (?![aeiouAEIOU]|FM|FX)|\b[Aa]n uk")
NAMES = {name for names in INSTRUMENTS for name in names}
NAMES |= {program_family(number) for number in range(128)} | {instrument_name(number) for number in range(128)}
NAMES |= {"drums", "horn", "oud", "Hammond organ", "Violin II", "hurdy-gurdy", "synthesizer", "voice"}


def said(facts: dict[str, object], only: list[str], times: int = 30) -> set[str]:
    """Questions and answers of some makers about these facts, without options."""
    rng, pool = seed_of(1, f"{facts}"), Pool(1)
    made = [turns for _ in range(times) for _, _, turns in make_turns(facts, rng, only, pool)]
    texts = {text.partition("\n")[0] for ((question, answer),) in made for text in (question, answer)}
    return {text.removesuffix(" Answer yes or no.") for text in texts}


@pytest.mark.parametrize(
    "name, question",
    [
        ("English horn", "Is an English horn playing?"),
        ("ukulele", "Is a ukulele playing?"),
        ("FM electric piano", "Is an FM electric piano playing?"),
        ("solo strings", "Are solo strings playing?"),
        ("orchestral reeds", "Do orchestral reeds play in this clip?"),
        ("voices", "Do voices play in this clip?"),
        ("timpani", "Are timpani playing?"),
        ("brass", "Does brass play in this clip?"),
        ("mallets", "Is mallet percussion playing?"),
        ("double bass", "Does a double bass play in this clip?"),
        ("string ensemble", "Is a string ensemble playing?"),
    ],
)
def test_articles_and_verbs_fit_the_instrument(name: str, question: str) -> None:
    assert question in said({"instruments": [name]}, ["instrument.verify"], 60)


@pytest.mark.parametrize("name", sorted(NAMES))
def test_every_instrument_is_said_in_good_grammar(name: str) -> None:
    texts = said({"instruments": [name]}, ["instrument.verify", "instrument.sentence"], 12)
    texts |= said({"sections": [{"start": 0.0, "end": 9.0, "label": "A", "instruments": [name]}]}, ["sections.at"], 2)
    assert any(name.lower().partition(" (")[0][:5] in text.lower() for text in texts)
    for text in texts:
        assert not VOWEL.search(text), text
        assert not re.search(r"\b(\w+) \1\b", text) and "  " not in text, text
        assert not re.search(r"\b[Aa]n? [a-z ]*(?:strings|reeds|drums|voices|effects|timpani)\b", text), text
        # A name from a list of names does not keep its capital inside a sentence.
        inside = re.sub(r"\b(?:French|English|Hammond|FM|FX|II)\b", "", text[1:])
        assert not re.search(r" [A-Z][a-z]", inside), text


def test_one_bar_is_no_bars() -> None:
    assert said({"bars": 1}, ["bars.sentence"]) >= {"There is 1 bar."}
    assert "There are 12 bars." in said({"bars": 12}, ["bars.sentence"]) and "bars" in QUESTIONS
    rng = np.random.default_rng(1)
    options = [q for _ in range(30) for _, _, ((q, _),) in make_turns({"bars": 2}, rng, ["bars.choice"])]
    assert any(". 1 bar\n" in q for q in options) and not any("1 bars" in q for q in options)


def test_shapes_and_textures_that_are_nouns_have_an_article() -> None:
    texts = {t for contour in CONTOURS for t in said({"contour": contour}, ["melody_contour.verify"])}
    texts |= {t for texture in TEXTURES for t in said({"texture": texture}, ["texture.verify"])}
    assert "Is the contour of the melody an arch?" in texts and "Yes, the texture is a duet." in texts
    assert not [t for t in texts if re.search(r"(?:is|melody|texture) (?:arch|valley|duet)\b", t)]


def test_no_instrument_is_said_twice() -> None:
    (answer,) = {t for t in said({"instruments": ["flute", "flute"]}, ["instrument.sentence"]) if "played by" in t}
    assert answer == "The music is played by a flute."


def test_questions_end_as_questions() -> None:
    asking = re.compile(r"^(?:And )?(?:What|Which|Who|How|Is|Are|Do|Does|Where|When|Would|At what|At how)\b")
    facts = {
        "instruments": ["piano"], "key": "C major", "tempo": 100.0, "metre": "4/4", "texture": "solo", "bars": 8,
        "contour": "arch", "lowest": "C4", "highest": "C5", "genre": "folk", "mood": ["calm"], "drums": False,
        "chords": [[0.0, 5.0, "C:maj"], [5.0, 9.0, "G:maj"]], "beats": [0.5 * i for i in range(1, 30)], "seconds": 15.0,
    }  # fmt: skip
    questions = {t for t in said(facts, list(MAKERS), 20) if asking.match(t)}
    assert len(questions) > 100
    for question in questions:
        first = re.match(r"[^.?]*(?:\d\.\d[^.?]*)?[.?]", question.replace("m:ss.", "m:ss"))
        assert first and first[0].endswith("?"), question


def asked_facts() -> list[tuple[re.Pattern[str], set[str]]]:
    """What a question looks like, and the facts that it asks for or that its answer tells."""
    honest = yaml.safe_load((HERE / "unanswerable.yaml").read_text())
    told = {"instrument": {"instruments", "drums"}, "instrument_count": {"instruments"}, "mode": {"key"},
            "tonic": {"key"}, "tempo_class": {"tempo"}, "melody_lowest": {"lowest"}, "melody_highest": {"highest"},
            "melody_range": {"lowest", "highest"}, "melody_contour": {"contour"}, "melody_first_notes": {"first_notes"},
            "describe": {"key", "instruments", "tempo", "metre", "texture", "contour"}, "roman": {"roman", "key"},
            "tags": {"tags", "genre", "mood"}, "pitch_number": {"pitch"}, "note_count": {"notes"}}  # fmt: skip
    found = []
    for task, entry in wordings().items():
        texts = [
            t
            for style, part in entry.items()
            if style not in ("difficulty", "yes", "no")
            for t in (part["questions"] if isinstance(part, dict) else part)
        ]
        found += [(t, told.get(task, {task})) for t in texts if task != "json"]
    found += [(t, {"voices"}) for kind in ("voices", "lyrics", "singer") for t in honest[kind]["questions"]]
    # Of two that fit, the one with more words of its own is meant: longer ones first.
    found.sort(key=lambda pair: -len(re.sub(r"{.*?}", "", pair[0])))
    # "Is" and "Does" stand in the plural beside plurals.
    forms = [re.sub(r"\\{.*?\\}", ".+", re.escape(t)).replace("Is\\ .", "(?:Is|Are)\\ .") for t, _ in found]
    forms = [form.replace("Does\\ .", "(?:Does|Do)\\ .") for form in forms]
    return [(re.compile(form), facts) for form, (_, facts) in zip(forms, found, strict=True)]


def test_dialogues_ask_for_no_fact_that_was_asked_for_or_told_before() -> None:
    rng, pool, known = seed_of(12, "repeats"), Pool(12), asked_facts()
    endings = yaml.safe_load((HERE / "unanswerable.yaml").read_text())["endings"]
    heard: Counter[str] = Counter()
    for number in range(500):
        facts = music(rng)
        if number % 2:  # what is known of a clip of our own: few facts, so repeats are likely
            kept = ("instruments", "key", "tempo", "metre", "texture", "contour", "lowest", "drums", "seconds")
            facts = {name: facts[name] for name in kept}
        talk = dialogue(facts, rng, pool=pool)
        before: set[str] = set()
        for question, answer in talk or ():
            if answer.startswith("{"):
                continue  # the last turn, which asks to sum up
            lines = {question, question.partition("\n")[0], question.removesuffix(" Answer yes or no.")}
            lines |= {question.removesuffix(ending) for ending in endings}
            now = next((facts for form, facts in known if any(map(form.fullmatch, lines))), set())
            assert not now & before, (talk, now & before)
            before |= now
            heard.update(now)
    assert {"key", "tempo", "instruments", "voices", "lowest"} <= set(heard) and heard["key"] > 100
