"""The network of `agents.decision_transformer`, and the policy that conditions it on a return."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from agents.choice import greedy_probabilities, sample_items, softmax_probabilities, top_items
from agents.layout import Layout
from recgym.env.session import CONTEXT_STEPS
from recgym.gathering import rows_at
from recgym.types import Observation, Reads


class ReturnTransformer(nn.Module):
    """Scores (B, N) of an observation and the reward still to come."""

    def __init__(
        self,
        layout: Layout,
        reward: tuple[float, ...],
        item_vectors: Tensor | None,
        item_bias: Tensor | None,
        *,
        width: int,
        layers: int,
        heads: int,
        dropout: float,
    ) -> None:
        """Build it; its weights are drawn from torch's generator.

        Args:
            layout: of the rows, with a history.
            reward: weight of each kind of feedback, (F,).
            item_vectors: (N, D) of the backbone whose states it reads, or None: learned from nothing.
            item_bias: (N,) of the backbone.
            width: units of a token.
            layers: blocks.
            heads: of the attention.
            dropout: share of units left out in training.
        """
        super().__init__()
        self.layout, self.reward, self.from_backbone = layout, reward, item_vectors is not None
        self.sizes = {"width": width, "layers": layers, "heads": heads, "dropout": dropout}
        if item_vectors is None:
            item_vectors, item_bias = torch.randn(layout.num_items, width) / width**0.5, torch.zeros(layout.num_items)
        assert item_bias is not None
        self.items = nn.Parameter(item_vectors.detach().clone())  # (N, E)
        self.bias = nn.Parameter(item_bias.detach().clone())  # (N,)
        self.weights: Tensor
        self.register_buffer("weights", torch.tensor(reward), persistent=False)
        self.scale: Tensor
        self.register_buffer("scale", torch.tensor(1.0))
        self.of_item = nn.Linear(item_vectors.shape[1], width)
        self.of_feedback = nn.Linear(layout.num_feedback, width, bias=False)
        self.of_return = nn.Linear(2, width, bias=False)
        self.of_state = nn.Linear(layout.state_width + 1, width)
        self.position = nn.Parameter(0.02 * torch.randn(layout.history + 1, width))
        self.blocks = nn.ModuleList(_Block(width, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, item_vectors.shape[1])
        if self.from_backbone:
            nn.init.zeros_(self.out.weight)
            nn.init.zeros_(self.out.bias)
            self.query = nn.Linear(layout.state_width, layout.state_width, bias=False)
            nn.init.eye_(self.query.weight)

    def earned(self, observation: Observation, per_step: int = 1) -> Tensor:
        """Reward of each item of the history that this session showed, (B, L); 0 for the others."""
        feedback = self._history(observation)[1]
        return (feedback @ self.weights) * self._own(observation, per_step)

    def forward(self, observation: Observation, to_go: Tensor, per_step: int = 1) -> Tensor:
        """Scores (B, N).

        Args:
            observation: of B sessions, with state and history.
            to_go: (B,) reward still to come.
            per_step: items that a step of the session shows.
        """
        items, feedback = self._history(observation)
        state = observation.state
        if state is None:
            raise ValueError("the observation has no state; ask the environment for observation='all'")
        own = self._own(observation, per_step)  # (B, L)
        rewards = self.earned(observation, per_step)
        before = to_go.unsqueeze(1) + rewards.flip(1).cumsum(1).flip(1)  # (B, L) reward from each item on
        returns = torch.stack([own * before / self.scale, own], 2)
        now = torch.stack([to_go / self.scale, torch.ones_like(to_go)], 1)  # (B, 2)
        tokens = self.of_item(rows_at(self.items, (items - 1).clamp_min(0))) + self.of_return(returns)
        tokens = tokens + self.of_feedback(feedback.sign() * feedback.abs().log1p())
        last = self.of_state(torch.cat([state, observation.context], 1)) + self.of_return(now)
        tokens = torch.cat([tokens, last.unsqueeze(1)], 1) + self.position  # (B, L + 1, width)
        there = nn.functional.pad(items > 0, (0, 1), value=True)  # (B, L + 1)
        length = there.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=items.device).tril()
        mask = (causal & there.unsqueeze(1)) | torch.eye(length, dtype=torch.bool, device=items.device)
        for block in self.blocks:
            tokens = block(tokens, mask.unsqueeze(1))
        query = self.out(self.norm(tokens[:, -1]))
        if self.from_backbone:
            query = query + self.query(state)
        scores: Tensor = query @ self.items.T + self.bias
        return scores

    def _history(self, observation: Observation) -> tuple[Tensor, Tensor]:
        """The last L items (B, L) and their feedback (B, L, F), padded on the left."""
        items, feedback = observation.items, observation.feedback
        if items is None or feedback is None:
            raise ValueError("the observation has no history; ask the environment for observation='all'")
        items, feedback = items[:, -self.layout.history :], feedback[:, -self.layout.history :]
        missing = self.layout.history - items.shape[1]
        return nn.functional.pad(items, (missing, 0)), nn.functional.pad(feedback, (0, 0, missing, 0))

    def _own(self, observation: Observation, per_step: int) -> Tensor:
        """1 for items of the history that this session showed, (B, L), else 0."""
        count = (observation.context * CONTEXT_STEPS * per_step).round()  # (B, 1)
        age = torch.arange(self.layout.history, 0, -1, device=count.device)
        return ((age <= count) & (self._history(observation)[0] > 0)).to(count.dtype)

    def config(self) -> dict[str, Any]:
        """Arguments of `restore` besides the tensors."""
        layout = dataclasses.asdict(self.layout)
        return {"layout": layout, "reward": list(self.reward), "from_backbone": self.from_backbone, **self.sizes}

    @classmethod
    def restore(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> ReturnTransformer:
        """The network whose `config` and `state_dict` these are, ready to act."""
        sizes = {name: config[name] for name in ("width", "layers", "heads", "dropout")}
        given = (tensors["items"], tensors["bias"]) if config["from_backbone"] else (None, None)
        network = cls(Layout(**config["layout"]), tuple(config["reward"]), *given, **sizes)
        network.load_state_dict(tensors)
        return network.eval()


class _Block(nn.Module):
    """Attention and MLP, each behind a norm and added."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mixed, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.drop = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Tokens (B, T, width), mask (B, 1, T, T) True where a row may look."""
        batch, length, width = tokens.shape
        parts = self.mixed(self.first(tokens)).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)  # (B, heads, T, width / heads) each
        seen = scaled_dot_product_attention(query, key, value, attn_mask=mask)
        tokens = tokens + self.drop(self.out(seen.transpose(1, 2).reshape(batch, length, width)))
        found: Tensor = tokens + self.drop(self.down(gelu(self.up(self.second(tokens)))))
        return found


