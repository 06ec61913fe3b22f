"""What commands say to mistakes: one sentence, exit status 2, and never a traceback."""

from __future__ import annotations

import re
import shutil

import pytest
from whole_commands import FEDERATION, WORDS_OF_SMALL, Wordflock, assert_done, assert_one_sentence, small_disk

TRAIN = f"train {WORDS_OF_SMALL} --epochs 1"
SIMULATE = f"simulate {WORDS_OF_SMALL} {FEDERATION} --rounds 1"
HEAD = "runs/start/last.safetensors"

# The command, and what its sentence must have in it.
MISTAKES = {
    # Data
    "prepare: nothing there": ("prepare --data nowhere --cache cache", "nowhere does not exist"),
    "prepare: a text for an archive": ("prepare --data text.txt --cache cache", "text.txt is not a zip"),
    "prepare: a cut archive": ("prepare --data cut.tar.gz --cache cache", "cut.tar.gz is a broken archive"),
    "prepare: an empty folder": ("prepare --data empty --cache cache", "empty holds no usable clip"),
    "prepare: texts only": ("prepare --data texts --cache cache", "texts holds no usable clip"),
    "prepare: no sound in them": ("prepare --data mute --cache cache", "mute holds no usable clip .*is no"),
    "prepare: no such table": (f"prepare {WORDS_OF_SMALL} --table no.csv", "table no.csv cannot be read"),
    "prepare: a pipe for a table": (f"prepare {WORDS_OF_SMALL} --table pipe.safetensors", "not a file"),
    "prepare: a pipe for options": (f"prepare {WORDS_OF_SMALL} --config pipe.safetensors", "not a file"),
    "prepare: a pipe for data": ("prepare --data pipe.safetensors --cache cache", "neither a folder nor a file"),
    "prepare: a name of 5,000 letters": (f"prepare --data {'x' * 5000} --cache cache", r"cannot be read .*x \[…\] x"),
    "prepare: a pattern that is none": (f"prepare {WORDS_OF_SMALL} --speaker-pattern (", "not a regular expression"),
    "describe: nothing there": ("data describe --data nowhere --cache cache", "nowhere does not exist"),
    "describe: an empty folder": ("data describe --data empty --cache cache", "empty holds no usable clip"),
    "describe: no picture": (f"data describe {WORDS_OF_SMALL} --plot plot.gif", "plot.gif is no PNG"),
    "describe: more clients than speakers": (
        f"data describe {WORDS_OF_SMALL} --clients 13 --plot plot.png",
        "--clients 13 .* have 12",
    ),
    "synthesize: it is there": ("data synthesize texts --words yes", "texts exists and is not the data set asked for"),
    "synthesize: no word": ("data synthesize new --words a/b", "'a/b' cannot name a folder"),
    "synthesize: no voices": ("data synthesize new --voices 0", "voices = 0"),
    "synthesize: no such language": ("data synthesize new --language xx", "does not speak the language 'xx'"),
    "synthesize: a file in the way": ("data synthesize text.txt/new --words yes --voices 1", "cannot be made"),
    "train: nothing there": ("train --data nowhere --cache cache", "nowhere does not exist"),
    "simulate: an empty folder": ("simulate --data empty --cache cache", "empty holds no usable clip"),
    "evaluate: nothing there": (f"evaluate {HEAD} --data nowhere --cache cache", "nowhere does not exist"),
    "evaluate: a text for an archive": (f"evaluate {HEAD} --data text.txt --cache cache", "text.txt is not a zip"),
    "evaluate: no data": ("evaluate cut.safetensors", "cut.safetensors cannot be read"),
    "evaluate: not in a run": ("evaluate another.safetensors", "another.safetensors is not in the folder of a run"),
    # Labels
    "prepare: no such word": (f"prepare {WORDS_OF_SMALL} --keywords yes,dog", "keyword 'dog' has no clips .* yes"),
    "prepare: a word twice": (f"prepare {WORDS_OF_SMALL} --keywords yes,yes", "'yes' stands twice"),
    "train: no such word": (f"{TRAIN} --keywords dog", "keyword 'dog' has no clips"),
    "simulate: no such word": (f"{SIMULATE} --keywords dog", "keyword 'dog' has no clips"),
    # Encoders, windows, layers
    "prepare: no such encoder": (f"prepare {WORDS_OF_SMALL} --encoder huge", "no encoder 'huge'.* tiny.en"),
    "prepare: no encoder": (f"prepare {WORDS_OF_SMALL} --encoder text.txt", "text.txt cannot be used"),
    "prepare: a folder without": (f"prepare {WORDS_OF_SMALL} --encoder words", "words cannot be used"),
    "prepare: too short a window": (f"prepare {WORDS_OF_SMALL} --window 0.1", "0.1 s is outside 0.2 to 30"),
    "prepare: no window": (f"prepare {WORDS_OF_SMALL} --window nan", "--window nan is not a finite number"),
    "prepare: longer than it hears": (f"prepare {WORDS_OF_SMALL} --window 3", "sees 2.0 s at most"),
    "prepare: no such layer": (f"prepare {WORDS_OF_SMALL} --layer 9", "layers 1 to 3"),
    "prepare: no layer": (f"prepare {WORDS_OF_SMALL} --layer top", "'top' is neither"),
    "prepare: no such device": (f"prepare {WORDS_OF_SMALL} --device cuda", "no CUDA device"),
    # Stores
    "prepare: a file for a cache": (f"prepare {WORDS_OF_SMALL} --cache text.txt", "text.txt.* cannot be used"),
    "evaluate: no index": (f"evaluate {HEAD} --data words --cache unindexed", "unindexed/.* is damaged; delete"),
    # Checkpoints
    "train: no such checkpoint": (f"{TRAIN} --checkpoint none.safetensors", "no checkpoint none.safetensors"),
    "train: a cut checkpoint": (f"{TRAIN} --checkpoint cut.safetensors", "cut.safetensors cannot be read"),
    "train: of another encoder": (
        f"{TRAIN} --checkpoint {HEAD} --encoder another-encoder",
        "trained for .* on encoder",
    ),
    "evaluate: a folder": ("evaluate words --data words --cache cache", "no run or checkpoint 'words'"),
    "evaluate: no checkpoint": ("evaluate encoder/model.safetensors --data words", "is not a checkpoint of Wordflock"),
    "evaluate: of another encoder": ("evaluate strange.safetensors --data words", "trained on another encoder"),
    "predict: no such checkpoint": ("predict none.safetensors clip.flac", "no checkpoint none.safetensors"),
    "predict: a pipe for a checkpoint": ("predict pipe.safetensors clip.flac", "pipe.safetensors .* is not a file"),
    "predict: an encoder of the Hub": ("predict hub.safetensors clip.flac", "only an encoder that you name is fetched"),
    "predict: a text for a checkpoint": ("predict text.txt clip.flac", "text.txt cannot be read"),
    "predict: of another encoder": ("predict strange.safetensors clip.flac", "trained on another encoder"),
    # Values and runs
    "prepare: below the least": (f"prepare {WORDS_OF_SMALL} --seed -1", "--seed -1 is too small"),
    "train: below the least": (f"{TRAIN} --epochs 0", "--epochs 0 is too small"),
    "train: the run exists": (f"{TRAIN} --name start", "runs/start exists already.* --name.* --checkpoint"),
    "train: a file for runs": (f"{TRAIN} --runs text.txt", "text.txt.* cannot be made .*--runs"),
    "simulate: too many workers": (f"{SIMULATE} --workers 100000", "--workers 100000 is too large; .* 256"),
    "simulate: no clients": (f"{SIMULATE} --clients 0", "--clients 0 is too small"),
    "simulate: more clients than speakers": (f"{SIMULATE} --clients 13", "--clients 13 .* have 12"),
    "simulate: all clients too small": (f"{SIMULATE} --batch-size 99 --name start-of-none", "No client has .* 99"),
}

