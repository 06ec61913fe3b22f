"""Variations of layouts as people and tools make them: each is read right, or is one sentence that names the first
thing that is wrong. Nothing is trained on wrong labels in silence."""

from __future__ import annotations

import io
import json
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import soundfile

from wordflock.data.loading import load_clips
from wordflock.errors import WordflockError, WordflockWarning


def wav(seconds: float = 0.2, seed: int = 0) -> bytes:
    data = io.BytesIO()
    soundfile.write(data, np.random.default_rng(seed).uniform(-0.5, 0.5, round(16_000 * seconds)), 16_000, format="WAV")
    return data.getvalue()


def put(folder: Path, recordings: str, **texts: str | bytes) -> None:
    """Recordings (`name` or `name:seconds`), and text files whose names have "__" for "/" and "_DOT_" for "."."""
    for number, recording in enumerate(recordings.split()):
        name, _, seconds = recording.partition(":")
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(wav(float(seconds or 0.2), number))
    for name, text in texts.items():
        path = folder / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())


def lines(*rows: dict[str, Any], end: str = "\n") -> str:
    return "".join(json.dumps(row) + end for row in rows)


CV = "client_id\tpath\tsentence"
AB = "a.wav b.wav"
# Recordings, tables, and what is read: `word/speaker/split` of each clip (split "" for any), or what the error says.
TABLES: dict[str, tuple[str, dict[str, str | bytes], str]] = {
    "splits in folders below the table": (
        "train/a.wav test/b.wav train/c.wav",
        {
            "metadata_DOT_jsonl": lines(
                *(
                    {"file_name": f, "label": w}
                    for f, w in (("train\\a.wav", "yes"), ("test\\b.wav", "no"), ("train/c.wav", "no"))
                )
            )
        },
        "no//test no//train yes//train",
    ),
    "a split of another name": (
        AB,
        {"metadata_DOT_csv": "file_name,label,split\na.wav,yes,train\nb.wav,no,holdout\n"},
        "split 'holdout'",
    ),
    "Common Voice, Windows line ends and a mark": (
        "cv/de/clips/1.wav cv/de/clips/2.wav",
        {
            "cv__de__train_DOT_tsv": f"\ufeff{CV}\r\ns1\t2.mp3\tJa\r\n",
            "cv__de__test_DOT_tsv": f"{CV}\r\ns2\t1.mp3\tNein.\r\n",
        },
        "ja/s1/train nein/s2/test",
    ),
    "Common Voice without a labelled table": (
        "clips/1.wav clips/2.wav",
        {"other_DOT_tsv": f"{CV}\ns1\t2.mp3\tJa\n"},
        "other.tsv and no train.tsv",
    ),
    "NeMo, offsets": (
        "w/long.wav:3 w/b.wav",
        {
            "train_manifest_DOT_json": lines(
                {"audio_filepath": "w/long.wav", "offset": 0.5, "duration": 1, "text": "Yes."},
                {"audio_filepath": "w/long.wav", "offset": 1.5, "duration": 1, "text": "no"},
                {"audio_filepath": "w/b.wav", "duration": 0.2, "text": "no"},
                end="\r\n",
            )
        },
        "no//train no//train yes//train",
    ),
    "NeMo, an offset beyond the end": (
        "long.wav:1",
        {
            "m_DOT_json": lines(
                {"audio_filepath": "long.wav", "offset": 0.5, "duration": 0.5, "command": "yes"},
                {"audio_filepath": "long.wav", "offset": 5, "duration": 1, "command": "no"},
            )
        },
        "yes//",
    ),
    "NeMo, an offset below 0": (
        "a.wav",
        {"m_DOT_json": lines({"audio_filepath": "a.wav", "offset": -1, "command": "yes"})},
        "'-1' in the column offset",
    ),
    "NeMo without labels, in folders of labels": (
        "yes/a.wav no/b.wav",
        {"m_DOT_json": lines({"audio_filepath": "yes/a.wav", "duration": 0.2})},
        "no// yes//",
    ),
    "Kaldi, a pipe": ("a.wav", {"wav_DOT_scp": "u1 sox a.wav -t wav - | \n", "text": "u1 yes\n"}, "a command for u1"),
    "Kaldi, a pipe in front": ("a.wav", {"wav_DOT_scp": "u1 |cat a.wav\n", "text": "u1 yes\n"}, "a command for u1"),
    "Kaldi, segments and Windows line ends": (
        "data/train/a.wav:3",
        {
            "data__train__wav_DOT_scp": "r1 a.wav\r\n",
            "data__train__text": "u1 YES\r\nu2 no\r\n",
            "data__train__utt2spk": "u1 anna\r\nu2 bob\r\n",
            "data__train__segments": "u1 r1 0.5 1.0\r\nu2 r1 1.0 2.0\r\n",
        },
        "no/bob/train yes/anna/train",
    ),
    "Kaldi, a segment backwards": (
        "a.wav:3",
        {"wav_DOT_scp": "r1 a.wav\n", "text": "u1 yes\n", "segments": "u1 r1 1.5 1.0\n"},
        "segments has 'r1 1.5 1.0' for u1",
    ),
    "Kaldi, a segment in words": (
        "a.wav:3",
        {"wav_DOT_scp": "r1 a.wav\n", "text": "u1 yes\n", "segments": "u1 r1 one two\n"},
        "segments has 'r1 one two'",
    ),
    "Kaldi, half a segment": (
        "a.wav:3",
        {"wav_DOT_scp": "r1 a.wav\n", "text": "u1 yes\n", "segments": "u1 r1 1\n"},
        "segments has 'r1 1'",
    ),
    "Kaldi, a key twice": (
        AB,
        {"wav_DOT_scp": "u1 a.wav\nu1 b.wav\n", "text": "u1 yes\n"},
        "wav.scp has two lines for u1",
    ),
    "UTF-16 without a mark": (
        AB,
        {"metadata_DOT_csv": "file_name;label\na.wav;für\nb.wav;gegen\n".encode("utf-16-le")},
        "für// gegen//",
    ),
    "Latin-1": (AB, {"metadata_DOT_csv": "file_name;label\na.wav;für\nb.wav;gegen\n".encode("latin-1")}, "not UTF-8"),
    "a spreadsheet's separator line": (
        AB,
        {"metadata_DOT_csv": "sep=;\r\nfile_name;label\r\na.wav;yes\r\nb.wav;no\r\n"},
        "no// yes//",
    ),
    "paths of Windows": (
        "audio/yes/a.wav audio/no/b.wav",
        {"metadata_DOT_csv": 'file_name,label\r\n"C:\\x\\audio\\yes\\a.wav",yes\r\nC:\\x\\audio\\no\\b.wav,no\r\n'},
        "no// yes//",
    ),
    "names in other capitals": (
        "a.WAV B.wav",
        {"metadata_DOT_csv": "file_name,label\nA.wav,yes\nb.wav,no\n"},
        "no// yes//",
    ),
    "old Mac line ends": (AB, {"metadata_DOT_csv": "file_name,label\ra.wav,yes\rb.wav,no\r"}, "no// yes//"),
    "two rows for a file": (
        AB,
        {"metadata_DOT_csv": "file_name,label\na.wav,yes\nb.wav,no\na.wav,no\n"},
        "two rows for the file a.wav",
    ),
    "two tables that disagree": (
        "x/a.wav x/b.wav",
        {
            "metadata_DOT_csv": "file_name,label\nx/a.wav,yes\nx/b.wav,no\n",
            "x__metadata_DOT_csv": "file_name,label\na.wav,no\nb.wav,no\n",
        },
        "two rows for the file x/a.wav",
    ),
    "a table without rows": (
        "yes/a.wav no/b.wav",
        {"metadata_DOT_csv": "file_name,label\n"},
        "metadata.csv of .* has no rows",
    ),
    "a label in two lines": (
        AB,
        {"metadata_DOT_csv": 'file_name,label\na.wav,"yes\nno"\nb.wav,no\n'},
        r"The label 'yes\\nno'",
    ),
    "a line separator in a string": (
        AB,
        {"metadata_DOT_jsonl": '{"file_name":"a.wav","label":"yes","x":"\u2028"}\n{"file_name":"b.wav","label":"no"}'},
        "no// yes//",
    ),
    "a list of labels": (
        AB,
        {"metadata_DOT_jsonl": lines({"file_name": "a.wav", "label": ["yes", "no"]})},
        r"has \['yes', 'no'\] in the column label",
    ),
    "a row without a label": (
        AB,
        {"metadata_DOT_jsonl": lines({"file_name": "a.wav", "label": "yes"}, {"file_name": "b.wav", "label": None})},
        "yes//",
    ),
    "half a JSON object": (
        AB,
        {"metadata_DOT_jsonl": '{"file_name":"a.wav","label":"yes"}\n{"file_name":'},
        "metadata.jsonl cannot be read",
    ),
    "more cells than columns": (
        AB,
        {"metadata_DOT_csv": "file_name,label\na.wav,yes, no\nb.wav,no\n"},
        "row 2 has more cells",
    ),
    "an open quotation mark": (
        AB,
        {"metadata_DOT_csv": 'file_name,label\na.wav,"yes\nb.wav,no\n'},
        "metadata.csv cannot be read",
    ),
    "two columns of one name": (AB, {"metadata_DOT_csv": "file_name,label,Label\na.wav,yes,1\n"}, "two columns label"),
    "JSON of something else": ("yes/a.wav no/b.wav", {"metadata_DOT_json": '{\n  "name": "mine"\n}\n'}, "no// yes//"),
    "JSON without end": ("yes/a.wav no/b.wav", {"x_DOT_json": "[" * 100_000}, "no// yes//"),
    "a table that climbs": (
        AB,
        {"metadata_DOT_csv": "file_name,label\n../../etc/passwd,yes\na.wav,no\nb.wav,yes\n"},
        "no// yes//",
    ),
    "splits in mixed case": (
        "Train/Yes/1.wav TRAIN/no/2.wav Test/yes/3.wav valid/yes/5.wav",
        {},
        "no//train yes//test yes//train yes//validation",
    ),
    "a split among the labels": ("yes/1.wav no/2.wav train/3.wav", {}, "right in train .*--layout folders"),
    "one folder that is not a label": ("clips/1.wav clips/2.wav", {}, "right in clips .*--layout folders"),
    "half flat, half not labelled": ("yes_anna_1.wav no_anna_1.wav other.wav", {}, "holds no usable clip"),
    "lists of Windows": (
        "yes/aa_nohash_0.wav yes/bb_nohash_0.wav no/aa_nohash_0.wav no/cc_nohash_0.wav",
        {"testing_list_DOT_txt": "yes\\aa_nohash_0.wav\r\nno\\aa_nohash_0.wav\r\n", "validation_list_DOT_txt": "\r\n"},
        "no/aa/test no/cc/train yes/aa/test yes/bb/train",
    ),
    "an archive's rests of a Mac": ("x/yes/1.wav x/no/2.wav x/__MACOSX/yes/._1.wav", {}, "no// yes//"),
    # A layout half one and half another.
    "half folders, half flat names": (
        "yes/1.wav no/1.wav yes_anna_1.wav no_anna_1.wav",
        {},
        "2 of 4 recordings in .*, such as no_anna_1.wav, have no label when .* a folder for each label",
    ),
    "half folders, half Edge Impulse": ("yes.1.wav no.1.wav up/1.wav up/2.wav", {}, "such as no.1.wav, have no label"),
    "half splits, half labels": (
        "train/yes/1.wav train/no/1.wav test/yes/1.wav up/1.wav",
        {},
        "right in test and train",
    ),
    "half in a table, half in folders": (
        "yes/1.wav no/1.wav x/a.wav x/b.wav",
        {"metadata_DOT_csv": "file_name,label\nx/a.wav,yes\nx/b.wav,no\n"},
        "such as no/1.wav, have no label when it is read as AudioFolder .* --layout audio-folder",
    ),
    "a table of a part of one folder": (
        "x/a.wav x/b.wav x/c.wav x/d.wav",
        {"train_DOT_tsv": f"{CV}\ns1\ta.wav\tyes\n"},
        "yes/s1/train",
    ),
    "half Kaldi, half AudioFolder": (
        AB,
        {"wav_DOT_scp": "u1 a.wav\n", "text": "u1 yes\n", "metadata_DOT_csv": "file_name,label\nb.wav,no\n"},
        "as Kaldi and AudioFolder .* --layout kaldi or --layout audio-folder",
    ),
    "splits below some labels only": (
        "yes/train/1.wav yes/test/2.wav no/1.wav no/2.wav",
        {},
        "yes/test/2.wav in a folder named after a split, and no/1.wav in none",
    ),
    "splits below labels, and one flat file": (
        "yes/train/1.wav yes/test/2.wav no/train/1.wav no/3.wav",
        {},
        "no/train/1.wav in a folder named after a split, and no/3.wav in none",
    ),
    "a stray recording above the labels": ("pack/yes/1.wav pack/no/1.wav pack/demo.wav", {}, "no// yes//"),
    "training recordings without labels": (
        "train/1.wav train/2.wav test/yes/1.wav test/no/1.wav",
        {},
        "such as train/1.wav, have no label when it is read as folders of splits",
    ),
    "only splits as labels in a table": (
        AB,
        {"metadata_DOT_csv": "file_name,label\na.wav,train\nb.wav,test\n"},
        r"only names of splits as labels \(test, train\)",
    ),
    "splits as the first part of names": ("train.1.wav train.2.wav test.1.wav test.2.wav", {}, "only names of splits"),
    "an offset with nothing after it": (
        "l.wav:3",
        {
            "m_DOT_json": lines(
                {"audio_filepath": "l.wav", "offset": 1, "duration": 0, "label": "yes"},
                {"audio_filepath": "l.wav", "offset": 1.5, "duration": 1, "label": "no"},
            )
        },
        "no//",
    ),
    "a duration far beyond the end": (
        "l.wav:3",
        {
            "m_DOT_json": lines(
                {"audio_filepath": "l.wav", "offset": 1, "duration": 60, "label": "yes"},
                {"audio_filepath": "l.wav", "offset": "0", "duration": "5e-1", "label": "no"},
            )
        },
        "no//",
    ),
    "an offset that is not a number": (
        "l.wav:3",
        {"m_DOT_json": '{"audio_filepath":"l.wav","offset":NaN,"label":"yes"}\n'},
        "'nan' in the column offset",
    ),
    "two rows for a stretch": (
        "l.wav:3",
        {"m_DOT_json": lines(*({"audio_filepath": "l.wav", "offset": 1, "label": w} for w in ("yes", "no")))},
        "two rows for the file l.wav",
    ),
    "Kaldi, a segment far beyond the end": (
        "a.wav:1",
        {"wav_DOT_scp": "r a.wav\n", "text": "u1 yes\nu2 no\n", "segments": "u1 r 0 0.5\nu2 r 0.5 99\n"},
        "yes//",
    ),
    "Kaldi, a segment that is not a number": (
        "a.wav:2",
        {"wav_DOT_scp": "r a.wav\n", "text": "u1 yes\n", "segments": "u1 r nan 1\n"},
        "segments has 'r nan 1' for u1",
    ),
    "Kaldi in UTF-16": (
        AB,
        {"wav_DOT_scp": "u1 a.wav\nu2 b.wav\n".encode("utf-16"), "text": "u1 für\nu2 no\n".encode("utf-16")},
        "für// no//",
    ),
    "Common Voice in UTF-16": (
        "clips/a.wav clips/b.wav",
        {"train_DOT_tsv": f"{CV}\ns1\ta.wav\tJa\ns2\tb.wav\tNein\n".encode("utf-16")},
        "ja/s1/train nein/s2/train",
    ),
    "UTF-16, big end first, semicolons, capitals": (
        AB,
        {"metadata_DOT_csv": "\ufeffFILE_NAME;Label\na.wav;für\nb.wav;no\n".encode("utf-16-be")},
        "für// no//",
    ),
    "commas in paths, semicolons between": (
        "x,1/a.wav x,1/b.wav",
        {"metadata_DOT_csv": "file_name;label\nx,1/a.wav;yes\nx,1/b.wav;no\n"},
        "no// yes//",
    ),
    "a share of a network": (
        "audio/yes/a.wav audio/no/a.wav",
        {"metadata_DOT_csv": "file_name,label\n\\\\pc\\s\\audio\\yes\\a.wav,yes\n\\\\pc\\s\\audio\\no\\a.wav,no\n"},
        "no// yes//",
    ),
    "an empty file as table": ("yes/a.wav no/b.wav", {"metadata_DOT_csv": ""}, "metadata.csv of .* has no rows"),
    "a table of blank lines": ("yes/a.wav no/b.wav", {"metadata_DOT_csv": "\n\n"}, "metadata.csv of .* has no rows"),
    "a table of something else": ("yes/a.wav no/b.wav", {"metadata_DOT_csv": "who,age\nanna,7\n"}, "no// yes//"),
    "a table of other files": (AB, {"metadata_DOT_csv": "file_name,label\nq.wav,yes\nr.wav,no\n"}, "no usable clip"),
    "a label with an escape code": (
        AB,
        {"metadata_DOT_csv": "file_name,label\na.wav,\x1b[31mx\n"},
        "a control character",
    ),
    "a label that runs backwards": (
        AB,
        {"metadata_DOT_csv": "file_name,label\na.wav,\u202ex\n"},
        "an invisible character",
    ),
    "labels in several forms": (
        "Yes/1.wav yes/2.wav YES/3.wav ｙｅｓ/4.wav no/1.wav",
        {},
        "no// yes// yes// yes// yes//",
    ),
    "labels with Unicode in two forms": ("f\u00fcr/1.wav fu\u0308r/2.wav no/1.wav", {}, "für// für// no//"),
    "speakers above labels": (
        "anna/yes/1.wav anna/no/1.wav ben/yes/1.wav ben/no/1.wav",
        {},
        "anna// anna// ben// ben//",
    ),
    "one published name": (
        "yes/0c540988_nohash_0.wav yes/1.wav no/2.wav",
        {},
        "no//train yes/0c540988/test yes//train",
    ),
}


