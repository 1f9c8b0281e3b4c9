"""Virtual Taobao: its networks against a plain reading of them, chances by frequency, refused files, the trade-off."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from recgym.checks import check_user_model
from recgym.env.session import SessionConfig, Sessions
from recgym.random import fold, session_keys, uniform
from simulators.taobao_files import NETWORKS
from simulators.virtual_taobao import SETTINGS, TaobaoState, VirtualTaobao, VirtualTaobaoConfig


@pytest.fixture(scope="session")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Networks of the published shapes with random weights; pages are clicked often, and customers stay a while."""
    folder = tmp_path_factory.mktemp("taobao")
    generator = torch.Generator().manual_seed(0)
    for name, widths in NETWORKS.items():
        state = {}
        for at in range(len(widths) - 1):
            scale = 2.0 / widths[at] ** 0.5
            state[f"{2 * at}.weight"] = torch.randn(widths[at + 1], widths[at], generator=generator) * scale
            state[f"{2 * at}.bias"] = 0.1 * torch.randn(widths[at + 1], generator=generator)
        if name == "action_model.pt":
            state["0.weight"][:, 88] = 0.01 * torch.randn(128, generator=generator)  # pages seen, 0 to 100
            state["4.bias"][0] += 2.5  # an empty page
        torch.save(state, folder / name)
    return folder


@pytest.fixture(scope="session")
def published(real_data: Path) -> Path:
    if not (real_data / "virtualtaobao" / "action_model.pt").is_file():
        pytest.skip("no virtualtaobao/action_model.pt among the real data")
    return real_data / "virtualtaobao"


def play(world: VirtualTaobao, score: Callable[[TaobaoState], Tensor] | None, sessions: int) -> tuple[Tensor, Tensor]:
    """Clicks and pages of each session, of 100 pages at most; a score of None is a random policy."""
    keys = session_keys(5, sessions)
    state, here = world.reset(keys), torch.ones(sessions, dtype=torch.bool)
    earned, pages = torch.zeros(2, sessions)
    for page in range(100):
        if score is None:
            slates = (uniform(fold(fold(keys, 77), page), 1) * world.num_items).to(torch.int64) + 1
        else:
            slates = score(state).argmax(1, keepdim=True) + 1
        state, response = world.step(state, slates)
        earned += here * response.feedback[:, 0, 0]
        pages += here
        here &= ~response.leaves
        if not here.any():
            break
    return earned, pages


