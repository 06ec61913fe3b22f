"""The same apps on Flower's simulation engine, which is Ray's: `flwr run` on a SuperLink on this machine."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.clips import run
from wordflock.federation_settings import FederationSettings

BIN = Path(sys.executable).parent
REPOSITORY = Path(__file__).parents[1]
ROUNDS, TIMEOUT = 4, 600  # seconds, after which the row is left out


def empty(data: str, cache: str, size: int) -> dict[str, Any]:
    """Rounds in which all of `size` clients answer and nobody trains."""
    import ray  # noqa: F401  the row is left out where it is not installed

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        rounds = ROUNDS if size <= 1000 else 1  # which takes minutes; here the first is like all others
        found = _run(folder, FederationSettings(clients=size, clients_per_round=size, rounds=rounds, local_epochs=1))
    later = found["rounds"][1:] or found["rounds"]
    return {"ms_a_client": 1000 * float(np.median(later)) / size, "first_s": found["rounds"][0]}


def _run(folder: Path, settings: FederationSettings) -> dict[str, Any]:
    import tomli_w

    result, app, home = folder / "result.json", folder / "app", folder / "flower"
    app.mkdir()
    home.mkdir()
    components = {"serverapp": "benchmarks.empty:server", "clientapp": "benchmarks.empty:client"}
    config = {**settings.as_config(), "name": str(result)}
    project = {
        "project": {"name": "empty", "version": "0.1.0", "description": "", "dependencies": []},
        "tool": {"flwr": {"app": {"publisher": "wordflock", "components": components, "config": config}}},
    }
    (app / "pyproject.toml").write_text(tomli_w.dumps(project))
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "here"\n[superlink.here]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
    )
    environment = {
        **os.environ,
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONPATH": str(REPOSITORY),
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
    }
    command = [str(BIN / "flower-superlink"), "--insecure", "--simulation", "--disable-runtime-dependency-installation"]
    with (folder / "superlink.log").open("wb") as log:
        superlink = subprocess.Popen(
            [*command, "--port", str(port)], env=environment, stdout=log, stderr=log, start_new_session=True
        )
        try:
            while superlink.poll() is None:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.2)
            federation = f"num-supernodes={settings.clients} client-resources-num-cpus=1"
            flower = subprocess.run(
                [BIN / "flwr", "run", app, "here", "--stream", "--federation-config", federation],
                env=environment,
                capture_output=True,
                text=True,
                timeout=TIMEOUT,
                check=False,
            )
        finally:
            os.killpg(superlink.pid, 15)
            superlink.wait(60)
    if not result.exists():
        raise RuntimeError(
            f"{flower.stdout[-2000:]}{flower.stderr[-2000:]} {(folder / 'superlink.log').read_text()[-2000:]}"
        )
    return json.loads(result.read_text())


if __name__ == "__main__":
    run({"empty": empty})
