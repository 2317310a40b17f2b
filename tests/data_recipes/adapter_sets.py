"""Miniatures of the public sets, in the layout that their recipes name, and the one item that each must give."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pretty_midi
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile as sf

WAV = "a recording"
MIDI = "a MIDI file"
ABC = "X:1\nT:The First\nM:6/8\nL:1/8\nK:G\nGAB c2d|efg a3|\n\nX:2\nT:The Second\nM:4/4\nL:1/4\nK:Em\nEGBe|E4|\n"
NOTES = ((60, 0.0, 0.5), (64, 0.5, 1.0), (67, 1.0, 1.5), (72, 1.5, 2.0))

_NOTE = "<note><pitch><step>{}</step><octave>4</octave></pitch><duration>1</duration><type>quarter</type></note>"
_XML = (
    '<?xml version="1.0"?><score-partwise version="3.1"><work><work-title>Lied</work-title></work><part-list>'
    '<score-part id="P1"><part-name>Violin</part-name></score-part></part-list><part id="P1"><measure number="1">'
    "<attributes><divisions>1</divisions><key><fifths>0</fifths><mode>major</mode></key><time><beats>4</beats>"
    "<beat-type>4</beat-type></time><clef><sign>G</sign><line>2</line></clef></attributes>"
    + "".join(_NOTE.format(s) for s in "CDEG")
    + "</measure></part></score-partwise>"
)
_CONTAINER = '<container><rootfiles><rootfile full-path="score.xml"/></rootfiles></container>'


def midi(path: Path) -> None:
    """Four notes in two seconds."""
    whole = pretty_midi.PrettyMIDI(initial_tempo=120)
    piano = pretty_midi.Instrument(0, name="Piano")
    piano.notes = [pretty_midi.Note(80, p, a, b) for p, a, b in NOTES]
    whole.instruments.append(piano)
    whole.write(str(path))


def write(root: Path, files: dict[str, Any]) -> Path:
    """Files by name: recordings, MIDI, parquet (a list under a name that ends so), JSON (dict or list), or text."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is WAV:
            sf.write(path, np.zeros(800, np.float32), 8000, format="WAV")
        elif content is MIDI:
            midi(path)
        elif name.endswith(".parquet"):
            pq.write_table(pa.Table.from_pylist(content), path)
        elif name.endswith(".mxl"):
            packed = io.BytesIO()
            with zipfile.ZipFile(packed, "w") as file:
                file.writestr("META-INF/container.xml", _CONTAINER)
                file.writestr("score.xml", _XML)
            path.write_bytes(packed.getvalue())
        elif isinstance(content, str):
            path.write_text(content, encoding="utf-8")
        elif name.endswith("jsonl"):
            path.write_text("".join(json.dumps(row) + "\n" for row in content))
        else:
            path.write_text(json.dumps(content))
    return root


def index(version: str, tracks: dict[str, dict[str, str]], **more: Any) -> dict[str, Any]:
    """An index in mirdata's format; the sums are not read."""
    rows = {id: {k: [path, "0"] for k, path in paths.items()} for id, paths in tracks.items()}
    return {"version": version, "tracks": rows, **more}


def _jams(*annotations: tuple[str, str, list[Any]]) -> dict[str, Any]:
    return {
        "annotations": [
            {"namespace": space, "annotation_metadata": {"data_source": source},
             "data": [{"time": float(t), "duration": float(d), "value": v, "confidence": c} for t, d, v, c in data]}
            for space, source, data in annotations
        ]
    }  # fmt: skip


_LP = {
    "caption_writing": "A slow piano tune.",
    "caption_ground_truth": "Slow piano.",
    "artist_name": "Anna",
    "title": "Still",
}
_OTHER = [{"nothing": "that the recipe reads"}]
"""Contents of the files of other splits, which have to be there too."""
_QA = [{"from": "human", "value": "<audio>\nWhat plays?"}, {"from": "gpt", "value": "A piano."}]
_TALK = ("What plays?", "A piano.")
_TAGS = (
    "track_id\tartist_id\talbum_id\tpath\tduration\ttags\ntrack_7\tartist_1\talbum_3\t07/7.mp3\t91.5\tgenre---folk\t"
)

