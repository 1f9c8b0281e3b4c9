"""DQN's step against Stable-Baselines3's, and what its three switches must do."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import stable_baselines3
import torch
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from torch import Tensor, nn

import agents.dqn as ours
import agents.training
from agents.dqn import DQN
from agents.layout import Layout
from agents.networks import ItemScorer
from recgym.types import Observation
from tests.agents import known

pytestmark = pytest.mark.experiments
TASK = known.task(lambda: known.Identity(4, 4))
SETTINGS: dict[str, Any] = {
    "total_steps": 400, "num_envs": 4, "learning_starts": 8, "batch_size": 32, "buffer_size": 400, "hidden": 16,
    "learning_rate": 0.01, "discount": 0.9,
}  # fmt: skip


def learner(folder: Path, **fields: Any) -> Any:
    """A run with 400 steps of experience and weights drawn anew, so that nothing is zero or alike."""
    torch.manual_seed(0)
    run = ours._Learner(DQN(**{**SETTINGS, **fields}), TASK, 0, folder)
    while run.experience.steps < 400:
        run.experience.act(run.q)
    for network in (run.q, run.target):
        for parameter in network.parameters():
            nn.init.normal_(parameter, std=0.5)
    return run


class Rows(nn.Module):
    """A scorer that reads rows."""

    def __init__(self, scorer: ItemScorer) -> None:
        super().__init__()
        self.scorer = scorer

    def forward(self, rows: Tensor) -> Tensor:
        found: Tensor = self.scorer(TASK.layout().unpack(rows))
        return found

    def set_training_mode(self, mode: bool) -> None:
        self.train(mode)


def test_a_step_is_that_of_stable_baselines3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = learner(tmp_path, double=False)
    model = stable_baselines3.DQN(
        "MlpPolicy", TASK.environment(1, 0), learning_rate=0.01, gamma=0.9, buffer_size=100, device="cpu"
    )
    policy: Any = model.policy
    policy.q_net, policy.q_net_target = Rows(copy.deepcopy(run.q)), Rows(copy.deepcopy(run.target))
    policy.optimizer = torch.optim.Adam(policy.q_net.parameters(), lr=0.01)
    model.q_net, model.q_net_target = policy.q_net, policy.q_net_target
    model._logger = stable_baselines3.common.logger.Logger(None, [])
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {"ours": [], "theirs": []}
    huber = torch.nn.functional.smooth_l1_loss

    def record(whose: str) -> Any:
        def loss(found: Tensor, target: Tensor, **options: Any) -> Tensor:
            seen[whose].append((found.detach().flatten(), target.flatten()))
            return huber(found, target, **options)

        return loss

    monkeypatch.setattr(ours, "smooth_l1_loss", record("ours"))
    monkeypatch.setattr("stable_baselines3.dqn.dqn.F.smooth_l1_loss", record("theirs"))
    batches = [run.experience.sample(32, discount=0.9) for _ in range(5)]
    for batch in batches:
        samples = ReplayBufferSamples(
            batch.now, batch.action, batch.after, (batch.discount == 0).float()[:, None], batch.reward[:, None]
        )
        monkeypatch.setattr(run.experience, "sample", lambda *_, kept=batch, **__: kept)
        monkeypatch.setattr(model.replay_buffer, "sample", lambda *_, kept=samples, **__: kept)
        loss = run._update()
        model.train(gradient_steps=1, batch_size=32)
        assert float(loss) == pytest.approx(model.logger.name_to_value["train/loss"], abs=1e-5)
    assert len(seen["ours"]) == len(seen["theirs"]) == 5
    for one, other in zip(seen["ours"], seen["theirs"], strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)  # Q(o, a) and its target
    for mine, yours in zip(run.q.parameters(), policy.q_net.parameters(), strict=True):
        torch.testing.assert_close(mine, yours, atol=1e-5, rtol=0)


def targets_of(run: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Tensor]:
    """One update's batch, and the targets that it regressed on."""
    seen: list[Tensor] = []
    huber, sample, batches = torch.nn.functional.smooth_l1_loss, run.experience.sample, []

    def loss(found: Tensor, target: Tensor, **options: Any) -> Tensor:
        seen.append(target)
        return huber(found, target, **options)

    def kept(*args: Any, **options: Any) -> Any:
        batches.append(sample(*args, **options))
        return batches[-1]

    monkeypatch.setattr(ours, "smooth_l1_loss", loss)
    monkeypatch.setattr(run.experience, "sample", kept)
    run._update()
    return batches[0], seen[0]


