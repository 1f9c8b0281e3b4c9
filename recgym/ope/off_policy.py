"""From a log and a policy to evidence and estimates: what models need is fitted on other users, what fails is said."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from recgym.ope.diagnostics import Question
from recgym.ope.doubly_robust import cross_fit_values
from recgym.ope.estimators import answer, estimators
from recgym.ope.evidence import Evidence, Per, gather
from recgym.ope.fqe import FitConfig, Values
from recgym.ope.importance import cut_warning
from recgym.ope.item_means import cross_fit_means
from recgym.ope.targets import PolicyTarget, Target
from recgym.ope.views import single_steps
from recgym.ope.weights import SupportError
from recgym.types import Estimate, IntArray, Policy, Transitions


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """How the models behind DM, DR and FQE are fitted."""

    fitting: FitConfig = field(default_factory=FitConfig)
    """Of networks."""
    folds: int = 2
    """Parts of the users: the model of one part is fitted on the others."""
    seed: int = 0
    """Of parts and fits."""


def model_values(
    view: Transitions,
    target: Target,
    *,
    per: Per,
    discount: float = 1.0,
    config: ModelConfig = ModelConfig(),
    position: IntArray | None = None,
) -> tuple[Values, tuple[str, ...]]:
    """Q and V of a policy along a log by cross-fitted models, and what to know of them.

    An impression's reward is modelled by `item_means` or, where its error on other users is smaller, by a network of
    the state and the item; a session's by fitted Q.

    Args:
        view: the log; per step, as `views.single_steps` makes it.
        target: the policy along it.
        per: what is asked.
        discount: per step of a session.
        config: of the fits.
        position: (T,) slot of each step from 0, for an impression's model.

    Raises:
        SupportError: The log or the policy gives no model; the message says why.
    """
    if not target.knows_all:
        raise SupportError(
            f"policy {target.name!r} is known by the probability of what was shown alone: a model cannot be asked what "
            "it would have earned with the rest; give whole distributions (a table, a function, a policy folder)"
        )
    if len(np.unique(view.user)) < config.folds:
        raise SupportError(f"{len(np.unique(view.user))} user(s) cannot be parted into {config.folds} folds")
    if per == "session":
        if view.state is None:
            raise SupportError("the log has no state of the user at each step, so no Q can be fitted")
        return cross_fit_values(view, target, config.fitting, discount=discount, folds=config.folds, seed=config.seed)
    reward = view.reward.astype(np.float64)
    means = cross_fit_means(
        reward,
        view.action[:, 0],
        view.user,
        num_items=target.distribution(np.zeros(1, dtype=np.int64)).shape[1],
        position=position,
        features=None if view.state is None else view.state.astype(np.float64),
        folds=config.folds,
        seed=config.seed,
    ).values(target)
    if view.state is None:
        return means, ()
    network, _ = cross_fit_values(view, target, config.fitting, discount=0.0, folds=config.folds, seed=config.seed)
    errors = [float(((reward - one.q) ** 2).mean()) for one in (means, network)]
    better = "item means" if errors[0] <= errors[1] else "a network of state and item"
    words = f"the model of the reward is {better} (squared error on other users {min(errors):.4g}, {max(errors):.4g})"
    return (means if errors[0] <= errors[1] else network), (words,)


def evidence_of(
    logged: Transitions,
    target: Target,
    *,
    per: Per,
    discount: float = 1.0,
    config: ModelConfig | None = ModelConfig(),
    position: IntArray | None = None,
) -> Evidence:
    """All that estimators read of one policy: ratios from logged propensities, values from cross-fitted models.

    Args:
        logged: the log, one item a step.
        target: the policy along it (per step: its rows are those of the log as well).
        per: what is asked.
        discount: per step of a session.
        config: of the models; None fits none.
        position: (T,) slot of each step from 0.

    Raises:
        ValueError: The log or the target is malformed; the message names the row.
    """
    view = single_steps(logged) if per == "step" else logged
    values, why, words = None, "no model of the reward was asked for", cut_warning(view)
    if config is not None:
        try:
            values, more = model_values(view, target, per=per, discount=discount, config=config, position=position)
            words += more
        except SupportError as reason:
            why = str(reason)
    return gather(
        logged, target.chosen(), policy=target.name, per=per, discount=discount, values=values, no_values=why,
        words=words,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class OffPolicy:
    """Any estimator by its name, as an `Estimator`: "SNDR" or "Switch-DR" of a step, "weighted DR" of a session, ..."""

    estimator: str
    """One of `estimators.estimators(question.per)`."""
    question: Question = field(default_factory=Question)
    """What is asked of the log."""
    models: ModelConfig = field(default_factory=ModelConfig)
    """How models are fitted, where the estimator reads one."""

    def __post_init__(self) -> None:
        """Refuse a name that is not there."""
        known = estimators(self.question.per)
        if self.estimator not in known:
            raise ValueError(f"estimator must be one of {', '.join(known)}; got {self.estimator!r}")

    def estimate(self, logged: Transitions, policy: Policy) -> Estimate:
        """Estimate the policy's value; the verdict is in the estimate.

        Raises:
            ValueError: The log or the policy's probabilities are malformed.
        """
        asked = self.question
        view = single_steps(logged) if asked.per == "step" else logged
        target = PolicyTarget(policy=policy, logged=view)
        formula = estimators(asked.per)[self.estimator]
        models = replace(self.models, seed=asked.seed) if formula.models else None
        seen = evidence_of(view, target, per=asked.per, discount=asked.discount, config=models)
        return answer(formula, seen, asked)
