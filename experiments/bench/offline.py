"""Cost of a gradient step of CQL: d3rlpy's plain head, the item head through d3rlpy, and a few candidates, in turn."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from agents.candidates import Proposal
from agents.cql import CQL, candidate_terms, cql_terms
from agents.d3 import discrete_cql, minibatch
from agents.layout import Layout
from agents.networks import ItemScorer
from agents.offline import Minibatch
from agents.training import descend
from experiments.bench.timing import alternate, machine, threads

WAYS = ("d3rlpy plain", "d3rlpy items", "d3rlpy fixed", "own items", "own fixed", "own candidates", "candidates fixed")
"""What is measured, in the order of the columns."""


@dataclass(frozen=True, kw_only=True)
class OfflineBench:
    """How the gradient steps are measured."""

    catalogues: tuple[int, ...] = (100, 3_706, 12_101)
    """Sizes of the catalogue."""
    batch_size: int = 64
    """Transitions in a gradient step."""
    width: int = 64
    """Width of the state and of the item vectors."""
    candidates: int = 100
    """Items drawn for each gradient step of the last two columns."""
    seconds: float = 2.0
    """Length of one measurement."""
    rounds: int = 3
    """Measurements of each, taken in turn; the best counts."""
    threads: int = 1
    """Torch threads."""
    clock: Literal["core", "wall"] = "core"
    """Seconds of a core, which other programs do not count in, or of the wall clock."""

    def __call__(self) -> None:
        """Measure and print."""
        clock = time.process_time if self.clock == "core" else time.perf_counter
        print(f"gradient steps at batch {self.batch_size}, states of width {self.width}, {self.threads} thread(s)")
        print(f"{self.candidates} candidates; ms of {self.clock} time, and the share of the first; {machine()}")
        print(f"{'items':>8}" + "".join(f"{way:>22}" for way in WAYS))
        with threads(self.threads):
            for num_items in self.catalogues:
                rates = alternate(steps(self, num_items), self.seconds, self.rounds, clock=clock)
                cells = "".join(f"{1e3 / rate:11.2f} ms ({rates[0] / rate:.3f})" for rate in rates)
                print(f"{num_items:8,}{cells}", flush=True)


def steps(settings: OfflineBench, num_items: int) -> tuple[Callable[[], None], ...]:
    """One gradient step of each of `WAYS`, on random transitions."""
    size, width = settings.batch_size, settings.width
    layout = Layout(num_items=num_items, state_width=width)
    torch.manual_seed(0)
    vectors, bias = torch.randn(num_items, width) / width**0.5, torch.zeros(num_items)
    batch = Minibatch(
        torch.randn(size, width + 1), torch.randint(num_items, (size,)), torch.rand(size),
        torch.randn(size, width + 1), torch.ones(size), torch.rand(size),
    )  # fmt: skip

    def scorer(*, train_items: bool = True) -> ItemScorer:
        return ItemScorer(layout, vectors, bias, train_items=train_items)

    def library(make: Callable[[], ItemScorer] | None) -> Callable[[], None]:
        algorithm = discrete_cql(layout, make, batch_size=size, gamma=0.95, target_update_interval=200)
        theirs = minibatch(batch)
        return lambda: algorithm.update(theirs) and None

    def own(config: CQL, *, train_items: bool = True) -> Callable[[], None]:
        q, target = scorer(train_items=train_items), scorer()
        optimiser = torch.optim.Adam(q.parameters(), lr=config.learning_rate)
        proposal = Proposal(batch.action, num_items, config.popular_share)

        def step() -> None:
            if config.candidates:
                terms = candidate_terms(q, target, batch, config, *proposal.draw(config.candidates))
            else:
                terms = cql_terms(q, target, batch, config)
            descend(_NOWHERE, optimiser, terms, batch._asdict())

        return step

    few = CQL(candidates=settings.candidates)
    return (
        library(None), library(scorer), library(partial(scorer, train_items=False)), own(CQL()),
        own(CQL(), train_items=False), own(few), own(few, train_items=False),
    )  # fmt: skip


_NOWHERE = Path()
"""Where a batch with a loss that is not finite would be saved."""
