"""How each model is trained on each log: sizes and losses of its paper, or of the runs that published its numbers.

The decoder, Caser, FPMC and the hybrids memorise Beauty with those: their losses, penalties and weight decay, and
TransRec's penalty and learning rate, were chosen by its validation part among the few that docs/backbones.md names.

Sources by model: SASRec with full and sampled softmax and eSASRec: Tikhonovich et al. (2025); with one negative: Kang
and McAuley (2018); GRU4Rec: Hidasi and Karatzoglou (2018); BERT4Rec: Petrov and Macdonald (2022); Caser: Tang and Wang
(2018); FPMC: Rendle et al. (2010); TransRec: He et al. (2017); HSTU: Zhai et al. (2024); gBCE: Petrov and Macdonald
(2023); P5: Geng et al. (2022).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any

from recgym.backbones.backbone import BackboneConfig, config_of
from recgym.backbones.objectives import LossConfig
from recgym.backbones.p5 import P5Config
from recgym.backbones.p5_training import P5Training
from recgym.backbones.training import TrainingConfig
from recgym.logs.sequences import Sequences

_SHARED = LossConfig(name="sampled-softmax", negatives=2_048, shared=True)
_BPR = LossConfig(name="bpr", negatives=1)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One row of a table."""

    model: str
    """A key of `BACKBONES`, or "p5"."""
    sizes: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    """Fields of the model's own config that differ from its defaults."""
    training: TrainingConfig | P5Training
    """How it is trained."""

    def config(self, sequences: Sequences) -> BackboneConfig:
        """The model's config; models with vectors of users get those of the log."""
        own = P5Config if self.model == "p5" else config_of(self.model)
        names = {one.name for one in dataclasses.fields(own)}
        known = {"num_users": sequences.num_users} if "num_users" in names else {}
        return own(**{"model": self.model, **known, **self.sizes})


def recipes_of(data: str) -> dict[str, Recipe]:
    """Recipes of a log's table by the name of their row; P5 only where its extra is installed.

    Raises:
        ValueError: no recipe is for this log.
    """
    if data not in _SIZES:
        raise ValueError(f"no recipes for {data!r}; there are some for {', '.join(_SIZES)}")
    sizes, training = _SIZES[data], _TRAINING[data]
    few = MappingProxyType({**sizes, "layers": 1, "heads": 1})  # recurrent layers and factors: one
    timed = MappingProxyType({**sizes, "time_bias": data in _TIMED})
    length = MappingProxyType({"length": sizes["length"]})
    decayed = replace(training, loss=_SHARED, weight_decay=0.5)  # for tables of their own, which memorise
    patient = replace(training, patience=2 * training.patience)  # SASRec, its kin and HSTU creep on
    rows = {
        "sasrec": Recipe(model="sasrec", sizes=sizes, training=patient),
        "sasrec-sampled": Recipe(model="sasrec", sizes=sizes, training=replace(patient, loss=_SHARED)),
        "sasrec-gbce": Recipe(
            model="sasrec", sizes=sizes, training=replace(patient, loss=LossConfig(name="gbce", negatives=256))
        ),
        "sasrec-bce": Recipe(
            model="sasrec", sizes=MappingProxyType({**sizes, "layer": "original", "expansion": 1}),
            training=replace(training, patience=50, loss=LossConfig(name="bce", negatives=1)),
        ),
        "esasrec": Recipe(model="esasrec", sizes=sizes, training=replace(patient, loss=_SHARED)),
        "rnn": Recipe(model="rnn", sizes=few, training=training),
        "gru": Recipe(model="gru", sizes=few, training=training),
        "gru4rec": Recipe(model="gru4rec", sizes=length, training=replace(training, loss=_GRU4REC)),
        "decoder": Recipe(model="decoder", sizes=sizes, training=decayed),
        "bert4rec": Recipe(model="bert4rec", sizes=sizes, training=training),
        "caser": Recipe(model="caser", sizes=length, training=replace(training, loss=_SHARED)),
        "fpmc": Recipe(model="fpmc", sizes=few, training=decayed),
        "fpmc-bpr": Recipe(model="fpmc", sizes=few, training=replace(training, loss=replace(_BPR, penalty=0.003))),
        "transrec": Recipe(
            model="transrec", sizes=few,
            training=replace(training, loss=replace(_BPR, penalty=0.01), learning_rate=2e-3),
        ),
        "hstu": Recipe(model="hstu", sizes=timed, training=replace(patient, loss=_SHARED)),
        "hybrid": Recipe(model="hybrid", sizes=sizes, training=decayed),
        "hybrid-fixed": Recipe(model="hybrid", sizes=MappingProxyType({**sizes, "weight": 0.5}), training=decayed),
        "p5": Recipe(model="p5", training=P5Training()),
        "p5-tiny": Recipe(model="p5", sizes=_TINY, training=P5Training(epochs=6, beams=20)),
    }  # fmt: skip
    return rows if find_spec("transformers") else {name: row for name, row in rows.items() if row.model != "p5"}


_PUBLISHED = TrainingConfig(
    epochs=200, patience=10, batch_size=128, learning_rate=1e-3, weight_decay=0.0, newest_window=True,
    validation_targets=30_000, fill_unmet=False,
)  # fmt: skip
_FEW_USERS = replace(_PUBLISHED, patience=5, batch_size=16, newest_window=False)  # enough steps an epoch
_TINY = MappingProxyType({"width": 64, "layers": 2, "heads": 4})  # what two cores train in an hour
_TIMED = ("yoochoose", "ml100k", "sample")
_GRU4REC = LossConfig(name="bpr-max", negatives=2_048, shared=True, popularity=0.5, elu=0.5)
_LONG = MappingProxyType({"width": 64, "layers": 2, "heads": 1, "length": 200, "dropout": 0.2})
_SIZES: dict[str, Mapping[str, Any]] = {
    "beauty": MappingProxyType({"width": 64, "layers": 1, "heads": 1, "length": 50, "dropout": 0.5}),
    "ml1m": _LONG,
    "ml1m-earlier": _LONG,
    "ml100k": _LONG,
    "yoochoose": MappingProxyType({"width": 100, "layers": 1, "heads": 1, "length": 20, "dropout": 0.4}),
    "sample": MappingProxyType({"width": 32, "layers": 1, "heads": 1, "length": 50, "dropout": 0.2}),
}
_TRAINING = {
    "beauty": _PUBLISHED,
    "ml1m": _FEW_USERS,
    "ml1m-earlier": _FEW_USERS,
    "ml100k": _FEW_USERS,
    "yoochoose": replace(_PUBLISHED, newest_window=False),
    "sample": replace(_PUBLISHED, epochs=30, patience=3, newest_window=False),
}