@pytest.mark.parametrize("double", [False, True])
def test_double_chooses_by_one_network_and_values_by_the_other(
    double: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = learner(tmp_path, double=double)
    q, copied = copy.deepcopy(run.q), run.target
    batch, target = targets_of(run, monkeypatch)
    after = TASK.layout().unpack(batch.after)
    chosen = (q if double else copied)(after).argmax(1)
    value = copied(after)[torch.arange(32), chosen]
    torch.testing.assert_close(target, batch.reward + 0.9 * value)


def test_double_overestimates_less_where_rewards_are_noise(tmp_path: Path) -> None:
    """Every value is 0; the maximum over ten noisy estimates is not."""
    found = {}
    for double in (False, True):
        agent = DQN(
            total_steps=1600, num_envs=4, learning_starts=100, batch_size=8, buffer_size=1000, hidden=16,
            learning_rate=0.05, discount=0.9, gradient_steps=1, target_update_interval=60, final_epsilon=1.0,
            double=double, segments=2,
        )  # fmt: skip
        policy = agent.train(known.task(lambda: known.Noise(1, 10)), seed=0, folder=tmp_path / str(double))
        seen = Observation(torch.full((1, 1), 0.05), state=torch.ones(1, 1))
        found[double] = float(policy.scores(seen).mean())
    assert found[False] > 2.0
    assert abs(found[True]) < found[False] / 2


def test_dueling_adds_advantages_of_mean_zero_to_the_state_s_value(tmp_path: Path) -> None:
    torch.manual_seed(0)
    scorer = ItemScorer(Layout(num_items=6, state_width=3), hidden=8, item_width=4, dueling=True)
    for parameter in scorer.parameters():
        nn.init.normal_(parameter)
    mask = torch.tensor([[True] * 6, [True, False, True, False, False, True]])
    seen = Observation(torch.zeros(2, 1), state=torch.randn(2, 3), mask=mask)
    scores, value = scorer(seen), scorer.value(scorer.encoder(seen, scorer.items)[0])[:, 0]
    torch.testing.assert_close((scores * mask).sum(1) / mask.sum(1), value)
    plain = ItemScorer(Layout(num_items=6, state_width=3), hidden=8, item_width=4)
    plain.load_state_dict(scorer.state_dict())
    gaps = plain(seen) - scores
    torch.testing.assert_close(gaps, gaps[:, :1].expand(-1, 6))  # the ranking is that of the advantages
    assert learner(tmp_path, dueling=True).q.dueling


def test_priorities_are_the_errors_and_weights_enter_the_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = learner(tmp_path, priority=0.6, priority_correction=0.3)
    assert run.experience.beta == 0.3
    run.experience.replay.reprioritise(torch.arange(40), torch.rand(40) * 3)
    q = copy.deepcopy(run.q)
    losses: list[Tensor] = []
    monkeypatch.setattr(agents.training, "check_finite", lambda folder, terms, batch: losses.extend(terms.values()))
    batch, target = targets_of(run, monkeypatch)
    errors = target - q(TASK.layout().unpack(batch.now)).gather(1, batch.action)[:, 0]
    assert float(batch.weight.max()) == 1.0 and float(batch.weight.min()) < 0.9
    huber = torch.where(errors.abs() < 1, errors**2 / 2, errors.abs() - 0.5)
    torch.testing.assert_close(losses[0], (batch.weight * huber).mean())
    tree = run.experience.replay.tree
    expected = (errors.detach().abs().double() + 1e-6) ** 0.6
    torch.testing.assert_close(tree.value[tree.leaves + batch.place], expected)


def test_a_buffer_that_cannot_hold_a_transition_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="keeps 4 steps of each of 4 sessions: expected more than 5"):
        ours._Learner(DQN(**{**SETTINGS, "buffer_size": 16, "steps": 5}), TASK, 0, tmp_path)
    DQN(**{**SETTINGS, "steps": 5, "learning_starts": 4, "total_steps": 64, "segments": 2}).train(
        TASK, seed=0, folder=tmp_path
    )  # waits until five steps of each session are there
    with pytest.raises(ValueError, match="target_update_interval is 0"):
        DQN(target_update_interval=0)
