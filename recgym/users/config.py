"""What the learner of users may choose, in one frozen record."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class UserConfig:
    """How users are learned from sequences, and what is assumed where the logs are silent."""

    width: int = 64
    """Hidden units of the feedback head, H."""
    leave_width: int = 32
    """Hidden units of the leaving head."""
    item_width: int = 16
    """Free coordinates learned for each item beside its backbone vector."""
    epochs: int = 30
    """Passes over the training slates at most; early stopping usually ends sooner."""
    patience: int = 3
    """Epochs without a better validation loss before training stops."""
    state_dropout: float = 0.8
    """Share of the state's units dropped while the heads are fitted: the backbone has seen the same steps, so that its
    state knows more of them than it will of new ones."""
    batch_size: int = 512
    """Slates in a minibatch."""
    learning_rate: float = 2e-3
    """AdamW's step size."""
    weight_decay: float = 1e-2
    """AdamW's decay of the shared weights."""
    item_decay: float = 0.3
    """AdamW's decay of the free item coordinates: stronger, since most items are rare."""
    max_slates: int = 1_000_000
    """Training slates used at most; whole sessions are drawn at random beyond that."""
    censor_seconds: float = 1800.0
    """A session that was active this close to the end of the log is taken as cut off, not as ended by the user."""
    repeat_threshold: float = 0.01
    """Where a smaller share of consumed items was consumed before, a consumed item is never consumed again."""
    random_effects: bool = True
    """Give each session its own intercepts, where the marginal likelihood asks for them."""
    base_rate: float = 0.1
    """Logs without exposures only: chance that an item drawn from the negatives' distribution is consumed."""
    negatives: int = 4
    """Logs without exposures only: items sampled against each consumed one."""
    popularity_weight: float = 0.5
    """Logs without exposures only: negatives are drawn by popularity with this chance, else uniformly."""
    ignored_hazard: float = 1.0
    """Logs without exposures only: hazard of leaving after an ignored item, as a multiple of after a consumed one."""
    ensemble: int = 2
    """More sets of heads, each fitted to resampled sessions: their disagreement says where the users are guesswork."""
    propensity_clip: float = 0.0
    """Largest weight of a step by inverse propensity, where the log has propensities; 0: all steps count the same.

    Without exposures a propensity is the chance that the item was consumed, so that weights concern what follows (stars
    of what was rated); which item is consumed is learned from all steps alike."""
    churn_days: float = 30.0
    """A user away for longer counts as churned; where the log is shorter, the log's length."""
    max_starts: int = 2048
    """Logged session starts kept for `reset`."""
    new_user_share: float | None = None
    """Share of sessions of `reset` whose user is new, with an empty history; None: as in the log, whose starts include
    users' first sessions as often as they happened."""
    start_megabytes: int = 128
    """Memory for the encoded starts; where their caches are larger (attention), fewer starts are kept."""
    seed: int = 0
    """Seed of initial weights, minibatches, negatives and starts."""

    def __post_init__(self) -> None:
        positive = ("width", "leave_width", "item_width", "epochs", "patience", "batch_size", "max_slates", "negatives")
        for name in (*positive, "max_starts", "start_megabytes", "learning_rate", "churn_days"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}, expected a positive number")
        for name in ("weight_decay", "item_decay", "censor_seconds", "ignored_hazard", "ensemble", "propensity_clip"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}, expected a number of at least 0")
        for name in ("repeat_threshold", "popularity_weight"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected a share between 0 and 1")
        if self.new_user_share is not None and not 0 <= self.new_user_share <= 1:
            raise ValueError(f"new_user_share is {self.new_user_share}, expected a share between 0 and 1, or None")
        if not 0 <= self.state_dropout < 1:
            raise ValueError(f"state_dropout is {self.state_dropout}, expected a share in [0, 1)")
        if not 0 < self.base_rate < 1:
            raise ValueError(f"base_rate is {self.base_rate}, expected a probability strictly between 0 and 1")
