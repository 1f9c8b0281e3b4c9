"""RecSession-v0: one session of one simulated user, the batch of one of `recgym.env.session.Sessions`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium
import torch

from recgym.backbones.backbone import Backbone
from recgym.env.render import Shown, draw, write
from recgym.env.resolve import resolve_sessions
from recgym.env.session import Repeats, SessionConfig, Sessions
from recgym.env.spaces import Surface
from recgym.random import fold, session_keys
from recgym.types import Reads
from recgym.users.model import UserModel


class RecSessionEnv(gymnasium.Env[Any, Any]):
    """A recommendation session.

    ## Description
    Each step shows a slate of items to a simulated user, who reacts (clicks, likes, ...) and may leave. The user's
    interest, boredom and patience depend on what was shown before; a policy earns most by keeping the session alive.

    ## Action space
    `Discrete(N)` for one item a step, `MultiDiscrete([N] * slate_size)` for a slate; action j is item id j + 1.

    ## Observation space
    "state": `Box` (D + 1,) float32, the encoder's state of the history, and the number of steps in hundreds.
    "history": `Dict` of `items` (L,) int64 (most recent last, 0 pads), `feedback_NAME` (L,) for each kind, `context`
    (1,).

    ## Rewards
    The sum over the slate and the kinds of feedback of `reward[kind] * amount`; 1 for the first kind by default.
    `info["reward_NAME"]` has every term, `info["feedback"]` the feedback (K, F).

    ## Starting state
    A logged user's history at the start of a logged session, drawn by the episode's key.

    ## Episode end
    Terminated when the user leaves; truncated after `max_steps` steps.

    ## Arguments
    users: "sample", a folder that `fit` wrote, "simulators:NAME", or any `UserModel`.
    observation: "state" or "history".
    encoder: the platform's own backbone (or its folder), where it should differ from the one inside the users.
    slate_size: items a step.
    candidates: items that a retriever offers at each step, C; actions are places 0..C-1 among them, whose features
        stand behind the state and whose ids are in `info["candidates"]` (and in the observation "history"). None: all.
    explore: share of the candidates that is drawn uniformly; the others are the encoder's best.
    reward: weight of each kind of feedback.
    repeats: "allow", "mask" (`info["action_mask"]`) or "refuse" with an error.
    max_steps: steps before truncation.
    pessimism: what a unit of disagreement in the users' ensemble takes from the reward.
    render_mode: None, "ansi" or "rgb_array".
    device: where the users live.

    ## Version history
    v0: the first.
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi", "rgb_array"], "render_fps": 2}  # noqa: RUF012 (as Gymnasium)

    def __init__(
        self,
        *,
        users: str | Path | UserModel[Any] = "sample",
        observation: Reads = "state",
        encoder: str | Path | Backbone | None = None,
        slate_size: int = 1,
        candidates: int | None = None,
        explore: float = 0.0,
        reward: Mapping[str, float] | None = None,
        repeats: Repeats = "allow",
        max_steps: int = 50,
        pessimism: float = 0.0,
        render_mode: str | None = None,
        device: str = "cpu",
        sessions: Sessions[Any] | None = None,
    ) -> None:
        """See the class; `sessions` made elsewhere take the place of users, encoder and what configures them."""
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"render_mode is {render_mode!r}, expected None or one of {self.metadata['render_modes']}")
        if sessions is None:
            config = SessionConfig(
                slate_size=slate_size, reward=reward, repeats=repeats, max_steps=max_steps, pessimism=pessimism
            )
            sessions = resolve_sessions(
                users, config, encoder=encoder, candidates=candidates, explore=explore, device=device
            )
        self.sessions: Sessions[Any] = sessions
        self.surface = Surface(self.sessions, observation)
        self.observation_space, self.action_space = self.surface.observation_space, self.surface.action_space
        self.render_mode = render_mode
        self._episode = 0
        self._root: torch.Tensor | None = None
        self._state: Any = None
        self._record: list[Shown] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start the next session; episode e under seed s is row 0 of `RecSessionVectorEnv` under s.

        Args:
            seed: starts again at episode 0 of this seed; None goes on.
            options: none are known.
        """
        super().reset(seed=seed, options=options)
        if seed is not None or self._root is None:
            root = seed if seed is not None else int(self.np_random.integers(2**31))
            self._root, self._episode = session_keys(root, 1), 0
        with torch.inference_mode():
            self._state = self.sessions.reset(fold(self._root, self._episode))
            observation = self._observe()
        self._episode += 1
        self._record = []
        return observation, self._info({})

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Show one slate; `action` is an int, or (K,) ints, from 0."""
        if self._state is None:
            raise RuntimeError("call reset before step")
        slates = self.surface.slate(action)
        shown = self.sessions.items_of(self._state, slates).tolist()[0] if self.render_mode is not None else []
        with torch.inference_mode():  # a fifth faster than without gradients alone; nothing of it leaves this object
            self._state, outcome = self.sessions.step(self._state, slates, checked=True)
            feedback = outcome.response.feedback.cpu().numpy()[0]
            observation = self._observe()
        if self.render_mode is not None:
            self._record.append(Shown(shown, feedback.tolist(), bool(outcome.terminated)))
        info: dict[str, Any] = {f"reward_{name}": term.item() for name, term in outcome.terms.items()}
        info["feedback"] = feedback
        ended = bool(outcome.terminated), bool(outcome.truncated)
        return observation, outcome.reward.item(), *ended, self._info(info)

    def render(self) -> Any:
        """The session so far: text ("ansi") or an image (H, W, 3) uint8 ("rgb_array")."""
        if self.render_mode is None:
            return None
        return (write if self.render_mode == "ansi" else draw)(self.sessions.users, self._record)

    def _observe(self) -> Any:
        observation = self.surface.observe(self._state)
        return (
            {name: part[0] for name, part in observation.items()} if isinstance(observation, dict) else observation[0]
        )

    def _info(self, info: dict[str, Any]) -> dict[str, Any]:
        mask, offered = self.surface.action_mask(self._state), self.surface.offered(self._state)
        if mask is not None:
            info["action_mask"] = mask[0]
        if offered is not None:
            info["candidates"] = offered[0]
        return info
