"""Users behind a retriever: what is offered, what stands for what, and that nothing else changes."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

import recgym  # noqa: F401 (registers RecSession-v0)
from recgym.checks import check_user_model
from recgym.env.resolve import resolve_sessions
from recgym.env.session import SessionConfig, Sessions
from recgym.env.vector import RecSessionVectorEnv
from recgym.random import session_keys
from recgym.trees import leaves, take
from recgym.users.retrieved import Retrieved
from simulators import make_world
from tests.users.small import small_users

KEYS = session_keys(3, 40)


def other_backbone() -> Any:
    return small_users("sasrec").backbone


@pytest.mark.parametrize("slate_size", [1, 3])
@pytest.mark.parametrize(
    "options",
    [{}, {"explore": 0.4}, {"explore": 1.0, "repeats": "mask"}, {"backbone": other_backbone(), "explore": 0.5}],
)
def test_the_contract_of_users(options: dict[str, Any], slate_size: int) -> None:
    check_user_model(Retrieved(small_users(), 5, **options), slate_size=slate_size)
    check_user_model(Retrieved(small_users(exposures=False), 5, **options), slate_size=slate_size)


def test_what_is_offered_are_the_backbones_best_and_features_match_ids() -> None:
    users = small_users()
    retrieved = Retrieved(users, 5)
    state = retrieved.reset(KEYS)
    for step in range(4):
        seen = retrieved.visible(state)
        assert seen.candidates is not None and seen.offered is not None
        scores = users.backbone.scores(seen.vector)
        best = scores.topk(5, 1).indices.sort(1).values + 1
        assert torch.equal(seen.offered, best)
        rows = seen.offered - 1
        torch.testing.assert_close(seen.candidates[:, :, :-2], users.backbone.item_vectors()[rows])
        torch.testing.assert_close(seen.candidates[:, :, -2], users.backbone.item_bias()[rows])
        torch.testing.assert_close(seen.candidates[:, :, -1], scores.gather(1, rows), atol=1e-5, rtol=0)
        state, _ = retrieved.step(state, torch.full((40, 1), 1 + step))


def test_explored_candidates_are_uniform_over_the_others_and_never_twice() -> None:
    users = small_users()
    retrieved = Retrieved(users, 6, explore=0.5)
    state = retrieved.reset(session_keys(0, 6000))
    assert bool((state.offered[:, 1:] > state.offered[:, :-1]).all())
    best = users.backbone.scores(users.visible(state.users).vector).topk(3, 1).indices + 1
    assert bool((state.offered.unsqueeze(2) == best.unsqueeze(1)).any(1).all())
    here = torch.zeros(6000, 13).scatter_(1, state.offered, 1.0)[:, 1:]
    rest = 1 - torch.zeros(6000, 13).scatter_(1, best, 1.0)[:, 1:]
    often = rest.sum(0) > 3000  # items that are seldom among the best
    share = (here * rest).sum(0)[often] / rest.sum(0)[often]  # 3 of the 9 others
    assert int(often.sum()) >= 8
    torch.testing.assert_close(share, torch.full_like(share, 1 / 3), atol=0.03, rtol=0)


def test_places_stand_for_items_and_the_users_behind_do_not_notice() -> None:
    users, behind = small_users(), small_users()
    retrieved = Retrieved(users, 5, explore=0.4)
    one, other = retrieved.reset(KEYS), behind.reset(KEYS)
    for step in range(6):
        slates = (torch.arange(40).unsqueeze(1) * 7 + step + torch.tensor([0, 2])) % 5 + 1
        items = one.offered.gather(1, slates - 1)
        one, response = retrieved.step(one, slates)
        other, expected = behind.step(other, items)
        assert torch.equal(response.feedback, expected.feedback) and torch.equal(response.leaves, expected.leaves)
        assert torch.equal(retrieved.history(one)[0], behind.history(other)[0])
    truth, whole = retrieved.truth(one), behind.truth(other)
    assert set(truth) == {*whole, "offered"}
    torch.testing.assert_close(truth["click"], whole["click"])


def test_all_items_on_offer_are_the_catalogue() -> None:
    plain = RecSessionVectorEnv(20, users=small_users())
    offered = RecSessionVectorEnv(20, users=small_users(), candidates=12)
    plain.reset(seed=1)
    _, info = offered.reset(seed=1)
    assert (info["candidates"] == np.arange(1, 13)).all()
    actions = np.random.default_rng(0).integers(0, 12, (40, 20))
    for action in actions:
        first, second = plain.step(action), offered.step(action)
        np.testing.assert_allclose(first[0][:, :8], second[0][:, :8], atol=1e-6)
        for place in (1, 2, 3):
            np.testing.assert_array_equal(np.asarray(first[place]), np.asarray(second[place]))


def test_masked_repeats_are_not_offered_again_and_slates_name_real_items() -> None:
    env = gymnasium.make(
        "RecSession-v0", users=small_users(repeats=False, length=3), candidates=4, repeats="mask", max_steps=6,
        observation="history", render_mode="ansi",
    )  # fmt: skip
    for seed in range(10):
        seen, info = env.reset(seed=seed)
        had = {int(item) for item, click in zip(seen["items"], seen["feedback_click"], strict=True) if click}
        over = False
        for place in (0, 1, 2, 3, 0, 1):
            offered = info["candidates"].tolist()
            assert offered == seen["candidates"].tolist() == sorted(set(offered))
            assert not had & set(offered)
            had.add(offered[place])
            assert not over
            seen, _, terminated, truncated, info = env.step(place)
            assert seen["items"][-1] == offered[place]
            assert f"Item {offered[place] - 1}" in str(env.render()).splitlines()[-2 if terminated else -1]
            if terminated or truncated:
                break


def test_sessions_do_not_depend_on_their_batch() -> None:
    sessions = resolve_sessions(small_users(), SessionConfig(repeats="mask", max_steps=4), candidates=4, explore=0.5)
    many, one = sessions.reset(KEYS), sessions.reset(KEYS[7:8])
    for place in (1, 4, 2, 3):
        (many, _), (one, _) = (sessions.step(part, torch.full((len(part.steps), 1), place)) for part in (many, one))
        for whole, row in zip(leaves(take(many, torch.tensor([7]))), leaves(one), strict=True):
            torch.testing.assert_close(whole, row, atol=1e-5, rtol=0)


def test_a_known_world_behind_the_platforms_own_backbone() -> None:
    world = make_world("storefront")
    with pytest.raises(ValueError, match="no backbone to retrieve"):
        Retrieved(world, 5)
    with pytest.raises(ValueError, match="the backbone reads 12 items and 3 kinds"):
        Retrieved(world, 5, backbone=other_backbone())
    sessions = resolve_sessions(small_users(), SessionConfig(), encoder=other_backbone(), candidates=5)
    plain = Sessions(small_users(), encoder=other_backbone())
    one, other = sessions.reset(KEYS), plain.reset(KEYS)
    for place in (1, 3, 5, 2):
        items = sessions.items_of(one, torch.full((40, 1), place))
        one, _ = sessions.step(one, torch.full((40, 1), place))
        other, _ = plain.step(other, items)
        state, expected = sessions.observe(one).state, plain.observe(other).state
        assert state is not None and expected is not None
        torch.testing.assert_close(state[:, :8], expected)


def test_what_cannot_be_is_refused() -> None:
    for options, message in (
        ({"candidates": 13}, "candidates is 13, expected 1 to 12"),
        ({"candidates": 4, "explore": 1.5}, "explore is 1.5"),
        ({"candidates": 4, "repeats": "refuse"}, "use repeats='mask' with candidates"),
        ({"candidates": 4, "repeats": "mask"}, "up to 49 of the 12 items may have been shown"),
        ({"candidates": 4, "slate_size": 5}, "slate_size is 5, but there are only 4 items"),
    ):
        with pytest.raises(ValueError, match=message):
            gymnasium.make("RecSession-v0", users=small_users(), **options)
    with pytest.raises(ValueError, match="repeats is 'refuse', expected 'allow' or 'mask'"):
        Retrieved(small_users(), 4, repeats="refuse")  # type: ignore[arg-type]
    for users in (make_world("interest-evolution"), Retrieved(small_users(), 8)):
        with pytest.raises(ValueError, match="bring candidates of their own"):
            Retrieved(users, 4)
