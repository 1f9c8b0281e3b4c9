"""A simulated A/B test: two policies in a known world, different users in each arm, the judge of what was advised.

Unlike a paired comparison, no user meets both policies, so the test needs as many users as a real one would. Each
arm's users are drawn anew from the world's population, which is the random split of an endless stream of arrivals.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from experiments.contest import world_settings
from experiments.looks import Design, Look, Outcomes, in_words, looks, users_per_arm
from experiments.visits import Place, Player, require_luck
from recgym.files import read_json, write_json
from recgym.ope.compare import Statement
from recgym.ope.intervals import Interval
from recgym.ope.power import Arms, user_correlation, user_variance
from recgym.random import fold, session_keys
from simulators import WORLDS, make_world

FORMAT, VERSION = "recgym-abtest", 1
_CONTROL, _TREATMENT, _PILOT = 0, 1, 2
"""Streams of users of the test's seed."""
_FEWEST = 30
"""Users of each arm, and of the pilot, below which means are not yet normal and the power's answer means nothing."""


@dataclass(frozen=True, kw_only=True)
class AbTest:
    """Simulate an A/B test of two policies in a known world."""

    world: str
    """A known world, as in docs/worlds.md."""
    control: str
    """A policy's folder, "random", or a mark of the world's band: "rule", "myopic", "best known"."""
    treatment: str
    """The same."""
    design: Design = "fixed"
    """One look at the planned size, or a look after every batch, until the always-valid interval excludes 0."""
    cuped: bool = False
    """Adjust by what the same users brought in a session before the test, under the control policy."""
    users: int | None = None
    """Users of each arm, at most if sequential; None: as the power asks, given a pilot of the control policy."""
    difference: float | None = None
    """Least difference in reward to settle; None: a twentieth of what control earns in the pilot."""
    power: float = 0.8
    """Chance of settling it."""
    level: float = 0.95
    """Confidence of the decision, all looks together."""
    batch: int = 200
    """Users of each arm between two looks, and before the first."""
    pilot: int = 500
    """Users of the pilot; none of them is in the test."""
    most: int = 100_000
    """Users of each arm beyond which the test is refused."""
    seed: int = 4_000
    """Of users and their luck."""
    path: Path | None = None
    """Files of a world that reads some."""
    history: int | None = None
    """Items of the visible history; None: as trained policies expect it of the world."""
    out: Path | None = None
    """Write the result here too, as JSON."""

    def __post_init__(self) -> None:
        """Check the fields."""
        if self.world not in WORLDS:
            raise ValueError(f"no world is called {self.world!r}; there are {', '.join(sorted(WORLDS))}")
        for name, least in (("users", 2), ("batch", 2), ("pilot", _FEWEST), ("most", 2)):
            if (number := getattr(self, name)) is not None and number < least:
                raise ValueError(f"{name} is {number}, expected at least {least}")
        if not 0 < 1 - self.level < self.power < 1:
            raise ValueError(f"power is {self.power}, level {self.level}: expected (1 - level, 1) and (0, 1)")
        if self.difference is not None and not 0 < self.difference < np.inf:
            raise ValueError(f"difference is {self.difference}, expected a positive number")

    def __call__(self) -> None:
        """Run the stage."""
        print(f"A/B test in {self.world}: {self.treatment} against {self.control}, {self.design} design", flush=True)
        result = self.run()
        print(result.describe())
        if self.out is not None:
            result.save(self.out)

    def run(self) -> Result:
        """Plan, simulate and decide.

        Raises:
            ValueError: A policy is unknown or does not fit the world, the world has no session before the test, the
                test would be too large, or no reward varies.
        """
        users = make_world(self.world, **world_settings(self.world, self.path, self.history))
        if self.cuped:
            require_luck(users, self.world)
        place = Place(users, WORLDS[self.world].session_config())
        players = {
            stream: place.player(name) for stream, name in ((_CONTROL, self.control), (_TREATMENT, self.treatment))
        }
        planned = self.users or self._planned(place, players[_CONTROL])
        seen: list[Look] = []
        with tqdm(total=2 * planned, unit="user", leave=False) as bar:

            def draw(number: int, size: int) -> Outcomes:
                rewards, before = [], []
                for stream, player in players.items():
                    seed = _seed(self.seed, stream, number)
                    rewards.append(place.rewards(player, size, seed))
                    before.append(place.rewards_before(players[_CONTROL], size, seed) if self.cuped else None)
                    bar.update(size)
                return Outcomes(*rewards, *before)

            for each in looks(draw, design=self.design, planned=planned, batch=self.batch, level=self.level):
                seen.append(each)
                if self.design == "sequential":
                    bar.write(f"  {each.users.control:>7,} users an arm  {_signed(each.difference)}")
        return Result(
            world=self.world, control=self.control, treatment=self.treatment, design=self.design, cuped=self.cuped,
            seed=self.seed, planned=planned, looks=tuple(seen), decision=seen[-1].decision,
            words=in_words(seen[-1], design=self.design, power=self.power, level=self.level),
        )  # fmt: skip

    def _planned(self, place: Place, control: Player) -> int:
        """Users of each arm that the power asks for, from a pilot of the control policy."""
        seed, who = _seed(self.seed, _PILOT, 0), np.arange(self.pilot)
        rewards = place.rewards(control, self.pilot, seed)
        if np.ptp(rewards) == 0:
            raise ValueError(
                f"{self.control!r} earns {rewards[0]:g} with every user of the pilot: say how many --users"
            )
        correlation = 0.0
        if self.cuped:
            correlation = user_correlation(rewards, place.rewards_before(control, self.pilot, seed), who)
        difference = self.difference or abs(float(rewards.mean())) / 20
        needed = users_per_arm(
            difference, variance=user_variance(rewards, who), design=self.design, correlation=correlation,
            power=self.power, level=self.level,
        )  # fmt: skip
        planned = max(needed, _FEWEST if self.design == "fixed" else self.batch)
        if planned > self.most:
            raise ValueError(
                f"to settle a difference of {difference:.3g} takes {planned:,} users an arm, more than {self.most:,}: "
                "settle a larger --difference, or raise --most"
            )
        print(
            f"pilot of {self.pilot} users: {rewards.mean():.4g} each; for a difference of {difference:.3g}"
            f"{f', correlation {correlation:.2f},' if self.cuped else ''} {planned:,} users an arm",
            flush=True,
        )
        return planned


