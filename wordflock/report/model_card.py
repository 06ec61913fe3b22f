"""The model card: README.md in the form of the Hugging Face Hub, and labels.txt, beside a run's or an export's weights.

Metadata: https://huggingface.co/docs/hub/model-cards. A card says what was not measured.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from wordflock.files import write_atomically
from wordflock.report.facts import RunFacts, by_speaker, quantiles
from wordflock.report.summary import accuracy_interval, data_name, guarantees, percent, unmeasured

CARD, LABELS = "README.md", "labels.txt"
ENCODER_LICENCE = "mit"  # of Whisper's weights


def write_card(run: RunFacts, folder: Path, *, language: str = "", licence: str = "", more: Sequence[str] = ()) -> None:
    """Write the card of a run, with `more` lines at its end, and its labels, one a line, into a folder."""
    labels = run.labels
    card = "\n".join([model_card(run, language=language, licence=licence), *more, *[""] * bool(more)])
    write_atomically(folder / CARD, card.encode())
    write_atomically(folder / LABELS, "".join(f"{label}\n" for label in labels).encode())


def model_card(run: RunFacts, *, language: str = "", licence: str = "") -> str:
    """The card as Markdown with a block of YAML. `language` and `licence` are what the author states; else unstated."""
    return "\n".join(["---", *_metadata(run, language, licence), "---", "", *_body(run, licence), ""])


def _metadata(run: RunFacts, language: str, licence: str) -> list[str]:
    lines = ["library_name: wordflock", "pipeline_tag: audio-classification", "tags:", "- keyword-spotting"]
    lines += ["- federated-learning"] * (run.mode != "train") + [f"- whisper-{run.config.get('encoder', '')}"]
    if licence:
        lines.append(f"license: {_yaml(licence)}")
    if language:
        lines.append(f"language: {_yaml(language)}")
    lines.append(f"wordflock: {json.dumps({'labels': run.labels, 'privacy': run.metrics.get('privacy')})}")
    if test := run.test:
        low, high = accuracy_interval(run)
        result = {
            "task": {"type": "audio-classification", "name": "keyword spotting"},
            "dataset": {"name": data_name(run), "type": data_name(run), "split": "test"},
            "metrics": [
                {"type": "accuracy", "value": round(test["accuracy"], 4), "name": "accuracy"},
                {"type": "accuracy_interval_95", "value": [round(low, 4), round(high, 4)], "name": "95% interval"},
            ],
        }
        lines.append(f"model-index: {json.dumps([{'name': run.name, 'results': [result]}])}")  # JSON is YAML
    return lines


def _body(run: RunFacts, licence: str) -> list[str]:
    lines = [
        f"# {run.name}",
        "",
        "A keyword spotter: a frozen Whisper encoder and a small head, made with Wordflock.",
        "",
    ]
    lines += [f"- {line}" for line in guarantees(run)]
    lines += ["", "## Labels", "", ", ".join(f"`{label}`" for label in run.labels), "", "## Results", ""]
    if test := run.test:
        low, high = accuracy_interval(run)
        lines += ["| figure | value |", "|---|---|"]
        lines.append(f"| accuracy on {test['clips']:,} test clips | {percent(test['accuracy'])} |")
        lines.append(f"| 95% interval | {percent(low)} to {percent(high)} |")
        if speakers := by_speaker(run.predictions):
            spread = quantiles(speakers)
            lines.append(f"| worst tenth of {len(speakers)} speakers | {percent(spread['worst tenth'])} |")
        lines += [
            f"| recall of `{label}` | {percent(recall)} |"
            for label, recall in test["recall"].items()
            if recall is not None
        ]
    lines += ["", "Not measured: " + "; ".join(unmeasured(run)) + "."] if unmeasured(run) else []
    lines += ["", "## Use", "", "```python", "import wordflock", "", 'model = wordflock.load("OWNER/NAME")']
    lines += ['print(model("recording.wav"))', "```", "", "## Licences", ""]
    lines.append(f"Encoder weights: {ENCODER_LICENCE.upper()} (OpenAI Whisper). Head: {licence or 'not stated'}.")
    return lines


def _yaml(text: str) -> str:
    return json.dumps(text)
