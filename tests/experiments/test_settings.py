"""Settings by name and text reach the config, or the message says what there is."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.fit import Fit
from experiments.settings import with_settings
from recgym.backbones.backbone import BackboneConfig, own_config
from recgym.backbones.sasrec import SASRecConfig

pytestmark = pytest.mark.experiments


def test_settings_go_on_top_of_the_config() -> None:
    config = own_config(BackboneConfig(model="sasrec", width=32))
    found = with_settings(config, {"layer": "original", "expansion": "4"}, "the backbone")
    assert found == SASRecConfig(width=32, heads=2, layer="original", expansion=4)
    assert with_settings(config, {}, "the backbone") is config


@pytest.mark.parametrize("settings", [{"widht": "3"}, {"expansion": "many"}])
def test_what_does_not_fit_is_refused_before_any_work(settings: dict[str, str], tmp_path: Path) -> None:
    fit = Fit(out=tmp_path / "run", backbone=BackboneConfig(model="sasrec"), backbone_settings=settings)
    with pytest.raises(ValueError, match=r"do not fit the backbone 'sasrec'; its fields are .*expansion"):
        fit()
    assert not (tmp_path / "run").exists()
