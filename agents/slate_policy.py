"""The policy that SlateQ ends as: item values, a choice model, and a rule that makes slates of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from agents.choice import greedy_probabilities, top_items
from agents.layout import Layout
from agents.networks import Critic, ItemScorer
from agents.slates import SELECTIONS, Items, Selection, slate_scores
from recgym.types import Observation, Reads


def read_items(taken: ItemScorer, nothing: Critic, choice: ItemScorer, observation: Observation) -> Items:
    """What the networks of values and choice say of B sessions, without gradients."""
    with torch.no_grad():
        return Items(choice(observation), taken(observation), nothing(observation))


@dataclass(frozen=True, kw_only=True, eq=False)
class SlatePolicy:
    """Shows the slate of the highest value under the choice model; see `agents.slates`.

    Values may be in any unit: a common factor leaves every slate as it is.
    """

    taken: ItemScorer
    """Values of taking each item."""
    nothing: Critic
    """Value of taking nothing."""
    choice: ItemScorer
    """Logits of taking an item against taking nothing."""
    slate_size: int = 1
    selection: Selection = "exact"
    name: str = "slateq"
    """Registered name of the agent that trained it."""

    def __post_init__(self) -> None:
        """Check the fields."""
        if self.selection not in SELECTIONS:
            raise ValueError(f"selection is {self.selection!r}, expected one of {', '.join(SELECTIONS)}")
        if not 1 <= self.slate_size <= self.num_items:
            raise ValueError(f"slate_size is {self.slate_size}, expected 1 to {self.num_items} items")

    @property
    def reads(self) -> Reads:
        """State, or everything where the networks read the history too."""
        return self.taken.layout.reads

    @property
    def sizes(self) -> dict[str, int]:
        """What it reads; see `recgym.policy.check_fits`."""
        return self.taken.layout.sizes

    @property
    def num_items(self) -> int:
        """Size of the catalogue, N."""
        return self.taken.num_items

    def scores(self, observation: Observation) -> Tensor:
        """Scores of every item, (B, N): the largest make the slate that would be shown if nothing were forbidden."""
        return self._scores(observation, None)

    def probabilities(self, observation: Observation) -> Tensor:
        """One at the first item of the slate, (B, N)."""
        return greedy_probabilities(self._scores(observation, observation.mask), observation.mask)

    def act(self, observation: Observation, keys: Tensor) -> Tensor:  # noqa: ARG002 (nothing is drawn)
        """A slate, (B, K) item ids."""
        return top_items(self._scores(observation, observation.mask), observation.mask, self.slate_size)

    def _scores(self, observation: Observation, mask: Tensor | None) -> Tensor:
        items = read_items(self.taken, self.nothing, self.choice, observation)
        return slate_scores(items, mask, self.slate_size, self.selection)

    def config(self) -> dict[str, Any]:
        """Everything but the tensors."""
        nothing = {"layout": dataclasses.asdict(self.nothing.layout), "hidden": self.nothing.hidden}
        return {
            "name": self.name,
            "slate_size": self.slate_size,
            "selection": self.selection,
            "taken": self.taken.config(),
            "nothing": nothing,
            "choice": self.choice.config(),
        }

    def tensors(self) -> dict[str, Tensor]:
        """The weights of the three networks."""
        parts = {"taken": self.taken, "nothing": self.nothing, "choice": self.choice}
        return {f"{part}.{name}": each for part, net in parts.items() for name, each in net.state_dict().items()}

    @classmethod
    def restore(cls, config: Mapping[str, Any], tensors: dict[str, Tensor]) -> Self:
        """The policy whose `config` and `tensors` these are."""

        def of(part: str) -> dict[str, Tensor]:
            return {name.removeprefix(part + "."): each for name, each in tensors.items() if name.startswith(part)}

        rest = {name: value for name, value in config.items() if name not in ("taken", "nothing", "choice")}
        nothing = Critic(Layout(**config["nothing"]["layout"]), hidden=config["nothing"]["hidden"])
        nothing.load_state_dict(of("nothing"))
        taken, choice = (ItemScorer.restore(config[part], of(part)) for part in ("taken", "choice"))
        return cls(taken=taken, nothing=nothing, choice=choice, **rest)
