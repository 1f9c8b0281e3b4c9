"""Recommendation policies: trivial ones, and agents that train one. Importing this package registers all of them.

`AGENTS` maps names to string entry points of agent configs; `register_agent` adds one from anywhere. Policies are
registered with `recgym.policy`, so that `load_policy` finds them.
"""

import contextlib
import importlib

from agents.task import AGENTS, Agent, Task, make_agent, register_agent
from recgym.policy import register_policy

__all__ = ["AGENTS", "BASELINES", "Agent", "Task", "make_agent", "register_agent"]

BASELINES: dict[str, str] = {
    "random": "agents.baselines:Random",
    "popularity": "agents.baselines:Popularity",
    "repeat-history": "agents.baselines:RepeatHistory",
    "item-knn": "agents.item_knn:ItemKNN",
    "backbone-greedy": "agents.baselines:BackboneGreedy",
    "explore-then-commit": "agents.explore_then_commit:ExploreThenCommit",
}
"""Entry point of every trivial policy, by name, in the order of the report's rows."""

# SB3 and d3rlpy import the old `gym` where it is installed, which prints that it is unmaintained. Nobody here uses it.
with contextlib.suppress(ImportError):
    importlib.import_module("gym_notices.notices").notices.clear()

for _name, _entry_point in BASELINES.items():
    register_policy(_name, _entry_point)

register_policy("scoring", "agents.scoring:ScoringPolicy")
register_policy("over-catalogue", "agents.over_catalogue:OverCatalogue")
for _name in ("dqn", "ppo", "a2c", "cql"):
    register_agent(_name, f"agents.{_name}:{_name.upper()}")
    register_policy(_name, "agents.scoring:ScoringPolicy")

for _name, _agent, _policy in (
    ("epsilon_greedy", "EpsilonGreedy", "MeanReward"),
    ("linucb", "LinUCB", "LinearBound"),
    ("linear_ts", "LinearTS", "PosteriorDraws"),
):
    register_agent(_name, f"agents.{_name}:{_agent}")
    register_policy(_name, f"agents.{_name}:{_policy}")
