"""The scorecard: what `evaluate` found for every policy, as JSON that reads back and as one CSV line a policy.

Rewards are per session unless a name says otherwise; rates are per step; intervals stand at `Scorecard.level`. A number
that could not be computed is nan in Python, null in JSON and empty in CSV: never 0.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from experiments.runs import plain
from recgym.files import FormatError, read_json, write_bytes, write_json

FORMAT, VERSION = "recgym-scorecard", 1
Family = Literal["trivial", "trained", "oracle"]
Curve = tuple[dict[str, float], ...]
"""One seed's learning curve: {"step": decisions seen, "session_reward": mean over evaluation sessions} a point."""
_NUMBERS = ("reward", "discounted", "depth", "difference", "ranking_difference", "truth", "truth_difference")
_MAPPED = ("rates", "against", "ranking", "sampled")


@dataclass(frozen=True, kw_only=True)
class Number:
    """A value and its interval."""

    value: float
    """Point estimate; nan: it could not be computed."""
    low: float | None = None
    """Lower end of the interval at the scorecard's level; None: no interval was computed."""
    high: float | None = None
    """Upper end."""

    @property
    def known(self) -> bool:
        """Whether there is a value at all."""
        return math.isfinite(self.value)

    @property
    def interval(self) -> tuple[float, float] | None:
        """Both ends where both are finite, else None."""
        if self.low is None or self.high is None or not (math.isfinite(self.low) and math.isfinite(self.high)):
            return None
        return self.low, self.high


@dataclass(frozen=True, kw_only=True)
class Row:
    """One policy."""

    policy: str
    """Its registered name."""
    family: Family
    """"trivial": no training by reward; "trained": reinforcement learning; "oracle": reads what no platform can see."""
    seeds: int = 1
    """Training seeds that the intervals cover."""
    reward: Number
    """Undiscounted reward of a session."""
    discounted: Number
    """Discounted reward of a session."""
    depth: Number
    """Steps until the user left."""
    rates: Mapping[str, Number] = field(default_factory=dict)
    """Feedback per step, by kind."""
    difference: Number | None = None
    """Session reward minus the reference's, on the same users with the same luck; None for the reference itself."""
    against: Mapping[str, Number] = field(default_factory=dict)
    """The same against each trivial policy, by its name. Where empty, the verdict falls back on `difference`."""
    ranking: Mapping[str, Number] = field(default_factory=dict)
    """"hr@5", "ndcg@10", ... against all items, on held-out logs."""
    sampled: Mapping[str, Number] = field(default_factory=dict)
    """The same names against 100 sampled negatives: for published tables only."""
    ranking_difference: Number | None = None
    """NDCG@10 minus the reference's, paired over users."""
    coverage: float = math.nan
    """Share of the catalogue that was shown at least once."""
    gini: float = math.nan
    """Inequality of exposure over items: 0 equal, 1 one item only."""
    novelty: float = math.nan
    """Mean -log2 of the shown items' popularity, bits."""
    diversity: float | None = None
    """Mean dissimilarity within a session; None where items have no vectors or categories."""
    popularity: float = math.nan
    """Mean popularity percentile of the shown items, 0 to 1."""
    latency_ms: Mapping[str, float] = field(default_factory=dict)
    """"p50", "p99" of one decision for one user on one core, milliseconds."""
    truth: Number | None = None
    """Session reward of the same policy in the world that made the log; None where that world is not known."""
    truth_difference: Number | None = None
    """The same, minus the reference's, paired."""
    ope: tuple[dict[str, Any], ...] = ()
    """`recgym.types.Estimate` of the session's value from logs alone, one a method, as dicts."""
    ope_per_step: tuple[dict[str, Any], ...] = ()
    """The same for the reward of one step."""
    doubt: float | None = None
    """Ensemble's disagreement (standard deviation) a unit of simulated reward; None where there is no ensemble."""
    lengths: tuple[int, ...] = ()
    """Simulated sessions that ended after 1, 2, ..., max_steps steps."""
    curves: tuple[Curve, ...] = ()
    """One learning curve a seed."""

    def __post_init__(self) -> None:
        """Refuse a family that the report could not place."""
        if self.family not in get_args(Family):
            raise ValueError(f"Row.family of {self.policy!r} is {self.family!r}, expected one of {get_args(Family)}")


