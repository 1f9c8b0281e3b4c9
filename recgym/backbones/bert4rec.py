"""BERT4Rec: bidirectional attention that fills in hidden items; the next item is one hidden after the history.

Steps are hidden behind one learned vector, with their feedback, and the states that stand there predict them from both
sides. Positions are learned and count from the end, so that the next item always has the same one.

Source: Sun et al. (2019), "BERT4Rec: sequential recommendation with bidirectional encoder representations from
transformer", section 3, with the layers and the data preparation of the authors' code; Petrov and Macdonald (2022), "A
systematic review and replicability study of BERT4Rec": it needs far more epochs than causal models do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from recgym.backbones.backbone import BackboneConfig, ItemTable
from recgym.backbones.ragged import Plan, Ragged, attend, pack, pasts, places, plan, unpack
from recgym.types import FloatArray

_AT_ONCE = 1 << 16
"""Steps encoded at once by `packed`, which reads every history once for each of its steps."""


@dataclass(frozen=True, kw_only=True)
class BERT4RecConfig(BackboneConfig):
    """How wide, and what is hidden in training."""

    model: str = "bert4rec"
    """The name."""
    expansion: int = 4
    """Width of the feed-forward layer, in widths of the state."""
    mask_share: float = 0.6
    """Share of the steps hidden in training, rho; the paper took 0.6 on Beauty, 0.4 on Steam, 0.2 on MovieLens."""
    last_share: float = 1 / 11
    """Share of windows that hide their last step alone, as serving does; in the authors' data one copy of eleven."""

    def __post_init__(self) -> None:
        """Check the fields."""
        super().__post_init__()
        self._at_least(1, "expansion")
        for name in ("mask_share", "last_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected a share in [0, 1]")


class BERT4RecCache(NamedTuple):
    """The last L steps of B histories; a further one changes what all of them attend to, so no more can be kept."""

    state: Tensor  # (B, D)
    items: Tensor  # (B, L), padding on the left
    feedback: Tensor  # (B, L, F)


class PostNorm(nn.Module):
    """h = norm(h + A(h)), then norm(h + F(h)), over the whole history."""

    def __init__(self, config: BERT4RecConfig) -> None:
        super().__init__()
        width, inner, self.heads = config.width, config.expansion * config.width, config.heads
        self.project, self.join = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, width))
        self.after_attention, self.after_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, hidden: Tensor, layout: Plan) -> Tensor:
        """(P, D) -> (P, D)."""
        query, key, value = self.project(hidden).unflatten(-1, (3, self.heads, -1)).unbind(1)
        dropped = self.dropout.p if self.training else 0.0
        attended = attend(query, key, value, layout, window=None, dropout=dropped).flatten(1)
        hidden = self.after_attention(hidden + self.dropout(self.join(attended)))
        finished: Tensor = self.after_mlp(hidden + self.dropout(self.mlp(hidden)))
        return finished


