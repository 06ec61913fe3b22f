"""Commands for data sets and encoders."""

from __future__ import annotations

from json import dumps
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from wordflock.cli.options import command
from wordflock.errors import counted
from wordflock.federation_settings import DescribeSettings
from wordflock.options import split_commas
from wordflock.settings import Settings


@command
def synthesize(
    folder: Annotated[str, Parameter(help="Folder to write; it must not exist yet.")],
    /,
    *,
    words: Annotated[str, Parameter(help="Words, separated by commas. (default: those of Speech Commands)")] = "",
    others: Annotated[
        str, Parameter(help="Words for _unknown_. (default: the rest of Speech Commands; not in English, numbers)")
    ] = "",
    voices: Annotated[int, Parameter(help="Voices to train on; a third as many come on top for the rest.")] = 100,
    takes: Annotated[int, Parameter(help="Times that a voice says each word.")] = 2,
    language: Annotated[str, Parameter(help="Language of espeak-ng, such as de or en-us.")] = "en",
    confusables: Annotated[
        bool, Parameter(help="Have words in _unknown_ that sound like the words: a phoneme changed, halves, compounds.")
    ] = False,
    seed: Annotated[int, Parameter(help="Seed of every random choice.")] = 0,
) -> None:
    """Make a data set of spoken words, in the layout of Speech Commands."""
    from wordflock.data.synthetic import other_words, synthesize
    from wordflock.data.task import DEFAULT_KEYWORDS

    spoken = split_commas(words) or list(DEFAULT_KEYWORDS)
    rest = split_commas(others) or other_words(language, spoken)
    synthesize(
        Path(folder),
        words=spoken,
        others=rest,
        voices=voices,
        takes=takes,
        language=language,
        seed=seed,
        confusables=confusables,
    )
    more = " and words that sound alike" * confusables
    print(f"{folder}: {counted(len(spoken), 'word')} and {counted(len(rest), 'other')}{more}, {voices} training voices")


@command
def download(
    name: Annotated[
        str, Parameter(help="Data set to download: speech-commands, or fsdd (Free Spoken Digits).")
    ] = "speech-commands",
    /,
    *,
    version: Annotated[str, Parameter(help="Version of Speech Commands: 0.02 or 0.01.")] = "0.02",
    part: Annotated[str, Parameter(help="Part of Speech Commands 0.02: train (all splits) or test.")] = "train",
    folder: Annotated[str, Parameter(help="Folder for the file. (default: where --data NAME finds it)")] = "",
    url: Annotated[str, Parameter(help="Address of a mirror.")] = "",
    accept: Annotated[bool, Parameter(help="Keep a file that its publisher has replaced.")] = False,
) -> None:
    """Download a public data set; a download that was cut goes on where it ended."""
    from wordflock.data.download import FOLDER, data_set_named, download, size_text
    from wordflock.settings import default_cache

    name += "" if version == "0.02" else f"-{version}"
    name += "" if part == "train" else f"-{part}"
    data_set = data_set_named(name)
    path = download(data_set, Path(folder or default_cache() / FOLDER).expanduser(), url=url, accept=accept)
    use = path if folder else name
    print(f"{path}: {size_text(path.stat().st_size)}, {data_set.licence}; use it with --data {use}")


@command
def check(
    settings: Settings,
    *,
    suggestions: Annotated[int, Parameter(help="Clips to name that most likely have a wrong label.")] = 10,
    json: Annotated[bool, Parameter(help="Print one JSON object.", negative=())] = False,
    html: Annotated[str, Parameter(help="Write a page with players to this file.")] = "",
) -> None:
    """Look for what may be wrong with a data set; the exit status is 1 where anything is."""
    from wordflock.check import check, format_check
    from wordflock.check_page import check_page
    from wordflock.files import write_atomically

    found = check(settings, suggestions)
    if html:
        write_atomically(Path(html), check_page(found).encode())
    print(dumps(found.as_json(), indent=2) if json else format_check(found))
    if found.problems:
        raise SystemExit(1)


@command
def describe(
    settings: DescribeSettings,
    *,
    plot: Annotated[str, Parameter(help="Write the bar plot of clips per client to this PNG.")] = "",
) -> None:
    """Count a data set's clips by word, split and speaker, and with --plot draw the clips per client."""
    from wordflock.describe import describe

    print(describe(settings, Path(plot) if plot else None))


@command
def save_encoder(
    file: Annotated[str, Parameter(help="File to write, such as tiny.en.safetensors.")],
    /,
    *,
    encoder: Annotated[str, Parameter(help="Encoder to write, as --encoder of other commands.")] = "tiny.en",
) -> None:
    """Write the encoder alone, in float16, for devices that have no other source of it."""
    from wordflock.encoder.weights import save_encoder

    exact = save_encoder(encoder, Path(file))
    print(f"{file}: {Path(file).stat().st_size / 1e6:.1f} MB; use it with --encoder {file}")
    if not exact:
        print("Its weights were rounded to float16: heads that were trained with the original do not fit.")