# Recipe -> (files, attributes of the item, facts of the item, (question, answer) of its conversation or None).
SETS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any], tuple[str, str] | None]] = {
    "musiccaps": (
        {"musiccaps-public.csv": "ytid,start_s,end_s,aspect_list,caption,is_audioset_eval\n"
         "-0Gj8-vB1q4,30,40,\"['pop', 'slow']\",\"A song,\n it is slow.\",True\n", "audio/-0Gj8-vB1q4.wav": WAV},
        {"id": "-0Gj8-vB1q4-30", "split": "test", "licence": "research-only", "work": "-0Gj8-vB1q4"},
        {"caption": "A song, it is slow.", "tags": ["pop", "slow"]}, None),
    "lp_musiccaps_mc": (
        {"data/train-0.parquet": [{**_LP, "ytid": "abc", "aspect_list": ["slow"]}], "audio/abc.wav": WAV,
         "data/test-0.parquet": _OTHER},
        {"id": "abc", "split": "train"}, {"caption": "A slow piano tune.", "tags": ["slow"]}, None),
    "lp_musiccaps_mtt": (
        {"data/valid-0.parquet": [{**_LP, "track_id": "5", "tag": ["slow"], "path": "f/5.mp3"}], "audio/f/5.mp3": WAV,
         "data/train-0.parquet": _OTHER, "data/test-0.parquet": _OTHER},
        {"id": "5", "split": "validation", "work": "Anna: Still"}, {"title": "Still"}, None),
    "lp_musiccaps_msd": (
        {"data/test-0.parquet": [{**_LP, "track_id": "TR1", "tag": ["slow"]}], "audio/TR1.mp3": WAV,
         "data/train-0.parquet": _OTHER, "data/valid-0.parquet": _OTHER},
        {"id": "TR1", "split": "test"}, {"tags": ["slow"]}, None),
    "song_describer": (
        {"song_describer.csv": "caption_id,track_id,caption,album_id,path\n1,31,A quiet song.,9,31/1000031.mp3\n",
         "audio/31/1000031.2min.mp3": WAV},
        {"id": "31-1", "split": "test", "work": "album-9"}, {"caption": "A quiet song."}, None),
    "musicbench": (
        {"MusicBench_train.json": '{"location": "data_aug2/-0SdAVK79lg_1.wav", "main_caption": "A waltz.", "key": "?"}',
         "data_aug2/-0SdAVK79lg_1.wav": WAV, "MusicBench_test_A.json": _OTHER},
        {"work": "-0SdAVK79lg", "split": "train"}, {"caption": "A waltz."}, None),
    "jamendomaxcaps": (
        {"final_caption30sec.jsonl": [{"id": "7", "start_time": 30, "end_time": 60, "caption": "A drone."}],
         "2008-01-01.jsonl": [{"id": "7", "album_id": "3", "name": "Hum",
                               "license_ccurl": "http://creativecommons.org/licenses/by-sa/3.0/"}],
         "audio/7.mp3": WAV},
        {"licence": "cc-by-sa-3.0", "start": 30.0, "end": 60.0, "work": "album-3"},
        {"caption": "A drone.", "title": "Hum"}, None),
    "midicaps": (
        {"train.json": '{"location": "lmd_full/1/a.mid", "caption": "A tune.", "instrument_summary": ["Piano"], '
         '"test_set": true}\n', "lmd_full/1/a.mid": MIDI},
        {"id": "lmd_full/1/a.mid", "split": "test"}, {"caption": "A tune.", "instruments": ["Piano"]}, None),
    "musicqa": (
        {"FinetuneMusicQA.json": [{"audio_name": "1.mp3", "conversation": _QA}], "audios/1.mp3": WAV,
         "PretrainMusicQA.json": _OTHER, "EvalMusicQA.json": _OTHER},
        {"split": "train", "work": "1.mp3"}, {}, _TALK),
    "musicinstruct": (
        {"test/a.jsonl": [{"ytid": "abc", "question": _TALK[0], "answer": _TALK[1]}], "audio/abc.wav": WAV,
         "train/a.jsonl": _OTHER},
        {"split": "test", "work": "abc"}, {}, _TALK),
    "openmu_bench": (
        {"MusicInstruct_long_eval.json": [
            {"local_audio_path": "/home/x/abc.wav", "instruction": _TALK[0], "output": _TALK[1]}],
         "audio/abc.wav": WAV, "MusicInstruct_long_train.json": _OTHER, "MTT_test.json": _OTHER},
        {"split": "test", "work": "abc.wav"}, {}, _TALK),
    "musicskills": (
        {"train/a.jsonl": [{"audio": "x.wav", "question": _TALK[0], "answer": _TALK[1]}], "audio/x.wav": WAV,
         "validation/a.jsonl": _OTHER, "test/a.jsonl": _OTHER},
        {"split": "train"}, {}, _TALK),
    "musicpile": (
        {"data/train-0.parquet": [
            {"id": 1, "src": "irishman", "instruction": "Go on", "input": "X:1", "output": "K:G"},
            {"id": 2, "src": "kern", "instruction": "What key?", "input": "X:1\nK:G", "output": "G major"}]},
        {"id": "2", "audio": "", "split": "train"}, {"origin": "kern"}, ("What key?\nX:1\nK:G", "G major")),
    "mtg_jamendo": (
        {"data/splits/split-0/autotagging-test.tsv": _TAGS + "instrument---piano\tmood/theme---calm\n",
         "audio/07/7.mp3": WAV,
         "data/splits/split-0/autotagging-train.tsv": _TAGS.partition("\n")[0],
         "data/splits/split-0/autotagging-validation.tsv": _TAGS.partition("\n")[0]},
        {"id": "track_7", "split": "test", "work": "album_3"},
        {"tags": ["folk", "piano", "calm"], "instruments": ["piano"], "mood": ["calm"], "seconds": 91.5}, None),
    "magnatagatune": (
        {"annotations_final.csv": '"clip_id"\t"slow"\t"loud"\t"mp3_path"\n"2"\t"1"\t"0"\t"c/a-song-30-59.mp3"\n',
         "audio/c/a-song-30-59.mp3": WAV},
        {"id": "2", "split": "validation", "work": "c/a-song"}, {"tags": ["slow"]}, None),
    "fma": (
        {"fma_metadata/raw_tracks.csv": "track_id,album_id,license_url,track_title,track_genres,artist_name\n"
         "2,1,http://creativecommons.org/licenses/by-nc-sa/3.0/us/,Food,\"[{'genre_title': 'Hip-Hop'}]\",AWOL\n"
         "3,1,,No licence,,\n", "fma_large/000/000002.mp3": WAV, "fma_large/000/000003.mp3": WAV},
        {"id": "2", "licence": "cc-by-nc-sa-3.0", "work": "album-1"},
        {"genre": "Hip-Hop", "tags": ["Hip-Hop"], "title": "Food"}, None),
    "deam": (
        {"annotations/annotations averaged per song/song_level/static_annotations_averaged_songs_1_2000.csv":
         "song_id, valence_mean, valence_std, arousal_mean\n2, 9.0, 0.9, 3.0\n", "MEMD_audio/2.mp3": WAV},
        {"id": "2"}, {"valence": 1.0, "arousal": -0.5}, None),
    "emomusic": (
        {"annotations/static_annotations.csv": "song_id,mean_arousal,std_arousal,mean_valence\n2,5.0,1,1.0\n",
         "annotations/songs_info.csv": "song_id,Artist,Song title,Genre,Mediaeval 2013 set\n2,Anna,Still,Folk,"
         "evaluation\n", "clips_45seconds/2.mp3": WAV},
        {"id": "2", "split": "test", "work": "Anna: Still"}, {"valence": -1.0, "arousal": 0.0, "genre": "Folk"}, None),
    "nsynth": (
        {"nsynth-valid/examples.jsonl": [{"note_str": "reed_acoustic_011-060-100", "pitch": 60,
                                          "instrument_str": "reed_acoustic_011", "instrument_family_str": "reed"}],
         "nsynth-valid/audio/reed_acoustic_011-060-100.wav": WAV,
         "nsynth-train/examples.jsonl": _OTHER, "nsynth-test/examples.jsonl": _OTHER},
        {"split": "validation", "work": "reed_acoustic_011"}, {"pitch": 60, "instruments": ["reeds"]}, None),
    "gtzan": (
        {"gtzan_genre_index_1.0.json": index("1.0", {"blues.00000": {
            "audio": "blues.wav", "beats": "b.beats", "tempo": "t.bpm"}}), "blues.wav": WAV,
         "b.beats": "0.5 1\n1.0 2\n", "t.bpm": "120.0\n"},
        {"id": "blues.00000"}, {"genre": "blues", "beats": [0.5, 1.0], "tempo": 120.0}, None),
    "giantsteps_key": (
        {"giantsteps_key_index_+.json": index("+", {"3": {"audio": "audio/3.mp3", "key": "3.key", "meta": "3.json"}}),
         "audio/3.mp3": WAV, "3.key": "Eb minor",
         "3.json": {"genres": [{"name": "House"}], "sub_genres": [], "bpm": 1, "artists": []}},
        {"id": "3"}, {"key": "Eb minor", "genre": "House"}, None),
    "giantsteps_tempo": (
        {"giantsteps_tempo_index_2.0.json": index("2.0", {"3": {
            "audio": "audio/3.mp3", "annotation_v1": "1.jams", "annotation_v2": "2.jams"}}), "audio/3.mp3": WAV,
         "1.jams": _jams(("tempo", "", [(0, 1, 90.0, 1.0)]), ("tag", "", [(0, 1, "house", 1)])),
         "2.jams": _jams(("tempo", "", [(0, 120, 63.5, 0.2), (0, 120, 127.0, 0.8)]))},
        {"id": "3"}, {"tempo": 127.0, "genre": "house"}, None),
    "ballroom": (
        {"ballroom_full_index_1.0.json": index("1.0", {"1": {
            "audio": "B/Waltz/1.wav", "beats": "1.beats", "tempo": "1.bpm"}}), "B/Waltz/1.wav": WAV,
         "1.beats": "0.1 1\n0.8 2\n", "1.bpm": "87\n"},
        {"id": "1"}, {"genre": "waltz", "tempo": 87.0, "beats": [0.1, 0.8]}, None),
    "medley_solos_db": (
        {"medley_solos_db_index_1.2.json": index("1.2", {"u": {"audio": "audio/u.wav"}}), "audio/u.wav": WAV,
         "annotation/Medley-solos-DB_metadata.csv": "subset,instrument,instrument_id,song_id,uuid4\n"
         "training,clarinet,0,12,u\n"},
        {"id": "u", "split": "train", "work": "song-12", "licence": "cc-by-4.0"}, {"instruments": ["clarinet"]}, None),
    "maestro": (
        {"maestro_index_2.0.0.json": index("2.0.0", {"2018/a": {"audio": "2018/a.wav", "midi": "2018/a.midi"}}),
         "2018/a.wav": WAV, "2018/a.midi": MIDI,
         "maestro-v2.0.0.json": [{"canonical_composer": "Bach", "canonical_title": "Fugue", "split": "validation",
                                  "midi_filename": "2018/a.midi", "duration": 2.0}]},
        {"id": "2018/a", "split": "validation", "work": "Bach: Fugue"},
        {"notes": [[a, b, p] for p, a, b in NOTES], "instruments": ["piano"], "composer": "Bach"}, None),
    "slakh": (
        {"slakh_index_2100-redux.json": index("2100-redux", {"Track1-S00": {
            "audio": "s/train/T/S00.flac", "midi": "s/train/T/S00.mid", "metadata": "s/train/T/metadata.yaml"}},
            multitracks={"Track1": {"tracks": ["Track1-S00"], "mix": ["s/train/T/mix.flac", "0"],
                                    "midi": ["s/train/T/all.mid", "0"], "metadata": ["s/train/T/metadata.yaml", "0"]}}),
         "s/train/T/mix.flac": WAV, "s/train/T/all.mid": MIDI,
         "s/train/T/metadata.yaml": "UUID: u1\nstems: {S00: {inst_class: Piano, program_num: 0, is_drum: false}}\n"},
        {"id": "Track1", "split": "train", "work": "u1"}, {"instruments": ["Piano"]}, None),
    "guitarset": (
        {"guitarset_index_1.1.0.json": index("1.1.0", {"00_BN1-129-Eb_comp": {
            "jams": "a.jams", "audio_hex_cln": "x", "audio_hex": "x", "audio_mic": "mic.wav", "audio_mix": "x"}}),
         "mic.wav": WAV, "a.jams": _jams(
            ("beat_position", "", [(0.5, 0, {"position": 1}, 1)]), ("chord", "", [(0, 2, "Eb:maj", 1)]),
            ("chord", "", [(0, 2, "Eb:maj7", 1)]), ("key_mode", "", [(0, 2, "Eb:major", 1)]),
            *[("note_midi", str(i), [(0.1, 0.4, 63.0, 1)]) for i in range(6)])},
        {"work": "BN1-129-Eb"},
        {"key": "Eb major", "tempo": 129.0, "chords": [[0.0, 2.0, "Eb:maj"]], "genre": "Bossa Nova"}, None),
    "salami": (
        {"salami_index_2.0-corrected.json": index("2.0", {"2": {
            "audio": "audio/2.mp3", **{f"annotator_{n}_{c}": f"{n}{c}.txt" for n in (1, 2)
                                       for c in ("uppercase", "lowercase")}}}), "audio/2.mp3": WAV,
         **{f"{n}{c}.txt": "0.0\tA\n9.5\tB\n20.0\tEnd\n" for n in (1, 2) for c in ("uppercase", "lowercase")},
         "salami-data-public-hierarchy-corrections/metadata/metadata.csv":
         "SONG_ID,S,A,B,?,D,?,T,A,?,1,2,?,?,C,G\n2,IA,5,8,,20,,Still,Anna,,,,,,popular,Folk\n"},
        {"id": "2", "work": "Anna: Still"},
        {"sections": [{"start": 0.0, "end": 9.5, "label": "A"}, {"start": 9.5, "end": 20.0, "label": "B"}]}, None),
    "billboard": (
        {"billboard_index_2.0.json": index("2.0", {"3": {
            "audio": "audio/3.flac", "salami": "3.salami", "lab_full": "3.lab", "bothchroma": "x", "tuning": "x",
            **{f"lab_{k}": "x" for k in ("majmin7", "majmin7inv", "majmin", "majmininv")}}}), "audio/3.flac": WAV,
         "3.lab": "0.0\t1.5\tC:maj\n", "3.salami": "# title: Still\n# artist: Anna\n# metre: 4/4\n# tonic: C\n\n"
         "0.0\tsilence\n0.5\tA, intro, | C:maj |\n2.5\tB, verse, | G:maj |\n4.5\tend\n",
         "billboard-2.0-index.csv": "id,chart_date,t,a,title,artist,p,w\n3,1961,1,1,Still,Anna,1,1\n"},
        {"id": "3", "work": "Anna: Still"},
        {"chords": [[0.0, 1.5, "C:maj"]], "metre": "4/4", "title": "Still"}, None),
    "isophonics": (
        {"beatles_index_1.2.json": index("1.2", {"0101": {
            "audio": "a.wav", "beat": "b.txt", "chords": "c.lab", "keys": "k.lab", "sections": "s/Still.lab"}}),
         "a.wav": WAV, "b.txt": "0.5\t1\n1.0\t2\n1.5\t3\n", "c.lab": "0.0 1.0 N\n1.0 2.0 E:min\n",
         "k.lab": "0.0\t2.0\tKey\tE:minor\n", "s/Still.lab": "0.0\t2.0\t0.0\tverse\n"},
        {"id": "0101"}, {"key": "E minor", "title": "Still", "beats": [0.5, 1.0, 1.5],
                         "chords": [[0.0, 1.0, "N"], [1.0, 2.0, "E:min"]]}, None),
    "musicnet": (
        {"musicnet_metadata.csv": "id,composer,composition,movement,ensemble,seconds\n"
         "1759,Schubert,Sonata,Allegro,Solo Piano,447\n", "data/1759.wav": WAV,
         "labels/1759.csv": "start_time,end_time,instrument,note\n44100,88200,1,60\n"},
        {"id": "1759", "split": "test", "work": "Schubert: Sonata"},
        {"notes": [[1.0, 2.0, 60]], "instruments": ["piano"]}, None),
    "harmonix": (
        {"dataset/metadata.csv": "File,Title,Artist,BPM,Time Signature,Genre,Duration\n"
         "0001_a,Still,Anna,84,4|4,Pop,9\n",
         "audio/0001_a.mp3": WAV, "dataset/beats_and_downbeats/0001_a.txt": "0.0\t1\t1\n0.7\t2\t1\n",
         "dataset/segments/0001_a.txt": "0.0 intro\n4.0 verse one\n9.0 end\n"},
        {"id": "0001_a"}, {"tempo": 84.0, "metre": "4/4", "beats": [0.0, 0.7], "sections": [
            {"start": 0.0, "end": 4.0, "label": "intro"}, {"start": 4.0, "end": 9.0, "label": "verse one"}]}, None),
    "nottingham": (
        {"ABC_cleaned/jigs.abc": ABC},
        {"id": "ABC_cleaned/jigs-1", "work": "The First"},
        {"key": "G major", "metre": "6/8", "bars": 2, "first_notes": ["G", "A", "B"]}, None),
    "pop909": (
        {"POP909/001/001.mid": MIDI, "POP909/001/key_audio.txt": "0.0\t9.0\tGb:maj\n",
         "POP909/001/chord_midi.txt": "0.0\t1.0\tC:maj\n", "POP909/001/beat_midi.txt": "0.5 1.0 1.0\n",
         "POP909/001/versions/001-v1.mid": MIDI},
        {"id": "001"}, {"key": "Gb major", "chords": [[0.0, 1.0, "C:maj"]], "beats": [0.5]}, None),
    "when_in_rome": (
        {"Corpus/Songs/Hensel,_Fanny/_/1/score.mxl": "", "Corpus/Songs/Hensel,_Fanny/_/1/analysis.txt":
         "Composer: Hensel\nTime Signature: 4/4\n\nm1 C: I b3 V6\n"},
        {"work": "Corpus/Songs/Hensel,_Fanny/_/1", "licence": "cc-by-nc-sa-4.0"},
        {"composer": "Hensel, Fanny", "roman": [[1, 1.0, "C major", "I"], [1, 3.0, "C major", "V6"]]}, None),
    "openscore_quartets": (
        {"scores/Beach,_Amy/Op._89/sq1.mxl": ""},
        {"licence": "cc0", "work": "scores/Beach,_Amy/Op._89"},
        {"composer": "Beach, Amy", "lowest": "C4", "highest": "G4", "metre": "4/4"}, None),
    "wikimt": (
        {"wikimusictext.jsonl": [{"title": "Still", "artist": "Anna", "genre": "Jazz", "description": "A song.",
                                  "music": ABC.split("\n\n")[0]}]},
        {"work": "Anna: Still", "score": ABC.split("\n\n")[0]}, {"genre": "Jazz"}, None),
    "lakh": (
        {"lmd_matched/A/B/C/TRABC/1.mid": MIDI, "lmd_matched/A/B/C/TRABC/2.mid": "not MIDI"},
        {"work": "lmd_matched/A/B/C/TRABC"}, {"metre": "4/4", "instruments": ["Acoustic Grand Piano"]}, None),
}  # fmt: skip
