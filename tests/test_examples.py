"""The notebooks of examples/ run from the first cell to the last."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def executed(tmp_path: Path, tiny_en: None, monkeypatch: pytest.MonkeyPatch) -> nbformat.NotebookNode:
    """The quickstart after it ran, in a folder of its own."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    notebook = nbformat.read(EXAMPLES / "quickstart.ipynb", as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()
    return notebook


def test_the_quickstart_trains_plots_and_predicts(executed: nbformat.NotebookNode) -> None:
    outputs = [output for cell in executed.cells if cell.cell_type == "code" for output in cell.outputs]
    text = "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")
    assert "epoch 10: " in text and "accuracy on the test split: " in text
    assert "→ yes (" in text and "federated: " in text
    pictures = [output.data["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == 2
    widgets = [output for output in outputs if "application/vnd.jupyter.widget-view+json" in output.get("data", {})]
    assert widgets, "the bar is a widget"
    assert "simulate" not in text and "round 1" not in text, "nothing is printed unless asked for"


def test_the_quickstart_is_kept_without_outputs() -> None:
    for path in EXAMPLES.glob("*.ipynb"):
        for cell in nbformat.read(path, as_version=4).cells:
            assert not cell.get("outputs") and cell.get("execution_count") is None