class BERT4Rec(nn.Module):
    """Bidirectional backbone: `advance` costs a pass over the last L steps, `states` such a pass for every step."""

    Config: ClassVar[type[BackboneConfig]] = BERT4RecConfig

    def __init__(self, config: BackboneConfig, num_items: int, feedback_scale: FloatArray) -> None:
        """Fresh weights from torch's generator; `feedback_scale` (F,)."""
        super().__init__()
        self.config, self.num_items, self.num_feedback = config, num_items, len(feedback_scale)
        assert isinstance(config, BERT4RecConfig)
        self.mask_share, self.last_share, width = config.mask_share, config.last_share, config.width
        self.table = ItemTable(num_items, width, feedback_scale)
        self.mask = nn.Parameter(width**-0.5 * torch.randn(width))
        self.position = nn.Embedding(config.length + 1, width)  # from the end: 0 is where serving puts the mask
        nn.init.normal_(self.position.weight, std=width**-0.5)
        self.norm, self.dropout = nn.LayerNorm(width), nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(PostNorm(config) for _ in range(config.layers))
        self.head = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width))

    @property
    def width(self) -> int:
        """Units of the state, D."""
        return self.config.width

    def training_pairs(self, window: Ragged, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """States (Q, D) at the hidden steps of windows of at most L + 1, and the items (Q,) there; see `draw`.

        Windows are cut after their last wanted step, which is then hidden where serving hides the next one.
        """
        row = torch.repeat_interleave(torch.arange(len(window.sizes)), window.sizes).to(wanted.device)
        place = places(window.sizes).to(wanted.device)
        sizes = row.new_zeros(len(window.sizes)).scatter_reduce(0, row, (place + 1) * wanted, "amax")
        kept = place < sizes[row]
        window = Ragged(window.items[kept], window.feedback[kept], sizes.cpu())
        hidden = self.draw(window.sizes, wanted[kept])
        return self._filled(window, hidden), window.items[hidden]

    def draw(self, sizes: Tensor, wanted: Tensor) -> Tensor:
        """Steps to hide, (P,) bool, from torch's generator: each `wanted` (P,) one with chance `mask_share`.

        Windows hide their last wanted step alone with chance `last_share`, and where none was drawn.
        """
        row = torch.repeat_interleave(torch.arange(len(sizes)), sizes).to(wanted.device)[wanted]  # of each wanted step
        drawn = torch.rand(len(row), device=row.device) < self.mask_share
        none = torch.bincount(row[drawn], minlength=len(sizes)) == 0
        alone = none | (torch.rand(len(sizes), device=row.device) < self.last_share)
        last = torch.diff(row, append=row.new_tensor([-1])) != 0
        return torch.zeros_like(wanted).masked_scatter(wanted, torch.where(alone[row], last, drawn))

    def packed(self, history: Ragged) -> Tensor:
        """State after each step, (P, D): of the next item hidden after it."""
        steps, there = pasts(history.sizes, self.config.length, history.items.device)
        rows = max(1, _AT_ONCE // (self.config.length + 1))
        return torch.cat([
            self._next(history.items[at] * real, history.feedback[at] * real.unsqueeze(2))
            for at, real in zip(steps.split(rows), there.split(rows), strict=True)
        ])  # fmt: skip

    def states(self, items: Tensor, feedback: Tensor) -> Tensor:
        """State after each step: (B, T), (B, T, F) -> (B, T, D); T may exceed the window."""
        history = pack(items, feedback)
        return unpack(self.packed(history), history.sizes, items.shape[1], self.start_state())

    def scores(self, state: Tensor) -> Tensor:
        """(..., D) -> (..., N)."""
        return self.table.scores(state)

    def start_state(self) -> Tensor:
        """Of a hidden item that nothing came before, (D,)."""
        return self.start(1).state[0]

    def start(self, batch: int) -> BERT4RecCache:
        """Cache of empty histories."""
        items = torch.zeros(batch, 0, dtype=torch.int64, device=self.mask.device)
        return self.prefill(items, self.mask.new_zeros(batch, 0, self.num_feedback))

    def prefill(self, items: Tensor, feedback: Tensor) -> BERT4RecCache:
        """Cache after histories (B, L), (B, L, F); of longer ones the last L steps."""
        more = self.config.length - items.shape[1]
        items, feedback = nn.functional.pad(items, (more, 0)), nn.functional.pad(feedback, (0, 0, more, 0))
        return BERT4RecCache(self._next(items, feedback), items, feedback)

    def advance(self, cache: BERT4RecCache, items: Tensor, feedback: Tensor) -> tuple[BERT4RecCache, Tensor]:
        """A whole pass over the last L steps of each row that met an item; rows with item 0 stay."""
        state, past, reaction = cache
        met = items > 0
        past = torch.where(met.unsqueeze(1), torch.cat([past[:, 1:], items.unsqueeze(1)], 1), past)
        later = torch.cat([reaction[:, 1:], feedback.unsqueeze(1)], 1)
        reaction = torch.where(met.view(-1, 1, 1), later, reaction)
        state = state.index_copy(0, met.nonzero().squeeze(1), self._next(past[met], reaction[met]))
        return BERT4RecCache(state, past, reaction), state

    def item_vectors(self) -> Tensor:
        """(N, D)."""
        return self.table.vectors()

    def item_bias(self) -> Tensor:
        """(N,)."""
        return self.table.bias

    def _next(self, items: Tensor, feedback: Tensor) -> Tensor:
        """State of an item hidden after each history, (B, T), (B, T, F) -> (B, D)."""
        history = pack(nn.functional.pad(items, (0, 1), value=1), nn.functional.pad(feedback, (0, 0, 0, 1)))
        return self._filled(history, _from_end(history.sizes).to(items.device) == 0)

    def _filled(self, history: Ragged, hidden: Tensor) -> Tensor:
        """States of the `hidden` (P,) steps, (Q, D)."""
        item = self.table(history.items, history.feedback)
        item = torch.where(hidden.unsqueeze(1), self.mask.to(item.dtype), item)
        place = self.position(_from_end(history.sizes).to(item.device))
        states = self.dropout(self.norm(item + place))
        layout = plan(history.sizes, states.device)
        for layer in self.layers:
            states = layer(states, layout)
        filled: Tensor = self.head(states[hidden])
        return filled


def _from_end(sizes: Tensor) -> Tensor:
    """Steps that follow each step in its history: (B,) -> (P,)."""
    return torch.repeat_interleave(sizes, sizes) - 1 - places(sizes)
