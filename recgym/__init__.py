"""recgym: interaction logs in, a Gymnasium environment of simulated users out; policies scored with intervals.

`import recgym` registers `RecSession-v0` and `RecLifetime-v0`. Public names live in the modules that define them:

    recgym.logs.readers.read_log         logs of published formats      recgym.env.single.RecSessionEnv
    recgym.logs.pivot.build_sequences    from events to sequences       recgym.env.vector.RecSessionVectorEnv
    recgym.backbones.training            SASRec and GRU4Rec             recgym.rollout.collect
    recgym.users.fitting.fit_users       users learned from logs        recgym.ope, recgym.evaluation, recgym.metrics
"""

import gymnasium

__version__ = "0.1.0"

gymnasium.register(
    id="RecSession-v0",
    entry_point="recgym.env.single:RecSessionEnv",
    vector_entry_point="recgym.env.vector:RecSessionVectorEnv",
    disable_env_checker=True,  # both cost every step; the tests run the checker, and the environment checks the order
    order_enforce=False,
)
gymnasium.register(
    id="RecLifetime-v0",
    entry_point="recgym.env.lifetime_env:RecLifetimeEnv",
    vector_entry_point="recgym.env.lifetime_env:RecLifetimeVectorEnv",
    disable_env_checker=True,
    order_enforce=False,
)
