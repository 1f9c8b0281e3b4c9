"""Recommendation policies: trivial ones, and agents that train one. Importing this package registers all of them.

`AGENTS` maps names to string entry points of agent configs; `register_agent` adds one from anywhere. Policies are
registered with `recgym.policy`, so that `load_policy` finds them.
"""

import agents.notices  # noqa: F401 (quiets what the next import would print)
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

_SCORING = "agents.scoring:ScoringPolicy"
_DISTRIBUTIONAL = "agents.distributional:DistributionalPolicy"
_RECURRENT = "agents.recurrence:RecurrentPolicy"
_TRAINED: dict[str, tuple[str, str]] = {
    "epsilon-greedy": ("agents.epsilon_greedy:EpsilonGreedy", "agents.epsilon_greedy:MeanReward"),
    "linucb": ("agents.linucb:LinUCB", "agents.linucb:LinearBound"),
    "linear-ts": ("agents.linear_ts:LinearTS", "agents.linear_ts:PosteriorDraws"),
    "dqn": ("agents.dqn:DQN", _SCORING),
    "c51": ("agents.c51:C51", _DISTRIBUTIONAL),
    "qrdqn": ("agents.qrdqn:QRDQN", _DISTRIBUTIONAL),
    "drqn": ("agents.drqn:DRQN", _RECURRENT),
    "reinforce": ("agents.reinforce:REINFORCE", _SCORING),
    "a2c": ("agents.a2c:A2C", _SCORING),
    "a3c": ("agents.a3c:A3C", _SCORING),
    "trpo": ("agents.trpo:TRPO", _SCORING),
    "ppo": ("agents.ppo:PPO", _SCORING),
    "maskable-ppo": ("agents.maskable_ppo:MaskablePPO", _SCORING),
    "recurrent-ppo": ("agents.recurrent_ppo:RecurrentPPO", _RECURRENT),
    "topk-reinforce": ("agents.topk_reinforce:TopKREINFORCE", _SCORING),
    "slateq": ("agents.slateq:SlateQ", "agents.slate_policy:SlatePolicy"),
    "topk": ("agents.topk:TopK", _SCORING),
    "wolpertinger": ("agents.wolpertinger:Wolpertinger", "agents.wolpertinger:NearestPolicy"),
    "bc": ("agents.bc:BC", _SCORING),
    "cql": ("agents.cql:CQL", _SCORING),
    "bcq": ("agents.bcq:BCQ", "agents.bcq:BCQPolicy"),
    "iql": ("agents.iql:IQL", _SCORING),
    "decision-transformer": (
        "agents.decision_transformer:DecisionTransformer",
        "agents.return_transformer:ReturnPolicy",
    ),
    "sqn": ("agents.sqn:SQN", _SCORING),
    "sa2c": ("agents.sa2c:SA2C", _SCORING),
}
"""Entry points of every agent and of the policy that it trains, by name."""

for _name, _entry_point in BASELINES.items():
    register_policy(_name, _entry_point)

register_policy("scoring", _SCORING)
register_policy("spread", "agents.spread:SpreadPolicy")
register_policy("over-catalogue", "agents.over_catalogue:OverCatalogue")
for _name, (_agent, _policy) in _TRAINED.items():
    register_agent(_name, _agent)
    register_policy(_name, _policy)
