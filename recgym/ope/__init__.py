"""Off-policy evaluation: what a policy would have earned, estimated from the logs of another.

`OffPolicy` is any estimator by its name; with `FittedQ`, `ModelBased` and `ModelDoublyRobust` it answers one `Question`
(per session or per step) with an `Estimate`: value, interval over users, effective sample size, and a verdict that says
whether the log can answer at all. `appraise` asks one log about several policies, however they are known
(`ColumnTarget`, ...); `stream_estimates` reads logs that are larger than memory.
"""

from recgym.ope.appraisal import Appraisal, AppraisalConfig, appraise
from recgym.ope.diagnostics import Question, Support, Thresholds, support
from recgym.ope.estimators import estimators
from recgym.ope.evidence import Evidence
from recgym.ope.fqe import FitConfig, FittedQ
from recgym.ope.intervals import (
    Interval,
    bootstrap_mean,
    bootstrap_ratio,
    paired_bootstrap,
    seeds_and_users,
    t_interval,
)
from recgym.ope.model_based import ModelBased, ModelDoublyRobust
from recgym.ope.off_policy import ModelConfig, OffPolicy, evidence_of
from recgym.ope.resuming import Resume, resume_learned
from recgym.ope.step_files import StepColumns, StepPolicy
from recgym.ope.streaming import stream_estimates
from recgym.ope.targets import ColumnTarget, FunctionTarget, PolicyTarget, TableTarget, Target
from recgym.ope.views import single_steps

__all__ = [
    "Appraisal",
    "AppraisalConfig",
    "ColumnTarget",
    "Evidence",
    "FitConfig",
    "FittedQ",
    "FunctionTarget",
    "Interval",
    "ModelBased",
    "ModelConfig",
    "ModelDoublyRobust",
    "OffPolicy",
    "PolicyTarget",
    "Question",
    "Resume",
    "StepColumns",
    "StepPolicy",
    "Support",
    "TableTarget",
    "Target",
    "Thresholds",
    "appraise",
    "bootstrap_mean",
    "bootstrap_ratio",
    "estimators",
    "evidence_of",
    "paired_bootstrap",
    "resume_learned",
    "seeds_and_users",
    "single_steps",
    "stream_estimates",
    "support",
    "t_interval",
]
