"""The same apps on Flower's own simulation engine (Ray): `flwr run . --stream`, as docs/how-to/scale.md says."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from whole_commands import Wordflock, assert_done

REPOSITORY = Path(__file__).parents[2]
CLIENTS, ROUNDS = 6, 2


def program(name: str) -> str:
    return str(Path(sys.executable).parent / name)


@pytest.fixture
def superlink(tmp_path):
    """A SuperLink that simulates; yields the environment in which `flwr` finds it as `here`."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("ray is not installed, which Wordflock's extra [ray] brings")
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    home = tmp_path / "flower"
    home.mkdir()
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "here"\n[superlink.here]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
    )
    environment = {
        **os.environ,
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    command = [program("flower-superlink"), "--insecure", "--simulation", "--disable-runtime-dependency-installation"]
    log = (tmp_path / "superlink.log").open("wb")
    process = subprocess.Popen(
        [*command, "--port", str(port)], env=environment, stdout=log, stderr=log, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.2)
        else:
            pytest.fail((tmp_path / "superlink.log").read_text())
        yield environment
    finally:
        os.killpg(process.pid, 15)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait()
        log.close()


@pytest.mark.parametrize("backend", ["auto", "torch", "onnxruntime"])
def test_it_gives_the_same_bytes_as_the_simulation_in_process(wordflock: Wordflock, superlink, tmp_path, backend):
    options = {
        "data": str(wordflock.path("words")),
        "encoder": str(wordflock.path("encoder")),
        "backend": backend,
        "runs": str(tmp_path / "runs"),
        "clients": CLIENTS,
        "clients-per-round": 3,
        "rounds": ROUNDS,
        "batch-size": 4,
        "window": 1.0,
    }
    for workers in (1, 2):
        arguments = " ".join(f"--{key}={value}" for key, value in options.items())
        assert_done(
            wordflock.run(
                f"simulate {arguments} --workers={workers} --cache={tmp_path}/{workers} --name=workers-{workers}"
            )
        )  # a cache of its own
    config = " ".join(
        f"{key}={value!r}" for key, value in {**options, "cache": str(tmp_path / "ray"), "name": "ray"}.items()
    )
    federation = f"num-supernodes={CLIENTS} client-resources-num-cpus=1"
    flower = subprocess.run(
        [program("flwr"), "run", ".", "here", "--stream", "--federation-config", federation, "--run-config", config],
        cwd=REPOSITORY,
        env=superlink,
        capture_output=True,
        text=True,
        timeout=240,
    )
    heads = [tmp_path / "runs" / name / "last.safetensors" for name in ("workers-1", "workers-2", "ray")]
    assert heads[2].exists(), flower.stdout + flower.stderr
    assert heads[0].read_bytes() == heads[1].read_bytes() == heads[2].read_bytes()
    assert f"round {ROUNDS}: accuracy" in flower.stdout + flower.stderr
