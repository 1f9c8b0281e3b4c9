"""What following the report's advice brings where the truth is known, beside the field's habits on the same logs.

The advice is read off the appraisal of a fresh log of production, and judged by A/B tests in the same world.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np

from experiments.bench.ope_ranking import HABIT, ndcg
from experiments.bench.ope_terms import asked, models_of
from experiments.bench.ope_trials import MOST, Arm, run_test, true_power
from experiments.bench.ope_worlds import Log, Setting, World
from recgym.ope.appraisal import Appraisal, AppraisalConfig, appraise
from recgym.ope.compare import Statement, differences
from recgym.ope.diagnostics import Question
from recgym.ope.estimators import estimators
from recgym.ope.evidence import Evidence, Per
from recgym.ope.power import users_needed
from recgym.types import DoubleArray

SPREAD, CLOSE, EQUAL = "spread", "close", "none better"
REPORT, ASSURED, TESTED = "the report", "the report, tests assured", "the report, switches tested too"
NDCG_TESTED = f"{HABIT}, then a test"
HABITS: dict[Per, dict[str, str]] = {
    "step": {"highest IPS": "IPS", "highest SNIPS": "SNIPS", "highest DM": "DM"},
    "session": {"highest IPS": "per-decision IS", "highest SNIPS": "weighted per-decision IS", "highest DM": "FQE"},
}
"""A habit, and the estimator by whose value it picks."""
DESIGNS = ("fixed", "sequential", "fixed, CUPED")
_KEEP = -1
_SAME = 1e-9
"""Values that differ by less than this share are one."""
_LUCK = 0xAB
"""Stream of the tests' luck."""


class Advice(NamedTuple):
    """What a reader of the report does next."""

    kind: Literal["switch", "test", "keep"]
    policy: int
    """Place among the policies; -1 where production is kept."""
    users: int
    """Of the A/B test that the report sizes, both arms."""
    assured: int = 0
    """Of the test whose power counts the estimate's error in; 0 where there is none that anybody could run."""


class Promise(NamedTuple):
    """A difference that the report sizes a test for."""

    estimate: float
    error: float
    """Standard error of the estimate."""
    truth: float
    power: float
    """Chance that a test of the given size finds the true difference."""
    variance: float
    """That of a production user, plus that of a treated one."""
    advised: bool
    """Whether this is the test that the reader runs."""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """Policies of one world, and what they are worth."""

    name: str
    policies: DoubleArray  # (P, S, N)
    truth: DoubleArray  # (P,)
    production: float
    arms: tuple[Arm, ...]
    """Of each policy, and last of production."""

    @classmethod
    def of(cls, setting: Setting, name: str, policies: DoubleArray) -> Panel:
        """The panel with its exact values."""
        world = setting.world
        return cls(
            name=name, policies=policies, truth=np.array([world.value(policy) for policy in policies]),
            production=world.value(setting.logger),
            arms=tuple(Arm.of(world, policy, setting.logger) for policy in (*policies, setting.logger)),
        )  # fmt: skip

    def gain(self, policy: int) -> float:
        """True value above production's, as a share of it; 0 where production is kept."""
        return 0.0 if policy == _KEEP else float(self.truth[policy]) / self.production - 1

    def better(self, policy: int) -> bool:
        """Whether the policy is truly better than production."""
        return self.gain(policy) > _SAME


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One log: what was advised, what is true, and where each way of deciding ends."""

    advice: Advice
    confirmed: dict[str, Statement] = field(default_factory=dict)
    """What a test of the advised size says, by `DESIGNS`; empty where nothing is to be tested."""
    sequential_users: float = math.nan
    """Users that the sequential test took, over those of the fixed one."""
    ends: dict[str, int] = field(default_factory=dict)
    """The policy in place in the end, by way of deciding; -1 is production."""
    spent: dict[str, int] = field(default_factory=dict)
    """Users of tests on the way."""
    false_better: bool
    """Some policy that is not better was called better."""
    false_worse: bool
    """Some policy that is not worse was called worse."""
    about_itself: bool | None = None
    """Production was called better or worse than itself; None where it is not among the policies."""
    promises: tuple[Promise, ...] = ()


def panels(setting: Setting) -> tuple[Panel, Panel, Panel]:
    """Every second policy, the six whose values are nearest to production's, and six of exactly its value."""
    distance = [abs(setting.world.value(policy) - setting.world.value(setting.logger)) for policy in setting.policies]
    near = np.sort(np.argsort(distance)[:6])
    return (
        Panel.of(setting, SPREAD, setting.policies[1::2]),
        Panel.of(setting, CLOSE, setting.policies[near]),
        Panel.of(setting, EQUAL, np.stack([setting.logger, *equals(setting, 5)])),
    )