# What is no command or option at all.
USAGE = {
    "teach": 'Unknown command "teach"',
    "trian": 'Did you mean "train"',
    "prepare --window wide": 'Invalid value for --window: unable to convert "wide" into float',
    "train --colour red": "Unknown option: --colour",
    "train --epoch 3": "Did you mean --epochs",
    "train --epochs many": "Invalid value for --epochs: 'many' is not a whole number",
    "train --epochs 1.5": "'1.5' is not a whole number",
    "train --device tpu": 'Choose from: "auto", "cpu", "cuda"',
    "train --head attentiv": 'Did you mean "attentive"',
    "simulate --strategy best": 'Invalid value "best" for --strategy',
    "simulate --partition none": 'Choose from: "speaker", "iid", "dirichlet", "shard"',
    "evaluate x --split dev": 'Choose from: "train", "validation", "test"',
    "predict x y.wav --jso": "Unknown option: --jso",
    "evaluate": "parameter MODEL requires an argument",
    "predict head.safetensors": "parameter FILES requires an argument",
    "data synthesize": "parameter FOLDER requires an argument",
}


@pytest.mark.parametrize(
    ("command", "words"),
    [pytest.param(*each, id=name, marks=pytest.mark.background(each[0])) for name, each in MISTAKES.items()],
)
def test_a_mistake_is_answered_in_one_sentence(command: str, words: str, wordflock: Wordflock) -> None:
    sentence = assert_one_sentence(wordflock.answer(command))
    assert re.search(words, sentence), sentence


