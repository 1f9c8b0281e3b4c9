"""The backbone's contract, and what every backbone shares: the registry, and its folder on disk.

A backbone reads a history of items with their feedback and says in a state (B, D) what it knows of the user; the dot
product of a state with an item's vector, plus the item's bias, scores that item as the next one chosen.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar, cast

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from recgym.backbones.table import ItemTable as ItemTable
from recgym.files import FormatError, new_folder, read_json, write_bytes, write_json
from recgym.types import FloatArray, IntArray

FORMAT, VERSION = "recgym-backbone", 1
BACKBONES: dict[str, str] = {
    "bert4rec": "recgym.backbones.bert4rec:BERT4Rec",
    "caser": "recgym.backbones.caser:Caser",
    "decoder": "recgym.backbones.decoder:Decoder",
    "esasrec": "recgym.backbones.esasrec:ESASRec",
    "fpmc": "recgym.backbones.fpmc:FPMC",
    "gru": "recgym.backbones.gru:GRU4Rec",
    "gru4rec": "recgym.backbones.gru4rec:GRU4Rec",
    "hstu": "recgym.backbones.hstu:HSTU",
    "hybrid": "recgym.backbones.hybrid:Hybrid",
    "rnn": "recgym.backbones.rnn:RNN",
    "sasrec": "recgym.backbones.sasrec:SASRec",
    "transrec": "recgym.backbones.transrec:TransRec",
}
"""Entry point ("module:Class") of every backbone, by name."""


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """Which backbone, and how large."""

    model: str = "gru"
    """A key of `BACKBONES`, or one that was registered."""
    width: int = 64
    """Units of the state, D."""
    layers: int = 2
    """Recurrent or attention layers."""
    heads: int = 2
    """Attention heads, of models that have any; must divide `width`."""
    length: int = 50
    """Steps of history that are read, L."""
    dropout: float = 0.2
    """Share of units dropped in training."""

    def __post_init__(self) -> None:
        """Check the fields."""
        self._at_least(1, "width", "layers", "heads", "length")
        self._divides()
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}, expected a share in [0, 1)")

    def _divides(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"width is {self.width}, expected a multiple of heads ({self.heads})")

    def _at_least(self, least: int, *names: str) -> None:
        for name in names:
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least {least}")


class Cache(Protocol):
    """What `advance` needs of the past: a NamedTuple of tensors with leading dimension B."""

    @property
    def state(self) -> Tensor:
        """The encoder's state now, (B, D)."""
        ...


C = TypeVar("C", bound=NamedTuple)


class Backbone(Protocol):
    """An encoder of histories; an `nn.Module` in evaluation mode unless `train_backbone` is at work on it."""

    config: BackboneConfig
    num_items: int
    num_feedback: int
    table: ItemTable

    @property
    def width(self) -> int:
        """Units of the state, D."""
        ...

    def states(self, items: Tensor, feedback: Tensor) -> Tensor:
        """State after each step: (B, T), (B, T, F), padding on the left -> (B, T, D); padding has the start state."""
        ...

    def scores(self, state: Tensor) -> Tensor:
        """Score every item as the next one, (..., D) -> (..., N)."""
        ...

    def start_state(self) -> Tensor:
        """State of an empty history, (D,)."""
        ...

    def start(self, batch: int) -> Any:
        """Cache of `batch` empty histories."""
        ...

    def prefill(self, items: Tensor, feedback: Tensor) -> Any:
        """Cache after histories (B, L) and (B, L, F), padding on the left."""
        ...

    def advance(self, cache: Any, items: Tensor, feedback: Tensor) -> tuple[Any, Tensor]:
        """One more step: `items` (B,), `feedback` (B, F) -> the new cache and the state (B, D).

        The cost is that of one step, whatever the length of the past, unless the model's page states another. The cache
        is consumed. Rows whose item is 0 stay as they are.
        """
        ...

    def item_vectors(self) -> Tensor:
        """Vectors that score all items, (N, D)."""
        ...

    def item_bias(self) -> Tensor:
        """Biases of all items, (N,)."""
        ...


def register_backbone(name: str, entry_point: str) -> None:
    """Let `make_backbone` build the class at "module:Class", called with (config, num_items, feedback_scale).

    Raises:
        ValueError: the entry point is not "module:Class", or the name means another class already.
    """
    module, _, attribute = entry_point.partition(":")
    if not (module and attribute.isidentifier()):
        raise ValueError(f"entry point of backbone {name!r} is {entry_point!r}, expected 'module:Class'")
    if BACKBONES.get(name, entry_point) != entry_point:
        raise ValueError(f"backbone {name!r} is already registered as {BACKBONES[name]!r}; choose another name")
    BACKBONES[name] = entry_point