def equals(setting: Setting, count: int) -> list[DoubleArray]:
    """Mixtures (S, N) of a worse and a better policy that are worth what production is, by bisection."""
    world, target = setting.world, setting.world.value(setting.logger)
    worse = [policy for policy in setting.policies if world.value(policy) < target]
    better = [policy for policy in setting.policies if world.value(policy) > target]
    return [_mixture(world, target, worse[n % len(worse)], better[-1 - n]) for n in range(count)]


def _mixture(world: World, target: float, worse: DoubleArray, better: DoubleArray) -> DoubleArray:
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if world.value(worse + middle * (better - worse)) < target else (low, middle)
    return worse + high * (better - worse)


def evidence(setting: Setting, log: Log, policies: DoubleArray) -> list[Evidence]:
    """What the appraisal reads, each half of the sessions valued by the world that the other half counts."""
    models, per = models_of(setting, log), per_of(setting)
    questions = [asked(setting, log, policy, models) for policy in policies]
    return [
        Evidence(
            policy=str(place), per=per, reward=log.reward, episode=log.episode, user=np.arange(log.sessions),
            ratios=each.ratios, values=each.values,
        )
        for place, each in enumerate(questions)
    ]  # fmt: skip


def per_of(setting: Setting) -> Per:
    """Impressions of a bandit, else sessions."""
    return "step" if setting.world.horizon == 1 else "session"


def advise(found: Appraisal) -> Advice:
    """Switch to the best that is supported and better; else test the most promising; else keep production.

    Promising is what is not called worse and is estimated above production; a test that takes more users than anybody
    has is not run.
    """
    tests = {place: each.test for place, each in enumerate(found.policies) if each.test is not None}
    clear, promising = [], []
    for place, test in tests.items():
        each = found.policies[place]
        if each.statement == "better" and each.estimate.verdict == "supported":
            clear.append(place)
        elif each.statement != "worse" and test.difference > 0 and test.users <= 2 * MOST:
            promising.append(place)
    among = clear or promising
    if not among:
        return Advice("keep", _KEEP, 0)
    best = max(among, key=lambda place: tests[place].difference)
    assured = tests[best].assured
    return Advice("switch" if clear else "test", best, tests[best].users, assured if assured <= 2 * MOST else 0)


def judge(setting: Setting, panel: Panel, log: Log, seed: tuple[int, ...], *, replicates: int = 20) -> Judged:
    """Appraise all policies of a panel, take the advice and the habits, and test.

    Args:
        setting: the world.
        panel: the policies that are asked about.
        log: of production.
        seed: of the tests' luck.
        replicates: bootstrap resamples; no statement rests on them.
    """
    seen = evidence(setting, log, panel.policies)
    found = appraise(seen, AppraisalConfig(question=Question(replicates=replicates)))
    advice = advise(found)
    said = [each.statement for each in found.policies]
    gains = [panel.gain(place) for place in range(len(said))]
    false_better = any(one == "better" and gain <= _SAME for one, gain in zip(said, gains, strict=True))
    false_worse = any(one == "worse" and gain >= -_SAME for one, gain in zip(said, gains, strict=True))
    if panel.name == EQUAL:
        itself = said[0] in ("better", "worse")
        return Judged(advice=advice, false_better=false_better, false_worse=false_worse, about_itself=itself)
    rng = np.random.default_rng((*seed, _LUCK))
    confirmed, sequential = _confirm(panel, advice, rng)
    tested = advice.policy if confirmed.get("fixed") == "better" else _KEEP
    habit = _ndcg_pick(setting, panel, log)
    passes = False
    if advice.kind == "test" and advice.assured:
        passes = run_test(panel.arms[-1], panel.arms[advice.policy], advice.assured, rng)[0] == "better"
    size, passed = _habit_test(panel, found, log, habit, rng)
    return Judged(
        advice=advice, confirmed=confirmed, sequential_users=sequential, false_better=false_better,
        false_worse=false_worse, promises=tuple(_promises(panel, found, seen, advice)),
        ends={
            REPORT: advice.policy if advice.kind == "switch" else tested,
            ASSURED: advice.policy if advice.kind == "switch" or passes else _KEEP,
            TESTED: tested,
            **{name: _pick(found, estimator) for name, estimator in HABITS[found.per].items()},
            HABIT: habit, NDCG_TESTED: habit if passed else _KEEP,
        },
        spent={
            REPORT: advice.users if advice.kind == "test" else 0,
            ASSURED: advice.assured if advice.kind == "test" else 0,
            TESTED: min(advice.users, 2 * MOST), NDCG_TESTED: size,
        },
    )  # fmt: skip


