"""Fields of a config by name and text, as on the command line: for configs that are chosen by name themselves."""

from __future__ import annotations

import dataclasses
from typing import TypeVar

import tyro

C = TypeVar("C")


def with_settings(config: C, settings: dict[str, str], what: str) -> C:
    """The config (a dataclass) with the fields of `settings` on top; `what` it configures is for the message.

    Raises:
        ValueError: a setting is no field of the config, or its value does not fit.
    """
    if not settings:
        return config
    words = [word for option, value in settings.items() for word in (f"--{option}", *value.split())]
    try:
        made = tyro.cli(type(config), args=words, default=config, config=(tyro.conf.FlagConversionOff,))
    except SystemExit as error:  # tyro has printed which field is wrong, and why
        names = [field.name.replace("_", "-") for field in dataclasses.fields(config)]  # type: ignore[arg-type]
        raise ValueError(f"the settings {settings} do not fit {what}; its fields are {', '.join(names)}") from error
    return made
