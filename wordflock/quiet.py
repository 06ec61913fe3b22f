"""Nothing phones home: telemetry of every library is off before the library is imported, in every process.

`import wordflock` calls `hush`, and child processes inherit the environment. What a user has set stays as it is.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping

# fmt: off
SWITCHES = {
    "DO_NOT_TRACK": "1",                                    # Hugging Face and others: https://consoledonottrack.com
    "FLWR_TELEMETRY_ENABLED": "0",                          # Flower
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",                        # huggingface-hub, datasets, transformers
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "ORT_DISABLE_TELEMETRY": "1",                           # onnxruntime: a device id in ~/.cache, and a look-up
    "RAY_USAGE_STATS_ENABLED": "0",
    "STREAMLIT_BROWSER_GATHER_USAGE_STATS": "false",
    "WANDB_ERROR_REPORTING": "false",
}
# fmt: on


def hush(environment: MutableMapping[str, str] = os.environ) -> None:
    """Set every switch that is not set."""
    for name, value in SWITCHES.items():
        environment.setdefault(name, value)
