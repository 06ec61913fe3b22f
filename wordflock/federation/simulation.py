"""Simulate a federation in this process."""

from __future__ import annotations

import os
from pathlib import Path

from wordflock.federation import client_app
from wordflock.federation.in_process import in_process_grid
from wordflock.federation.server_app import federate
from wordflock.federation_settings import FederationSettings
from wordflock.runs import resumed


def simulate(settings: FederationSettings) -> Path:
    """Run the ServerApp and the ClientApp in this process, or resume that of a run; returns the run's folder."""
    if settings.resume:
        settings = resumed(settings)
    workers = min(settings.workers or os.cpu_count() or 1, settings.clients)
    with in_process_grid(client_app.app, settings.clients, settings.as_config(), workers) as grid:
        return federate(grid, settings)
