"""Marginal importance weights against enumeration, dynamic programming and closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from recgym.ope import t_interval
from recgym.ope.doubly_robust import doubly_robust
from recgym.ope.fqe import Values
from recgym.ope.importance import episode_sums, per_decision, weighted_per_decision_terms
from recgym.ope.occupancy import (
    double_reinforcement,
    marginal_terms,
    state_action_ratios,
    state_ratios,
    weighted_marginal_terms,
)
from recgym.ope.weights import SupportError, cumulative_weights
from recgym.types import DoubleArray, IntArray
from tests.ope.trees import CERTAIN, MU, PI, Sessions, World, every
from tests.ope.worlds import REWARD

WORLD = World(horizon=3)
WRONG = np.random.default_rng(0).normal(2.0, 1.0, size=(3, 2, 3))  # of Q, by step, state and item


def true_weights(world: World, found: Sessions) -> DoubleArray:
    visits = world.visits(PI) / world.visits(MU)
    weights: DoubleArray = visits[found.place, found.state] * found.ratios
    return weights


def over_states(found: Sessions) -> DoubleArray:
    return state_ratios(found.ratios, found.state, found.episode) * found.ratios


def over_choices(found: Sessions) -> DoubleArray:
    return state_action_ratios(found.target, found.state, found.item, found.episode)


@pytest.mark.parametrize("discount", [1.0, 0.7])
@pytest.mark.parametrize(
    "world",
    [World(horizon=2), World(horizon=3, start=np.array([1.0, 0.0]), move=CERTAIN.move, end=0.0)],
    ids=["random", "certain"],
)
def test_state_weights_are_unbiased_over_every_log_of_two_sessions(world: World, discount: float) -> None:
    tree, mean, shared = every(world), 0.0, 0
    for first, chance in enumerate(tree.chance_mu):
        for second, other in enumerate(tree.chance_mu[: first + 1]):
            found = tree.take(np.array([first, second]))
            value = float(marginal_terms(over_states(found), found.reward, found.episode, discount).mean())
            alone = per_decision(found.ratios, found.reward, found.episode, discount).mean()
            mean += (1 if first == second else 2) * chance * other * value
            shared += abs(value - alone) > 1e-6
    assert mean == pytest.approx(world.value(discount), abs=1e-9)
    assert shared > 50  # logs in which sharing weights changes the estimate


def test_one_session_alone_has_the_weights_of_its_way() -> None:
    found = every(WORLD).take(np.array([200]))
    before = np.append(1.0, cumulative_weights(found.ratios, found.episode)[:-1])
    np.testing.assert_allclose(state_ratios(found.ratios, found.state, found.episode), before)


def test_two_sessions_by_hand() -> None:
    ratios, state = np.array([2.0, 0.5, 1.0, 4.0, 3.0, 1.0]), np.array([7, 7, 0, 7, 7, 2])
    episode = np.array([0, 0, 0, 1, 1, 1])
    assert state_ratios(ratios, state, episode).tolist() == [1.0, 3.0, 1.5, 1.0, 3.0, 9.0]
    target, action = np.array([0.4, 0.5, 1.0, 0.6, 0.5, 1.0]), np.array([1, 1, 0, 2, 1, 0])
    found = state_action_ratios(target, state, action, episode)
    np.testing.assert_allclose(found, [0.8, 0.5, 0.5, 1.2, 0.5, 0.5], rtol=1e-12)


@pytest.mark.parametrize("discount", [1.0, 0.7])
def test_counted_weights_give_the_value_in_the_counted_model(discount: float) -> None:
    found = every(WORLD).draw(800, seed=1)
    next_state = np.where(np.append(np.diff(found.episode) == 0, False), np.append(found.state[1:], 0), 2)
    value = np.zeros(3)  # of state 0, state 1, ended
    for place in (2, 1, 0):
        q = np.zeros((2, 3))
        for state in range(2):
            for item in range(3):
                rows = (found.place == place) & (found.state == state) & (found.item == item)
                q[state, item] = REWARD[state, item] + discount * value[next_state[rows]].mean()
        value = np.append((PI * q).sum(1), 0.0)
    start = np.bincount(found.state[found.place == 0]) / 800
    estimate = marginal_terms(over_choices(found), found.reward, found.episode, discount).mean()
    assert estimate == pytest.approx(float(start @ value[:2]), abs=1e-9)


@pytest.mark.parametrize("discount", [1.0, 0.7])
def test_all_come_to_the_truth_as_sessions_are_added(discount: float) -> None:
    tree = every(WORLD)
    error: dict[int, list[list[float]]] = {100: [], 1600: []}
    for count, found_errors in error.items():
        for seed in range(40):
            found = tree.draw(count, seed)
            values = found.values(WRONG)
            estimates: list[float] = []
            for weights in (over_states(found), over_choices(found)):
                above, below = weighted_marginal_terms(weights, found.reward, found.episode, discount)
                estimates += [
                    float(marginal_terms(weights, found.reward, found.episode, discount).mean()),
                    float((above.sum(0) / below.sum(0)).sum()),
                    float(double_reinforcement(weights, found.reward, values, found.episode, discount).mean()),
                ]
            found_errors.append([estimate - WORLD.value(discount) for estimate in estimates])
    small, large = (np.sqrt((np.array(error[count]) ** 2).mean(0)) for count in (100, 1600))
    assert (large < 0.08).all(), large
    assert (small / large > 2.5).all() and (small / large < 6.5).all()  # 4, the square root of 16, but for chance


def walk(world: World, count: int, seed: int) -> tuple[IntArray, IntArray]:
    """States and items (count, H) of sessions without an end, too many ways to list."""
    rng = np.random.default_rng(seed)
    state, item = np.empty((2, count, world.horizon), np.int64)
    now = (rng.random(count) >= world.start[0]).astype(np.int64)
    for place in range(world.horizon):
        choice = (rng.random(count)[:, None] >= MU.cumsum(1)[now]).sum(1).clip(max=2)
        state[:, place], item[:, place] = now, choice
        now = (rng.random(count) >= world.move[now, choice]).astype(np.int64)
    return state, item


def test_on_a_long_horizon_they_vary_far_less_than_the_weights_of_whole_ways() -> None:
    world = World(horizon=25, end=0.0)
    episode = np.repeat(np.arange(200), 25)
    estimates = []
    for seed in range(60):
        state, item = (part.ravel() for part in walk(world, 200, seed))
        ratios, reward = PI[state, item] / MU[state, item], REWARD[state, item]
        by_state = state_ratios(ratios, state, episode) * ratios
        by_choice = state_action_ratios(PI[state, item], state, item, episode)
        ways = weighted_per_decision_terms(ratios, reward, episode, 1.0)
        states = weighted_marginal_terms(by_state, reward, episode, 1.0)
        estimates.append(
            [
                per_decision(ratios, reward, episode, 1.0).mean(),
                marginal_terms(by_state, reward, episode, 1.0).mean(),
                (ways[0].sum(0) / ways[1].sum(0)).sum(),
                (states[0].sum(0) / states[1].sum(0)).sum(),
                marginal_terms(by_choice, reward, episode, 1.0).mean(),
            ]
        )
    error = np.sqrt(((np.array(estimates) - world.value(1.0)) ** 2).mean(0))
    ways_plain, plain, ways_weighted, weighted, counted = error
    assert ways_plain > 2 * plain
    assert ways_weighted > 5 * weighted
    assert plain > 10 * weighted > 100 * counted
    assert weighted < 0.02 * world.value(1.0)


def test_self_normalised_a_constant_reward_is_exact_and_an_ended_session_keeps_its_weight() -> None:
    found = every(World(horizon=3, end=0.0)).draw(30, seed=2)
    ones = np.ones(len(found.episode))
    above, below = weighted_marginal_terms(over_states(found), ones, found.episode, 0.5)
    assert float((above.sum(0) / below.sum(0)).sum()) == pytest.approx(1.75, rel=1e-12)
    assert abs(marginal_terms(over_states(found), ones, found.episode, 0.5).mean() - 1.75) > 1e-3
    above, below = weighted_marginal_terms(np.array([2.0, 3.0, 5.0]), np.ones(3), np.array([0, 1, 1]), 0.5)
    assert above.tolist() == [[2.0, 0.0], [3.0, 2.5]]
    assert below.tolist() == [[2.0, 2.0], [3.0, 5.0]]


@pytest.mark.parametrize("discount", [1.0, 0.7, 0.0])
def test_double_reinforcement_is_right_if_either_part_is(discount: float) -> None:
    found = every(WORLD)
    right, exact = true_weights(WORLD, found), found.values(WORLD.q(discount))
    wrong_weights = np.random.default_rng(1).uniform(0, 3, size=(3, 2, 3))[found.place, found.state, found.item]
    for weights, values in ((right, found.values(WRONG)), (wrong_weights, exact)):
        terms = double_reinforcement(weights, found.reward, values, found.episode, discount)
        assert found.chance_mu @ terms == pytest.approx(WORLD.value(discount), abs=1e-9)
    neither = double_reinforcement(wrong_weights, found.reward, found.values(WRONG), found.episode, discount)
    assert abs(found.chance_mu @ neither - WORLD.value(discount)) > 0.05


def test_double_reinforcement_is_the_published_sum() -> None:
    found, discount = every(WORLD).draw(20, seed=3), 0.9
    weights, values = true_weights(WORLD, found), found.values(WRONG)
    expected = np.zeros(20)
    for row, e in enumerate(found.episode):
        before = weights[row - 1] if found.place[row] else 1.0
        error = weights[row] * (found.reward[row] - values.q[row])
        expected[e] += discount ** found.place[row] * (error + before * values.v[row])
    terms = double_reinforcement(weights, found.reward, values, found.episode, discount)
    np.testing.assert_allclose(terms, expected, rtol=1e-12)


@pytest.mark.parametrize("discount", [1.0, 0.7])
def test_double_reinforcement_reaches_the_least_variance(discount: float) -> None:
    found = every(WORLD)
    exact, weights = found.values(WORLD.q(discount)), true_weights(WORLD, found)
    spread = {
        "markov": double_reinforcement(weights, found.reward, exact, found.episode, discount),
        "ways": doubly_robust(found.ratios, found.reward, exact, found.episode, discount),
    }
    variance = {kind: found.chance_mu @ (terms - WORLD.value(discount)) ** 2 for kind, terms in spread.items()}
    first = (PI * WORLD.q(discount)[0]).sum(1)
    bound = float(WORLD.start @ (first - WORLD.value(discount)) ** 2)  # Kallus and Uehara's efficiency bound
    after = np.vstack([(PI * WORLD.q(discount)[1:]).sum(2), np.zeros((1, 2))])  # V_t+1, (H, 2)
    for place, visits in enumerate(WORLD.visits(MU)):
        for state in range(2):
            for item in range(3):
                chance = WORLD.following[state, item]
                mean = chance @ after[place]
                noise = chance @ after[place] ** 2 - mean**2
                weight = WORLD.visits(PI)[place, state] / visits[state] * PI[state, item] / MU[state, item]
                bound += discount ** (2 * place + 2) * visits[state] * MU[state, item] * weight**2 * noise
    assert variance["markov"] == pytest.approx(bound, abs=1e-9)
    assert variance["ways"] > 1.01 * bound


def test_with_the_exact_q_in_a_certain_world_nothing_varies() -> None:
    found = every(CERTAIN)
    weights = np.random.default_rng(2).uniform(0, 9, size=len(found.episode))  # right or wrong
    terms = double_reinforcement(weights, found.reward, found.values(CERTAIN.q(0.9)), found.episode, 0.9)
    np.testing.assert_allclose(terms, CERTAIN.value(0.9), rtol=1e-12)


def test_weights_of_some_sessions_read_at_others() -> None:
    found = every(WORLD).draw(400, seed=4)
    counted = np.arange(400) < 200
    mine = counted[found.episode]
    read = state_ratios(found.ratios, found.state, found.episode, counted=counted)
    alone = state_ratios(found.ratios[mine], found.state[mine], found.episode[mine])
    np.testing.assert_allclose(read[mine], alone, rtol=1e-12)
    changed = np.where(mine, found.ratios, 9.0)  # what the others did is not counted
    np.testing.assert_allclose(state_ratios(changed, found.state, found.episode, counted=counted), read, rtol=1e-12)
    assert len(np.unique(np.round(read[found.place == 2], 12))) == 2  # one weight a state
    with pytest.raises(SupportError, match="at step 1 no counted episode is in state 5"):
        state_ratios(np.ones(4), np.array([0, 1, 0, 5]), np.array([0, 0, 1, 1]), counted=np.array([True, False]))


def test_cross_fitted_the_interval_of_double_reinforcement_covers() -> None:
    tree, inside = every(WORLD), 0
    for seed in range(300):
        found = tree.draw(400, seed)
        weights = np.empty(len(found.episode))
        for half in (np.arange(400) < 200, np.arange(400) >= 200):
            others = state_ratios(found.ratios, found.state, found.episode, counted=~half) * found.ratios
            weights[half[found.episode]] = others[half[found.episode]]
        values = found.values(WORLD.q(0.9) + 0.2)
        interval = t_interval(double_reinforcement(weights, found.reward, values, found.episode, 0.9), np.arange(400))
        inside += interval.low <= WORLD.value(0.9) <= interval.high
    assert 0.9 <= inside / 300 <= 0.98


def test_bad_input_is_named() -> None:
    ratios, state, episode = np.array([1.0, 2.0, 1.0]), np.array([0, 1, 0]), np.array([0, 0, 1])
    with pytest.raises(ValueError, match=r"ratios must be not negative, got -1\.0 in row 1"):
        state_ratios(np.array([1.0, -1.0, 1.0]), state, episode)
    with pytest.raises(ValueError, match="ratios must be finite, got inf in row 2"):
        state_ratios(np.array([1.0, 1.0, np.inf]), state, episode)
    with pytest.raises(ValueError, match="state must be a number from 0, got -3 in row 1"):
        state_ratios(ratios, np.array([0, -3, 1]), episode)
    with pytest.raises(ValueError, match="state must be integers, got float64"):
        state_ratios(ratios, ratios, episode)
    with pytest.raises(ValueError, match=r"counted must be \(2,\) booleans"):
        state_ratios(ratios, state, episode, counted=np.array([True]))
    with pytest.raises(ValueError, match="numbered 0, 1, 2"):
        state_ratios(ratios, state, np.array([0, 2, 2]))
    with pytest.raises(ValueError, match=r"target must be a probability in \[0, 1\], got 2\.0 in row 1"):
        state_action_ratios(ratios, state, state, episode)
    with pytest.raises(ValueError, match=r"action must have 1 dimension.*the shape of target, \(3,\); got \(2,\)"):
        state_action_ratios(ratios / 2, state, state[:2], episode)
    with pytest.raises(ValueError, match=r"discount must lie in \[0, 1\], got -0\.1"):
        marginal_terms(ratios, ratios, episode, -0.1)
    with pytest.raises(ValueError, match=r"reward must have 1 dimension.*the shape of weights, \(3,\); got \(2,\)"):
        weighted_marginal_terms(ratios, ratios[:2], episode, 1.0)
    with pytest.raises(SupportError, match="no episode has weight left at step 0"):
        weighted_marginal_terms(0 * ratios, ratios, episode, 1.0)
    with pytest.raises(ValueError, match="v must be finite, got nan in row 0"):
        double_reinforcement(ratios, ratios, Values(q=ratios, v=ratios * np.nan, v_next=ratios), episode, 1.0)
    assert episode_sums(ratios, episode, 0.5).tolist() == [2.0, 1.0]
