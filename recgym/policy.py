"""Policies on disk: a registry of names, and a folder with `policy.json` and `weights.safetensors`.

Names map to string entry points ("agents.baselines:Popularity"), so this module imports no policy. A folder names a
registered policy, never a module: loading runs no code that the reader has not registered, and nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import importlib
import platform
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol, cast

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from recgym.files import FormatError, read_json, write_bytes, write_json
from recgym.trees import put, take
from recgym.types import Observation, Policy, RemembersSessions

FORMAT, VERSION = "recgym-policy", 1
DESCRIPTION_FILE = "policy.json"
WEIGHTS_FILE = "weights.safetensors"
FIELDS = {"name": str, "config": dict, "num_items": int, "weights_sha256": str, "versions": dict}
"""Fields that `policy.json` must have, with their JSON types; `encoder` (a string or null) stands beside them."""

POLICIES: dict[str, str] = {}
"""Entry point ("module:Class") of every registered policy, by name."""


class PolicyError(FormatError):
    """A policy folder or a policy's name cannot be used; the message names the file, the field and the remedy."""


class StoredPolicy(Policy, Protocol):
    """A policy that can be saved; its class also has `restore(config, tensors)`."""

    @property
    def num_items(self) -> int:
        """Size of the catalogue it ranks, N."""
        ...

    def config(self) -> dict[str, Any]:
        """Everything but the tensors, in JSON types."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """Every learned or counted array."""
        ...


def check_fits(policy: Policy, found: Mapping[str, int], *, where: str) -> None:
    """Refuse a policy that was made for another catalogue or for other observations.

    Args:
        policy: its `sizes`, where it has them, say what it reads: "items" N, "state" the numbers of a state, with
            candidates' features behind it, and "feedback" F; else its `num_items`, where it has that.
        found: the sizes of what it would be given, by the same names.
        where: what would be given, for the message.

    Raises:
        PolicyError: a size differs; both are named.
    """
    known = getattr(policy, "num_items", None)
    asked: Mapping[str, int] = getattr(policy, "sizes", {} if known is None else {"items": known})
    if all(found.get(name, size) == size for name, size in asked.items()):
        return
    mine, theirs = (", ".join(f"{name} {sizes[name]}" for name in asked if name in sizes) for sizes in (asked, found))
    raise PolicyError(
        f"policy {policy.name!r} reads {mine}, but here are {theirs} ({where}): "
        "use a policy that was trained on this catalogue and these observations"
    )


def recalled(policy: Policy, observation: Observation, memory: Any, *, fresh: Tensor | None = None) -> Observation:
    """The observation with the policy's memory in it; as it is for a policy that keeps none.

    Args:
        policy: that is about to act.
        observation: of B sessions.
        memory: theirs after the step before; None: all of them start here.
        fresh: (B,) bool, sessions that start here although `memory` holds rows for them; None: none does.
    """
    if not isinstance(policy, RemembersSessions):
        return observation
    after = policy.recall(observation, memory)
    if memory is not None and fresh is not None and bool(fresh.any()):
        rows = fresh.nonzero()[:, 0]
        put(after, rows, policy.recall(take(observation, rows), None))
    return observation._replace(memory=after)


def register_policy(name: str, entry_point: str) -> None:
    """Let `load_policy` find the class of policies called `name`.

    Args:
        name: what `policy.json` will say.
        entry_point: "module:Class"; the class has a classmethod `restore(config, tensors)`.

    Raises:
        PolicyError: the entry point is not "module:Class", or the name already means another class.
    """
    module, _, attribute = entry_point.partition(":")
    if not (module and attribute.isidentifier()):
        raise PolicyError(f"entry point of policy {name!r} is {entry_point!r}, expected 'module:Class'")
    if POLICIES.get(name, entry_point) != entry_point:
        raise PolicyError(f"policy {name!r} is already registered as {POLICIES[name]!r}; choose another name")
    POLICIES[name] = entry_point


def save_policy(policy: StoredPolicy, folder: Path | str, *, encoder: str | None = None) -> None:
    """Write `policy` into `folder`; a crash leaves the old policy, or one that `load_policy` refuses, never a mixture.

    Args:
        policy: a policy whose name is registered.
        folder: made if absent; an older policy in it is replaced.
        encoder: fingerprint of the backbone whose states the policy reads; None where it reads the history.
    """
    _restorer(policy.name, source=f"policy {policy.name!r}")
    folder = Path(folder)
    weights = safetensors.torch.save({name: t.detach().cpu().contiguous() for name, t in policy.tensors().items()})
    description = {
        "format": FORMAT,
        "version": VERSION,
        "name": policy.name,
        "config": policy.config(),
        "num_items": policy.num_items,
        "encoder": encoder,
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "versions": {"recgym": _version("recgym"), "torch": torch.__version__, "python": platform.python_version()},
    }
    write_bytes(folder / WEIGHTS_FILE, weights)
    write_json(folder / DESCRIPTION_FILE, description)


def load_policy(
    folder: Path | str, *, encoder: str | None = None, sizes: Mapping[str, int] | None = None
) -> StoredPolicy:
    """Read the policy in `folder`.

    Args:
        folder: what `save_policy` wrote.
        encoder: fingerprint of the backbone that will feed it; None skips the comparison.
        sizes: of the observations that it will be given, as `Sessions.sizes`; None skips the comparison.

    Raises:
        FormatError: `policy.json` is missing, truncated, foreign or of another format or version.
        PolicyError: a field is missing or of another type; the weights are missing, truncated or another policy's; the
            name is not registered; or the policy was trained on another backbone's states, on another catalogue or on
            observations of other sizes.
    """
    folder = Path(folder)
    description = read_description(folder)
    file = folder / DESCRIPTION_FILE
    trained_on = description.get("encoder")
    if encoder is not None and trained_on is not None and encoder != trained_on:
        raise PolicyError(
            f"{file}: field 'encoder' is {trained_on}, but the backbone here is {encoder}; "
            "the policy reads the states of the backbone it was trained on: load that one"
        )
    restore = _restorer(description["name"], source=f"{file}: field 'name'")
    tensors = _read_weights(folder / WEIGHTS_FILE, description["weights_sha256"])
    try:
        policy = restore(description["config"], tensors)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise PolicyError(
            f"{file}: field 'config' does not describe a {description['name']!r} policy with the tensors "
            f"{sorted(tensors)} of {WEIGHTS_FILE}: {error}"
        ) from error
    if policy.num_items != description["num_items"]:
        raise PolicyError(
            f"{file}: field 'num_items' is {description['num_items']}, but {WEIGHTS_FILE} ranks {policy.num_items}"
        )
    if sizes is not None:
        check_fits(policy, sizes, where=f"for {file}")
    return policy


def read_description(folder: Path | str) -> dict[str, Any]:
    """The checked content of `policy.json` in `folder`.

    Raises:
        FormatError: the file is missing, is no JSON object, or is of another format or version.
        PolicyError: a field is missing or of another type.
    """
    file = Path(folder) / DESCRIPTION_FILE
    description = read_json(file, format=FORMAT, version=VERSION)
    for field, kind in FIELDS.items():
        if not isinstance(description.get(field), kind):
            found = type(description[field]).__name__ if field in description else "missing"
            raise PolicyError(f"{file}: field {field!r} should be of type {kind.__name__}, is {found}")
    return description


def _read_weights(file: Path, expected_sha256: str) -> dict[str, Tensor]:
    if not file.is_file():
        raise PolicyError(f"{file}: missing; save the policy again")
    content = file.read_bytes()
    if hashlib.sha256(content).hexdigest() != expected_sha256:
        raise PolicyError(
            f"{file}: {len(content)} bytes that are not those of field 'weights_sha256' in {DESCRIPTION_FILE}; "
            "the file is truncated or belongs to another policy: save the policy again"
        )
    try:
        return safetensors.torch.load(content)
    except SafetensorError as error:
        raise PolicyError(f"{file}: not a safetensors file ({error})") from error


def _restorer(name: str, *, source: str) -> Callable[[Mapping[str, Any], dict[str, Tensor]], StoredPolicy]:
    if name not in POLICIES:
        raise PolicyError(
            f"{source}: no policy named {name!r} is registered (known: {', '.join(sorted(POLICIES)) or 'none'}); "
            "import the package that registers it (`import agents`) or call register_policy"
        )
    module, _, attribute = POLICIES[name].partition(":")
    policy_class = getattr(importlib.import_module(module), attribute)
    return cast("Callable[[Mapping[str, Any], dict[str, Tensor]], StoredPolicy]", policy_class.restore)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