@dataclass(frozen=True, kw_only=True)
class Result:
    """What the test found."""

    world: str
    control: str
    treatment: str
    design: Design
    cuped: bool
    seed: int
    planned: int
    """Users of each arm at which it would have ended."""
    looks: tuple[Look, ...]
    """Every look, the last of which decided or left it undecided."""
    decision: Statement
    """What the treatment is."""
    words: str
    """The same, and if undecided what would decide."""

    @property
    def difference(self) -> Interval:
        """Treatment minus control in reward of a session."""
        return self.looks[-1].difference

    @property
    def users(self) -> Arms:
        """Users that it took."""
        return self.looks[-1].users

    def describe(self) -> str:
        """A short table."""
        last = self.looks[-1]
        rows = [("arm", "users", "reward", "policy")]
        for name, policy in (("control", self.control), ("treatment", self.treatment)):
            rows.append((name, f"{getattr(last.users, name):,}", f"{getattr(last, name):.4g}", policy))
        lines = [f"  {name:<10} {users:>9} {reward:>9}  {policy}" for name, users, reward, policy in rows]
        lines.append(f"difference {_signed(last.difference)}  ({last.difference.level:.0%}, {last.difference.method})")
        if self.cuped:
            spared = last.correlation**2
            lines.append(f"CUPED: correlation {last.correlation:.2f}, {spared:.0%} of the variance is gone")
        return "\n".join([*lines, f"{self.words} (look {len(self.looks)}, planned {self.planned:,} users an arm)"])

    def save(self, file: Path) -> None:
        """Write JSON."""
        write_json(file, {"format": FORMAT, "version": VERSION, **asdict(self)})

    @classmethod
    def read(cls, file: Path) -> Result:
        """Read what `save` wrote.

        Raises:
            FormatError: the file is missing, foreign or of another version.
        """
        found = read_json(file, format=FORMAT, version=VERSION)
        seen = tuple(
            Look(**{**each, "users": Arms(**each["users"]), "difference": Interval(**each["difference"])})
            for each in found["looks"]
        )
        return cls(**{name: found[name] for name in cls.__dataclass_fields__ if name != "looks"}, looks=seen)


def _seed(seed: int, *streams: int) -> int:
    key = session_keys(seed, 1)
    for stream in streams:
        key = fold(key, stream)
    return int(key)


def _signed(difference: Interval) -> str:
    return f"{difference.value:+.4g} [{difference.low:+.4g}, {difference.high:+.4g}]"
