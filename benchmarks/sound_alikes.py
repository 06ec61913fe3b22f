"""Whether synthetic words that sound alike make a head reject real ones: a table of RESULTS.md.

python -m benchmarks.sound_alikes --wake wake_words.tar --others speech_commands_mini.tar [--cache FOLDER] [--seeds 3]

Heads in closed form of `amelia`, `athena` and `hey savant`, trained on four fifths of their recordings and on other
words of Speech Commands as `_unknown_`; scored on the last fifth, in turn, and on the recordings of wake_words that
sound like `hey savant`, none of which is ever in training. Who speaks in wake_words is not known, so folds may share
speakers, which is the same for all rows.
"""

from __future__ import annotations

import warnings
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from wordflock.data.clips import Clip
from wordflock.data.loading import load_clips
from wordflock.data.synthetic import WORDS, synthesize
from wordflock.data.task import UNKNOWN
from wordflock.encoder.backend import spec_of
from wordflock.encoder.store import Features, encode_clips
from wordflock.errors import WordflockWarning
from wordflock.head.closed_form import solve
from wordflock.head.torch_head import build_head
from wordflock.head.training import load_solution, predict, scale_statistics_of, statistics_of
from wordflock.randomness import numpy_generator
from wordflock.settings import TrainSettings

KEYWORDS = ["amelia", "athena", "hey savant"]
FOLDS, OTHERS, VOICES = 5, 1000, 100


def main() -> None:
    """Print the table, a row at a time."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--wake", required=True)
    parser.add_argument("--others", required=True)
    parser.add_argument("--cache", required=True)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    warnings.simplefilter("ignore", WordflockWarning)
    settings = TrainSettings(strategy="closed-form", cache=given.cache)
    folder = Path(given.cache)
    wake = load_clips(given.wake, cache=folder).clips
    words = load_clips(given.others, cache=folder).of_split("train")
    chosen = numpy_generator(0, "others").permutation(len(words))[:OTHERS]
    keywords = _encoded([clip for clip in wake if clip.word != UNKNOWN], settings)
    alike = _encoded([clip for clip in wake if clip.word == UNKNOWN], settings)
    more = {"recordings": [_encoded([words[i] for i in chosen], settings)]}
    for name, confusables in (("and synthetic words", False), ("and synthetic words that sound alike", True)):
        made = folder / f"wake-words-{'alike' if confusables else 'plain'}"
        synthesize(made, words=KEYWORDS, others=WORDS, voices=VOICES, confusables=confusables)
        clips = load_clips(made, cache=folder).of_split("train")
        more[name] = [*more["recordings"], _encoded(clips, settings)]
    print("| trained on | clips | keywords recognised (%) | sound-alikes rejected (%) | area under the curve (%) |")
    print("|---" * 5 + "|")
    for name, parts in more.items():
        folds = [(seed, fold) for seed in range(given.seeds) for fold in range(FOLDS)]
        figures = np.array([_figures(keywords, alike, parts, seed, fold) for seed, fold in folds])
        size = len(keywords) + sum(map(len, parts))
        print(f"| {name} | {size} | " + " | ".join(f"{value:.1f}" for value in figures.mean(axis=0)) + " |", flush=True)


def _encoded(clips: Sequence[Clip], settings: TrainSettings) -> Features:
    labels = [KEYWORDS.index(clip.word) if clip.word in KEYWORDS else len(KEYWORDS) for clip in clips]
    return encode_clips(clips, labels, spec_of(settings), settings.cache_folder, "cpu")


def _figures(
    keywords: Features, alike: Features, more: Sequence[Features], seed: int, fold: int
) -> tuple[float, float, float]:
    """Keywords recognised and sound-alikes rejected by the most probable label, and how often the score of a keyword
    is above that of a sound-alike, all in %."""
    order = numpy_generator(seed, "folds").permutation(len(keywords))
    here = keywords.select(order[fold::FOLDS])
    away = [keywords.select(np.setdiff1d(order, order[fold::FOLDS])), *more]
    together = Features(
        max((part.array for part in away), key=len),
        np.concatenate([part.rows for part in away]),
        np.concatenate([part.labels for part in away]),
    )
    _, frames, width = together.array.shape
    head = build_head("linear", frames, width, len(KEYWORDS) + 1, seed=seed)
    scale = scale_statistics_of(head, together, len(KEYWORDS) + 1).scale()
    load_solution(head, solve(statistics_of(head, together, scale), scale))
    right, wrong = predict(head, here), predict(head, alike)
    margins = [logits[:, :-1].max(axis=1) - logits[:, -1] for logits in (right, wrong)]
    above = (margins[0][:, None] > margins[1]).mean()
    recognised, rejected = (right.argmax(axis=1) == here.labels).mean(), (margins[1] < 0).mean()
    return 100 * float(recognised), 100 * float(rejected), 100 * float(above)


if __name__ == "__main__":
    main()