@pytest.mark.parametrize("config", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("length", [0, 4])
def test_the_contract_holds(networks: Path, config: VirtualTaobaoConfig, length: int) -> None:
    check_user_model(VirtualTaobao(replace(config, path=networks, num_items=20, length=length)), steps=6)


def test_customers_have_one_value_of_each_attribute(networks: Path) -> None:
    customer = VirtualTaobao(VirtualTaobaoConfig(path=networks)).reset(session_keys(0, 500)).customer
    assert customer.shape == (500, 88)
    for part in customer.split([8, 8, 11, 11, 11, 11, 2, 2, 3, 18, 3], 1):
        assert torch.equal(part.sum(1), torch.ones(500))
        assert len(part.unique(dim=0)) > 1


def test_the_truth_is_what_the_networks_say(networks: Path) -> None:
    world = VirtualTaobao(replace(SETTINGS["virtual-taobao-repaired"], path=networks, num_items=7))
    state = world.reset(session_keys(0, 5))
    for _ in range(3):
        state, _ = world.step(state, torch.full((5, 1), 2))
    file = torch.load(networks / "action_model.pt", weights_only=True)
    x = torch.cat([state.customer[4], torch.tensor([3.0]), world.actions[5]])
    for layer in (0, 2):
        x = torch.nn.functional.leaky_relu(file[f"{layer}.weight"] @ x + file[f"{layer}.bias"])
    chance = (file["4.weight"] @ x + file["4.bias"])[:11].softmax(0)
    seen = world.truth(state)
    torch.testing.assert_close(seen["clicks"][4, 5], (chance * torch.arange(11)).sum(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(seen["miss"][4, 5], chance[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("config", SETTINGS.values(), ids=SETTINGS)
def test_clicks_and_leaving_are_as_frequent_as_the_truth_says(networks: Path, config: VirtualTaobaoConfig) -> None:
    world = VirtualTaobao(replace(config, path=networks, num_items=10))
    state = world.reset(session_keys(3, 20000))
    for item in (3, 3, 8, 8):
        seen = {name: value[:, item - 1] for name, value in world.truth(state).items()}
        state, response = world.step(state, torch.full((20000, 1), item))
        clicks = response.feedback[:, 0, 0]
        for found, chance in (
            (clicks, seen["clicks"]),
            ((clicks == 0).float(), seen["miss"]),
            (response.leaves.float(), seen["leave"]),
        ):
            error = found - chance
            assert abs(float(error.mean())) < 4 * float(error.std()) / 20000**0.5 + 1e-4
        assert torch.equal(state.misses > 0, clicks == 0)


def test_sessions_last_as_long_as_the_leave_network_says(networks: Path) -> None:
    free = VirtualTaobaoConfig(path=networks, drawn_leave=False, leave_base=0.0, leave_miss=0.0, leave_same=0.0)
    for config in (VirtualTaobaoConfig(path=networks), free):
        world = VirtualTaobao(replace(config, num_items=3))
        x = world.reset(session_keys(5, 4000)).customer
        file = torch.load(networks / "leave_model.pt", weights_only=True)
        for layer in (0, 2, 4):
            x = x @ file[f"{layer}.weight"].T + file[f"{layer}.bias"]
            x = torch.nn.functional.leaky_relu(x) if layer < 4 else x.softmax(1)
        expected = (x * torch.arange(101).clamp(min=1)).sum(1)  # nobody leaves before the first page
        _, pages = play(world, None, 4000)
        error = pages - expected
        assert abs(float(error.mean())) < 4 * float(error.std()) / 4000**0.5


def test_empty_pages_and_the_same_page_drive_customers_out(networks: Path) -> None:
    world = VirtualTaobao(replace(SETTINGS["virtual-taobao-repaired"], path=networks, num_items=30))
    state = world.reset(session_keys(0, 400))
    state, _ = world.step(state, torch.full((400, 1), 4))
    leave = world.truth(state)["leave"]
    patient = world.truth(state._replace(misses=torch.zeros_like(state.misses)))["leave"]
    missed = state.misses > 0
    assert missed.any() and (patient[missed] <= leave[missed]).all() and (patient[missed] < leave[missed]).any()
    moved = world.truth(state._replace(page=torch.zeros_like(state.page)))["leave"]
    assert (moved[:, 3] < leave[:, 3]).all()
    far = (world.actions @ world.actions[3]) <= 0
    torch.testing.assert_close(moved[:, far], leave[:, far])


def test_any_action_may_be_shown_as_published(networks: Path) -> None:
    world = VirtualTaobao(VirtualTaobaoConfig(path=networks, num_items=9, length=3))
    keys = session_keys(0, 50)
    one, said = world.step(world.reset(keys), torch.full((50, 1), 6))
    other, again = world.step_actions(world.reset(keys), world.actions[5].expand(50, -1))
    assert torch.equal(said.feedback, again.feedback) and torch.equal(said.leaves, again.leaves)
    assert (world.history(one)[0][:, -1] == 6).all() and (world.history(other)[0] == 0).all()
    assert world.actions.shape == (9, 27) and float(world.actions.abs().max()) <= 1


def test_the_platform_sees_91_numbers(networks: Path) -> None:
    world = VirtualTaobao(VirtualTaobaoConfig(path=networks))
    state, response = world.step(world.reset(session_keys(0, 40)), torch.ones(40, 1, dtype=torch.int64))
    vector = world.visible(state).vector
    assert vector.shape == (40, 91) and float(vector.min()) >= 0 and float(vector.max()) <= 1
    torch.testing.assert_close(vector[:, 88] * 10, response.feedback[:, 0, 0])
    torch.testing.assert_close(vector[:, 90], torch.full((40,), 0.01))


def test_wrong_files_and_settings_are_refused(networks: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"VirtualTaobaoConfig\.path is empty"):
        VirtualTaobao()
    with pytest.raises(FileNotFoundError, match=r"generator_model\.pt does not exist; VirtualTaobaoConfig\.path"):
        VirtualTaobao(VirtualTaobaoConfig(path=tmp_path))
    for name in NETWORKS:
        (tmp_path / name).write_bytes((networks / name).read_bytes())
    config, leave = VirtualTaobaoConfig(path=tmp_path, num_items=3), tmp_path / "leave_model.pt"
    VirtualTaobao(config)

    good = torch.load(leave, weights_only=True)
    torch.save(good | {"4.bias": torch.zeros(100)}, leave)
    with pytest.raises(ValueError, match=r"leave_model\.pt: 4\.bias is \(100,\), expected floats of shape \(101,\)"):
        VirtualTaobao(config)
    torch.save(good | {"4.bias": torch.full((101,), torch.nan)}, leave)
    with pytest.raises(ValueError, match=r"4\.bias has a value that is not finite"):
        VirtualTaobao(config)
    torch.save({"weight": torch.zeros(1)}, leave)
    with pytest.raises(ValueError, match=r"leave_model\.pt holds weight, expected the tensors 0\.weight"):
        VirtualTaobao(config)
    torch.save(torch.zeros(2), leave)
    with pytest.raises(ValueError, match=r"leave_model\.pt holds Tensor, expected the tensors"):
        VirtualTaobao(config)
    for content in (b"", b"no network", pickle.dumps(print, protocol=2)):
        leave.write_bytes(content)
        with pytest.raises(ValueError, match=r"leave_model\.pt holds no torch weights"):
            VirtualTaobao(config)

    world = VirtualTaobao(VirtualTaobaoConfig(path=networks))
    with pytest.raises(ValueError, match="slates have 2 items, expected 1"):
        world.step(world.reset(session_keys(0, 3)), torch.ones(3, 2, dtype=torch.int64))
    for name, value in (("num_items", 0), ("length", -1), ("leave_miss", -0.1), ("leave_same", float("inf"))):
        with pytest.raises(ValueError, match=rf"VirtualTaobaoConfig\.{name} is"):
            replace(VirtualTaobaoConfig(), **{name: value})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"leave_base is nan"):
        VirtualTaobaoConfig(leave_base=float("nan"))


@pytest.mark.parametrize("config", SETTINGS.values(), ids=SETTINGS)
def test_the_contract_holds_on_the_published_networks(published: Path, config: VirtualTaobaoConfig) -> None:
    world = VirtualTaobao(replace(config, path=published))
    check_user_model(world, steps=6)
    assert Sessions(world, SessionConfig(max_steps=100)).state_width == 91


def test_published_customers_stay_as_long_as_they_were_trained_to(published: Path) -> None:
    world = VirtualTaobao(VirtualTaobaoConfig(path=published))
    _, pages = play(world, None, 4000)
    assert abs(float(pages.mean()) - 7.7) < 4 * float(pages.std()) / 4000**0.5 + 0.1
    _, others = play(world, world.bands()["rule"], 4000)
    assert torch.equal(pages, others)  # whatever is shown


def test_changing_the_page_pays_in_the_repaired_setting(published: Path) -> None:
    world = VirtualTaobao(replace(SETTINGS["virtual-taobao-repaired"], path=published))
    bands = world.bands()
    random, myopic, best = (play(world, score, 300)[0] for score in (None, bands["myopic"], bands["best known"]))
    gain = best - 1.1 * myopic
    assert float(gain.mean()) > 2 * float(gain.std()) / 300**0.5
    assert float(random.mean()) < 0.2 * float(myopic.mean())