@dataclass(frozen=True, kw_only=True)
class Scorecard:
    """Every policy on the same users."""

    level: float = 0.95
    """Nominal coverage of every interval."""
    reference: str
    """Policy that differences are against: today's ranker."""
    reward: Mapping[str, float]
    """Reward weight of each kind of feedback."""
    discount: float
    """Per step, of `Row.discounted`."""
    max_steps: int
    """Longest simulated session, steps."""
    slate_size: int = 1
    """Items shown a step."""
    sessions: int
    """Simulated sessions a policy (and seed)."""
    seeds: tuple[int, ...] = ()
    """Training seeds."""
    dataset: dict[str, Any] = field(default_factory=dict)
    """name, users, items, steps, sessions, kinds, exposures, fingerprint, splits {part: steps}, repairs [...]."""
    logged: Number | None = None
    """Mean reward of the logged sessions of the test part, for scale; None where rewards were not logged."""
    logged_high: float | None = None
    """Reward that one in a hundred logged test sessions exceeds."""
    fidelity: dict[str, Any] | None = None
    """What `recgym.users.fidelity` found about the simulated users."""
    shown: tuple[dict[str, Any], ...] = ()
    """Simulated sessions: {policy, steps: [{item, title, category, feedback {kind: value}, reward, left}]}."""
    notes: tuple[str, ...] = ()
    """Caveats that the report must print."""
    rows: tuple[Row, ...]
    """One a policy."""

    def __post_init__(self) -> None:
        """Refuse doubled rows and a level that is no probability."""
        names = [row.policy for row in self.rows]
        if len(set(names)) != len(names):
            raise ValueError(f"Scorecard.rows names a policy twice: {names}; give each policy one row")
        if not 0 < self.level < 1:
            raise ValueError(f"Scorecard.level is {self.level}, expected a probability between 0 and 1, such as 0.95")

    def row(self, policy: str) -> Row | None:
        """The row of `policy`, or None."""
        return next((row for row in self.rows if row.policy == policy), None)

    def family(self, family: Family) -> tuple[Row, ...]:
        """Rows of one family, in order."""
        return tuple(row for row in self.rows if row.family == family)


def write_scorecard(card: Scorecard, run_folder: Path) -> Path:
    """Write `scorecard.json` and `scorecard.csv` into `run_folder`; return the path of the first."""
    path = run_folder / "scorecard.json"
    write_json(path, {"format": FORMAT, "version": VERSION, **_finite(plain(card))})
    write_bytes(run_folder / "scorecard.csv", to_csv(card).encode())
    return path


def read_scorecard(path: Path) -> Scorecard:
    """Read what `write_scorecard` wrote.

    Raises:
        FormatError: naming the file and the field that is missing, unknown or of the wrong type.
    """
    data = read_json(path, format=FORMAT, version=VERSION)
    try:
        values = {name: value for name, value in data.items() if name not in ("format", "version")}
        values["rows"] = tuple(_row(row) for row in values["rows"])
        values["logged"] = _number(values.get("logged"))
        for name in ("seeds", "shown", "notes"):
            values[name] = tuple(values.get(name) or ())
        return Scorecard(**values)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FormatError(f"{path}: not a scorecard that this recgym wrote ({error}); run evaluate again") from error


def to_csv(card: Scorecard) -> str:
    """One line a policy: value, value_low, value_high columns, empty where nothing is known."""
    lines = [_flat(row) for row in card.rows]
    columns = list(dict.fromkeys(name for line in lines for name in line))
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return out.getvalue()


def _flat(row: Row) -> dict[str, Any]:
    line: dict[str, Any] = {"policy": row.policy, "family": row.family, "seeds": row.seeds}
    numbers = {name: getattr(row, name) for name in _NUMBERS}
    for prefix, values in (
        ("rate_", row.rates),
        ("against_", row.against),
        ("", row.ranking),
        ("sampled_", row.sampled),
    ):
        numbers |= {prefix + name: number for name, number in values.items()}
    for name, number in numbers.items():
        ends = (None, None, None) if number is None else (number.value, number.low, number.high)
        line |= dict(zip((name, f"{name}_low", f"{name}_high"), ends, strict=True))
    line |= {name: getattr(row, name) for name in ("coverage", "gini", "novelty", "diversity", "popularity", "doubt")}
    line |= {f"latency_{name}_ms": value for name, value in row.latency_ms.items()}
    for prefix, estimates in (("ope", row.ope), ("ope_per_step", row.ope_per_step)):
        for estimate in estimates:
            name = f"{prefix}_{estimate['estimator']}"
            line |= {name: estimate["value"], f"{name}_low": estimate["low"], f"{name}_high": estimate["high"]}
            line[f"{name}_verdict"] = estimate.get("verdict", "")
    return {name: "" if _finite(value) is None else value for name, value in line.items()}


def _finite(data: Any) -> Any:
    """`data` with numbers as JSON has them: nan and inf become None, numpy scalars become Python's."""
    if isinstance(data, dict):
        return {str(name): _finite(value) for name, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    if not isinstance(data, str | bool | int | float) and hasattr(data, "tolist"):
        return _finite(data.tolist())
    return None if isinstance(data, float) and not math.isfinite(data) else data


def _number(data: dict[str, Any] | None) -> Number | None:
    if data is None:
        return None
    return Number(value=_float(data["value"]), low=data["low"], high=data["high"])


def _float(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _row(data: dict[str, Any]) -> Row:
    values = dict(data)
    for name in _NUMBERS:
        values[name] = _number(values.get(name))
    for name in ("reward", "discounted", "depth"):
        if values[name] is None:
            raise ValueError(f"row {values.get('policy')!r} has no field {name!r}")
    for name in _MAPPED:
        values[name] = {key: _number(number) for key, number in (values.get(name) or {}).items()}
    for name in ("coverage", "gini", "novelty", "popularity"):
        values[name] = _float(values.get(name))
    values["latency_ms"] = {name: _float(value) for name, value in (values.get("latency_ms") or {}).items()}
    values["curves"] = tuple(tuple(curve) for curve in values.get("curves") or ())
    for name in ("ope", "ope_per_step", "lengths"):
        values[name] = tuple(values.get(name) or ())
    return Row(**values)
