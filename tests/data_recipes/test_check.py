"""What `check` must find: planted duplicates, transpositions, licences and leaks, and nothing in what is clean."""

import csv
import hashlib
import json
import shutil
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile as sf
from fsspec.implementations.dirfs import DirFileSystem
from planted import FACTS, RATE, Folder, clean, elsewhere, score_of, sentence, sound, varied
from typer.testing import CliRunner

from mllm.cli import app
from mllm.data_recipes.check import Report, check, check_folder
from mllm.data_recipes.duplicates import deduplicate
from mllm.data_recipes.licences import DataError
from mllm.data_recipes.plan import seed_of
from mllm.data_recipes.removal import remove_duplicates
from mllm.data_recipes.shard_contents import hear, inside
from mllm.data_recipes.store import Store
from mllm.data_recipes.templates import ask
from mllm.data_recipes.tonal import tonal_tune
from mllm.score import Score, to_abc, transpose


def moved(score: Score, exactly: bool, rng: np.random.Generator) -> str:
    """The tune in another key, and in half of the cases with another note; ABC."""
    semitones = int(rng.integers(1, 7))
    return to_abc(transpose(score, semitones)) if exactly else varied(score, semitones, rng)


class Planted:
    """A folder with faults, a benchmark, and who is what."""

    def __init__(self, path: Path, times: int = 1) -> None:
        rng = seed_of(3, "plant")
        self.folder = Folder(path / "built")
        self.clean = list(clean(self.folder, 360 * times, 1260 * times, 320 * times))
        self.planted: dict[str, list[str]] = {}
        split = {row["id"]: row["split"] for row in self.folder.rows}
        held = [i for i in range(360 * times) if split[f"clip-{i}"] != "train"][: 50 * times]
        self.planted["similar audio"] = [
            self.folder.clip(
                f"copy-{i}",
                0.45 * sf.read(self.folder.path / f"clips/clip-{i}.flac", dtype="float32")[0],
                "mp3",
                split="train",
            )
            for i in held
        ]
        held = [i for i in range(1260 * times) if split[f"score-{i}"] != "train"][: 50 * times]
        self.planted["similar score"] = [
            self.folder.score(f"moved-{i}", moved(score_of(tonal_tune(i)), i % 2 == 0, rng), split="train")
            for i in held
        ]
        self.planted["licence"] = [
            self.folder.caption(f"unfree-{i}", sentence(rng), licence=("cc-by-nc-4.0", "research-only")[i % 2])
            for i in range(20)
        ]
        self.benchmark = path / "benchmark"
        self._plant_benchmark(rng)
        self.path = self.folder.write()

    def _plant_benchmark(self, rng: np.random.Generator) -> None:
        """Twenty items that training has seen, five in each way, among items that it has not."""
        (self.benchmark / "audio").mkdir(parents=True)
        items = [{"ytid": f"free_{i:06d}", "caption": sentence(rng)} for i in range(100)]
        items += [{"ytid": f"ours-{i:06d}", "caption": ask("describe", {**FACTS}, rng)[1]} for i in range(20)]
        for name in ("leak by id", "leak by text", "leak by audio", "leak by score"):
            self.planted[name] = []
        for i in range(5):
            items.append({"ytid": f"Leaked_{i:04d}", "caption": sentence(rng)})
            address = f"https://youtu.be/Leaked_{i:04d}?t=30"
            text, leaked = sentence(rng), sentence(rng, 30)
            self.planted["leak by id"].append(self.folder.caption(f"id-{i}", text, url=address, split="train"))
            items.append({"ytid": f"words{i:06d}", "caption": leaked})
            # Two words changed, and more said around it.
            words = leaked.split()
            words[2], words[25] = "changed", "too"
            said = f"I hear this. {' '.join(words)} That is all."
            self.planted["leak by text"].append(self.folder.caption(f"text-{i}", said, split="train"))
            samples = sound(tonal_tune(90_000 + i), 40, 4)
            sf.write(self.benchmark / "audio" / f"sound{i}.ogg", 0.5 * samples, RATE)
            items.append({"question": "What is it?", "answer": "a fiddle", "audio": f"audio/sound{i}.ogg"})
            self.planted["leak by audio"].append(self.folder.clip(f"sound-{i}", samples, split="train"))
            score = score_of(tonal_tune(80_000 + i))
            items.append({"question": "What key?", "answer": "C", "abc": varied(score, 4, rng)})
            self.planted["leak by score"].append(self.folder.score(f"abc-{i}", to_abc(score), split="train"))
        (self.benchmark / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))

    def missed(self, report: Report) -> dict[str, set[str]]:
        """Planted rows that the report does not have under their kind."""
        found = {kind: set(f.ids) for kind, f in report.faults.items()}
        return {kind: left for kind, ids in self.planted.items() if (left := set(ids) - found.get(kind, set()))}

    def alarms(self, report: Report) -> set[str]:
        """Clean rows that the report calls faulty."""
        return {id for f in report.faults.values() for id in f.ids} & set(self.clean)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    return Planted(tmp_path_factory.mktemp("planted"))


