"""Settings of KuaiSim's three levels, as published and repaired; `simulators.patience` says what they mean."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from simulators.responses import BEHAVIOURS, ResponseConfig

_NOTHING = (0.0,) * len(BEHAVIOURS)


@dataclass(frozen=True, kw_only=True)
class KuaiSimConfig(ResponseConfig):
    """Responses, temper and return; the defaults are the repaired whole session."""

    _UNBOUNDED: ClassVar[tuple[str, ...]] = ("temper", "most")
    temper: float = 20.0
    """Temper at the start of a session, T0; infinite: nobody leaves."""
    temper_weights: tuple[float, ...] = (-1.0, 2.0, 2.0, 2.0, 2.0, 2.0, -10.0)
    """Temper that a behaviour of all items of a slate spares, w."""
    cost: float = 1.5
    """Temper that a slate costs, before w."""
    least: float = 0.5
    """Least temper that a slate costs."""
    most: float = 3.0
    """Most temper that a slate costs."""
    returns: Literal["none", "last slate", "whole session"] = "none"
    """What the days until the return depend on; "none": they are not modelled."""
    return_weights: tuple[float, ...] = _NOTHING
    """Part of each behaviour in r, v."""
    return_bias: float = 0.4
    """Chance that an average user without feedback returns after one day."""
    return_influence: float = 0.1
    """What one unit of r adds to p, or to its log-odds, k."""
    personal_spread: float = 0.0
    """Standard deviation over users of the personal part of p, or of its log-odds."""
    num_sessions: int = 1
    """Sessions that a user comes for."""
    profile_noise: float = 0.5
    """Length of the noise in the profile that the platform sees, beside the true unit vector's 1."""
    length: int = 0
    """Items that the visible history keeps, L."""

    def __post_init__(self) -> None:
        """Refuse what makes no patience."""
        super().__post_init__()
        name = type(self).__name__
        if not self.temper >= 1:
            raise ValueError(f"{name}.temper is {self.temper}, expected at least 1: users leave below it")
        if not self.cost >= 0:
            raise ValueError(f"{name}.cost is {self.cost}, expected at least 0")
        if not 0 <= self.least <= self.most:
            raise ValueError(f"{name}.least is {self.least} and most {self.most}, expected 0 <= least <= most")
        if self.returns not in ("none", "last slate", "whole session"):
            raise ValueError(f"{name}.returns is {self.returns!r}, expected 'none', 'last slate' or 'whole session'")
        if not 0 < self.return_bias < 1:
            raise ValueError(f"{name}.return_bias is {self.return_bias}, expected a chance between 0 and 1")
        if self.num_sessions < 1:
            raise ValueError(f"{name}.num_sessions is {self.num_sessions}, expected at least 1")
        for field in ("personal_spread", "profile_noise", "length"):
            if not getattr(self, field) >= 0:
                raise ValueError(f"{name}.{field} is {getattr(self, field)}, expected at least 0")


_CLICKS = (1.0, *_NOTHING[1:])
_RATIOS = (0.61, 0.33, 0.015, 0.003, 0.001, 0.0015, -0.0003)
"""Positives over negatives of each behaviour at the default rates, hate counted against: the published r."""
_WORTH = (-1.0, 3.0, 3.0, 3.0, 3.0, 3.0, -10.0)
_SHIPPED_RHO = 0.2 / 64
SETTINGS = {
    "kuaisim-request": KuaiSimConfig(temper=math.inf, squash="double", rates=None, rho=_SHIPPED_RHO),
    "kuaisim-request-calibrated": KuaiSimConfig(temper=math.inf),
    "kuaisim-session": KuaiSimConfig(
        squash="double", rates=None, rho=_SHIPPED_RHO, temper_weights=_CLICKS, cost=2.0, least=0.0, most=2.0
    ),
    "kuaisim-session-repaired": KuaiSimConfig(),
    "kuaisim-return": KuaiSimConfig(
        rates=None, rho=0.0, temper=5.0, temper_weights=_NOTHING, cost=1.0, least=1.0, most=1.0, num_sessions=6,
        returns="last slate", return_weights=_RATIOS, personal_spread=0.58,
    ),
    "kuaisim-return-repaired": KuaiSimConfig(
        temper=5.0, temper_weights=_NOTHING, cost=1.0, least=1.0, most=1.0, num_sessions=6,
        returns="whole session", return_weights=_WORTH, return_bias=0.2, return_influence=1.0, personal_spread=0.3,
    ),
}  # fmt: skip
"""The three levels as published (the return with one sigmoid without calibration, as shipped), and repaired."""
