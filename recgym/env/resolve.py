"""From what a caller names to users, encoders and sessions: "sample", a folder, "simulators:NAME", or the object."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

from recgym.backbones.backbone import Backbone, load_backbone
from recgym.env.session import SessionConfig, Sessions
from recgym.random import session_keys
from recgym.users.model import UserModel
from recgym.users.retrieved import Retrieved
from recgym.users.storage import load_users

_WORLDS = "simulators"
"""Package of known worlds, in the checkout; the library never imports it by itself."""


def resolve_users(users: str | Path | UserModel[Any], *, device: str = "cpu") -> UserModel[Any]:
    """The user model that `users` names.

    Args:
        users: "sample"; a folder that `fit` wrote (its `users/` is found too); "simulators:NAME" for a known world; or
            a user model, which is returned as it is.
        device: where the users live.

    Raises:
        ValueError: no world has that name, or the worlds are not on the path.
        FormatError: the folder holds no users.
    """
    if not isinstance(users, str | Path):
        return users
    kind, _, name = str(users).partition(":")
    if kind == _WORLDS and name:
        try:
            worlds = importlib.import_module(_WORLDS)
        except ModuleNotFoundError as error:
            raise ValueError(
                f"users={users!r} needs the package {_WORLDS!r}, which is not in the wheel: run from the checkout"
            ) from error
        return cast("UserModel[Any]", worlds.make_world(name, device=device))
    if str(users) == "sample":
        return load_users("sample", device=device)
    folder = Path(users)
    return load_users(folder / "users" if (folder / "users" / "users.json").exists() else folder, device=device)


def resolve_encoder(encoder: str | Path | Backbone | None) -> Backbone | None:
    """The backbone that `encoder` names: a folder, a backbone, or None."""
    return load_backbone(encoder) if isinstance(encoder, str | Path) else encoder


def resolve_sessions(
    users: str | Path | UserModel[Any],
    config: SessionConfig,
    *,
    encoder: str | Path | Backbone | None = None,
    candidates: int | None = None,
    explore: float = 0.0,
    device: str = "cpu",
) -> Sessions[Any]:
    """Sessions of the users that `users` names, behind a retriever where a number of `candidates` is given.

    Args:
        users: as of `resolve_users`.
        config: what may be shown and what it earns; the retriever keeps to its `repeats`.
        encoder: as of `resolve_encoder`; a retriever retrieves with it.
        candidates: items that the retriever offers at each step, C; None: the whole catalogue, without a retriever.
        explore: share of the candidates that is drawn uniformly.
        device: where the users live.

    Raises:
        ValueError: repeats are to be refused, or sessions so long that C items could not be offered without one.
    """
    population, backbone = resolve_users(users, device=device), resolve_encoder(encoder)
    if candidates is None:
        return Sessions(population, config, encoder=backbone)
    if config.repeats == "refuse":
        raise ValueError("repeats is 'refuse', but a retriever offers no repeat: use repeats='mask' with candidates")
    masked: Literal["allow", "mask"] = "mask" if config.repeats == "mask" else "allow"
    retrieved = Retrieved(population, candidates, backbone=backbone, explore=explore, repeats=masked)
    if masked == "mask":
        _check_enough(population, candidates, config)
    return Sessions(retrieved, replace(config, repeats="allow"))


def _check_enough(users: UserModel[Any], candidates: int, config: SessionConfig) -> None:
    """Refuse sessions at whose end fewer than `candidates` items are left that were not shown."""
    kept = 0
    if not getattr(users, "repeats", True):
        kept = users.history(users.reset(session_keys(0, 1)))[0].shape[1]
    most = kept + (config.max_steps - 1) * config.slate_size
    if candidates + most > users.num_items:
        raise ValueError(
            f"candidates is {candidates} and repeats 'mask', but up to {most} of the {users.num_items} items may have "
            "been shown before: offer fewer, make sessions shorter, or allow repeats"
        )