def expect(source: Path, expected: str, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", WordflockWarning)
        if "//" not in expected and not all(part.count("/") == 2 for part in expected.split()):
            with pytest.raises(WordflockError, match=expected) as error:
                load_clips(source, cache=tmp_path / "cache")
            assert "\n" not in str(error.value)
            return
        clips = load_clips(source, cache=tmp_path / "cache").clips
    wanted = expected.split()
    known = {part for part in wanted if not part.endswith("/")}
    assert sorted(f"{c.word}/{c.speaker}/{c.split if known else ''}" for c in clips) == sorted(wanted)


@pytest.mark.parametrize("name", TABLES)
def test_a_variation_is_read_right_or_is_one_sentence_in_a_folder_and_packed(
    name: str, tmp_path: Path, pack: Callable[..., Path]
) -> None:
    recordings, texts, expected = TABLES[name]
    put(tmp_path / "data", recordings, **texts)
    expect(tmp_path / "data", expected, tmp_path)
    expect(pack(tmp_path / "data", tmp_path / "data.tar"), expected, tmp_path)


CLASSES = {"label": {"names": ["no", "yes"], "_type": "ClassLabel"}}


def rows_of_parquet(count: int, speaker: str = "") -> list[dict[str, Any]]:
    return [
        {"audio": {"bytes": wav(seed=i), "path": "a.wav"}, "label": i % 2, "speaker": speaker} for i in range(count)
    ]


def write(path: Path, rows: list[dict[str, Any]], features: dict[str, Any] | None = None) -> None:
    table = pyarrow.Table.from_pylist(rows)
    if features:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(table, path)


def shards(folder: Path) -> None:
    for number in range(2):
        write(folder / f"data/train-{number:05d}-of-00002.parquet", rows_of_parquet(2, f"s{number}"), CLASSES)
    write(folder / "data/test-00000-of-00001.parquet", rows_of_parquet(1, "t"), CLASSES)


def split_folders(folder: Path) -> None:
    write(folder / "default/partial-train/0000.parquet", rows_of_parquet(2), CLASSES)
    write(folder / "default/test/0000.PARQUET", rows_of_parquet(1), CLASSES)


def not_labelled(folder: Path) -> None:
    rows = rows_of_parquet(3)
    rows[1]["label"] = -1
    write(folder / "train.parquet", rows, CLASSES)


def without_bytes(folder: Path) -> None:
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    audio = pyarrow.array([{"bytes": None, "path": "a.wav"}] * 2, kind)
    folder.mkdir()
    pyarrow.parquet.write_table(pyarrow.table({"audio": audio, "label": ["yes", "no"]}), folder / "x.parquet")


def large_types(folder: Path) -> None:
    kind = pyarrow.struct([("bytes", pyarrow.large_binary()), ("path", pyarrow.large_string())])
    audio = pyarrow.array([row["audio"] for row in rows_of_parquet(2)], kind)
    label = pyarrow.array(["a", "b"]).dictionary_encode()
    folder.mkdir()
    pyarrow.parquet.write_table(pyarrow.table({"audio": audio, "label": label}), folder / "train.parquet")


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (shards, "no/s0/train yes/s0/train no/s1/train yes/s1/train no/t/test"),
        (split_folders, "no//train yes//train no//test"),
        (not_labelled, "no//train no//train"),
        (without_bytes, "does not hold them"),
        (large_types, "a//train b//train"),
    ],
)
def test_parquet_files_as_the_hub_has_them(make: Callable[[Path], None], expected: str, tmp_path: Path) -> None:
    make(tmp_path / "data")
    expect(tmp_path / "data", expected, tmp_path)


