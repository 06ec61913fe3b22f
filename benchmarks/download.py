"""A download from a server on this machine: seconds of wall and processor and peak memory, beside a copy on the disk.

python -m benchmarks.download [MEGABYTES]
"""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
import tempfile
import time
from functools import partial
from hashlib import file_digest
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from wordflock.data.download import DataSet, download

BLOCK = 1 << 20  # bytes


class Quiet(SimpleHTTPRequestHandler):
    """Serves the files of a folder."""

    def log_message(self, *_: object) -> None:
        """Nothing."""


def main(megabytes: int) -> None:
    """Print both."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "served").mkdir()
        with (folder / "served" / "words.bin").open("wb") as file:
            for number in range(megabytes):
                file.write(number.to_bytes(4, "little") * (BLOCK // 4))
        with (folder / "served" / "words.bin").open("rb") as file:
            content = file_digest(file, "sha256").hexdigest()
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder / "served")))
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/words.bin"
        arguments = [url, str(megabytes * BLOCK), content, str(folder / "here")]
        subprocess.run([sys.executable, "-m", "benchmarks.download", *arguments], check=True)
        server.shutdown()
        started = time.perf_counter()
        shutil.copyfile(folder / "served" / "words.bin", folder / "copy")
        print(f"copy on the disk: {time.perf_counter() - started:.1f} s")


def fetch(url: str, size: str, content: str, folder: str) -> None:
    """One download, in a process of its own."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    download(DataSet(url, int(size), content, ""), Path(folder))
    wall = time.perf_counter() - started
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e3
    speed = f"{wall:.1f} s, {int(size) / wall / 1e6:.0f} MB/s"
    print(f"download: {speed} ({time.process_time():.1f} s of the processor), {memory:.0f} MB more")


if __name__ == "__main__":
    if len(sys.argv) > 2:
        fetch(*sys.argv[1:])
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
