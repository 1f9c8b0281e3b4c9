"""P5's scores are the likelihoods of ids, counted one by one; its beams never leave the catalogue."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest
import torch
from torch import Tensor

from recgym.backbones.p5 import P5, P5Config, P5Ranker
from recgym.backbones.p5_weights import make_p5
from recgym.backbones.ranking import rank_targets
from recgym.logs.sequences import windows
from tests.backbones.test_training import CYCLE, ROLES

TINY = P5Config(width=16, layers=1, heads=2, length=6, dropout=0.0, tokens=3, clusters=2, num_users=30)
USERS = torch.tensor([4, -1, 29, 30])
needs_p5 = pytest.mark.skipif(find_spec("transformers") is None, reason="the extra p5 is not installed")


@pytest.fixture(scope="module")
def model() -> P5:
    """Ids of two and of three codes; weights away from the zeros that would hide mistakes."""
    if find_spec("transformers") is None:
        pytest.skip("the extra p5 is not installed")
    made = make_p5(TINY, CYCLE, ROLES, seed=1)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    assert set((made.codes >= 0).sum(1).tolist()) == {2, 3}
    return made


def history() -> tuple[Tensor, Tensor]:
    """Four histories of 6, 2, 0 and 4 items, one step passed over in the first and in the last."""
    items = torch.tensor([[1, 2, 3, 4, 5, 6], [0, 0, 0, 0, 7, 7], [0] * 6, [0, 0, 3, 1, 2, 6]])
    feedback = (items > 0).float().unsqueeze(2)
    feedback[0, 2] = feedback[3, 5] = 0
    return items, feedback


@torch.no_grad()
def likelihood(model: P5, bought: list[int], user: int) -> Tensor:
    """log p of each item's id for one prompt written by hand, one item after the other, (N,)."""
    words = [[token] for (token,) in model.prompts.templates[0][:1]]
    first_user = model.prompts.text + TINY.tokens
    if 0 <= user < TINY.num_users:
        words.append([first_user + digit for digit in (user // 27, user // 9 % 3, user // 3 % 3, user % 3)])
    words += model.prompts.templates[0][2:4]
    words += [[model.prompts.text + c for c in model.codes[item - 1].tolist() if c >= 0] for item in bought]
    words += model.prompts.templates[0][5:]
    tokens = torch.tensor([[token for word in words for token in word]])
    place = torch.tensor([[place for place, word in enumerate(words, 1) for _ in word]])
    vectors = model.t5.shared(tokens) + model.whole_word(place)
    chances = []
    for codes in model.codes:
        labels = codes[codes >= 0].unsqueeze(0) + model.prompts.text
        chances.append(-model.t5(inputs_embeds=vectors, labels=labels).loss * labels.shape[1])
    return torch.stack(chances)


@torch.no_grad()
def test_scores_are_the_likelihoods_of_the_ids(model: P5) -> None:
    bought = [[1, 2, 4, 5, 6], [7, 7], [], [3, 1, 2]]  # what was passed over is left out
    expected = torch.stack([likelihood(model, *one) for one in zip(bought, USERS.tolist(), strict=True)])
    torch.testing.assert_close(model.scores(model.read(*history(), USERS)), expected, atol=1e-4, rtol=1e-4)
    assert float(expected.std(1).min()) > 0.1


@torch.no_grad()
def test_loss_is_the_mean_over_the_codes_of_the_targets(model: P5) -> None:
    targets = torch.tensor([1, 3, 7, 5])
    read = model.read(*history(), USERS)
    own = model.scores(read).gather(1, targets.unsqueeze(1) - 1).sum()
    torch.testing.assert_close(model.loss(read, targets), -own / (model.codes[targets - 1] >= 0).sum())


@torch.no_grad()
def test_users_templates_and_places_of_words_matter(model: P5) -> None:
    items, feedback = history()
    scores = model.scores(model.read(items, feedback, USERS))
    nobody = model.scores(model.read(items, feedback))
    same = torch.tensor([bool(torch.allclose(*pair, atol=1e-4)) for pair in zip(scores, nobody, strict=True)])
    assert same.tolist() == [False, True, False, True]  # users -1 and 30 are unknown
    assert not torch.allclose(nobody, model.scores(model.read(items, feedback, template=1)), atol=1e-3)
    assert not torch.allclose(nobody[3], model.scores(model.read(items[3:].flip(1), feedback[3:].flip(1))), atol=1e-3)


@torch.no_grad()
def test_a_beam_as_wide_as_the_catalogue_finds_all_items_in_order(model: P5) -> None:
    read = model.read(*history(), USERS)
    found, score = model.beam_search(read, 7)
    best, order = model.scores(read).sort(1, descending=True)
    assert torch.equal(found, order + 1)
    torch.testing.assert_close(score, best, atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("beams", [1, 2, 4, 20])
def test_beams_never_leave_the_catalogue(model: P5, beams: int) -> None:
    read = model.read(*history(), USERS)
    found, score = model.beam_search(read, beams)
    exact = torch.cat([torch.full((4, 1), -torch.inf), model.scores(read)], 1)
    torch.testing.assert_close(score, exact.gather(1, found), atol=1e-4, rtol=1e-4)
    for row in found:
        items = row[row > 0].tolist()
        assert len(set(items)) == len(items) <= 7
    assert bool((found[:, 0] > 0).all())


def test_the_ranker_ranks_exactly_or_by_beams(model: P5) -> None:
    steps = np.array([3, 5, 30, 0])
    items, feedback = (torch.from_numpy(part) for part in windows(CYCLE, steps, 6))
    exact = P5Ranker(model, CYCLE)(items, feedback, steps)
    users = torch.from_numpy(CYCLE.user_of_step[steps])
    torch.testing.assert_close(exact, model.scores(model.read(items, feedback, users)).detach())
    some = P5Ranker(model, CYCLE, beams=2)(items, feedback, steps)
    found = some > -torch.inf
    assert bool(((found.sum(1) >= 1) & (found.sum(1) <= 2)).all())
    torch.testing.assert_close(some[found], exact[found], atol=1e-4, rtol=1e-4)
    ranks = rank_targets(P5Ranker(model, CYCLE, beams=7), CYCLE, steps, length=6)
    np.testing.assert_array_equal(ranks, rank_targets(P5Ranker(model, CYCLE), CYCLE, steps, length=6))


@pytest.mark.parametrize(
    ("field", "value"), [("indexing", "titles"), ("clusters", 1), ("clusters", 500), ("num_users", -1), ("heads", 7)]
)
def test_wrong_settings_are_refused(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        P5Config(**{field: value})  # type: ignore[arg-type]
