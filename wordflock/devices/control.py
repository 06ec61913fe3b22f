"""Tell a SuperLink what to run and whom to let in, through its Control API."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import tomli_w
from flwr.cli.build import build_fab_from_files
from flwr.common.serde import fab_to_proto
from flwr.proto.control_pb2 import ListRunsRequest, RegisterNodeRequest, StartRunRequest, StopRunRequest
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.fab import Fab
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext

from wordflock import __version__
from wordflock.devices.flower import COMPONENTS
from wordflock.devices.guard import SECRET_HEADER
from wordflock.devices.processes import without_proxies
from wordflock.errors import WordflockError
from wordflock.federation_settings import ServerSettings

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey


class Control:
    """A connection to the SuperLink at `address`, over TLS where there is a CA; `secret` is a file with its secret."""

    def __init__(self, address: str, ca: Path | None, secret: Path) -> None:
        with without_proxies():
            self._client = ControlHttpClient.from_server_address(
                server_address=address,
                insecure=ca is None,
                root_certificates=None if ca is None else str(ca),
                interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr CLI"), _Secret(secret)],
            )

    def wait(self, seconds: float, alive: Callable[[], bool]) -> None:
        """Wait until the SuperLink answers. Raises WordflockError where it does not."""
        started = time.monotonic()
        while True:
            try:
                self._client.ListRuns(ListRunsRequest())
                return
            except httpx.HTTPError as error:
                if "certificate has expired" in str(error):
                    raise WordflockError(
                        "The server's own certificate has expired; make another one with 'wordflock certificates'."
                    ) from error
                if "CERTIFICATE_VERIFY_FAILED" in str(error):
                    problem = (
                        "does not name the address it listens on" if "mismatch" in str(error) else "is not its CA's"
                    )
                    raise WordflockError(
                        f"The server's own certificate {problem}; make another one with 'wordflock certificates' and "
                        "every --name that clients use."
                    ) from error
                if not alive() or time.monotonic() - started > seconds:
                    raise WordflockError(f"Flower's SuperLink does not start ({error}).") from error
                time.sleep(0.2)

    def register(self, key: EllipticCurvePublicKey) -> None:
        """Let the holder of a key in; a key that is let in already stays so."""
        from flwr.supercore.primitives.asymmetric import public_key_to_bytes

        try:
            self._client.RegisterNode(RegisterNodeRequest(public_key=public_key_to_bytes(key)))
        except httpx.HTTPStatusError as error:
            if "already in use" not in error.response.text.lower():
                raise

    def start_run(self, settings: ServerSettings) -> int:
        """Start Wordflock's ServerApp; returns Flower's number of the run.

        The program sent holds names of modules and the settings, and no code.
        """
        project = {
            "project": {"name": "wordflock", "version": __version__, "description": "", "dependencies": []},
            "tool": {
                "flwr": {
                    "app": {"publisher": "wordflock", "components": COMPONENTS, "config": settings.as_config()},
                }
            },
        }
        program, _ = build_fab_from_files({"pyproject.toml": tomli_w.dumps(project).encode()})
        fab = Fab(sha256(program).hexdigest(), program, {})
        response = self._client.StartRun(StartRunRequest(fab=fab_to_proto(fab)))
        if not response.HasField("run_id"):
            raise WordflockError("Flower's SuperLink did not accept the run; see server/flower.log in its folder.")
        return int(response.run_id)

    def stop_run(self, number: int) -> None:
        """End one run, if neither it nor the SuperLink has ended."""
        with suppress(httpx.HTTPError):
            self._client.StopRun(StopRunRequest(run_id=number))

    def stop_runs(self) -> None:
        """End all runs that have not ended."""
        for run in self._client.ListRuns(ListRunsRequest()).run_dict.values():
            if not run.finished_at:
                self.stop_run(run.run_id)


class _Secret:
    """Adds the SuperLink's secret to each request."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        """Send one request."""
        context.request.headers[SECRET_HEADER] = self._file.read_text()
        return call_next(context)
