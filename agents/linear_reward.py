"""Linear models of the immediate reward: ridge regression on what is seen of session and item, exact at every step.

    r ~ theta . phi(s, j)        A = ridge I + sum of phi phi^T,  b = sum of r phi,  theta = A^-1 b
    disjoint  phi(s, j) = x = [1, context, state]      a theta for each item, (N, P)
    shared    phi(s, j) = [x, z_j, x'_i z_ji]          one theta for all, (1, P); x' is the state, i < min(D, Z)

z_j are the backbone's item vectors and bias, or candidates' features; with both x' (the state) and z_j from a backbone
the products hold its own score. sigma^2 is the mean squared residual, and theta's posterior is N(theta, sigma^2 A^-1).

Source: Li et al. (2010), "A contextual-bandit approach to personalized news article recommendation", algorithm 1 (the
disjoint model) and section 3.2 (features that items share; our shared model has no part of its own for each item).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from agents.layout import Layout
from agents.task import Task
from recgym.types import Observation

Model = Literal["auto", "disjoint", "shared"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Features:
    """What phi(s, j) is made of; linear in [1, z_j], so all items' rewards are one product of (B, Z) by (Z, N)."""

    layout: Layout
    shared: bool
    vectors: Tensor | None = None  # (N, Z) item vectors and biases; None: candidates' features, or a disjoint model

    @property
    def num_models(self) -> int:
        """Regressions, M: one an item, or one."""
        return 1 if self.shared else self.layout.num_items

    @property
    def item_width(self) -> int:
        """Features of an item, Z."""
        return self.layout.candidate_width if self.vectors is None else self.vectors.shape[1]

    @property
    def width(self) -> int:
        """Features of a pair of session and item, P."""
        session = 2 + self.layout.state_width
        return session + self.item_width + self.num_crossed if self.shared else session

    def sessions(self, observation: Observation) -> Tensor:
        """What is seen of the sessions: x = [1, context, state], (B, 2 + D)."""
        assert observation.state is not None
        state, context = observation.state[:, : self.layout.state_width], observation.context
        return torch.cat([torch.ones_like(context), context, state], 1)

    def items(self, observation: Observation) -> Tensor:
        """[1, z_j], (N, 1 + Z), or (B, N, 1 + Z) of candidates."""
        found = self.vectors if self.vectors is not None else observation.candidates
        assert found is not None
        return torch.nn.functional.pad(found.to(observation.context.device), (1, 0), value=1.0)

    def model_of(self, action: Tensor) -> Tensor:
        """Number of the model that each action (B,) is of, (B,)."""
        return action if self.num_models > 1 else torch.zeros_like(action)

    def chosen(self, observation: Observation, action: Tensor) -> Tensor:
        """Features phi(s, action), (B, P), for actions (B,) from 0."""
        if not self.shared:
            return self.sessions(observation)
        items = self.items(observation)
        row = torch.arange(len(action), device=action.device)
        z = (items[action] if items.dim() == 2 else items[row, action])[:, 1:]  # (B, Z)
        return torch.cat([self.sessions(observation), z, (self._crossed(observation) * z)[:, : self.num_crossed]], 1)

    def means(self, observation: Observation, theta: Tensor) -> Tensor:
        """Rewards theta . phi(s, j), (B, N), of theta (M, P), or (B, P) where the model is shared."""
        x = self.sessions(observation)
        theta = theta.to(x.device)
        if not self.shared:
            return x @ theta.T
        of_session, of_item, of_both = self._padded(theta.expand(len(x), -1)).split(self._parts, 1)
        constant = (of_session * x).sum(1, keepdim=True)
        query = torch.cat([constant, of_item + of_both * self._crossed(observation)], 1)  # (B, 1 + Z)
        items = self.items(observation)
        return query @ items.T if items.dim() == 2 else (items @ query.unsqueeze(2)).squeeze(2)

    def variances(self, observation: Observation, covariance: Tensor) -> Tensor:
        """Variances phi^T C phi of the rewards, (B, N), of C (M, P, P)."""
        x = self.sessions(observation)
        covariance = covariance.to(x.device)
        if not self.shared:
            return torch.einsum("nbp,bp->bn", x @ covariance, x).clamp_min(0)
        rows = self._padded(self._padded(covariance[0]).T).T.split(self._parts, 0)
        (xx, xz, xc), (_, zz, zc), (_, _, cc) = (block.split(self._parts, 1) for block in rows)
        d = self._crossed(observation)  # (B, Z)
        wide, tall = d.unsqueeze(1), d.unsqueeze(2)
        inner = zz + zc * wide + zc.T * tall + cc * (tall * wide)  # (B, Z, Z), between z_j and z_j
        middle = x @ xz + (x @ xc) * d  # (B, Z), between 1 and z_j
        corner = ((x @ xx) * x).sum(1, keepdim=True)  # (B, 1)
        items = self.items(observation)[..., 1:]
        flat = items @ middle.unsqueeze(2)  # (B, N, 1)
        found: Tensor = corner + 2 * flat.squeeze(2) + ((items @ inner) * items).sum(2)
        return found.clamp_min(0)

    @property
    def num_crossed(self) -> int:
        """Products of state and item that a shared model reads."""
        return min(self.layout.state_width, self.item_width)

    @property
    def _parts(self) -> list[int]:
        """Widths of x, z and the products, those padded to Z."""
        return [2 + self.layout.state_width, self.item_width, self.item_width]

    def _padded(self, theta: Tensor) -> Tensor:
        """Numbers of each feature (B, P), and 0 for the products that are not read, (B, 2 + D + 2 Z)."""
        return torch.nn.functional.pad(theta, (0, self.item_width - self.num_crossed))

    def _crossed(self, observation: Observation) -> Tensor:
        """What z is multiplied by, (B, Z): the state's leading columns, then 0."""
        found = self.sessions(observation)[:, 2 : 2 + self.num_crossed]
        return torch.nn.functional.pad(found, (0, self.item_width - self.num_crossed))

    def double(self) -> Features:
        """The same with vectors in float64."""
        return dataclasses.replace(self, vectors=None if self.vectors is None else self.vectors.double())

    def config(self) -> dict[str, Any]:
        """Arguments of `restore` besides the tensors."""
        return {"layout": dataclasses.asdict(self.layout), "shared": self.shared}

    def tensors(self) -> dict[str, Tensor]:
        """The item vectors, where there are any."""
        return {} if self.vectors is None else {"vectors": self.vectors}

    @classmethod
    def restore(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Features:
        """The features whose `config` and `tensors` these are."""
        return cls(layout=Layout(**config["layout"]), shared=config["shared"], vectors=tensors.get("vectors"))


def check_model(model: str) -> None:
    """Refuse what is no kind of model.

    Raises:
        ValueError: names it.
    """
    if model not in get_args(Model):
        raise ValueError(f"model is {model!r}, expected 'auto', 'disjoint' or 'shared'")


def features_of(task: Task, model: Model, limit: int) -> Features:
    """Features for `task`: disjoint while all A together hold at most `limit` numbers, N P^2, and else shared.

    Raises:
        ValueError: the items are too many for a disjoint model and nothing is known of them for a shared one.
    """
    layout = task.layout(1)
    numbers = layout.num_items * (2 + layout.state_width) ** 2
    shared = model == "shared" or (model == "auto" and (layout.candidate_width > 0 or numbers > limit))
    if not shared and numbers > limit:
        raise ValueError(f"a disjoint model of {layout.num_items} items holds {numbers} numbers, above limit {limit}")
    if not shared or layout.candidate_width:
        return Features(layout=layout, shared=shared)
    if task.backbone is None:
        raise ValueError(
            f"a shared model needs item vectors, and the task has no backbone; a disjoint one of {layout.num_items} "
            f"items holds {numbers} numbers: give Task(backbone=...), or a limit of {numbers}"
        )
    vectors, bias = task.item_vectors()
    return Features(layout=layout, shared=True, vectors=torch.cat([vectors, bias.unsqueeze(1)], 1))


class Ridge:
    """M ridge regressions in float64, solved anew for every model that a batch adds to."""

    def __init__(self, num_models: int, width: int, ridge: float) -> None:
        """Nothing is seen yet."""
        eye = torch.eye(width, dtype=torch.float64)
        self.moments = (ridge * eye).repeat(num_models, 1, 1)  # (M, P, P): A
        self.targets = torch.zeros(num_models, width, dtype=torch.float64)  # (M, P): b
        self.inverse = (eye / ridge).repeat(num_models, 1, 1)  # (M, P, P): A^-1
        self.theta = torch.zeros_like(self.targets)  # (M, P)
        self.totals = torch.zeros(2, dtype=torch.float64)  # rewards seen, and the sum of their squares

    def add(self, model: Tensor, phi: Tensor, reward: Tensor) -> None:
        """Take in phi (B, P) and rewards (B,) of models (B,), and solve again."""
        if len(self.moments) == 1:
            self.moments += phi.T @ phi
        else:
            self.moments.index_add_(0, model, phi.unsqueeze(2) * phi.unsqueeze(1))
        self.targets.index_add_(0, model, phi * reward.unsqueeze(1))
        self.totals += torch.stack([reward.new_tensor(float(len(reward))), (reward * reward).sum()])
        changed = model.unique()
        self.inverse[changed] = torch.cholesky_inverse(torch.linalg.cholesky(self.moments[changed]))
        self.theta[changed] = torch.einsum("mpq,mq->mp", self.inverse[changed], self.targets[changed])

    @property
    def noise(self) -> float:
        """sigma: sqrt of (sum of r^2 - theta . b) / rewards seen, which is RSS with the penalty; 1 before the first."""
        count, squares = self.totals.tolist()
        left = (squares - float((self.theta * self.targets).sum())) / max(count, 1.0)
        return max(left, 1e-12) ** 0.5 if count else 1.0

    def state_dict(self) -> dict[str, Tensor]:
        """All of it."""
        return {name: part.clone() for name, part in vars(self).items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state_dict`."""
        vars(self).update({name: part.clone() for name, part in state.items()})


def in_double(observation: Observation) -> Observation:
    """State, context and candidates in float64, as the regressions are."""
    parts = {name: getattr(observation, name) for name in ("context", "state", "candidates")}
    doubled: dict[str, Any] = {name: part.double() for name, part in parts.items() if part is not None}
    return observation._replace(**doubled)
