"""GRU4Rec as its authors run it: what their paper says, and where their code differs.

- Gates: the candidate is tanh(W x + U (r * h)) in the papers and the Theano code, tanh(W x + r * (U h + c)) in the
  PyTorch code, and here: torch's cell.
- Gradient: the code cuts it at every step, so that a state learns from the one target after it; the papers do not say.
- Dropout: of the embedding, and of each layer's state, which the next step reads as it was dropped.
- Embedding: "constrained" (one table is read and scored with; the second paper's best) or "separate". The first paper's
  one-hot input, a vector of 3 D units an item in place of W x, is left out.
- Loss and final activation are training's: `LossConfig(name="bpr-max", elu=0.5, shared=True, negatives=2048,
  popularity=0.5)`. The code has ELU before BPR-max; the first paper's tanh before TOP1 and BPR is left out.

Their sessions run side by side and the weights move after every step, with Adagrad; minibatches of whole ragged
histories and AdamW stand in for that here, and a target's negatives are those drawn, without the other targets of its
minibatch. Third parties' versions leave out much of the rest and rank worse for it (Hidasi and Czapp 2023).

Source: Hidasi, Karatzoglou, Baltrunas, Tikk (2016), "Session-based recommendations with recurrent neural networks";
Hidasi and Karatzoglou (2018), "Recurrent neural networks with top-k gains for session-based recommendations"; code:
github.com/hidasib/GRU4Rec and GRU4Rec_PyTorch_Official; Hidasi and Czapp (2023), "The effect of third party
implementations on reproducibility".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from recgym.backbones import gru
from recgym.backbones.backbone import BackboneConfig
from recgym.backbones.ragged import Ragged
from recgym.backbones.recurrence import layout
from recgym.types import FloatArray

_EMBEDDINGS = ("constrained", "separate")


@dataclass(frozen=True, kw_only=True)
class GRU4RecConfig(BackboneConfig):
    """The authors' best for cross-entropy on the RecSys Challenge 2015 (Yoochoose)."""

    model: str = "gru4rec"
    """The name."""
    width: int = 100
    """Units of the state and of the vectors, D."""
    layers: int = 1
    """Recurrent layers."""
    dropout: float = 0.4
    """Share of each layer's state dropped in training, on its way up and to the next step."""
    embedding_dropout: float = 0.0
    """Share of the item vectors' units dropped in training."""
    embedding: str = "constrained"
    """"constrained": items are scored with the vectors that are read; "separate": with vectors of their own."""
    through_time: bool = False
    """Send gradients back through the whole history; the authors' code cuts them at every step."""

    def __post_init__(self) -> None:
        """Check the fields."""
        super().__post_init__()
        if self.embedding not in _EMBEDDINGS:
            raise ValueError(f"embedding is {self.embedding!r}, expected one of {', '.join(_EMBEDDINGS)}")
        if not 0 <= self.embedding_dropout < 1:
            raise ValueError(f"embedding_dropout is {self.embedding_dropout}, expected a share in [0, 1)")


class GRU4Rec(gru.GRU4Rec):
    """The authors' network; `advance` costs one cell a layer. The final activation is left to the loss."""

    Config: ClassVar[type[BackboneConfig]] = GRU4RecConfig

    def __init__(self, config: BackboneConfig, num_items: int, feedback_scale: FloatArray) -> None:
        """Fresh weights from torch's generator; `feedback_scale` (F,). The code's start state is 0, not learned."""
        assert isinstance(config, GRU4RecConfig)
        super().__init__(config, num_items, feedback_scale, separate=config.embedding == "separate")
        self.through_time = config.through_time
        self.embedding_dropout = nn.Dropout(config.embedding_dropout)
        self._start_as_the_authors_do()

    def packed(self, history: Ragged) -> Tensor:
        """State after each step, (P, D), with work on real steps alone."""
        if not self.training:
            return super().packed(history)
        return self._learn(self.embedding_dropout(self.table(history.items, history.feedback)), history.sizes)

    def _start_as_the_authors_do(self) -> None:
        """Uniform in +-sqrt(6 / (rows + columns)) for vectors and for each gate (Glorot and Bengio 2010); biases 0."""
        with torch.no_grad():
            nn.init.xavier_uniform_(self.table.inputs())
            if self.table.output is not None:
                nn.init.xavier_uniform_(self.table.output)
            for of_input, of_state, *biases in self._weights:
                for gate in (*of_input.split(self.width), *of_state.split(self.width)):
                    nn.init.xavier_uniform_(gate)
                for bias in biases:
                    nn.init.zeros_(bias)

    def _learn(self, hidden: Tensor, sizes: Tensor) -> Tensor:
        """States (P, D) whose dropped units stay dropped for the next step.

        Where gradients stop at every step, states are first made without any; then one product over all steps at once
        has the gradients of each.
        """
        order, back, widths = layout(sizes, hidden.device)
        hidden = hidden.index_select(0, order)
        for begin, weights in zip(self.begin, self._weights, strict=True):
            kept = self.dropout(torch.ones_like(hidden))
            first = begin.expand(widths[0] if widths else 0, -1)
            state, before, after = first, [], [hidden[:0]]
            with torch.set_grad_enabled(self.through_time and torch.is_grad_enabled()):
                for part, mask, width in zip(hidden.split(widths), kept.split(widths), widths, strict=True):
                    before.append(state[:width])
                    state = mask * self.cell(part, state[:width], *weights)
                    after.append(state)
            if self.through_time:
                hidden = torch.cat(after)
            else:
                hidden = kept * self.cell(hidden, torch.cat([first, *before[1:]]), *weights)
        return hidden.index_select(0, back)