def zipped(path: Path, members: dict[str, bytes], **how: Any) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            with archive.open(name, "w", **how) as member:
                member.write(data)


def test_a_zip_of_large_members_and_one_that_expands_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zipped(tmp_path / "large.zip", {"yes/1.wav": wav(), "no/1.wav": wav(seed=1)}, force_zip64=True)
    expect(tmp_path / "large.zip", "no// yes//", tmp_path)
    monkeypatch.setattr("wordflock.data.bounds.MAX_UNPACKED", 1 << 20)
    zipped(tmp_path / "bomb.zip", {"yes/1.wav": wav(), "no/1.wav": bytes(32 << 20)})
    expect(tmp_path / "bomb.zip", "expands to over", tmp_path)
    write(tmp_path / "bomb" / "x.parquet", [{"audio": {"bytes": bytes(32 << 20), "path": "a"}, "label": "yes"}])
    monkeypatch.setattr("wordflock.data.bounds.MAX_EXPANSION", 0)
    expect(tmp_path / "bomb", "expands to over", tmp_path)


def test_a_zip_whose_sizes_lie_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "lying.zip"
    zipped(path, {"yes/1.wav": wav(), "no/1.wav": bytes(1 << 20)})
    data = bytearray(path.read_bytes())
    place = data.rindex(b"PK\x01\x02") + 24
    data[place : place + 4] = (100).to_bytes(4, "little")
    path.write_bytes(data)
    expect(path, "no/1.wav cannot be read", tmp_path)
