"""Other simulators beside ours: a script that runs in the interpreter where they are installed.

It reads nothing of ours. RecSim's trainer needs dopamine, which its environments do not: an empty module stands in
for it.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import NamedTuple

SCRIPT = '''
import importlib, json, math, random, sys, time, types, warnings
warnings.filterwarnings("ignore")
import numpy as np
seconds, sessions = float(sys.argv[1]), int(sys.argv[2])
rng = np.random.default_rng(0)

def play(reset, step, draw, most):
    """Steps of the random policy per second of a core, then the mean and standard error of its reward a session."""
    reset()
    count, depth, begin = 0, 0, time.process_time()
    while time.process_time() - begin < seconds:
        _, done = step(draw())
        count, depth = count + 1, depth + 1
        if done or depth >= most:
            reset()
            depth = 0
    rate, returns = count / (time.process_time() - begin), []
    for _ in range(sessions):
        reset()
        total = 0.0
        for _ in range(most):
            reward, done = step(draw())
            total += reward
            if done:
                break
        returns.append(total)
    return rate, float(np.mean(returns)), float(np.std(returns) / math.sqrt(len(returns)))

def recsim(module, candidates, slate, most):
    sys.modules.setdefault("recsim.simulator.runner_lib", types.ModuleType("runner_lib"))
    env = importlib.import_module("recsim.environments." + module).create_environment(
        {"slate_size": slate, "num_candidates": candidates, "resample_documents": True, "seed": 0})
    def step(action):
        _, reward, done, _ = env.step(action)
        return reward, done
    return play(env.reset, step, lambda: random.sample(range(candidates), slate), most)

def sardine(name, most):
    import gymnasium, sardine
    gymnasium.logger.min_level = 50
    env = gymnasium.make("sardine/" + name, disable_env_checker=True).unwrapped
    def step(action):
        _, reward, ended, cut, _ = env.step(action)
        return reward, ended or cut
    env.reset(seed=0)
    return play(env.reset, step, lambda: rng.integers(env.num_items, size=env.slate_size), most)

PEERS = {
    "RecSim interest evolution": ("interest-evolution", lambda: recsim("interest_evolution", 10, 3, 500)),
    "RecSim long-term satisfaction": ("long-term-satisfaction", lambda: recsim("long_term_satisfaction", 10, 1, 60)),
    "SARDINE single item, bored": ("sardine-single-item-bored-inf", lambda: sardine("SingleItem-BoredInf-v0", 100)),
    "SARDINE slate, bored": ("sardine-slate-topk-bored", lambda: sardine("SlateTopK-Bored-v0", 100)),
}
for peer, (world, run) in PEERS.items():
    try:
        rate, mean, error = run()
        print("PEER " + json.dumps({"peer": peer, "world": world, "rate": rate, "mean": mean, "error": error}))
    except ImportError as problem:
        print("PEER " + json.dumps({"peer": peer, "world": world, "missing": str(problem)}))
'''
"""Python 3.7 or later with numpy; prints a line of JSON for each peer."""


class Peer(NamedTuple):
    """One peer with the random policy."""

    peer: str
    world: str  # ours that is like it
    rate: float = 0.0  # steps per second of a core, single environment
    mean: float = 0.0  # reward per session
    error: float = 0.0  # its standard error
    missing: str = ""  # why it could not be measured


def measured_peers(python: Path, *, seconds: float, sessions: int) -> list[Peer]:
    """Run `SCRIPT` with the interpreter `python`.

    Raises:
        ValueError: it does not run, or ends with an error.
    """
    try:
        done = subprocess.run(
            [str(python), "-c", SCRIPT, str(seconds), str(sessions)], capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise ValueError(f"peer_python is {python}, which does not run: {error}") from error
    if done.returncode:
        raise ValueError(f"the peers failed under {python}: {done.stderr.strip().splitlines()[-1:]}")
    found = [line[len("PEER ") :] for line in done.stdout.splitlines() if line.startswith("PEER ")]
    return [Peer(**json.loads(line)) for line in found]
