"""No command and no call looks a host up, connects to another machine, or writes outside its cache and its runs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from flock import free_port

from wordflock.quiet import SWITCHES, hush

WATCHER = r"""
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

static void note(const char *what, const char *which) {
    FILE *log = fopen(getenv("WATCHED"), "a");
    if (log) { fprintf(log, "%s %s\n", what, which ? which : ""); fclose(log); }
}
static int is_here(const char *host) {
    return !host || !strcmp(host, "localhost") || !strncmp(host, "127.", 4) || !strcmp(host, "::1") ||
           !strcmp(host, "0.0.0.0") || !strcmp(host, "::");
}
int getaddrinfo(const char *host, const char *service, const struct addrinfo *hints, struct addrinfo **found) {
    static int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **);
    if (!real) real = dlsym(RTLD_NEXT, "getaddrinfo");
    if (is_here(host)) return real(host, service, hints, found);
    note("look-up", host);
    return EAI_NONAME;
}
struct hostent *gethostbyname(const char *host) { note("look-up", host); return NULL; }
int connect(int fd, const struct sockaddr *to, socklen_t size) {
    static int (*real)(int, const struct sockaddr *, socklen_t);
    char text[64] = "";
    if (!real) real = dlsym(RTLD_NEXT, "connect");
    if (to->sa_family == AF_INET) inet_ntop(AF_INET, &((struct sockaddr_in *)to)->sin_addr, text, sizeof text);
    if (to->sa_family == AF_INET6) inet_ntop(AF_INET6, &((struct sockaddr_in6 *)to)->sin6_addr, text, sizeof text);
    if (!*text || is_here(text)) return real(fd, to, size);
    note("connection", text);
    errno = ENETUNREACH;
    return -1;
}
"""
FAST = ("--layer", "1", "--batch-size", "8")
API = """
import wordflock
run = wordflock.train(data="data", epochs=1, layer="1", name="api")
wordflock.evaluate(run, data="data")
print(run.model("data/yes/" + sorted(__import__("os").listdir("data/yes"))[0]).label)
"""


@pytest.fixture(scope="module")
def watcher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs a C compiler and Linux to watch what programs look up")
    folder = tmp_path_factory.mktemp("watcher")
    (folder / "watcher.c").write_text(WATCHER)
    library = folder / "watcher.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, folder / "watcher.c", "-ldl"], check=True)
    return library


@pytest.fixture
def watched(watcher: Path, tmp_path: Path, small_speech_commands: Path) -> Callable[..., None]:
    """Runs a Python program in a fresh HOME, and asserts that it asked no other machine and left nothing about.

    `named` are the hosts that its user names, and `status` is that with which it ends.
    """
    home, work, log = tmp_path / "home", tmp_path / "work", tmp_path / "watched.log"
    home.mkdir()
    work.mkdir()
    small_speech_commands.rename(work / "data")
    before = set(work.rglob("*"))

    def run(*arguments: str, status: int = 0, named: tuple[str, ...] = (), **more: str) -> None:
        kept = ("PATH", "PYTHONPATH", "LANG")
        environment = {name: os.environ[name] for name in kept if name in os.environ}
        environment |= {"HOME": str(home), "TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
        environment |= {"LD_PRELOAD": str(watcher), "WATCHED": str(log), **more}
        done = subprocess.run(
            [sys.executable, *arguments], cwd=work, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == status, done.stdout + done.stderr
        asked = set(log.read_text().splitlines()) if log.exists() else set()
        assert asked == {f"look-up {host}" for host in named}, asked
        log.unlink(missing_ok=True)
        assert {path.relative_to(home).as_posix() for path in home.glob("*/*")} <= {".cache/wordflock"}
        assert {path.relative_to(work).parts[0] for path in set(work.rglob("*")) - before} <= {"runs", "clips.png"}

    return run


def test_the_watcher_sees_a_look_up(watched: Callable[..., None]) -> None:
    with pytest.raises(AssertionError, match=r"look-up other\.invalid"):
        watched(
            "-c", "import socket, contextlib\nwith contextlib.suppress(OSError): socket.getaddrinfo('other.invalid', 1)"
        )


def test_training_and_prediction_ask_no_other_machine(watched: Callable[..., None]) -> None:
    command = ("-m", "wordflock")
    watched(*command, "train", "--data", "data", "--epochs", "1", "--backend", "onnxruntime", "--name", "a", *FAST)
    watched(*command, "predict", "runs/a/best.safetensors", "data/yes")
    watched("-c", API)


@pytest.mark.slow
def test_no_other_command_asks_another_machine(watched: Callable[..., None]) -> None:
    command, few = ("-m", "wordflock"), ("--clients", "4", "--clients-per-round", "2", "--rounds", "1")
    watched(*command, "prepare", "--data", "data", *FAST[:2])
    watched(*command, "data", "describe", "--data", "data", "--plot", "clips.png", "--clients", "4")
    watched(*command, "simulate", "--data", "data", "--name", "b", *few, *FAST)
    watched(*command, "simulate", "--data", "data", "--name", "c", "--strategy", "closed-form", *few[:2], *FAST[:2])
    watched(*command, "evaluate", "runs/b", "--data", "data")
    watched(*command, "report", "runs/b")
    watched(*command, "runs")
    watched(*command, "compare", "runs/b", "runs/c")
    watched(*command, "export", "runs/b", "--out", "runs/exported")
    watched(*command, "spot", "runs/b", "data/_background_noise_/white_noise.wav")
    watched(*command, "listen", "runs/b", "data/_background_noise_/white_noise.wav")
    watched(*command, "evaluate-stream", "runs/b", "--positives", "data", "--negatives", "data/_background_noise_")
    watched(*command, "certificates", "runs/certificates", "--name", "pi.local")
    watched(*command, "--help")


SWEEP = """
mode = "train"
[options]
data = "data"
layer = "1"
epochs = 1
[space]
learning-rate = [1e-3, 3e-3]
"""


@pytest.mark.slow
def test_a_sweep_its_report_and_an_upload_ask_no_machine_but_the_one_that_is_named(
    watched: Callable[..., None],
) -> None:
    command = ("-m", "wordflock")
    watched("-c", f"import pathlib; pathlib.Path('runs').mkdir(); pathlib.Path('runs/s.toml').write_text({SWEEP!r})")
    watched(*command, "sweep", "runs/s.toml", "--parallel", "2")
    watched(*command, "report", "runs/s/best")
    hub = {"HF_ENDPOINT": "http://hub.invalid", "HF_TOKEN": "hf_of_a_test"}
    watched(*command, "push", "runs/s/best", "ada/words", status=2, named=("hub.invalid",), **hub)
    mirror = ("--url", "http://mirror.invalid/words.tar.gz", "--folder", "runs")
    watched(*command, "data", "download", *mirror, status=2, named=("mirror.invalid",))
    watched("-c", BOARD)


BOARD = """
import signal, subprocess, sys
board = subprocess.Popen([sys.executable, "-m", "wordflock", "board", "runs"], stderr=subprocess.PIPE, text=True)
for line in board.stderr:
    if "http://" in line:
        break
