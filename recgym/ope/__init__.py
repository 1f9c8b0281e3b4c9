"""Off-policy evaluation: what a policy would have earned, estimated from the logs of another.

`Ips`, `Snips`, `DoublyRobust` and `FittedQ` answer one `Question` (per session or per step) with an `Estimate`: value,
interval over users, effective sample size, and a verdict that says whether the log can answer at all.
"""

from recgym.ope.diagnostics import Question, Support, Thresholds, support
from recgym.ope.doubly_robust import DoublyRobust
from recgym.ope.fqe import FitConfig, FittedQ
from recgym.ope.importance import Ips, Snips
from recgym.ope.intervals import (
    Interval,
    bootstrap_mean,
    bootstrap_ratio,
    paired_bootstrap,
    seeds_and_users,
    t_interval,
)
from recgym.ope.views import single_steps

__all__ = [
    "DoublyRobust",
    "FitConfig",
    "FittedQ",
    "Interval",
    "Ips",
    "Question",
    "Snips",
    "Support",
    "Thresholds",
    "bootstrap_mean",
    "bootstrap_ratio",
    "paired_bootstrap",
    "seeds_and_users",
    "single_steps",
    "support",
    "t_interval",
]
