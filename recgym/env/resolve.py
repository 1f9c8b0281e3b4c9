"""From what a caller names to users and encoders: "sample", a folder, "simulators:NAME", or the object itself."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, cast

from recgym.backbones.backbone import Backbone, load_backbone
from recgym.users.model import UserModel
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
