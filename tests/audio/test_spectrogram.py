import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wordflock.audio.spectrogram import log_mel


@pytest.fixture(scope="module")
def reference():
    transformers = pytest.importorskip("transformers")
    return transformers.WhisperFeatureExtractor()


def clips(kind: str, batch: int, samples: int) -> np.ndarray:
    generator = np.random.default_rng(7)
    time = np.arange(samples) / 16_000
    if kind == "noise":
        return generator.normal(0, 0.1, (batch, samples)).astype(np.float32)
    if kind == "tone":
        return np.stack([0.5 * np.sin(2 * np.pi * 100 * 3**i * time) for i in range(batch)]).astype(np.float32)
    if kind == "faint":
        return generator.normal(0, 1e-5, (batch, samples)).astype(np.float32)
    spoken = generator.normal(0, 0.2, (batch, samples)) * (time < 0.7)  # a second of sound in a longer window
    return spoken.astype(np.float32)


@pytest.mark.parametrize("kind", ["noise", "tone", "faint", "padded"])
def test_equals_whispers_own_on_30_seconds(reference, kind):
    batch = clips(kind, 2, 480_000)
    theirs = reference(list(batch), sampling_rate=16_000, return_tensors="np")["input_features"]
    assert np.abs(log_mel(batch) - theirs).max() < 1e-4


@pytest.mark.parametrize("samples", [3_200, 16_000, 22_400])
def test_equals_whispers_own_on_short_windows(samples):
    transformers = pytest.importorskip("transformers")
    extractor = transformers.WhisperFeatureExtractor(chunk_length=30)
    batch = clips("padded", 3, samples)
    theirs = extractor(list(batch), sampling_rate=16_000, padding="do_not_pad", return_tensors="np")["input_features"]
    assert np.abs(log_mel(batch) - theirs).max() < 1e-4


@settings(max_examples=20)
@given(hops=st.integers(3, 300), batch=st.integers(1, 4), seed=st.integers(0, 2**32 - 1))
def test_a_batch_is_its_clips_one_by_one(hops, batch, seed):
    sound = np.random.default_rng(seed).normal(0, 0.1, (batch, hops * 160)).astype(np.float32)
    together = log_mel(sound)
    assert together.shape == (batch, 80, hops)
    assert together.dtype == np.float32
    np.testing.assert_allclose(together, np.concatenate([log_mel(clip[None]) for clip in sound]), atol=1e-5)


def test_silence_is_finite():
    assert np.isfinite(log_mel(np.zeros((1, 16_000), dtype=np.float32))).all()


def test_a_length_between_hops_is_refused():
    with pytest.raises(ValueError, match="hops"):
        log_mel(np.zeros((1, 16_001), dtype=np.float32))


def test_another_transform_gives_the_same_spectrogram():
    torch = pytest.importorskip("torch")
    batch = clips("padded", 3, 22_400)
    with_torch = log_mel(batch, rfft=lambda frames: torch.fft.rfft(torch.from_numpy(frames)).numpy())
    np.testing.assert_allclose(with_torch, log_mel(batch), atol=1e-5)