def config_of(model: str) -> type[BackboneConfig]:
    """The config class of a backbone: its own hyper-parameters, with its paper's as defaults.

    Raises:
        ValueError: no backbone has this name.
    """
    own: type[BackboneConfig] = getattr(_class_of(model), "Config", BackboneConfig)
    return own


def own_config(config: BackboneConfig) -> BackboneConfig:
    """The config as one of the class of its model; fields that only that class has get their defaults.

    Raises:
        ValueError: no backbone has this name.
    """
    own = config_of(config.model)
    if type(config) is own:
        return config
    return own(**{name.name: getattr(config, name.name) for name in dataclasses.fields(BackboneConfig)})


def make_backbone(
    config: BackboneConfig,
    num_items: int,
    feedback_scale: FloatArray,
    *,
    groups: IntArray | None = None,
    seed: int = 0,
) -> Backbone:
    """A backbone with fresh weights, in evaluation mode.

    Args:
        config: which and how large; a plain `BackboneConfig` leaves the model's own fields at their defaults.
        num_items: items of the catalogue, N.
        feedback_scale: (F,) as of `Sequences.feedback_scale`.
        groups: (N,) category of each item, from 0: items of one start near each other; None: each starts alone.
        seed: of the weights; global randomness stays as it was.

    Raises:
        ValueError: no backbone has this name.
    """
    config = own_config(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = _class_of(config.model)(config, num_items, feedback_scale)
        if groups is not None:
            backbone.table.start_from_groups(torch.from_numpy(groups))
    backbone.eval()
    return cast("Backbone", backbone)


def module_of(backbone: Backbone) -> nn.Module:
    """The backbone as the module that it is."""
    assert isinstance(backbone, nn.Module), f"a backbone must be an nn.Module, got {type(backbone).__name__}"
    return backbone


def personal_states(backbone: Backbone, states: Tensor, users: Tensor) -> Tensor:
    """States (Q, D) with what the backbone learned of these users (Q,) themselves; most backbones know histories alone.

    A backbone with vectors of users has a method `personal(states, users)`, users by their number in the log it was
    trained on. Its `states` are those of an unknown user.
    """
    personal = getattr(backbone, "personal", None)
    return states if personal is None else cast("Tensor", personal(states, users))


def fingerprint(backbone: Backbone) -> str:
    """16 hexadecimal digits that two backbones share exactly if they encode alike."""
    digest = hashlib.sha256(json.dumps(_about(backbone), sort_keys=True).encode())
    for name, tensor in sorted(module_of(backbone).state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()[:16]


def save_backbone(backbone: Backbone, folder: Path | str) -> None:
    """Write `backbone.json` and `weights.safetensors` into `folder`, whole or not at all."""
    tensors = {name: t.detach().cpu().contiguous() for name, t in module_of(backbone).state_dict().items()}
    with new_folder(Path(folder)) as target:
        write_bytes(target / "weights.safetensors", safetensors.torch.save(tensors))
        about = {"format": FORMAT, "version": VERSION, **_about(backbone), "fingerprint": fingerprint(backbone)}
        write_json(target / "backbone.json", about)


def load_backbone(folder: Path | str) -> Backbone:
    """Read what `save_backbone` wrote; in evaluation mode, on the CPU.

    Raises:
        FormatError: a file is missing, truncated, foreign, or the weights belong to another backbone.
    """
    folder = Path(folder)
    about = read_json(folder / "backbone.json", format=FORMAT, version=VERSION)
    path = folder / "weights.safetensors"
    try:
        tensors = safetensors.torch.load(path.read_bytes())
        config = config_of(about["config"]["model"])(**about["config"])
        backbone = make_backbone(config, about["num_items"], np.asarray(about["feedback_scale"], np.float32))
        module_of(backbone).load_state_dict(tensors)
    except (OSError, SafetensorError, RuntimeError, KeyError, TypeError, ValueError) as error:
        raise FormatError(f"{path}: cannot be read with backbone.json ({error}); save the backbone again") from error
    if fingerprint(backbone) != about.get("fingerprint"):
        raise FormatError(f"{path}: weights are not those that backbone.json describes; save the backbone again")
    return backbone


def _class_of(model: str) -> Any:
    if model not in BACKBONES:
        raise ValueError(f"no backbone is called {model!r}; there are {', '.join(sorted(BACKBONES))}")
    module, _, attribute = BACKBONES[model].partition(":")
    return getattr(importlib.import_module(module), attribute)


def _about(backbone: Backbone) -> dict[str, Any]:
    return {
        "config": dataclasses.asdict(backbone.config),
        "num_items": backbone.num_items,
        "feedback_scale": [float(value) for value in backbone.table.scale],
    }
