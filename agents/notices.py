"""Imported before Stable-Baselines3 and d3rlpy: they import the old `gym` where it is installed, which then prints.

It says that it is unmaintained. Nobody here uses it.
"""

import contextlib
import importlib

with contextlib.suppress(ImportError):
    importlib.import_module("gym_notices.notices").notices.clear()