def _confirm(panel: Panel, advice: Advice, rng: np.random.Generator) -> tuple[dict[str, Statement], float]:
    """The advised policy against production, by each design."""
    if advice.kind == "keep":
        return {}, math.nan
    arms, users = (panel.arms[-1], panel.arms[advice.policy]), min(advice.users, 2 * MOST)
    fixed, size = run_test(*arms, users, rng)
    sequential, taken = run_test(*arms, users, rng, design="sequential")
    adjusted, _ = run_test(*arms, users, rng, cuped=True)
    return dict(zip(DESIGNS, (fixed, sequential, adjusted), strict=True)), taken / size


def _ndcg_pick(setting: Setting, panel: Panel, log: Log) -> int:
    """The policy of highest NDCG, production where none is above its own."""
    scores = [ndcg(policy, log) for policy in panel.policies]
    return int(np.argmax(scores)) if max(scores) > ndcg(setting.logger, log) else _KEEP


def _habit_test(panel: Panel, found: Appraisal, log: Log, pick: int, rng: np.random.Generator) -> tuple[int, bool]:
    """Users of a test for a twentieth of what production earns, and whether it says that the pick is better."""
    if pick == _KEEP:
        return 0, False
    returns = np.bincount(log.episode, weights=log.reward)
    users = users_needed(found.production.value / 20, variance=float(returns.var(ddof=1))).total
    return users, run_test(panel.arms[-1], panel.arms[pick], users, rng)[0] == "better"


def _pick(found: Appraisal, estimator: str) -> int:
    """The policy of highest estimate, production where none is above what it earned."""
    values = [next(one.value for one in each.estimates if one.estimator == estimator) for each in found.policies]
    known = np.nan_to_num(np.array(values), nan=-np.inf)
    return int(known.argmax()) if known.max() > found.production.value else _KEEP


def _promises(panel: Panel, found: Appraisal, seen: list[Evidence], advice: Advice) -> list[Promise]:
    """Of every policy that is estimated above production and not settled."""
    promises: list[Promise] = []
    returns = np.bincount(seen[0].episode, weights=seen[0].reward)
    base, production = (returns[:, None], np.ones((len(returns), 1))), panel.arms[-1]
    for place, each in enumerate(found.policies):
        settled = each.statement != "undecided" and each.estimate.verdict == "supported"
        if settled or each.test is None or each.test.difference <= 0:
            continue
        terms = estimators(seen[place].per)[each.chosen].terms(seen[place])
        psi = differences([(terms.above, terms.below)], base, seen[place].user)[1][:, 0]
        promises.append(
            Promise(
                estimate=each.test.difference,
                error=float(psi.std(ddof=1)) / math.sqrt(len(psi)),
                truth=float(panel.truth[place]) - panel.production,
                power=true_power(production, panel.arms[place], each.test.users),
                variance=production.variance + panel.arms[place].variance,
                advised=advice.kind == "test" and place == advice.policy,
            )
        )
    return promises
