"""A server without clips of its own counts features as its clients have them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from wordflock.encoder import weights
from wordflock.encoder.spec import FeatureSpec
from wordflock.federation.members import server_side
from wordflock.federation_settings import ServerSettings


@pytest.mark.parametrize(("layer", "width"), [("last", 64), ("1", 64), ("1+last", 128), ("1+2+last", 192)])
def test_layers_are_side_by_side(monkeypatch, layer, width):
    monkeypatch.setattr("wordflock.encoder.backend.spec_of", lambda settings: FeatureSpec("e", "0" * 64, 0.4, layer))
    monkeypatch.setattr(weights, "find", lambda encoder: None)
    monkeypatch.setattr(weights, "load", lambda source: (SimpleNamespace(width=64), {}))
    assert server_side(ServerSettings()).features["train"].array.shape[2] == width
