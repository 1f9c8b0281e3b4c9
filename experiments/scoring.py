"""One policy's numbers, seed by seed: simulated sessions, the true world, rankings, off-policy estimates.

Every policy meets the same users with the same luck and answers the same next-item questions, so that differences pair.
"""

from __future__ import annotations

import dataclasses
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import agents
from agents.baselines import BackboneGreedy, Popularity, Random, RepeatHistory
from agents.explore_then_commit import ExploreThenCommit
from agents.item_knn import ItemKNN
from experiments.fit import Loaded, load_run, platform
from experiments.ope.run import policy_evidence
from experiments.runs import Run
from experiments.truth import best_oracle, true_sessions
from recgym.backbones.backbone import fingerprint
from recgym.backbones.ranking import spread_steps
from recgym.env.session import Sessions
from recgym.evaluation import exposure, latency, rank_policy, ranking_metrics, session_outcomes
from recgym.files import write_bytes, write_json
from recgym.logs.splits import TEST, TRAIN
from recgym.policy import StoredPolicy, load_policy, save_policy
from recgym.rollout import collect
from recgym.types import Policy, Transitions

ORACLE = "oracle"
NEGATIVES = 100
_DOUBT_SESSIONS = 300


@dataclass(frozen=True, kw_only=True)
class ScoringConfig:
    """How policies are scored."""

    sessions: int = 2_000
    """Simulated sessions a policy and seed."""
    seed: int = 1_000
    """Seed of the simulated sessions: none that trained an agent."""
    discount: float = 0.98
    """Per step, of the discounted reward."""
    max_steps: int = 50
    """Steps after which a simulated session is cut."""
    slate_size: int = 1
    """Items shown a step."""
    ranking_targets: int = 5_000
    """Held-out choices that are ranked, at most, evenly spread over the test part."""
    off_policy: bool = True
    """Estimate each policy's value from the logged test sessions too, where the log holds what was shown."""
    level: float = 0.95
    """Nominal coverage of every interval."""

    def __post_init__(self) -> None:
        """Check the fields."""
        for name in ("sessions", "max_steps", "slate_size", "ranking_targets"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least 1")
        if not 0 < self.level < 1 or not 0 < self.discount <= 1:
            raise ValueError(f"level {self.level} and discount {self.discount}: expected (0, 1) and (0, 1]")


@dataclass(frozen=True, eq=False)
class Scores:
    """What was measured of one policy: S seeds, E sessions, Q held-out choices."""

    arrays: dict[str, npt.NDArray[np.float64]]
    """"reward", "discounted", "depth", "kind NAME", "truth" (S, E); "hr@5", ..., "sampled hr@5", ... (S, Q).
    What off-policy evaluation reads of the first seed, "logs ..." (1, T); see `ope.run`."""
    facts: dict[str, Any]
    """Exposure, latency, lengths, and what to know of the models behind off-policy estimates; JSON-able."""

    def save(self, folder: Path, name: str) -> None:
        """Write NAME.npz and NAME.json."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **self.arrays)  # type: ignore[arg-type]
        write_bytes(folder / f"{name}.npz", buffer.getvalue())
        write_json(folder / f"{name}.json", self.facts)

    @classmethod
    def load(cls, folder: Path, name: str) -> Scores:
        """Read what `save` wrote."""
        with np.load(folder / f"{name}.npz", allow_pickle=False) as arrays:
            found = {key: arrays[key] for key in arrays.files}
        return cls(found, json.loads((folder / f"{name}.json").read_text(encoding="utf-8")))


def score_policy(run: Run, config: ScoringConfig, reward: dict[str, float] | None, name: str) -> Scores:
    """Score the policy called `name` in `run`, in all its seeds."""
    loaded = load_run(run)
    sessions = platform(loaded.users, reward=reward, max_steps=config.max_steps, slate_size=config.slate_size)
    world = true_sessions(loaded.sequences, loaded.users, sessions.config)
    if name == ORACLE:
        assert world is not None, "the oracle needs a known world"
        return _score_oracle(world, loaded, config)
    policies = find_policies(run, loaded, name, config.slate_size)
    targets = ranking_steps(loaded, config)
    parts: list[dict[str, npt.NDArray[np.float64]]] = []
    shown: Transitions | None = None
    for policy in policies:
        found = collect(sessions, policy, num_sessions=config.sessions, seed=config.seed)
        shown = shown or found
        part = _outcomes(found, loaded, config)
        if world is not None:
            there = collect(world, policy, num_sessions=config.sessions, seed=config.seed)
            part["truth"] = there.returns
        part |= _rankings(policy, loaded, targets, config)
        parts.append(part)
    assert shown is not None
    facts = _shown_facts(shown, loaded, config) | {"latency_ms": latency(sessions, policies[0]), "seeds": len(policies)}
    facts["doubt"] = _doubt(sessions, policies[0], config)
    arrays = {key: np.stack([part[key] for part in parts]) for key in parts[0]}
    if config.off_policy and config.slate_size == 1 and loaded.sequences.exposures:
        more, facts["logs"] = policy_evidence(policies[0], loaded, sessions, seed=config.seed)
        arrays |= more
    return Scores(arrays, facts)


def find_policies(run: Run, loaded: Loaded, name: str, slate_size: int) -> list[StoredPolicy]:
    """The trained policies of all seeds, or the trivial policy, which is built (and saved) from the log."""
    if name in agents.BASELINES:
        policy = trivial_policy(loaded, name, slate_size)
        save_policy(policy, run.policy(name, 0), encoder=fingerprint(loaded.users.backbone))
        return [policy]
    seeds = sorted(int(folder.name.removeprefix("seed-")) for folder in (run.policies / name).glob("seed-*"))
    encoder = fingerprint(loaded.users.backbone)
    sizes = {"items": loaded.sequences.num_items}
    trained: list[Any] = [load_policy(run.policy(name, seed), encoder=encoder, sizes=sizes) for seed in seeds]
    return [dataclasses.replace(one, slate_size=slate_size) if hasattr(one, "slate_size") else one for one in trained]


def trivial_policy(loaded: Loaded, name: str, slate_size: int = 1) -> StoredPolicy:
    """The trivial policy called `name`, counted from the training steps."""
    sequences, roles, backbone = loaded.sequences, loaded.roles, loaded.users.backbone
    built: dict[str, Any] = {
        "random": lambda: Random(num_items=sequences.num_items, slate_size=slate_size),
        "popularity": lambda: Popularity.fit(sequences, roles, slate_size=slate_size),
        "repeat-history": lambda: RepeatHistory.fit(sequences, roles, slate_size=slate_size),
        "item-knn": lambda: ItemKNN.fit(sequences, roles, slate_size=slate_size),
        "backbone-greedy": lambda: BackboneGreedy.of(backbone, slate_size=slate_size),
        "explore-then-commit": lambda: ExploreThenCommit.fit(sequences, roles, backbone, slate_size=slate_size),
    }
    policy: StoredPolicy = built[name]()
    return policy


def ranking_steps(loaded: Loaded, config: ScoringConfig) -> npt.NDArray[np.int64]:
    """The held-out choices to rank, (Q,) steps."""
    return spread_steps(np.flatnonzero(loaded.sequences.targets & (loaded.roles == TEST)), config.ranking_targets)


def _outcomes(found: Transitions, loaded: Loaded, config: ScoringConfig) -> dict[str, npt.NDArray[np.float64]]:
    outcome = session_outcomes(found, loaded.users.kinds, discount=config.discount)
    part = {"reward": outcome.reward, "discounted": outcome.discounted, "depth": outcome.depth}
    part |= {f"kind {kind}": amount for kind, amount in outcome.feedback.items()}
    return part | {"user": outcome.user.astype(np.float64)}


def _rankings(
    policy: Policy, loaded: Loaded, targets: npt.NDArray[np.int64], config: ScoringConfig
) -> dict[str, npt.NDArray[np.float64]]:
    """HR and NDCG of each question, in full and against sampled negatives."""
    backbone, sequences = loaded.users.backbone, loaded.sequences
    masked = not loaded.users.repeats
    full = rank_policy(policy, backbone, sequences, targets, mask_seen=masked)
    sampled = rank_policy(policy, backbone, sequences, targets, mask_seen=masked, negatives=NEGATIVES, seed=config.seed)
    found = ranking_metrics(full)
    return found | {f"sampled {name}": values for name, values in ranking_metrics(sampled).items()}


def _shown_facts(shown: Transitions, loaded: Loaded, config: ScoringConfig) -> dict[str, Any]:
    sequences = loaded.sequences
    training = (loaded.roles == TRAIN) & sequences.targets
    popularity = np.bincount(sequences.item[training], minlength=sequences.num_items + 1)[1:]
    vectors = loaded.users.backbone.item_vectors().detach().double().numpy()
    found = dataclasses.asdict(exposure(shown, popularity, categories=sequences.categories, vectors=vectors))
    depth = np.bincount(shown.episode)
    lengths = np.bincount(depth, minlength=config.max_steps + 1)[1:]
    finite = {name: value if np.isfinite(value) else None for name, value in found.items()}
    return {"exposure": finite, "lengths": lengths.tolist()}


def _doubt(sessions: Sessions[Any], policy: Policy, config: ScoringConfig) -> float | None:
    """The ensemble's disagreement a unit of reward, along simulated sessions of the policy."""
    if not getattr(sessions.users, "members", ()):
        return None
    wary = Sessions(sessions.users, dataclasses.replace(sessions.config, pessimism=1.0))
    count = min(config.sessions, _DOUBT_SESSIONS)
    plain, doubted = (collect(met, policy, num_sessions=count, seed=config.seed) for met in (sessions, wary))
    earned = float(plain.reward.sum())
    return (earned - float(doubted.reward.sum())) / earned if earned > 0 else None


def _score_oracle(world: Sessions[Any], loaded: Loaded, config: ScoringConfig) -> Scores:
    """The oracle lives in the true world alone."""
    seeing, policy = best_oracle(world, seed=config.seed)
    found = collect(seeing, policy, num_sessions=config.sessions, seed=config.seed)
    truth = found.returns
    part = {"truth": truth[None], "user": found.user.astype(np.float64)[None]}
    return Scores(part, _shown_facts(found, loaded, config) | {"latency_ms": {}, "seeds": 1})
