"""Synthetic talk: made-up words of a language's own phonemes, the same every time, as negatives of a head."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wordflock.audio.placing import HALF, WHOLE, window_of
from wordflock.audio.reading import read_clip
from wordflock.data import talk
from wordflock.data.espeak import Espeak
from wordflock.data.talk import sentence, synthetic_talk
from wordflock.data.task import UNKNOWN
from wordflock.errors import WordflockError
from wordflock.prepare import load_table
from wordflock.settings import TrainSettings


@pytest.fixture(scope="module")
def espeak(tmp_path_factory: pytest.TempPathFactory) -> Espeak:
    pytest.importorskip("espeakng_loader", reason="synthetic talk needs espeakng-loader")
    return Espeak(tmp_path_factory.mktemp("espeak"))


@pytest.mark.parametrize("dialect", ["en-us", "de", "cmn"])
def test_a_sentence_is_what_espeak_says_of_it(dialect: str, espeak: Espeak) -> None:
    inventory = sorted({phoneme for one in ("1", "2", "3", "40") for phoneme in espeak.phonemes(dialect, one)})
    texts = {sentence(inventory, np.random.default_rng(seed)) for seed in range(20)}
    assert len(texts) == 20
    for text in texts:
        seconds = len(espeak.say(dialect, text, 150, 50, 50, 0)) / espeak.rate
        assert 0.5 < seconds < 20


@pytest.mark.usefixtures("espeak")
def test_it_is_made_once_and_is_training_talk(
    tmp_path: Path, small_speech_commands: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(talk, "SECONDS", 20.0)
    made = [{file.name: file.read_bytes() for file in synthetic_talk(tmp_path / one, "").iterdir()} for one in "ab"]
    assert made[0] == made[1] and len({name.split("-")[0] for name in made[0]}) > 1
    assert sum(len(read_clip(file)) for file in synthetic_talk(tmp_path / "a", "").iterdir()) >= 20 * 16_000
    monkeypatch.setattr(talk, "_record", None)  # not made twice
    options = TrainSettings(data=str(small_speech_commands), negatives="synthetic", cache=str(tmp_path / "a"))
    table = load_table(options)
    assert options.for_streams and {clip.word for clip in table.negatives} == {UNKNOWN}
    assert {clip.name for clip in table.negatives} == made[0].keys()


def test_what_cannot_be_spoken_leaves_nothing(tmp_path: Path, espeak: Espeak) -> None:
    with pytest.raises(WordflockError, match="does not speak"):
        synthetic_talk(tmp_path, "tlh-xx")
    assert not list(tmp_path.iterdir())


@settings(max_examples=20)
@given(st.sampled_from([WHOLE, HALF]), st.integers(0, 99), st.floats(-90, -20))
def test_the_word_of_a_microphone_with_little_gain_is_not_drowned(kind: str, number: int, gain: float) -> None:
    """Windows of fainter recordings are fainter and else the same: noise stands at the same distance."""
    generator = np.random.default_rng(number)
    sound = (np.sin(np.arange(16_000) / 5) * np.hanning(16_000)).astype(np.float32) * np.float32(0.1)
    sound += generator.standard_normal(16_000).astype(np.float32) * np.float32(1e-4)
    faint = np.float32(10 ** (gain / 20))
    one, other = (window_of(samples, "key", f"{kind}.{number}", 22_400) for samples in (sound, faint * sound))
    assert np.allclose(one, other / faint, atol=1e-4 * np.abs(one).max())