@dataclass(frozen=True, kw_only=True, eq=False)
class ReturnPolicy:
    """Chooses what the log chose where the reward still to come was what is missing to `target_return`."""

    network: ReturnTransformer
    target_return: float
    """Reward of a whole session that it aims at."""
    choice: Literal["greedy", "softmax"] = "softmax"
    slate_size: int = 1
    name: str = "decision-transformer"

    reads: Reads = dataclasses.field(default="all", init=False)

    def __post_init__(self) -> None:
        """Check the fields."""
        if self.choice not in ("greedy", "softmax"):
            raise ValueError(f"choice is {self.choice!r}, expected 'greedy' or 'softmax'")
        if not 1 <= self.slate_size <= self.num_items:
            raise ValueError(f"slate_size is {self.slate_size}, expected 1 to {self.num_items} items")

    @property
    def sizes(self) -> dict[str, int]:
        """What it reads; see `recgym.policy.check_fits`."""
        return self.network.layout.sizes

    @property
    def num_items(self) -> int:
        """Size of the catalogue, N."""
        return self.network.layout.num_items

    def scores(self, observation: Observation) -> Tensor:
        """Scores of every item, (B, N), given what is missing to the target."""
        with torch.no_grad():
            to_go = self.target_return - self.network.earned(observation, self.slate_size).sum(1)
            scores: Tensor = self.network(observation, to_go, self.slate_size)
        return scores

    def probabilities(self, observation: Observation) -> Tensor:
        """Chance of each item at slot 0, (B, N)."""
        chances = greedy_probabilities if self.choice == "greedy" else softmax_probabilities
        return chances(self.scores(observation), observation.mask)

    def act(self, observation: Observation, keys: Tensor) -> Tensor:
        """A slate, (B, K) item ids; `keys` (B,)."""
        scores = self.scores(observation)
        if self.choice == "greedy":
            return top_items(scores, observation.mask, self.slate_size)
        return sample_items(scores, observation.mask, self.slate_size, keys)

    def config(self) -> dict[str, Any]:
        """Everything but the tensors."""
        fields = {name: getattr(self, name) for name in ("target_return", "choice", "slate_size")}
        return {**fields, "network": self.network.config()}

    def tensors(self) -> dict[str, Tensor]:
        """The network's weights."""
        return dict(self.network.state_dict())

    @classmethod
    def restore(cls, config: Mapping[str, Any], tensors: dict[str, Tensor]) -> ReturnPolicy:
        """The policy whose `config` and `tensors` these are."""
        rest = {name: value for name, value in config.items() if name != "network"}
        return cls(network=ReturnTransformer.restore(config["network"], tensors), **rest)
