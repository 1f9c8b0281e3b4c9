"""What the checkout puts on the path and what the wheel ships (docs/design.md, section 2)."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
EPISODE = """
import gymnasium, recgym, sys
assert recgym.__file__.startswith(sys.argv[1]), recgym.__file__
env = gymnasium.make("RecSession-v0")
env.reset(seed=0)
env.action_space.seed(0)
for steps in range(1, 1000):
    *_, terminated, truncated, _ = env.step(env.action_space.sample())
    if terminated or truncated:
        break
print("steps", steps)
assert terminated or truncated
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout[-2000:] + built.stderr[-2000:]
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_ships_recgym_alone_with_its_sample(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"recgym"}
    for part in ["py.typed", "logs/sample/events.parquet", "logs/sample/items.parquet", "users/sample/users.json"]:
        assert f"recgym/{part}" in names
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "recgym").rglob("*.py")}
    assert sources <= set(names)
    assert wheel.stat().st_size < 8_000_000


def test_an_episode_runs_from_the_installed_wheel(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", str(target), str(wheel)]
    subprocess.run(pip, check=True)
    run = subprocess.run(
        [sys.executable, "-c", EPISODE, str(target)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(target)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout.startswith("steps ")


def test_agents_is_the_checkout_and_not_a_package_of_that_name() -> None:
    for name in ("agents", "simulators", "experiments", "recgym"):
        run = [sys.executable, "-c", f"import {name}; print({name}.__file__)"]
        shown = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=True)
        assert Path(shown.stdout.strip()) == ROOT / name / "__init__.py"


def test_importing_recgym_imports_no_leaf_and_no_heavy_extra() -> None:
    code = "import sys, recgym; print([m for m in sys.modules if m.split('.')[0] in sys.argv[1].split()])"
    heavy = "agents simulators experiments stable_baselines3 d3rlpy matplotlib polars pandas sklearn"
    shown = subprocess.run([sys.executable, "-c", code, heavy], cwd=ROOT, capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
