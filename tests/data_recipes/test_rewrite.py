"""Rewording through a real HTTP server: kept where the facts still agree, counted where not, resumable, never stuck."""

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mllm.data_recipes.licences import DataError
from mllm.data_recipes.rewrite import Endpoint, agrees, rewrite
from mllm.data_recipes.row import make_row, messages
from mllm.data_recipes.tune import key_name

FACTS: dict[str, Any] = {
    "instruments": ["flute", "piano"],
    "key": "F# minor",
    "tempo": 97.0,
    "metre": "3/4",
    "lowest": "C#4",
    "contour": "arch",
    "drums": False,
    "chords": [[0.0, 4.0, "A:min"], [4.0, 8.0, "E:7"]],
    "bars": 8,
}
ANSWER = "A moderate piece in F# minor, played by a flute and a piano, in 3/4 at about 96 BPM."
GOOD = "This moderate 3/4 piece is in F sharp minor; a flute and a piano play it at around 96 beats per minute."


class Server(ThreadingHTTPServer):
    """Answers like a model server; what it does is told by the model's name."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.running = self.most = 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


def _swap(old: str, new: str) -> Any:
    return lambda texts: json.dumps([GOOD.replace(old, new) if t == ANSWER else t for t in texts])


REPLIES: dict[str, Any] = {
    "good": lambda texts: json.dumps([GOOD if t == ANSWER else f"Please tell me: {t}" for t in texts]),
    "fenced": lambda texts: "```json\n" + json.dumps([GOOD if t == ANSWER else t for t in texts]) + "\n```",
    "wrong-key": _swap("F sharp minor", "F sharp major"),
    "wrong-tempo": _swap("96", "126"),
    "wrong-instrument": _swap("a piano", "a piano and a violin"),
    "dropped": _swap("a flute and a piano play it", "it is played"),
    "telling": lambda texts: json.dumps([GOOD if t == ANSWER else "Is this piano piece in F# minor?" for t in texts]),
    "long": lambda texts: json.dumps([GOOD + " Lovely music indeed." * 40 if t == ANSWER else t for t in texts]),
    "garbage": lambda texts: "Sure! Here you go.",
    "short-list": lambda texts: "[]",
}


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        server, model = self.server, body["model"]
        with server.lock:
            server.asked.append(body)
            server.keys.append(self.headers.get("authorization"))
            server.running += 1
            server.most = max(server.most, server.running)
            times = len(server.asked)
        try:
            if model == "slow":
                time.sleep(1.0)
            elif model == "busy":
                time.sleep(0.05)
            refused = {"500": 500, "flaky": 503 if times % 3 else 0, "401": 401}.get(model, 0)
            content = "" if refused else REPLIES.get(model, REPLIES["good"])(json.loads(body["messages"][1]["content"]))
            reply = json.dumps({"choices": [{"message": {"role": "assistant", "content": content}}]}).encode()
            if model == "no-completion":
                reply = b"<html>"
            with server.lock:  # before the answer is out: its client may ask again before this thread goes on
                server.running -= 1
            self.send_response(refused or 200)
            self.send_header("content-length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)
        except (BrokenPipeError, ConnectionResetError):
            pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield made
        made.shutdown()


def row(number: int = 0, question: str = "Describe this music.", answer: str = ANSWER) -> dict[str, Any]:
    talk = messages([(question, answer)], audio=[f"clips/{number}.flac"])
    return make_row(
        f"r{number}",
        "describe",
        talk,
        FACTS,
        source="tonal",
        licence="cc0",
        split="train",
        length=10,
        source_id=f"{number}",
    )


def run(server: Server, model: str, cache: Path, rows: list[dict[str, Any]] | None = None, **options: Any) -> Any:
    rejected: Counter[str] = Counter()
    client = Endpoint(server.url, retries=2, wait=0.01, timeout=options.pop("timeout", 20.0))
    out = list(rewrite(rows or [row()], client, model, cache, rejected=rejected, **options))
    return out, rejected


def said(row: dict[str, Any]) -> list[str]:
    return [
        m["content"] if isinstance(m["content"], str) else m["content"][-1]["text"] for m in json.loads(row["messages"])
    ]


@pytest.mark.parametrize("model", ["good", "fenced"])
def test_true_rewordings_are_kept(server: Server, tmp_path: Path, model: str) -> None:
    (new,), rejected = run(server, model, tmp_path)
    assert said(new)[1] == GOOD and not rejected
    assert json.loads(new["messages"])[0]["content"][0] == {"type": "audio", "audio": "clips/0.flac"}
    assert json.loads(new["provenance"]) == {**json.loads(row()["provenance"]), "reworded": model}
    changed = {"messages", "provenance"}
    assert {k: v for k, v in new.items() if k not in changed} == {k: v for k, v in row().items() if k not in changed}


@pytest.mark.parametrize(
    "model, reason",
    [
        ("wrong-key", "key"),
        ("wrong-tempo", "tempo"),
        ("wrong-instrument", "instrument"),
        ("dropped", "dropped instrument"),
        ("telling", "key"),
        ("long", "much longer"),
        ("garbage", "not a JSON list"),
        ("short-list", "not a JSON list"),
        ("500", "endpoint: status 500"),
        ("no-completion", "endpoint: reply is no chat completion"),
    ],
)
def test_others_are_counted_and_the_row_stays(server: Server, tmp_path: Path, model: str, reason: str) -> None:
    out, rejected = run(server, model, tmp_path)
    assert out == [row()] and rejected == {reason: 1}


def test_a_slow_server_is_given_up(server: Server, tmp_path: Path) -> None:
    out, rejected = run(server, "slow", tmp_path, timeout=0.1)
    assert out == [row()] and rejected == {"endpoint: too slow": 1} and len(server.asked) == 3


def test_a_flaky_server_is_asked_again(server: Server, tmp_path: Path) -> None:
    (new,), rejected = run(server, "flaky", tmp_path)
    assert said(new)[1] == GOOD and not rejected and len(server.asked) == 3


def test_nothing_is_asked_twice_and_requests_are_bounded(server: Server, tmp_path: Path) -> None:
    rows = [row(i, question=f"Describe it in the words of listener {'abcdefghijklmnop'[i]}.") for i in range(16)]
    first, _ = run(server, "busy", tmp_path, rows, workers=3)
    assert [r["id"] for r in first] == [r["id"] for r in rows] and len(server.asked) == 16
    assert 2 <= server.most <= 3
    files = sorted(p for p in tmp_path.rglob("*") if p.is_file())
    assert len(files) == 16 and all(p.suffix == ".json" for p in files)
    files[0].write_text("{ torn")
    again, _ = run(server, "busy", tmp_path, rows, workers=1)
    assert again == first and len(server.asked) == 17


def test_a_run_that_stopped_goes_on(server: Server, tmp_path: Path) -> None:
    rows = [row(i, question=f"Describe it, listener {'abcdefgh'[i]}.") for i in range(8)]
    some = rewrite(rows, Endpoint(server.url), "good", tmp_path, workers=1)
    assert said(next(some))[1] == GOOD
    some.close()
    before = len(server.asked)
    assert 1 <= before < 8
    whole, _ = run(server, "good", tmp_path, rows)
    assert len(whole) == 8 and len(server.asked) == 8


def test_fixed_forms_and_bare_answers_are_left_alone(server: Server, tmp_path: Path) -> None:
    rows = [
        row(0, "Which key?\nA. C major\nB. F# minor\nGive letter and text.", "B. F# minor it is"),
        row(1, 'Answer in JSON with the fields "key" (string).', '{"key": "F# minor"}'),
    ]
    out, rejected = run(server, "good", tmp_path, rows)
    assert out == rows and rejected == {"nothing to reword": 2} and not server.asked
    (short,), _ = run(server, "good", tmp_path, [row(2, "What key is this in?", "F# minor")])
    assert said(short) == ["Please tell me: What key is this in?", "F# minor"]


def test_the_key_goes_to_the_server_and_nowhere_else(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MY_KEY", "sesame-1234")
    (new,) = rewrite([row()], Endpoint(server.url, key_env="MY_KEY"), "good", tmp_path)
    assert server.keys == ["Bearer sesame-1234"]
    with pytest.raises(
        DataError, match=r"status 401: check the address, the model '401' and the key in \$MY_KEY"
    ) as refusal:
        list(rewrite([row()], Endpoint(server.url, key_env="MY_KEY"), "401", tmp_path))
    kept = "".join(p.read_text() for p in tmp_path.rglob("*.json"))
    assert "sesame" not in kept + json.dumps(new) + str(refusal.value) + "".join(capfd.readouterr())


def test_a_server_that_is_not_there_ends_the_run(tmp_path: Path) -> None:
    client = Endpoint("http://127.0.0.1:9/v1", retries=0)
    rows = [row(i, f"Describe it for the {i}th time.") for i in range(40)]
    with pytest.raises(DataError, match="rows in a row unanswered"):
        list(rewrite(rows, client, "any", tmp_path))
    with pytest.raises(DataError, match="no address"):
        list(rewrite(rows, Endpoint("file:///etc"), "any", tmp_path))
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="another cache folder"):
        list(rewrite(rows, client, "any", tmp_path / "file"))


@pytest.mark.parametrize(
    "text",
    [
        "Moderate music for piano and flutes in three-four time, F♯ minor, with a tempo of 98.",
        "At 96 bpm, in 3/4, a moderate F-sharp minor piece for pianist and flautist.",
        "A flute and piano in moderate waltz time (♩ = 96), F# minor.",
    ],
)
def test_other_words_for_the_same_facts_agree(text: str) -> None:
    assert agrees(text, FACTS, ANSWER) == []


@pytest.mark.parametrize(
    "text, original, kind",
    [
        ("It is in A minor.", "It is in F# minor.", "key"),
        ("It is in G flat minor.", "", ""),
        ("It is in F# dorian.", "", "key"),
        ("About 101 BPM.", "", "tempo"),
        ("About 99 BPM.", "", ""),
        ("The tempo is 48 beats per minute.", "", "tempo"),
        ("In 6/8.", "", "metre"),
        ("In six-eight time.", "", "metre"),
        ("A sax plays.", "", "instrument"),
        ("No drums are heard.", "", ""),
        ("No piano is heard.", "", "absent"),
        ("The melody starts low, on D4.", "", "note"),
        ("The bottom note is Db4.", "", ""),
        ("An E:7 follows.", "", ""),
        ("A D:min7 follows.", "", "chord"),
        ("There are nine bars.", "", "count"),
        ("There are eight bars.", "", ""),
        ("The melody climbs.", "", "contour"),
        ("A quick piece.", "", "speed"),
        ("It starts at 0:42.", "It starts at 0:24.", "time"),
        ("No, it is in F# minor.", "Yes, it is in F# minor.", "yes or no"),
        ("The key does not change.", "The key changes.", "negation"),
        ("It is a piece for flute.", "It is a piece for flute in F# minor.", "dropped key"),
    ],
)
def test_contradictions_are_found(text: str, original: str, kind: str) -> None:
    found = agrees(text, FACTS, original)
    assert (found[0].partition(":")[0] if found else "") == kind, found


@settings(max_examples=150, deadline=None)
@given(
    st.tuples(st.integers(0, 11), st.sampled_from(["major", "minor"])),
    st.tuples(st.integers(0, 11), st.sampled_from(["major", "minor"])),
    st.floats(40, 208),
    st.floats(40, 208),
)
def test_any_other_key_or_tempo_is_a_contradiction(true: Any, told: Any, bpm: float, said_bpm: float) -> None:
    facts = {"key": key_name(*true), "tempo": bpm}
    found = {c.partition(":")[0] for c in agrees(f"It is in {key_name(*told)} at {said_bpm:.0f} BPM.", facts)}
    assert ("key" in found) == (true != told)
    assert ("tempo" in found) == (abs(round(said_bpm) / bpm - 1) > 0.03)


def test_double_sharps_and_flats_are_notes() -> None:
    assert agrees("The lowest note is F##4.", {"pitch": 67}) == []
    assert agrees("The lowest note is F##4.", {"lowest": "F##4"}) == []
    assert [c.partition(":")[0] for c in agrees("The lowest note is Bbb3.", {"lowest": "Bb3"})] == ["note"]
    assert agrees("It begins C##, D#, E#.", {"first_notes": ["C##", "D#", "E#"]}) == []
