"""The boredom world: the contract, its formulas, a plain account of its bookkeeping, its trade-off and its figures."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from recgym.checks import check_user_model
from recgym.random import fold, gumbel, session_keys
from simulators.boredom import SETTINGS, Boredom, BoredomConfig, BoredomState

BORED = BoredomConfig(slate_size=10, inertia=1.0)
OPTIONS: list[dict[str, Any]] = [
    {"boredom": "topic", "full_view": True}, {"positions": "mixed", "length": 25}, {"memory": 3, "threshold": 2},
    {"diversity_threshold": 2, "diversity_penalty": 3.0}, {"num_topics": 7},
]  # fmt: skip
HORIZON = {name: 10 if "rerank" in name else 100 for name in SETTINGS}


def shown(scores: Tensor, slots: int) -> Tensor:
    """The best `slots` items in order, (B, K)."""
    return scores.topk(slots, dim=1).indices + 1


def random_scores(world: Boredom, state: BoredomState) -> Tensor:
    """A random order of the items, from keys of its own, (B, N)."""
    return gumbel(fold(fold(state.keys, 99), state.depth), world.num_items)


@lru_cache(maxsize=64)
def returns(name: str, mark: str, sessions: int = 300) -> Tensor:
    """Clicks of whole sessions under one mark of the band, (sessions,)."""
    world = Boredom(SETTINGS[name])
    scorers: dict[str, Callable[[BoredomState], Tensor]] = {
        "random": lambda state: random_scores(world, state),
        **world.bands(),
    }
    state = world.reset(session_keys(7, sessions))
    total = torch.zeros(sessions)
    for _ in range(HORIZON[name]):
        state, response = world.step(state, shown(scorers[mark](state), world.config.slate_size))
        total += response.feedback.sum((1, 2))
    return total


@pytest.mark.parametrize("name", SETTINGS)
def test_the_contract_holds(name: str) -> None:
    check_user_model(Boredom(SETTINGS[name]), slate_size=SETTINGS[name].slate_size, batch=12, steps=12)


@pytest.mark.parametrize("change", OPTIONS)
@pytest.mark.parametrize("slate_size", [1, 10])
def test_the_contract_holds_for_every_option(change: dict[str, Any], slate_size: int) -> None:
    check_user_model(Boredom(replace(BORED, slope=10.0, **change)), slate_size=slate_size, batch=12, steps=12)


@pytest.mark.parametrize("positions", ["top-down", "mixed"])
def test_clicks_happen_as_often_as_the_formula_says(positions: Any) -> None:
    world = Boredom(BoredomConfig(slate_size=4, slope=3.0, offset=0.3, examination=0.7, positions=positions))
    state = world.reset(session_keys(0, 20_000))
    slate = torch.tensor([5, 17, 900, 33])
    seen = torch.tensor([1, 0.7, 0.49, 0.343])
    if positions == "mixed":
        seen = (seen + seen.flip(0)) / 2
    cosine = state.mood @ world.embedding[slate - 1].T
    torch.testing.assert_close(world.truth(state)["click"][:, slate - 1], torch.sigmoid(3 * (cosine - 0.3)))
    chance = seen / (1 + torch.exp(-3 * (cosine - 0.3)))  # (B, K)
    _, response = world.step(state, slate.expand(20_000, 4))
    error = (response.feedback[..., 0] - chance).mean(0)
    assert (error.abs() < 4 * (chance * (1 - chance)).mean(0).sqrt() / 20_000**0.5).all()


def test_items_and_users_are_drawn_as_published() -> None:
    world = Boredom(BoredomConfig(num_items=5000, inertia=1.0))
    taste = world.reset(session_keys(0, 20_000)).taste
    for vectors, chances in (
        (world.embedding, {2: 0.5, 3: 0.5}),
        (taste, {3: 0.3225, 4: 0.3763, 5: 0.3011}),  # binomial(10, 0.4), held to 3, 4, 5
    ):
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(vectors)))
        width = (vectors > 0).sum(1)
        assert set(width.tolist()) == set(chances)
        for topics, chance in chances.items():
            share = float((width == topics).to(torch.float64).mean())
            assert abs(share - chance) < 4 * (chance * (1 - chance) / len(vectors)) ** 0.5 + 1e-4
        topic = (vectors > 0).to(torch.float64).mean(0)
        assert (topic - topic.mean()).abs().max() < 4 * (0.25 / len(vectors)) ** 0.5
    assert not torch.equal(world.embedding[:100] > 0, taste[:100] > 0)


@pytest.mark.parametrize("boredom", ["churn", "topic"])
@pytest.mark.parametrize(("memory", "threshold"), [(10, 5), (6, 3)])
def test_boredom_is_what_a_plain_account_of_it_says(boredom: Any, memory: int, threshold: int) -> None:
    world = Boredom(replace(BORED, boredom=boredom, memory=memory, threshold=threshold, examination=0.95))
    batch = 8
    state = world.reset(session_keys(3, batch))
    # The first slate has been shown; start the account from there.
    clicks: list[deque[tuple[int, int]]] = []
    for row in range(batch):
        first = [(0, topic) for topic, count in enumerate(state.clicks[row] * 10) for _ in range(round(float(count)))]
        assert len(first) < min(memory, threshold)
        clicks.append(deque(first, memory))
    timers = torch.zeros(batch, 10, dtype=torch.int64)
    was_bored = 0
    for step in range(1, 60):
        slates = shown(world.bands()["myopic" if step % 4 else "rule"](state), 10)
        state, response = world.step(state, slates)
        for row in range(batch):
            clicked = slates[row][response.feedback[row, :, 0] > 0] - 1
            clicks[row].extend((step, int(world.topic[item])) for item in clicked)
            alive = [topic for when, topic in clicks[row] if when >= step + 1 - 5]
            for topic in range(10):
                timers[row, topic] = max(int(timers[row, topic]) - 1, 0)
                assert state.counts[row, topic] == alive.count(topic)
                if alive.count(topic) >= threshold and timers[row, topic] == 0:
                    timers[row, topic] = 5
        bored = timers > 0
        was_bored += int(bored.any(1).sum())
        silenced = bored.any(1, keepdim=True) if boredom == "churn" else bored
        assert torch.equal(state.timers, timers)
        assert torch.equal(state.mood, torch.where(silenced, 0.0, state.taste))
    assert was_bored > 50


def test_a_bored_user_is_silent_for_five_steps_and_then_returns() -> None:
    world = Boredom(replace(BORED, examination=1.0))
    state = world.reset(session_keys(0, 400))
    clicks, bored = [], []
    for _ in range(7):
        state, response = world.step(state, shown(world.bands()["myopic"](state), 10))
        clicks.append(response.feedback[..., 0].sum(1))
        bored.append((state.timers > 0).any(1))
    at_once = bored[0] & (clicks[0] > 8)  # their first slate bored them
    assert int(at_once.sum()) > 200
    assert all(bool(bored[step][at_once].all()) for step in range(5))
    assert all(float(clicks[step][at_once].sum()) == 0 for step in range(1, 6))
    assert float(clicks[6][at_once].mean()) > 8


def clicked_once(influence: Any) -> tuple[Boredom, Tensor, Tensor, Tensor]:
    """A world, tastes before and after one slate of relevant items, and who clicked what, (B, K)."""
    world = Boredom(BoredomConfig(slate_size=3, influence=influence))
    state = world.reset(session_keys(0, 300))
    slates = shown(state.taste @ world.embedding.T, 40)[:, [0, 19, 39]]
    new, response = world.step(state, slates)
    clicks = response.feedback[..., 0]
    torch.testing.assert_close(new.taste[clicks.sum(1) == 0], state.taste[clicks.sum(1) == 0], rtol=0, atol=0)
    some = clicks.sum(1) > 0
    assert int(some.sum()) > 200
    mean = (world.embedding[slates - 1] * clicks.unsqueeze(2)).sum(1) / clicks.sum(1, keepdim=True)
    return world, state.taste[some], new.taste[some], mean[some]


def test_repaired_influence_moves_taste_towards_the_clicked_items() -> None:
    _, before, after, clicked = clicked_once("item")
    assert (cosine_similarity(after, clicked) > cosine_similarity(before, clicked)).all()
    expected = 0.95 * before + 0.05 * clicked
    torch.testing.assert_close(after, expected / expected.norm(dim=1, keepdim=True))


def test_shipped_influence_moves_every_topic_alike() -> None:
    _, before, after, clicked = clicked_once("scalar")
    expected = 0.95 * before + 0.05 * clicked.mean(1, keepdim=True)
    torch.testing.assert_close(after, expected / expected.norm(dim=1, keepdim=True))
    even = torch.ones(10)
    assert (cosine_similarity(after, even, dim=1) > cosine_similarity(before, even, dim=1)).all()
    assert (
        float((cosine_similarity(after, clicked) > cosine_similarity(before, clicked)).to(torch.float32).mean()) < 0.5
    )


def test_a_monotonous_slate_is_clicked_less_where_that_is_asked() -> None:
    plain = Boredom(replace(BORED, slope=3.0, offset=0.3))
    strict = Boredom(replace(plain.config, diversity_penalty=2.0))
    items = torch.nonzero(plain.topic == 0)[:, 0] + 1
    others = torch.cat([torch.nonzero(plain.topic == topic)[:2, 0] + 1 for topic in range(1, 5)])
    for same, factor in ((4, 2.0), (3, 1.0)):
        slate = torch.cat([items[:same], others])[:10].expand(4000, -1)
        rate = []
        for world in (plain, strict):
            state = plain.reset(session_keys(0, 4000))
            rate.append(float(world.step(state, slate)[1].feedback.mean()))
        assert rate[0] / rate[1] == pytest.approx(factor, rel=0.06 if factor > 1 else 1e-6)


def test_the_platform_sees_clicks_by_topic_and_with_the_full_view_the_ideal_state() -> None:
    world, full = Boredom(replace(BORED, length=30)), Boredom(replace(BORED, full_view=True))
    state, same = world.reset(session_keys(0, 5)), full.reset(session_keys(0, 5))
    items, feedback = world.history(state)
    assert items.shape == (5, 30)
    assert bool((items[:, :20] == 0).all()) and bool((items[:, 20:] > 0).all())  # the first slate
    slates = shown(world.bands()["myopic"](state), 10)
    state, response = world.step(state, slates)
    items, feedback = world.history(state)
    assert torch.equal(items[:, 20:], slates)
    assert torch.equal(feedback[:, 20:], response.feedback)
    vector = world.visible(state).vector
    assert vector.shape == (5, 30)
    torch.testing.assert_close(vector[:, 10:20].sum(1), torch.ones(5))
    torch.testing.assert_close(vector[:, 20:].sum(1), response.feedback.mean((1, 2)))
    same, _ = full.step(same, slates)
    torch.testing.assert_close(full.visible(same).vector[:, :10], state.mood)
    assert full.history(same)[0].shape == (5, 0)
    assert world.item_categories[3] == f"topic {int(world.embedding[3].argmax())}"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_items": 0}, "num_items is 0"),
        ({"slate_size": 1001}, "slate_size is 1001, expected at most num_items"),
        ({"num_topics": 4}, "num_topics is 4, expected at least 5"),
        ({"threshold": 0}, "threshold is 0"),
        ({"examination": 1.5}, "examination is 1.5"),
        ({"inertia": -0.1}, "inertia is -0.1"),
        ({"slope": 0.0}, "slope is 0.0"),
        ({"diversity_penalty": 0.5}, "diversity_penalty is 0.5"),
        ({"length": -1}, "length is -1"),
        ({"boredom": "user_car"}, "boredom is 'user_car', expected one of"),
        ({"influence": "vector"}, "influence is 'vector'"),
        ({"positions": "cascade"}, "positions is 'cascade'"),
    ],
)
def test_configs_that_make_no_world_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BoredomConfig(**change)


FIGURES = [  # setting, mark, figure, relative tolerance: random and greedy oracle in the published code
    ("sardine-single-item-static", "random", 8.6, 0.12),
    ("sardine-single-item-static", "myopic", 100.0, 0.01),
    ("sardine-single-item-bored-inf", "random", 8.8, 0.12),
    ("sardine-single-item-bored-inf", "myopic", 51.0, 0.02),
    ("sardine-single-item-uncertain", "random", 11.5, 0.12),
    ("sardine-single-item-uncertain", "myopic", 94.9, 0.02),
    ("sardine-slate-topk-bored", "random", 44.0, 0.06),
    ("sardine-slate-topk-bored", "myopic", 150.0, 0.08),
    ("sardine-slate-topk-bored-inf", "random", 41.0, 0.06),
    ("sardine-slate-topk-bored-inf", "myopic", 153.0, 0.08),
    ("sardine-slate-topk-uncertain", "random", 71.0, 0.05),
    ("sardine-slate-topk-uncertain", "myopic", 140.0, 0.05),
    ("sardine-slate-rerank-static", "random", 14.7, 0.06),
    ("sardine-slate-rerank-static", "myopic", 21.3, 0.06),
    ("sardine-slate-rerank-bored", "random", 13.15, 0.06),
    ("sardine-slate-rerank-bored", "myopic", 13.9, 0.06),
]


@pytest.mark.parametrize(("name", "mark", "figure", "tolerance"), FIGURES)
def test_bands_meet_the_published_figures(name: str, mark: str, figure: float, tolerance: float) -> None:
    assert float(returns(name, mark).mean()) == pytest.approx(figure, rel=tolerance)


BEST = {
    "sardine-single-item-bored-inf": 76.3, "sardine-slate-topk-bored": 413, "sardine-slate-topk-bored-inf": 290,
    "sardine-slate-topk-uncertain": 301,
}  # fmt: skip


@pytest.mark.parametrize(("name", "best"), BEST.items())
def test_the_best_known_is_no_worse_than_the_best_known_before(name: str, best: float) -> None:
    clicks = returns(name, "best known")
    assert float(clicks.mean()) > best - 4 * float(clicks.std()) / len(clicks) ** 0.5


@pytest.mark.parametrize("name", [name for name in SETTINGS if "bored" in name or "topk" in name])
def test_where_users_bore_planning_pays(name: str) -> None:
    myopic, rule, best = (float(returns(name, mark).mean()) for mark in ("myopic", "rule", "best known"))
    assert best > 1.1 * myopic
    assert rule > 1.1 * myopic
    assert best > 0.98 * rule


@pytest.mark.parametrize("name", [name for name in SETTINGS if "static" in name or name.endswith("item-uncertain")])
def test_where_nobody_bores_the_myopic_is_best(name: str) -> None:
    torch.testing.assert_close(returns(name, "best known").mean(), returns(name, "myopic").mean(), rtol=0.01, atol=0)


def test_slates_have_no_item_twice_even_when_topics_run_out() -> None:
    world = Boredom(replace(BORED, num_items=12, threshold=2))
    state = world.reset(session_keys(0, 50))
    for _ in range(5):
        for scorer in world.bands().values():
            scores = scorer(state)
            assert bool(scores.isfinite().all())
        slates = shown(world.planned(state), 10)
        assert all(len(set(row)) == 10 for row in slates.tolist())
        state, _ = world.step(state, slates)