@pytest.fixture(scope="module")
def report(planted: Planted) -> Report:
    return check(planted.path, [planted.benchmark], workers=2)


def test_all_planted_faults_are_found_and_clean_rows_stay_clean(planted: Planted, report: Report) -> None:
    assert len(planted.clean) >= 2000
    counts = {kind: len(ids) for kind, ids in planted.planted.items()}
    assert counts["similar audio"] == counts["similar score"] == 50 and counts["licence"] == 20
    assert sum(n for kind, n in counts.items() if kind.startswith("leak")) == 20
    assert planted.missed(report) == {}
    alarms = planted.alarms(report)
    assert len(alarms) <= len(planted.clean) // 100, sorted(alarms)[:20]
    assert not report.ok and report.share == pytest.approx(140 / report.rows, abs=0.01)


@pytest.mark.slow
def test_four_times_as_many(tmp_path: Path) -> None:
    planted = Planted(tmp_path, times=4)
    began = time.monotonic()
    report = check(planted.path, [planted.benchmark], workers=2)
    assert planted.missed(report) == {} and len(planted.alarms(report)) <= len(planted.clean) // 100
    assert time.monotonic() - began < 240


def test_the_report_is_json_and_a_table(report: Report, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loaded = json.loads(report.write(tmp_path / "a" / "report.json").read_text())
    assert loaded["faults"]["licence"]["count"] == 20 and not loaded["ok"]
    assert all(len(f["examples"]) <= 20 for f in loaded["faults"].values())
    report.show()
    assert "recordings in two splits, re-encoded or cut" in capsys.readouterr().out


def test_deduplicate_drops_the_training_copy_and_keeps_the_test(planted: Planted) -> None:
    drops = {drop.id: drop for drop in deduplicate(planted.path)}
    wanted = {*planted.planted["similar audio"], *planted.planted["similar score"]}
    assert wanted <= set(drops)
    assert len(set(drops) - wanted) <= 10
    split = {row["id"]: row["split"] for row in planted.folder.rows}
    assert all(split[id] == "train" for id in wanted)


@pytest.fixture
def small(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path / "small")
    list(clean(folder, 6, 10, 8))
    return folder


def test_a_clean_folder_is_fine(small: Folder) -> None:
    report = check(small.write(), workers=1)
    assert report.ok and report.faults == {} and report.share == 0
    assert (report.rows, report.audio, report.scores) == (26, 7, 11)
    assert report.remarks["score twice"].count == 1
    assert check_folder(small.path, workers=1)


def test_forbidden_sources_and_allowed_licences(small: Folder) -> None:
    small.caption("bad", "Some words.", url="https://thesession.org/tunes/1")
    small.caption("unfree", "Some words more.", licence="CC BY-NC 4.0")
    small.caption(
        "named alike", "Some other words.", source_id="ryan/The Irishman's Heart", work="ryan/The Irishman's Heart"
    )
    assert set(check(small.write(), workers=1).faults) == {"forbidden", "licence"}
    report = check(small.write(["cc0", "cc-by-nc"]), workers=1)
    assert report.faults["forbidden"].ids == ["bad"] and "licence" not in report.faults


def test_one_work_in_two_splits_and_one_file_named_by_two(small: Folder) -> None:
    small.score("a", to_abc(score_of(tonal_tune(500))), work="tonal/x", split="test")
    small.score("b", to_abc(score_of(tonal_tune(501))), work="tonal/x", split="train")
    small.clip("c", sound(tonal_tune(502), 0, 1), split="validation")
    small.rows.append({**small.rows[-1], "id": "d", "split": "train"})
    faults = check(small.write(), workers=1).faults
    assert set(faults["work"].ids) == {"b", "d"}
    assert faults["same audio"].ids == ["d"]


def test_a_work_in_a_medley_or_an_episode_of_another_split_is_found(small: Folder) -> None:
    small.score("held", to_abc(score_of(tonal_tune(500))), work="tonal/x", split="test")
    small.score("mine", to_abc(score_of(tonal_tune(503))), work="mine/y", source="mine", split="validation")
    made = {"source": "medleys", "split": "train"}
    small.caption("medley", "One tune and another.", work="medley/ryan/a+tonal/x", **made)
    small.caption("episode", "This and that.", work="episode/mine/y+ryan/b", **made | {"source": "episodes"})
    small.caption("fine", "Two other tunes.", work="medley/ryan/a+ryan/b", **made)
    small.caption("words", "A name with a plus.", work="episode/ryan/Foo + Bar", **made | {"source": "episodes"})
    small.caption("alike", "A like name.", work="episode/ryan/Moo + Bar", source="episodes", split="test")
    assert set(check(small.write(), workers=1).faults["work"].ids) == {"medley", "episode"}


def test_a_build_without_rows_fails_in_one_line(small: Folder) -> None:
    for shard in small.write().glob("rows/*.parquet"):
        pq.write_table(pq.read_table(shard)[:0], shard)
    ran = CliRunner().invoke(app, ["data", "check", str(small.path), "--workers", "1", "--threshold", "1"])
    assert ran.exit_code != 0
    with pytest.raises(DataError, match="no rows") as raised:
        check(small.path, workers=1)
    assert "\n" not in str(raised.value)


def test_broken_rows_audio_shards_and_hashes_are_counted_not_raised(small: Folder) -> None:
    flac = small.path / "clips"
    samples = sound(tonal_tune(700), 0, 1)
    for id in ("cut", "gone", "noise", "short", "nan"):
        small.clip(id, samples + np.float32(0.001) * len(id), work=id, split="train")
    (flac / "gone.flac").unlink()
    (flac / "noise.flac").write_bytes(b"this is no audio" * 50)
    (flac / "cut.flac").write_bytes((flac / "cut.flac").read_bytes()[:9000])
    sf.write(flac / "short.flac", samples[:RATE], RATE)
    sf.write(flac / "nan.flac", np.full(RATE * 4, np.nan, np.float32), RATE, format="WAV", subtype="FLOAT")
    small.caption("prose", "x", split="train")
    small.rows[-1]["messages"] = "{not json"
    small.caption("order", "x", split="train")
    small.rows[-1]["messages"] = json.dumps([{"role": "assistant", "content": "first"}])
    small.caption("escape", "x", split="train", length=1.0)
    talk = [{"type": "audio", "audio": "../../../etc/passwd"}, {"type": "text", "text": "?"}]
    small.rows[-1]["messages"] = json.dumps([{"role": "user", "content": talk}, {"role": "assistant", "content": "no"}])
    small.write()
    (small.path / "rows" / "train-y-00000.parquet").write_bytes(b"PAR1 broken PAR1")
    manifest = json.loads((small.path / "manifest.json").read_text())
    manifest["shards"]["rows/test-x-00000.parquet"] = "0" * 64
    (small.path / "manifest.json").write_text(json.dumps(manifest))
    report = check(small.path, workers=1)
    faults = report.faults
    assert set(faults["row"].ids) == {"prose", "order"}
    assert {"cut", "gone", "noise", "nan", "escape"} <= set(faults["audio"].ids)
    assert faults["length"].ids == ["short"]
    assert faults["shard"].count == 1 and "train-y-00000" in faults["shard"].examples[0]
    assert faults["manifest"].count == 2
    assert same(check(elsewhere(small.path), workers=2), report)


def same(one: Report, other: Report) -> bool:
    """Whether two reports say the same of two places."""
    return one.model_copy(update={"folder": ""}) == other.model_copy(update={"folder": ""})


@pytest.mark.parametrize("kind", ["disk", "elsewhere", "memory"])
def test_what_a_row_names_cannot_leave_the_build(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "built"
    (folder / "clips").mkdir(parents=True)
    (tmp_path / "secret.flac").touch()
    store = Store.at({"disk": folder, "elsewhere": elsewhere(folder), "memory": "memory://built"}[kind])
    for name in ("clips/a.flac", "clips/a..b.flac", "clips/100%.flac", "clips/at@home?.flac", "~/a.flac", ""):
        assert inside(store, name), name
    for name in (
        "..", "../secret.flac", "clips/../../secret.flac", "clips/..", "..\\secret.flac", "%2e%2e%2fsecret.flac",
        "clips/%2e%2e/%2E./secret.flac", "/etc/passwd", str(folder / "clips" / "a.flac"), "//etc/passwd",
        "%2fetc/passwd", "file:///etc/passwd", "s3://bucket/a.flac", "clips/a\0.flac",
    ):  # fmt: skip
        assert not inside(store, name), name
    if kind == "disk":
        (folder / "clips" / "link.flac").symlink_to(tmp_path / "secret.flac")
        (folder / "clips" / "own.flac").symlink_to(folder / "clips" / "a.flac")
        (folder / "clips" / "loop.flac").symlink_to(folder / "clips" / "loop.flac")
        assert inside(store, "clips/own.flac") and not inside(store, "clips/link.flac")
        assert not inside(store, "clips/\ud800.flac")
        assert hear((store, "clips/loop.flac")).error


def test_a_recording_is_heard_alike_wherever_it_lies(tmp_path: Path) -> None:
    samples = sound(tonal_tune(3), 0, 1)
    for ending in ("flac", "wav", "mp3", "ogg"):
        sf.write(tmp_path / f"a.{ending}", samples, RATE)
    (tmp_path / "b.raw").write_bytes((tmp_path / "a.wav").read_bytes())
    (tmp_path / "noise.flac").write_bytes(b"this is no audio" * 50)
    for name in ("a.flac", "a.wav", "a.mp3", "a.ogg", "b.raw", "noise.flac", "none.flac", "a.flac/b", "."):
        here, there = (hear((Store.at(place), name)) for place in (tmp_path, elsewhere(tmp_path)))
        assert (here.error, here.seconds, here.sha256) == (there.error, there.seconds, there.sha256)
        assert np.array_equal(here.landmarks, there.landmarks) and np.array_equal(here.shape, there.shape)
        assert (here.error == "is missing") == (not (tmp_path / name).is_file())
        assert here.error or here.sha256 == hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()


def test_other_builds_and_tables_are_benchmarks_too(small: Folder, tmp_path: Path) -> None:
    small.clip("seen", sound(tonal_tune(900), 0, 1), split="train", work="tonal/900")
    other = Folder(tmp_path / "other")
    other.clip("held", sound(tonal_tune(900), 0, 1), split="test", work="tonal/900")
    other.clip("own", sound(tonal_tune(901), 0, 1), split="train")
    with open(tmp_path / "ids.csv", "w", newline="") as file:
        csv.writer(file).writerows([["track_id", "dataset"], ["7", "tonal"], ["1234", "others"]])
    small.caption("numbered", "Some words.", source_id="7", split="train")
    small.caption("unrelated", "Some words.", source_id="1234", split="train")
    faults = check(small.write(), [other.write(), tmp_path / "ids.csv"], workers=1).faults
    assert faults["leak by audio"].ids == ["seen"]
    assert set(faults["leak by id"].ids) == {"seen", "numbered"}
    far = check(elsewhere(small.path), [elsewhere(other.path), tmp_path / "ids.csv"], workers=1)
    assert far.faults == faults


def test_bad_arguments_are_one_clear_line(small: Folder, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no rows"):
        check(tmp_path / "nowhere")
    small.write()
    with pytest.raises(DataError, match="does not exist"):
        check(small.path, [tmp_path / "none.jsonl"])
    (tmp_path / "bad.jsonl").write_text("{oops\n")
    with pytest.raises(DataError, match="cannot be read"):
        check(small.path, [tmp_path / "bad.jsonl"])
    with pytest.raises(DataError, match="memory://empty holds no rows"):
        check("memory://empty")
    with pytest.raises(DataError, match="memory://empty.*only builds"):
        check(small.path, ["memory://empty"])
    with pytest.raises(DataError, match="threshold"):
        check(small.path, threshold=2)


def test_the_share_of_faults_is_weighed_against_the_threshold(small: Folder) -> None:
    small.caption("unfree", "Some words.", licence="cc-by-nc-4.0")
    path = small.write()
    assert not check(path, workers=1).ok and check(path, threshold=0.1, workers=1).ok


def test_deduplicated_elsewhere_as_here(small: Folder, tmp_path: Path) -> None:
    held = next(row for row in small.rows if row["task"] == "instrument" and row["split"] != "train")
    samples = sf.read(small.path / f"clips/{held['id']}.flac", dtype="float32")[0]
    small.clip("copy", 0.5 * samples, "mp3", split="train")
    score = next(row for row in small.rows if row["task"] == "score" and row["split"] != "train")
    tune = tonal_tune(int(score["id"].removeprefix("score-")))
    small.score("moved", varied(score_of(tune), 4, seed_of(1, "moved")), split="train")
    small.write()
    shutil.copytree(small.path, far := tmp_path / "far")
    for place, workers in ((small.path, 1), (elsewhere(far), 2)):
        assert remove_duplicates(Store.at(place), workers) == 2
    dropped = json.loads((far / "duplicates.json").read_text())
    assert [drop["id"] for drop in dropped] == ["copy", "moved"] and dropped[0]["instead"] == f"clips/{held['id']}.flac"
    names = [p.relative_to(far) for p in far.rglob("*") if p.is_file()]
    assert all((far / name).read_bytes() == (small.path / name).read_bytes() for name in names)
    # The manifest of this folder still has the old hashes; otherwise nothing is wrong with it any more.
    assert set(check(elsewhere(far), workers=1).faults) == {"manifest"}
    assert remove_duplicates(Store.at(elsewhere(far)), 1) == 2, "found once, not searched again"


@pytest.mark.parametrize("lost", ["clips/clip-0.flac", "rows/train-x-00000.parquet"])
def test_no_list_of_duplicates_is_made_where_reading_failed(
    small: Folder, lost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(fs: DirFileSystem, path: str, *args: object, **kwargs: object) -> object:
        if path.endswith(lost):
            raise RuntimeError("connection reset")
        return opened(fs, path, *args, **kwargs)

    small.write()
    opened = DirFileSystem.open
    store = Store.at(elsewhere(small.path))
    with monkeypatch.context() as patch:
        patch.setattr(DirFileSystem, "open", fail)
        with pytest.raises(OSError, match=f"{lost.rpartition('/')[2]}.*connection reset"):
            remove_duplicates(store, 1)
        assert "connection reset" in str(check(elsewhere(small.path), workers=1).faults)
    assert not store.exists("duplicates.json") and remove_duplicates(store, 1) == 0


def test_a_build_of_today_passes(tiny_build: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(tiny_build, folder)
    report = check(folder, workers=1)
    kinds = set(report.faults) - {"licence"}
    assert report.rows == sum(pq.read_metadata(p).num_rows for p in folder.glob("rows/*.parquet"))
    assert not kinds, report.faults
