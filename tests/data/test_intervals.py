"""Labelled intervals: one content in every format gives the same intervals; others are refused in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wordflock.data.intervals import Interval, read_intervals
from wordflock.errors import WordflockError

ENCODINGS = ("utf-8", "utf-8-sig", "utf-16")
labels = st.text(st.characters(categories=("L", "Nd", "P", "Zs")), min_size=1, max_size=12).filter(str.strip)
milliseconds = st.integers(0, 3_600_000)


@st.composite
def annotations(draw: st.DrawFn) -> list[tuple[float, float, str]]:
    """Intervals one after another, with gaps."""
    times = sorted(draw(st.sets(milliseconds, min_size=2, max_size=9)))
    texts = draw(st.lists(labels, min_size=len(times) // 2, max_size=len(times) // 2))
    pairs = zip(times[::2], times[1::2], strict=False)
    return [(start / 1000, end / 1000, text) for (start, end), text in zip(pairs, texts, strict=True)]


def tiled(intervals: list[tuple[float, float, str]]) -> list[tuple[float, float, str]]:
    """As Praat has them: the gaps are intervals without a text."""
    found, last = [], 0.0
    for start, end, text in intervals:
        found += [(last, start, "")] * (start > last) + [(start, end, text)]
        last = end
    return [*found, (last, last + 1, " ")]


def long_text_grid(intervals: list[tuple[float, float, str]], tier: str = "words") -> str:
    rows = tiled(intervals)
    end = rows[-1][1]
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0 ", f"xmax = {end} "]
    lines += ["tiers? <exists> ", "size = 2 ", "item []: ", "    item [1]:", '        class = "TextTier" ']
    lines += ['        name = "clicks" ', "        xmin = 0 ", f"        xmax = {end} ", "        points: size = 1 "]
    lines += ["        points [1]:", "            number = 0.5 ", '            mark = "a ""click""" ']
    lines += ["    item [2]:", '        class = "IntervalTier" ', f'        name = "{tier}" ', "        xmin = 0 "]
    lines += [f"        xmax = {end} ", f"        intervals: size = {len(rows)} "]
    for number, (start, stop, text) in enumerate(rows, 1):
        quoted = text.replace('"', '""')
        lines += [f"        intervals [{number}]:", f"            xmin = {start} ", f"            xmax = {stop} "]
        lines += [f'            text = "{quoted}" ']
    return "\n".join(lines) + "\n"


def short_text_grid(*tiers: tuple[str, list[tuple[float, float, str]]]) -> str:
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "0", "3601", "<exists>", str(len(tiers))]
    for name, intervals in tiers:
        rows = tiled(intervals)
        lines += ['"IntervalTier"', f'"{name}"', "0", "3601", f"{len(rows)} ! a remark with 3 numbers"]
        for start, stop, text in rows:
            quoted = text.replace('"', '""')
            lines += [str(start), str(stop), f'"{quoted}"']
    return "\r\n".join(lines) + "\r\n"


def audacity(intervals: list[tuple[float, float, str]], frequencies: bool = True) -> str:
    row = "\\\t100.000000\t3000.000000\n" * frequencies
    return "".join(f"{start:.6f}\t{end:.6f}\t{text}\n{row}" for start, end, text in intervals)


def table(intervals: list[tuple[float, float, str]], delimiter: str = ",", header: bool = True) -> str:
    rows = ["start,end,label".replace(",", delimiter)] if header else []
    for start, end, text in intervals:
        quoted = text.replace('"', '""')
        rows.append(f'{start}{delimiter}{end}{delimiter}"{quoted}"')
    return "\n".join(rows) + "\n"


@given(annotations(), st.sampled_from(ENCODINGS))
def test_every_format_gives_the_same_intervals(
    tmp_path: Path, intervals: list[tuple[float, float, str]], encoding: str
) -> None:
    contents = {
        "long.TextGrid": long_text_grid(intervals),
        "short.TextGrid": short_text_grid(("words", intervals)),
        "labels.txt": audacity(intervals),
        "plain.txt": audacity(intervals, frequencies=False),
        "labels.csv": table(intervals),
        "semicolons.csv": table(intervals, ";"),
        "no header.csv": table(intervals, header=False),
    }
    expected = None
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content.encode(encoding))
        found = read_intervals(tmp_path / name)
        expected = expected or found
        assert found == expected, name
    assert expected and [(i.start, i.end) for i in expected] == [(start, end) for start, end, _ in intervals]


