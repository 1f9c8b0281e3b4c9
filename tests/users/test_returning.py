"""Returns: survival in closed form, recovery of a known law through censoring, and what a log says of visits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recgym.backbones.backbone import BackboneConfig, make_backbone
from recgym.backbones.encoding import encode_sessions
from recgym.logs.pivot import build_sequences
from recgym.random import session_keys, uniform
from recgym.users.returning import Returning, ReturnShape, Visits, fit_returning, log_loss, read_visits, spans_of
from tests.users.test_fitting import made_log


def test_chances_and_draws_agree_with_the_hazards_by_hand() -> None:
    model = Returning(ReturnShape(state_width=2, num_kinds=1, edges=(0.0, 1.0, 3.0))).requires_grad_(False)
    log_odds = torch.logit(torch.tensor([[0.5, 0.2]]))
    assert float(model.chance_within(log_odds, 1)) == pytest.approx(0.5)
    assert float(model.chance_within(log_odds, 2)) == pytest.approx(0.5 + 0.5 * 0.2 / 2)
    assert float(model.chance_within(log_odds, 3)) == pytest.approx(0.6)
    days = model.draw(log_odds.expand(20_000, -1), uniform(session_keys(0, 20_000), 2))
    for limit, expected in ((1.0, 0.5), (2.0, 0.55), (3.0, 0.6)):
        error = (expected * (1 - expected) / 20_000) ** 0.5
        assert abs(float((days < limit).float().mean()) - expected) < 4.5 * error
    assert float(days.isinf().float().mean()) == pytest.approx(0.4, abs=0.016)


def test_a_span_that_the_log_cuts_counts_as_far_as_it_was_seen() -> None:
    days = torch.tensor([0.5, 0.5, 2.0, 5.0], dtype=torch.float64)
    returned = torch.tensor([True, False, False, True])
    visits = Visits(torch.zeros(4, 2), torch.ones(4), torch.zeros(4, 1), days, returned)
    lived, ends = spans_of(torch.tensor([0.0, 1.0, 3.0, 7.0]), visits)
    assert lived.tolist() == [[1, 0, 0], [0.5, 0, 0], [1, 0.5, 0], [1, 1, 1]]
    assert ends.tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 1]]


def test_the_loss_is_the_likelihood_of_what_was_seen() -> None:
    """Half of a span with hazard h is survived with chance 1 - h / 2, as returns are spread evenly within it."""
    model = Returning(ReturnShape(state_width=2, num_kinds=1, edges=(0.0, 1.0, 3.0))).requires_grad_(False)
    for parameter in model.parameters():
        parameter.zero_()
    model.out.bias.copy_(torch.logit(torch.tensor([0.3, 0.6])))
    for days, returned, chance in ((0.2, True, 0.3), (0.5, False, 0.85), (2.0, False, 0.7 * 0.7), (9, False, 0.28)):
        one = Visits(
            torch.zeros(1, 2), torch.ones(1), torch.zeros(1, 1), torch.tensor([days]).double(), torch.tensor([returned])
        )
        assert float(log_loss(model, one)) == pytest.approx(-np.log(chance), rel=1e-5)
    free = torch.zeros(1, 2, requires_grad=True)
    nothing_seen = one._replace(days=torch.zeros(1).double())
    model.requires_grad_(True)
    (log_loss(model, nothing_seen._replace(state=free)) + log_loss(model, one._replace(state=free))).backward()
    assert free.grad is not None and bool(free.grad.isfinite().all())


def made_visits(count: int, *, seed: int, censor: float) -> Visits:
    """Returns after Exponential(mean 10 / (1 + 3 x)) days, x the share of clicks; seen for up to `censor` days."""
    rng = np.random.default_rng(seed)
    depth = rng.integers(1, 20, count)
    clicks = rng.binomial(depth, rng.random(count))
    days = rng.exponential(10 / (1 + 3 * clicks / depth))
    follow = rng.uniform(0, censor, count)
    return Visits(
        state=torch.zeros(count, 2),
        depth=torch.from_numpy(depth.astype(np.float32)),
        sums=torch.from_numpy(clicks.astype(np.float32))[:, None],
        days=torch.from_numpy(np.minimum(days, follow)),
        returned=torch.from_numpy(days <= follow),
    )


def test_fitting_finds_the_law_although_most_returns_were_not_seen() -> None:
    model = fit_returning(made_visits(6000, seed=0, censor=12), made_visits(2000, seed=1, censor=12), seed=0)
    assert model is not None
    for share in (0.0, 0.5, 1.0):
        log_odds = model.log_odds(torch.zeros(1, 2), torch.tensor([10.0]), torch.tensor([[10 * share]]))
        for days in (1.0, 3.0, 7.0):
            expected = 1 - np.exp(-days * (1 + 3 * share) / 10)
            assert float(model.chance_within(log_odds, days)) == pytest.approx(expected, abs=0.05)


def test_censoring_inside_of_a_span_does_not_hurry_returns() -> None:
    """Everybody is followed for 4 days of a span that ends on day 7: whom nobody saw return counts too."""
    rng = np.random.default_rng(0)
    days = rng.exponential(10, 8000)
    visits = Visits(
        torch.zeros(8000, 2), torch.full((8000,), 3.0), torch.zeros(8000, 1),
        torch.from_numpy(np.minimum(days, 4.0)), torch.from_numpy(days <= 4.0),
    )  # fmt: skip
    model = fit_returning(visits, visits, seed=0, edges=(0.0, 1.0, 3.0, 7.0))
    assert model is not None
    log_odds = model.log_odds(torch.zeros(1, 2), torch.tensor([3.0]), torch.zeros(1, 1))
    for limit in (1.0, 3.0, 4.0):
        assert float(model.chance_within(log_odds, limit)) == pytest.approx(1 - np.exp(-limit / 10), abs=0.02)


def test_spans_that_nobody_lived_through_follow_the_rest() -> None:
    """No session was followed beyond day 4: the rate of the days before stands in, not even odds."""
    visits = made_visits(4000, seed=3, censor=4)
    model = fit_returning(visits, visits, seed=0, edges=(0.0, 1.0, 2.0, 4.0, 5.0))
    assert model is not None
    log_odds = model.log_odds(visits.state, visits.depth, visits.sums)
    assert 0.1 < float(torch.sigmoid(log_odds[:, -1]).mean()) < 0.35


def test_too_few_returns_say_nothing() -> None:
    visits = made_visits(90, seed=0, censor=30)
    assert fit_returning(visits, visits, seed=0) is None


def test_visits_of_a_log_end_where_the_next_session_begins_or_knowledge_does() -> None:
    sequences = build_sequences(made_log(exposures=True, sessions=200))
    backbone = make_backbone(BackboneConfig(width=4, layers=1, length=3), 6, sequences.feedback_scale)
    sessions = np.arange(sequences.num_sessions)
    until = float(np.max(sequences.time))
    visits = read_visits(sequences, sessions, encode_sessions(backbone, sequences, sessions), until=until, length=3)
    returned = visits.days[visits.returned]
    assert float(returned.max()) <= 70 * 10_000 / 86_400  # every user comes every 70th session
    assert float(returned.min()) > 69 * 10_000 / 86_400 * 0.99
    assert int((~visits.returned).sum()) == sequences.num_users
    assert float(visits.sums.max()) <= 3  # of the last three slates
    bounds = sequences.session_bounds
    assert visits.depth.tolist() == np.diff(bounds).tolist()
    last = sequences.feedback[max(bounds[6] - 3, bounds[5]) : bounds[6], 0].sum()
    assert float(visits.sums[5, 0]) == last
    half = float(np.quantile(sequences.time, 0.5))
    earlier = read_visits(sequences, sessions, encode_sessions(backbone, sequences, sessions), until=half, length=3)
    assert len(earlier.days) < len(visits.days)
    assert bool((earlier.days >= 0).all())