else:
    sys.exit("it does not start")
board.send_signal(signal.SIGINT)
board.communicate()
"""
DEVICES = """
import os, subprocess, sys, time
command = [sys.executable, "-m", "wordflock"]
task = ["--data", "data", "--clients", "2", "--layer", "1", "--min-clips", "4"]
features = ["--head", "combined"]
where = ["--listen", "127.0.0.1:{port}", "--runs", "runs", "--name", "devices", "--min-clients", "2"]
server = subprocess.Popen([*command, "server", *where, *task, "--rounds", "1", "--batch-size", "4"])
clients = [
    subprocess.Popen([*command, "client", "--server", "127.0.0.1:{port}", "--cid", str(cid), *features, *task])
    for cid in range(2)
]
sys.exit(any([process.wait() for process in (server, *clients)]))
"""


@pytest.mark.slow
def test_a_server_and_its_clients_ask_no_other_machine(watched: Callable[..., None]) -> None:
    watched("-c", DEVICES.format(port=free_port()))


def test_importing_wordflock_is_enough() -> None:
    program = f"import os, wordflock; print(*(os.environ.get(name, '') for name in {tuple(SWITCHES)}))"
    environment = {name: value for name, value in os.environ.items() if name not in SWITCHES}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == list(SWITCHES.values())


def test_what_a_user_has_set_stays() -> None:
    environment = {"HF_HUB_DISABLE_TELEMETRY": "0"}
    hush(environment)
    assert environment == {**SWITCHES, "HF_HUB_DISABLE_TELEMETRY": "0"}
