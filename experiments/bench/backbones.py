"""Every backbone on the logs of the published tables: quality, speed, and how far back to read."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from experiments.bench.backbones_data import read_data
from experiments.bench.backbones_lengths import WAYS, Point, lengths_figure, lengths_table
from experiments.bench.backbones_protocols import Questions, Ranking, Split, make_questions
from experiments.bench.backbones_recipes import Recipe, recipes_of
from experiments.bench.backbones_runs import Ran, run_baseline, run_recipe
from experiments.bench.backbones_speed import measure_catalogue, measure_ranking, measure_training
from experiments.bench.backbones_tables import write_tables
from experiments.bench.timing import machine, threads
from experiments.tradeoffs import save
from recgym.backbones.baselines import BASELINES
from recgym.backbones.training import TrainingConfig
from recgym.files import write_bytes
from recgym.metrics import hit_rate
from recgym.ope.intervals import t_interval
from recgym.types import IntArray

_SHARE = 0.95


@dataclass(frozen=True, kw_only=True)
class BackbonesBench:
    """Which table of the backbones."""

    data: Literal["beauty", "ml1m", "ml1m-earlier", "yoochoose", "ml100k", "sample"] = "sample"
    """Which log; "sample" ships with recgym, the others are published and looked for in `folder`."""
    folder: Path | None = None
    """Folder of the published logs; none: that of the environment variable RECGYM_DATA."""
    part: Literal["quality", "speed", "lengths"] = "quality"
    """"quality": the table. "speed": seconds an epoch beside the floor. "lengths": HR against the length of history."""
    models: tuple[str, ...] = ()
    """Rows of the table, recipes and baselines; differences are to the first. None: all but P5's,
    which take hours; lengths: sasrec."""
    protocol: tuple[Ranking, ...] = ("full",)
    """Rank among all items, or among 100 sampled negatives: a table each, from the same trainings."""
    split: Split = "published"
    """The log's own split, leave-one-out, or global by time."""
    repeats: bool | None = None
    """Let items met before be recommended; none: as the log's published tables do."""
    seeds: int = 1
    """Trainings of each model, or of `repeated` alone."""
    repeated: tuple[str, ...] = ()
    """Rows that are trained from every seed, where the others are trained once; none: all."""
    epochs: int | None = None
    """At most; none: as each recipe says."""
    reach: float | None = None
    """Validation NDCG@10 whose seconds are told; none: 95% of the best that the first trained model had."""
    lengths: tuple[int, ...] = (5, 10, 20, 50, 100)
    """Lengths of history, for the part "lengths"."""
    out: Path = Path("runs/bench-backbones")
    """Folder of the trainings and tables; what is there is not done again."""
    device: str = "cpu"
    """Where backbones are trained."""
    bf16: bool = False
    """Train in bfloat16 (the large catalogue in float32): pays on GPUs, and on CPUs whose instructions have it."""
    threads: int = 2
    """Torch threads."""
    rounds: int = 3
    """Measurements of each, taken in turn, for speed; the fastest counts."""
    peer: Path | None = None
    """Checkout of SASRec.pytorch to measure in the same run, for speed; none: left out."""
    catalogue: int = 1_000_000
    """Items of the large catalogue, for speed; 0: left out."""

    def __post_init__(self) -> None:
        """Check the fields."""
        for name in ("seeds", "threads", "rounds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least 1")
        if self.epochs is not None and self.epochs < 1:
            raise ValueError(f"epochs is {self.epochs}, expected at least 1 or none")
        if not self.protocol or not self.lengths or min(self.lengths) < 1:
            raise ValueError(
                f"protocol is {self.protocol} and lengths {self.lengths}, expected one or more, lengths of at least 1"
            )
        if self.part == "lengths" and len(self.protocol) > 1:
            raise ValueError(f"protocol is {self.protocol}, expected one for the part 'lengths'")
        if self.catalogue < 0:
            raise ValueError(f"catalogue is {self.catalogue}, expected at least 0")

    def __call__(self) -> None:
        """Run the part."""
        data = read_data(self.data, self.folder or Path(os.environ.get("RECGYM_DATA", "data")))
        questions = make_questions(data, split=self.split, repeats=self.repeats)
        with threads(self.threads):
            {"quality": self._quality, "speed": self._speed, "lengths": self._lengths}[self.part](questions)

    def _quality(self, questions: Questions) -> None:
        recipes = recipes_of(self.data)
        names = self._names(recipes, (*(name for name, row in recipes.items() if row.model != "p5"), *BASELINES))
        negatives = {ranking: questions.negatives(ranking) for ranking in self.protocol}
        found: list[list[Ran]] = []
        for name in names:
            found.append(self._runs(name, recipes, questions, negatives))
            best = "" if not found[-1][0].curve else f", validation NDCG@10 {found[-1][0].best:.4f}"
            print(f"{name}: {found[-1][0].seconds:.1f} s{best}; {machine()}", flush=True)
        best_of_first = next((run.best for runs in found for run in runs if run.curve), 0.0)
        reach = _SHARE * best_of_first if self.reach is None else self.reach
        for ranking in self.protocol:
            print("\n" + write_tables(found, questions, ranking, reach=reach, folder=self._place(questions)))

    def _lengths(self, questions: Questions) -> None:
        recipes, (ranking, *_) = recipes_of(self.data), self.protocol
        negatives = {ranking: questions.negatives(ranking)}
        points = []
        for name in self._names(recipes, ("sasrec",)):
            for way, newest in WAYS.items():
                for length in self.lengths:
                    own = recipes[name]
                    if not isinstance(own.training, TrainingConfig):
                        raise ValueError(f"models is {name!r}, whose training has no windows")
                    training = replace(own.training, newest_window=newest)
                    recipe = replace(own, sizes={**own.sizes, "length": length}, training=training)
                    label = f"{name} {way.partition(' ')[0]} {length}"
                    runs = self._runs(label, {label: recipe}, questions, negatives)
                    hits = np.mean([hit_rate(run.ranks[ranking], questions.cutoff) for run in runs], axis=0)
                    seconds = sum(run.seconds for run in runs) / len(runs)
                    points.append(Point(name, way, length, t_interval(hits, questions.users), seconds))
        trainings = f"mean of {self.seeds} trainings" if self.seeds > 1 else "one training each"
        title = f"{questions.title(ranking)}; {trainings}"
        text = lengths_table(title, points, cutoff=questions.cutoff)
        write_bytes(self._place(questions) / "lengths.md", text.encode())
        save(lengths_figure(title, points, cutoff=questions.cutoff), self._place(questions) / "lengths.png")
        print(f"{text}\n{self._place(questions) / 'lengths.png'}")

    def _speed(self, questions: Questions) -> None:
        sequences, roles = questions.sequences, questions.roles
        measure_training(
            sequences, roles, peer=self.peer, num_threads=self.threads, device=self.device, bf16=self.bf16,
            rounds=self.rounds,
        )  # fmt: skip
        measure_ranking(sequences, roles, num_threads=self.threads, device=self.device, rounds=self.rounds)
        if self.catalogue:
            measure_catalogue(self.catalogue, num_threads=self.threads, device=self.device)

    def _names(self, recipes: dict[str, Recipe], default: tuple[str, ...]) -> tuple[str, ...]:
        known = (*recipes, *BASELINES) if self.part == "quality" else tuple(recipes)
        for name in (*self.models, *self.repeated):
            if name not in known:
                raise ValueError(f"no row of {self.part} is called {name!r}; there are {', '.join(known)}")
        return self.models or default

    def _runs(
        self,
        name: str,
        recipes: dict[str, Recipe],
        questions: Questions,
        negatives: dict[Ranking, IntArray | None],
    ) -> list[Ran]:
        """A training for each seed; a baseline has none."""
        folder = self._place(questions) / name
        if name not in recipes:
            return [run_baseline(name, questions, negatives, folder=folder)]
        recipe = recipes[name]
        recipe = replace(recipe, training=replace(recipe.training, device=self.device, bf16=self.bf16))
        return [
            run_recipe(
                name, recipe, questions, negatives, seed=seed, epochs=self.epochs, folder=folder / f"seed-{seed}"
            )
            for seed in range(self.seeds if not self.repeated or name in self.repeated else 1)
        ]

    def _place(self, questions: Questions) -> Path:
        rules = f"{self.split}{'-repeats' if questions.repeats else ''}"
        return self.out / self.data / rules