@pytest.mark.parametrize("command", USAGE)
def test_a_command_that_does_not_exist_is_answered_with_those_that_do(command: str, wordflock: Wordflock) -> None:
    assert USAGE[command] in assert_one_sentence(wordflock.run(command))


def test_mistakes_leave_nothing_behind(wordflock: Wordflock) -> None:
    """No data set, no picture, no run that would stand in the way of the next attempt."""
    for command, _ in MISTAKES.values():
        wordflock.answer(command)
    assert not [name for name in ("nowhere", "new", "plot.gif", "plot.png") if wordflock.path(name).exists()]
    assert sorted(file.name for file in wordflock.path("empty").iterdir()) == []
    # The name of a run that came to nothing is free.
    assert wordflock.path("runs/start-of-none").exists()
    assert_done(wordflock.run(f"{TRAIN} --name start-of-none"))


def test_a_damaged_list_of_files_is_made_anew(wordflock: Wordflock) -> None:
    answer = wordflock.run(f"data describe {WORDS_OF_SMALL} --cache unlisted")
    assert answer.status == 0 and "180 clips" in answer.out
    assert re.fullmatch(r"Warning: .*files\.sqlite is damaged .* rebuilt\.\n", answer.err)


def test_broken_recordings_are_named_and_the_rest_goes_on(wordflock: Wordflock) -> None:
    shutil.copytree(wordflock.path("words"), wordflock.path("half-broken"))
    broken, *_ = sorted(wordflock.path("half-broken/yes").iterdir())
    broken.write_bytes(broken.read_bytes()[:100])
    (wordflock.path("half-broken/no") / "00000000_nohash_9.flac").write_bytes(b"")
    answer = wordflock.run(f"data describe {WORDS_OF_SMALL} --data half-broken")
    assert answer.status == 0 and "179 clips" in answer.out and "left out: 2 files" in answer.out
    warning, *rest = answer.err.splitlines()
    assert not rest and warning.startswith("Warning: 2 recordings are left out, of ")
    assert broken.name in warning and "00000000_nohash_9.flac (is empty)" in warning


def test_folders_that_nobody_may_write_to(wordflock: Wordflock) -> None:
    commands = {
        f"{TRAIN} --runs {{}}": "run's folder .* cannot be made .*--runs",
        f"prepare {WORDS_OF_SMALL} --cache {{}}/cache": "cannot be used",
        "data synthesize {}/words --words yes --voices 1": "cannot be made",
        f"data describe {WORDS_OF_SMALL} --clients 2 --plot {{}}/plot.png": "Read-only",
    }
    with small_disk(wordflock.path("read-only"), "64k") as disk:
        disk.remount("ro")
        for command, words in commands.items():
            assert re.search(words, assert_one_sentence(wordflock.run(command.format("read-only"))))
