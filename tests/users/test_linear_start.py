"""Where the heads start: the ridge against its closed-form conditions, and a small log whose repeats are not wanted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from recgym.users.calibration import Scores, fit_binary
from recgym.users.linear_start import fit_logistic, start_linear
from recgym.users.reading import make_reader
from recgym.users.slates import read_slates
from tests.users.test_fitting import fitted


def test_the_fit_is_where_the_penalised_gradient_vanishes() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(600, 3, generator=generator) * torch.tensor([1.0, 5.0, 0.1]) + torch.tensor([0.0, 2.0, -1.0])
    chance = torch.sigmoid(features @ torch.tensor([1.0, -0.2, 3.0]) + 3.0)
    answer = (torch.rand(600, generator=generator) < chance).float()
    found = fit_logistic(features, answer, ridge=2.0)
    assert found is not None
    weight, intercept = found
    rest = answer - torch.sigmoid(features @ weight + intercept)
    assert abs(float(rest.sum())) < 0.05
    spread = features.std(0)
    standard = (features - features.mean(0)) / spread
    torch.testing.assert_close(rest @ standard, 2.0 * weight * spread, atol=0.05, rtol=0.01)


def test_constant_features_and_rare_answers_say_nothing() -> None:
    features = torch.cat([torch.ones(100, 1), torch.arange(100.0).unsqueeze(1)], 1)
    found = fit_logistic(features, (torch.arange(100) % 2).float())
    assert found is not None and float(found[0][0]) == 0
    assert fit_logistic(features, (torch.arange(100) < 19).float()) is None


def test_heads_start_where_repeats_are_not_wanted() -> None:
    """In a log where an item shown again in the session is never clicked, the untrained heads say so at once."""
    shown = fitted(exposures=True)
    sequences, roles = shown.sequences, shown.roles
    again = np.zeros(sequences.num_steps, np.bool_)
    for begin, end in zip(sequences.session_bounds[:-1], sequences.session_bounds[1:], strict=True):
        seen: set[int] = set()
        for step in range(int(begin), int(end)):
            again[step] = int(sequences.item[step]) in seen
            seen.add(int(sequences.item[step]))
    happens = (np.asarray(sequences.feedback[:, 0]) * ~again).astype(np.float32)
    told = replace(sequences, feedback=happens[:, None])
    slates = read_slates(shown.users.backbone, told, np.arange(300), censor_seconds=0)
    reader = make_reader(told, roles, shown.users.backbone, shown.config, slates)
    start_linear(reader, slates)
    with torch.no_grad():
        logit = reader.show(slates, slates.item.unsqueeze(1)).logits[:, 0, 0]
    steps = np.flatnonzero(sequences.session < 300)
    repeated = torch.from_numpy(again[steps])
    assert int(repeated.sum()) > 100
    assert float(torch.sigmoid(logit[repeated]).mean()) < 0.15
    assert float(torch.sigmoid(logit[~repeated]).mean()) == pytest.approx(
        float(happens[steps][~again[steps]].mean()), abs=0.06
    )


def test_calibration_from_a_handful_of_cases_stays_sober() -> None:
    logit = torch.tensor([-2.0, -1.0, 0.0, 1.0])
    found = fit_binary(
        Scores(logit, torch.tensor([0.0, 0, 1, 1]), torch.ones(4), torch.arange(4)), random_effects=False
    )
    assert 0.9 < found.slope < 1.2  # without a prior it would be without bound
    assert abs(found.intercept) < 0.5