def test_tables_of_other_tools_and_of_our_own_commands(tmp_path: Path) -> None:
    (tmp_path / "spot.csv").write_text("file,label,start,end,confidence\nb.wav,no,1.5,2,0.9\na.wav,yes,0.5,1,0.8\n")
    assert read_intervals(tmp_path / "spot.csv") == (
        Interval(0.5, 1.0, "yes", "a.wav"),
        Interval(1.5, 2.0, "no", "b.wav"),
    )
    (tmp_path / "praat.txt").write_text("tmin\ttier\ttext\ttmax\n0.25\twords\tyes\t0.75\n")
    assert read_intervals(tmp_path / "praat.txt") == (Interval(0.25, 0.75, "yes"),)
    (tmp_path / "s.jsonl").write_text('{"start": 1, "duration": 0.5, "label": "on", "speaker": "anna"}\n')
    assert read_intervals(tmp_path / "s.jsonl") == (Interval(1.0, 1.5, "on", speaker="anna"),)
    (tmp_path / "commas.txt").write_text("0,5\t1,25\tja\n2,5\t2,5\tein Punkt\n3\t4\n")
    assert read_intervals(tmp_path / "commas.txt") == (
        Interval(0.5, 1.25, "ja"),
        Interval(2.5, 2.5, "ein Punkt"),
        Interval(3.0, 4.0, ""),
    )


def test_the_tier_of_words_is_found_or_named(tmp_path: Path) -> None:
    file = tmp_path / "aligned.TextGrid"
    file.write_text(short_text_grid(("Words", [(1, 2, "yes")]), ("phones", [(1, 1.5, "j"), (1.5, 2, "s")])))
    assert read_intervals(file) == (Interval(1, 2, "yes"),)
    assert [i.label for i in read_intervals(file, tier="phones")] == ["j", "s"]
    with pytest.raises(WordflockError, match=r"Words, phones and none called syllables; name the one .* --tier"):
        read_intervals(file, tier="syllables")
    file.write_text(short_text_grid(("anna", [(1, 2, "yes")]), ("ben", [])))
    with pytest.raises(WordflockError, match=r"the tiers anna, ben; name"):
        read_intervals(file)


BAD = {
    "": "has no columns",
    "word,speaker\nyes,anna\n": "the columns word, speaker",
    "start,end,label\n2,1,yes\n": "row 2 an interval from '2' to '1'",
    "start,end,label\n1,nan,yes\n": "from '1' to 'nan'",
    "1\t2\tyes\n2\n": "line 2 an interval from '2' to ''",
    "-1\t2\tyes\n": "from '-1'",
    "1\t1e9\tyes\n": "to '1e9'",
    "1\t2\tye\x07s\n": "control character",
    '1,2,"' + "x" * 200_000 + '"\n': "line 1 cannot be read",
    '"ooTextFile"\n"TextGrid"\n0 1 <exists> 0': "no tier of intervals",
    '"ooTextFile"\n"TextGrid"\n0 1 <absent>': "no tier of intervals",
    '"ooTextFile"\n"PitchTier"\n0 1 3': "damaged",
    short_text_grid(("words", [(1, 2, "yes")]))[:-30]: "damaged or cut short",
    '"ooTextFile"\n"TextGrid"\n0 1 <exists> 1e999': "damaged",
    '"ooTextFile"\n"TextGrid"\n0 9 <exists> 1 "IntervalTier" "a" 0 9 1 5 4 "yes"': "from '5.0' to '4.0'",
}


@pytest.mark.parametrize("content", BAD, ids=range(len(BAD)))
def test_what_is_no_label_file_is_one_sentence(content: str, tmp_path: Path) -> None:
    (tmp_path / "labels").write_text(content)
    with pytest.raises(WordflockError, match=BAD[content]) as said:
        read_intervals(tmp_path / "labels")
    assert "labels" in str(said.value) and "\n" not in str(said.value)


@pytest.mark.parametrize("content", [b"ooBinaryFile\x08TextGrid", b"1\t2\tyes\0", b"1\t2\tj\xfc\n", b"\xff\xfe\x00"])
def test_bytes_that_are_no_text_are_one_sentence(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "labels").write_bytes(content)
    with pytest.raises(WordflockError, match=r"labels .*; save"):
        read_intervals(tmp_path / "labels")
    with pytest.raises(WordflockError, match="check the path"):
        read_intervals(tmp_path / "missing")


@given(st.binary(max_size=200), st.integers(0, 600), st.integers(0, 600))
def test_whatever_is_in_it_there_is_an_error_or_intervals(tmp_path: Path, noise: bytes, place: int, cut: int) -> None:
    content = long_text_grid([(1, 2, "yes"), (3, 4, "no")]).encode()
    (tmp_path / "labels").write_bytes(content[:place] + noise + content[place + cut :])
    try:
        found = read_intervals(tmp_path / "labels")
    except WordflockError:
        return
    assert all(0 <= i.start <= i.end for i in found)
