from __future__ import annotations

import os
from math import comb
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_runs import write_run

from wordflock.report.compare import difference, differing_options, mcnemar, run_before
from wordflock.report.facts import bootstrap, read_run
from wordflock.report.model_card import model_card, write_card


@given(st.integers(0, 40), st.integers(0, 40))
def test_mcnemar_is_a_two_sided_binomial_test(wins: int, losses: int) -> None:
    n = wins + losses
    likely = [comb(n, k) / 2**n for k in range(n + 1)]
    expected = sum(p for k, p in enumerate(likely) if abs(k - n / 2) >= abs(wins - n / 2) - 1e-9)
    assert mcnemar(wins, losses) == pytest.approx(min(1.0, expected))


@given(st.lists(st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=5), min_size=2, max_size=20))
def test_the_bootstrap_brackets_the_mean_and_stays_in_range(groups: list[list[float]]) -> None:
    low, high = bootstrap(groups)
    assert 0 <= low <= high <= 1
    if all(group == groups[0] for group in groups):
        assert low == high == pytest.approx(np.mean(groups[0]))


def test_a_run_is_no_better_than_itself(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run"))
    found = difference(run, run)
    assert found is not None and (found.value, found.interval, found.p) == (0, (0, 0), 1)
    assert found.verdict == "no difference shown"


def test_a_clear_difference_is_said_in_both_directions(tmp_path: Path) -> None:
    good, bad = (read_run(write_run(tmp_path / name, clips=120, wrong=w)) for name, w in (("good", 2), ("bad", 90)))
    up, down = difference(good, bad), difference(bad, good)
    assert up is not None and down is not None
    assert (up.verdict, down.verdict) == ("better", "worse")
    assert up.value == pytest.approx(88 / 120) == -down.value
    assert up.p == down.p < 1e-9


def test_runs_without_common_clips_have_no_difference(tmp_path: Path) -> None:
    one, two = (read_run(write_run(tmp_path / name)) for name in ("one", "two"))
    two.predictions.clear()
    assert difference(one, two) is None


def test_options_of_rounds_have_no_value_where_the_head_was_solved(tmp_path: Path) -> None:
    options = {"rounds": 10, "local-epochs": 5}
    solved = read_run(write_run(tmp_path / "solved", strategy="closed-form", **{**options, "rounds": 1}))
    runs = [solved, read_run(write_run(tmp_path / "averaged", strategy="fedavg", **options))]
    differing = differing_options(runs)
    assert differing == {"strategy": ["closed-form", "fedavg"], "rounds": [1, 10]}
    longer = read_run(write_run(tmp_path / "longer", strategy="fedavg", **{**options, "local-epochs": 9}))
    assert differing_options([*runs, longer])["local-epochs"] == ["–", 5, 9]


def test_only_options_that_differ_are_listed(tmp_path: Path) -> None:
    runs = [read_run(write_run(tmp_path / name, head=head, name=name)) for name, head in (("a", "x"), ("b", "y"))]
    assert differing_options(runs) == {"head": ["x", "y"]}


def test_the_run_before_is_the_latest_on_the_same_data(tmp_path: Path) -> None:
    for age, (name, data) in enumerate([("oldest", "a"), ("older", "a"), ("other", "b"), ("new", "a")]):
        folder = write_run(tmp_path / name, data=data)
        os.utime(folder / "metrics.json", (1000 + age, 1000 + age))
    found = run_before(read_run(tmp_path / "new"))
    assert found is not None and found.name == "older"
    assert run_before(read_run(tmp_path / "oldest")) is None


def test_a_card_has_metadata_results_and_what_was_not_measured(tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml")
    run = read_run(write_run(tmp_path / "run"))
    _, head, body = model_card(run, language="de", licence="cc-by-4.0").split("---", 2)
    about = yaml.safe_load(head)
    assert about["license"] == "cc-by-4.0" and about["language"] == "de"
    (result,) = about["model-index"][0]["results"]
    assert result["metrics"][0]["value"] == pytest.approx(run.metrics["test"]["accuracy"], abs=1e-4)
    assert "/home/ada" not in head + body and "Not measured:" in body
    write_card(run, tmp_path)
    assert (tmp_path / "labels.txt").read_text().split() == run.labels
