"""Commands that make recordings into clips."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from wordflock.cli.options import command, refuse_options, whole_number
from wordflock.errors import OptionError, WordflockError, counted

if TYPE_CHECKING:
    from wordflock.recording.session import Session

LONGEST = 3.0  # seconds; what is longer is talk rather than a word


@command
def cut(
    sources: Annotated[list[str], Parameter(name="RECORDINGS", help="Audio files, or folders or archives of them.")],
    /,
    *,
    out: Annotated[str, Parameter(help="Folder to write clips to, one folder below it for each label.")],
    labels: Annotated[
        str,
        Parameter(
            help="Intervals to cut: a TextGrid, Audacity's labels, or a table with start, end and label (and file); "
            "or a folder with such a file for each recording. (default: wherever somebody speaks)"
        ),
    ] = "",
    label: Annotated[
        str, Parameter(help="Label of what has none. (default: the folder that the recording is in)")
    ] = "",
    tier: Annotated[str, Parameter(help="Tier of the TextGrid. (default: the only one, or the one called words)")] = "",
    margin: Annotated[float, Parameter(help="Seconds to keep before and after each clip.")] = 0.15,
    pause: Annotated[float, Parameter(help="Without --labels: seconds of silence that end a clip.")] = 0.3,
) -> None:
    """Cut long recordings into clips for --data, by labelled intervals or wherever somebody speaks."""
    from wordflock.data.cutting import cut

    written = cut(sources, Path(out), labels=labels, label=label, tier=tier, margin=margin, pause=pause)
    for name, those in written.items():
        clips = counted(those.clips, "clip")
        print(f"{Path(out) / name}: {clips}, {those.seconds:.1f} s, the longest {those.longest:.2f} s")
        if those.longest > LONGEST and not labels and not name.startswith("_"):
            print(f"  more than {LONGEST:.0f} s is talk rather than a word; listen to it, or cut by --labels")
    if not written:
        print("nothing to cut")


@command
def record(
    *words: Annotated[
        str,
        Parameter(
            name="WORDS",
            help="Words to say; and - for raw 16-bit mono samples on standard input in place of a microphone.",
            allow_leading_hyphen=True,
        ),
    ],
    speaker: Annotated[str, Parameter(help="Who speaks; the name is part of the files' names.")] = "",
    takes: Annotated[int, Parameter(help="Recordings of each word.", converter=whole_number)] = 10,
    out: Annotated[str, Parameter(help="Folder to write recordings to.")] = "recordings",
    room: Annotated[bool, Parameter(help="Record the noise of the room first, into _background_noise_.")] = True,
    countdown: Annotated[float, Parameter(help="Seconds before each word.")] = 1.0,
    device: Annotated[str, Parameter(help="Microphone: its number, or a part of its name.")] = "",
    list_devices: Annotated[bool, Parameter(help="List the microphones.", negative=())] = False,
    rate: Annotated[int, Parameter(help="Rate of raw samples, Hz.", converter=whole_number)] = 16_000,
    web: Annotated[
        str,
        Parameter(help="Serve a page at ADDRESS:PORT, or PORT for this machine alone, that records with a phone."),
    ] = "",
    certificates: Annotated[
        str, Parameter(help="For --web: folder with server.crt and server.key, from 'wordflock certificates'.")
    ] = "",
) -> None:
    """Record words of one speaker: each take is checked, trimmed and kept; a session that was ended goes on."""
    from wordflock.recording.recorder import Recorder
    from wordflock.recording.session import Session
    from wordflock.recording.terminal import Terminal, pressed_keys
    from wordflock.spotting.live import microphone, microphones, play, raw_sound

    if list_devices:
        print("\n".join(microphones()) or "No microphone.")
        return
    refuse_options(words)
    if not speaker:
        raise WordflockError("`wordflock data record` needs the speaker; give --speaker NAME.")
    if not 0 <= countdown <= 60:
        raise OptionError("countdown", countdown, "is not between 0 and 60 s; take 1")
    session = Session(Path(out), [word for word in words if word != "-"], speaker, takes)
    if web:
        _serve(session, web, certificates, room)
    elif session.missing():
        source = raw_sound(sys.stdin.fileno(), rate) if "-" in words else microphone(device)
        with Terminal(session) as view, pressed_keys() as key:
            Recorder(session, source, view, countdown=countdown, key=key, play=play).run(room)
    left = len(session.missing())
    print(
        f"{out}: {counted(len(session.words) * takes - left, 'take')} of {session.speaker}"
        + f", {left} missing" * (left > 0)
    )


def _serve(session: Session, address: str, certificates: str, room: bool) -> None:
    from wordflock.addresses import is_loopback, split_address
    from wordflock.devices.connection import tls_files
    from wordflock.recording.web import WebRecorder

    host, port = split_address(f"127.0.0.1:{address}" if address.isdecimal() else address, "--web")
    if not certificates and not is_loopback(host):
        raise WordflockError(
            f"--web {address} without TLS would let anyone on the network listen, and browsers refuse the microphone; "
            "add --certificates (see 'wordflock certificates')."
        )
    certificate = tls_files(certificates)[1:] if certificates else None
    with WebRecorder(session, host, port, certificate=certificate, room=room, say=_say) as server:
        _say(f"Open {server.url} on the phone; Ctrl-C ends it.")
        with suppress(KeyboardInterrupt):
            server.serve_forever(poll_interval=0.2)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
