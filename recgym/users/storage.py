"""Learned users on disk: `users.json`, `weights.safetensors` and `backbone/` in one folder; nothing is pickled."""

from __future__ import annotations

import dataclasses
import hashlib
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from recgym.backbones.backbone import fingerprint, load_backbone, module_of, save_backbone
from recgym.files import FormatError, new_folder, read_json, write_bytes, write_json
from recgym.logs.sequences import Starts
from recgym.types import FeedbackKind
from recgym.users.heads import Heads, HeadShape
from recgym.users.learned import LearnedUsers
from recgym.users.returning import Returning, ReturnShape

FORMAT, VERSION = "recgym-users", 2
WEIGHTS = "weights.safetensors"


def save_users(users: LearnedUsers, folder: Path | str) -> None:
    """Write `users` into `folder`, whole or not at all."""
    starts = users.starts
    tensors = {f"heads.{name}": tensor for name, tensor in users.heads.state_dict().items()}
    tensors |= {
        "topics": users.topics.to(torch.int32),
        "starts.user": starts.user.to(torch.int32),
        "starts.items": starts.items.to(torch.int32),
        "starts.feedback": starts.feedback,
    }
    for name, part in (("time", starts.time), ("profile", starts.profile)):
        if part is not None:
            tensors[f"starts.{name}"] = part
    for place, member in enumerate(users.members):
        tensors |= {f"member{place}.{name}": tensor for name, tensor in member.state_dict().items()}
    if users.returning is not None:
        tensors |= {f"returning.{name}": tensor for name, tensor in users.returning.state_dict().items()}
    data = safetensors.torch.save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    about: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "name": users.name,
        "kinds": [vars(kind) for kind in users.kinds],
        "exposures": users.exposures,
        "repeats": users.repeats,
        "ignored_hazard": users.ignored_hazard,
        "start_megabytes": users.start_megabytes,
        "new_user_share": users.new_user_share,
        "heads": dataclasses.asdict(users.heads.shape),
        "members": len(users.members),
        "returning": None if users.returning is None else dataclasses.asdict(users.returning.shape),
        "item_titles": users.item_titles,
        "item_categories": users.item_categories,
        "backbone": fingerprint(users.backbone),
        "weights_sha256": hashlib.sha256(data).hexdigest(),
    }
    with new_folder(Path(folder)) as target:
        save_backbone(users.backbone, target / "backbone")
        write_bytes(target / WEIGHTS, data)
        write_json(target / "users.json", about)


def load_users(folder: Path | str = "sample", *, device: torch.device | str = "cpu") -> LearnedUsers:
    """Read what `save_users` wrote; "sample": the users of the sample log that ship with recgym.

    Raises:
        FormatError: a file is missing, truncated, foreign, or belongs to other users.
    """
    if str(folder) == "sample":
        with as_file(files("recgym.users") / "sample") as sample:
            return _load(sample, device)
    return _load(Path(folder), device)


def _load(folder: Path, device: torch.device | str) -> LearnedUsers:
    path = folder / "users.json"
    about = read_json(path, format=FORMAT, version=VERSION)
    weights = folder / WEIGHTS
    if not weights.is_file():
        raise FormatError(f"{weights}: missing; fit the users again")
    data = weights.read_bytes()
    if hashlib.sha256(data).hexdigest() != about.get("weights_sha256"):
        raise FormatError(
            f"{weights}: {len(data)} bytes that are not those users.json describes; it is truncated or foreign"
        )
    backbone = load_backbone(folder / "backbone")
    if fingerprint(backbone) != about.get("backbone"):
        raise FormatError(f"{folder / 'backbone'}: another backbone than users.json names; fit the users again")
    module_of(backbone).requires_grad_(False).to(device)
    try:
        tensors = safetensors.torch.load(data)
        heads, *members = (
            _heads(about, _under(prefix, tensors))
            for prefix in ("heads.", *(f"member{place}." for place in range(about["members"])))
        )
        returning = None
        if about["returning"] is not None:
            returning = Returning(ReturnShape(**{**about["returning"], "edges": tuple(about["returning"]["edges"])}))
            returning.load_state_dict(_under("returning.", tensors))
        starts = _under("starts.", tensors)
        return LearnedUsers(
            backbone=backbone,
            heads=heads,
            members=tuple(members),
            returning=returning,
            topics=tensors["topics"].to(torch.int64),
            kinds=tuple(FeedbackKind(**kind) for kind in about["kinds"]),
            exposures=about["exposures"],
            repeats=about["repeats"],
            ignored_hazard=about["ignored_hazard"],
            starts=Starts(
                starts["user"].to(torch.int64),
                starts["items"].to(torch.int64),
                starts["feedback"],
                starts.get("time"),
                starts.get("profile"),
            ),
            start_megabytes=about["start_megabytes"],
            new_user_share=about.get("new_user_share"),
            name=about["name"],
            item_titles=_texts(about["item_titles"]),
            item_categories=_texts(about["item_categories"]),
        )
    except (KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise FormatError(f"{path}: does not describe users with the tensors of {WEIGHTS}: {error}") from error


def _heads(about: dict[str, Any], tensors: dict[str, Tensor]) -> Heads:
    heads = Heads(HeadShape(**about["heads"]))
    heads.load_state_dict(tensors)
    return heads


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _texts(values: list[str] | None) -> tuple[str, ...] | None:
    return None if values is None else tuple(values)
