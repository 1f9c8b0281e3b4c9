"""P5: recommendation as text. A T5 reads "user ... has bought ... what is next ?" and writes the id of an item.

There is no state whose dot products with item vectors score the items, so P5 does not fit the backbones' contract and
is not in their registry: it ranks (`P5Ranker`) beside them, and costs a decoder's pass over the tree of all ids for
each history, or a beam search. Needs the extra `p5` (transformers). Feedback is read as in the paper, which knows only
what was bought: steps without positive first feedback are left out of the prompt.

Source: Geng, Liu, Fu, Ge, Zhang (2022), "Recommendation as language processing (RLP): a unified pretrain, personalized
prompt and predict paradigm (P5)"; ids as in Hua, Xu, Ge, Zhang (2023), see `recgym.backbones.p5_ids`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from recgym.backbones.backbone import BackboneConfig
from recgym.backbones.p5_ids import digits, prefixes, tree_of
from recgym.backbones.p5_prompts import PAD, Prompts
from recgym.logs.sequences import Sequences, batches
from recgym.types import IntArray

INDEXINGS = ("collaborative", "sequential")
_PATHS, _CELLS = 64, 1 << 26


@dataclass(frozen=True, kw_only=True)
class P5Config(BackboneConfig):
    """T5's size and the items' ids; the defaults are those of P5-small."""

    model: str = "p5"
    """Its name in tables."""
    width: int = 512
    """Units of T5, d_model; its feed-forward layers have four times as many."""
    layers: int = 6
    """Layers of the encoder, and of the decoder."""
    heads: int = 8
    """Attention heads; must divide `width`, unless they are those of `weights`."""
    length: int = 20
    """Steps of history that a prompt holds, L."""
    dropout: float = 0.1
    """Share of units dropped in training."""
    weights: str = ""
    """Folder of a T5 with its tokenizer, such as t5-small's; width, layers and heads are then its own. Empty: fresh."""
    indexing: str = "collaborative"
    """How items are called, one of `INDEXINGS`."""
    tokens: int = 500
    """Tokens that ids are made of, K."""
    clusters: int = 20
    """Parts of a split of collaborative ids."""
    num_users: int = 0
    """Users that prompts name by their number in the log; 0: prompts name nobody."""

    def __post_init__(self) -> None:
        """Check the fields."""
        super().__post_init__()
        if self.indexing not in INDEXINGS:
            raise ValueError(f"indexing is {self.indexing!r}, expected one of {', '.join(INDEXINGS)}")
        if not 2 <= self.clusters < self.tokens:
            raise ValueError(f"clusters is {self.clusters}, expected at least 2 and fewer than tokens ({self.tokens})")
        self._at_least(0, "num_users")

    def _divides(self) -> None:
        if not self.weights:  # a T5 may have heads of any size
            super()._divides()


class Read(NamedTuple):
    """What T5's encoder made of B prompts."""

    hidden: Tensor  # (B, S, d_model)
    there: Tensor  # (B, S) int64: 1 where a prompt has a token


class P5(nn.Module):
    """T5 over prompts; tokens are those of text, then K of item ids, then K of user ids."""

    def __init__(self, config: P5Config, codes: IntArray, prompts: Prompts, t5: Any) -> None:
        """`codes` (N, E) from `p5_ids`; `t5` a T5ForConditionalGeneration, whose table of tokens is made to fit."""
        super().__init__()
        self.config, self.prompts, self.num_items = config, prompts, len(codes)
        self.t5: Any = t5
        t5.resize_token_embeddings(prompts.text + 2 * config.tokens, mean_resizing=False)
        self.whole_word = nn.Embedding(config.length + prompts.most_words + 1, t5.config.d_model)
        nn.init.zeros_(self.whole_word.weight)
        paths, group = prefixes(codes)
        self.codes: Tensor
        self.paths: Tensor
        self.group: Tensor
        self.tree: Tensor
        self.register_buffer("codes", torch.from_numpy(codes))  # (N, E)
        self.register_buffer("paths", torch.from_numpy(paths), persistent=False)  # (P, E - 1)
        self.register_buffer("group", torch.from_numpy(group), persistent=False)  # (N,) the path that leads to an item
        self.register_buffer("tree", tree_of(codes, config.tokens), persistent=False)  # (nodes, K)

    def read(self, items: Tensor, feedback: Tensor, users: Tensor | None = None, *, template: int = 0) -> Read:
        """Encode histories (B, L) and (B, L, F), padded anywhere, of users (B,), -1 for one unknown."""
        bought = items * (feedback[..., 0] > 0)
        tokens = self._tokens(self.codes)[bought - 1].masked_fill((bought == 0).unsqueeze(2), PAD)
        tokens, words = self.prompts.write(template, tokens, self._users(users, len(items)).to(items.device))
        there = (tokens != PAD).long()
        vectors = self.t5.get_input_embeddings()(tokens) + self.whole_word(words)
        return Read(self.t5.get_encoder()(inputs_embeds=vectors, attention_mask=there).last_hidden_state, there)

    def next_code(self, read: Read, before: Tensor) -> Tensor:
        """Predict the codes of W beginnings of ids, log p(c_t | prompt, c_<t): (B, W, T) codes -> (B, W, T + 1, K).

        The beginnings of a prompt lie in one row of the decoder, under a mask that keeps them apart. T5 knows places
        only by their distances, so each is read as if it were alone; the prompt's keys and values are computed once.
        """
        rows, width, length = before.shape
        start = before.new_full((rows, width, 1), self.t5.config.decoder_start_token_id)
        tokens = torch.cat([start, self._tokens(before)], 2).flatten(1)  # (B, W * (T + 1))
        sees = torch.kron(
            torch.eye(width, device=tokens.device), torch.ones(length + 1, length + 1, device=tokens.device).tril()
        )
        mask = torch.zeros_like(sees).masked_fill(sees == 0, torch.finfo(sees.dtype).min)
        logits: Tensor = self.t5(
            encoder_outputs=(read.hidden,),
            attention_mask=read.there,
            decoder_input_ids=tokens,
            decoder_attention_mask=mask.expand(rows, 1, -1, -1),
            use_cache=False,
        ).logits.float()
        first = self.prompts.text
        own = logits[..., first : first + self.config.tokens] - logits.logsumexp(-1, keepdim=True)
        return own.view(rows, width, length + 1, -1)

    def loss(self, read: Read, targets: Tensor) -> Tensor:
        """Mean -log p of the codes of items (B,) 1..N, in nats a code."""
        codes = self.codes[targets - 1]
        chance = self.next_code(read, codes[:, None, :-1])[:, 0].gather(2, codes.clamp_min(0).unsqueeze(2)).squeeze(2)
        return -chance[codes >= 0].mean()

    def scores(self, read: Read) -> Tensor:
        """Score every item by log p(id | prompt) = sum_t log p(c_t | prompt, c_<t), exactly: (B, N)."""
        rows = len(read.hidden)
        chance = torch.cat([self.next_code(read, some.expand(rows, -1, -1)) for some in self.paths.split(_PATHS)], 1)
        level = torch.arange(self.codes.shape[1], device=self.codes.device)
        own = chance[:, self.group.unsqueeze(1), level, self.codes.clamp_min(0)]  # (B, N, E)
        return own.masked_fill(self.codes < 0, 0.0).sum(2)

    def beam_search(self, read: Read, beams: int) -> tuple[Tensor, Tensor]:
        """The items that a search along the tree of ids ends at, best first.

        Returns:
            Items (B, W), W at most `beams`, 0 where fewer were found; and their log p(id | prompt), -inf there.
        """
        rows, size = len(read.hidden), self.config.tokens
        node = torch.zeros(rows, 1, dtype=torch.int64, device=read.hidden.device)  # below 0: an id is complete
        score = torch.zeros(rows, 1, device=node.device)
        before = node.new_zeros(rows, 1, 0)
        for _ in range(self.codes.shape[1]):
            leads = self.tree[node.clamp_min(0)]  # (B, W, K)
            grown = score.unsqueeze(2) + self.next_code(read, before)[:, :, -1].masked_fill(leads == 0, -torch.inf)
            done = (node < 0).unsqueeze(2)
            stays = torch.where(torch.arange(size, device=node.device) == 0, score.unsqueeze(2), -torch.inf)
            score, best = torch.where(done, stays, grown).flatten(1).topk(min(beams, grown[0].numel()), dim=1)
            node = torch.where(done, node.unsqueeze(2), leads).flatten(1).gather(1, best)
            kept = before.gather(1, (best // size).unsqueeze(2).expand(-1, -1, before.shape[2]))
            before = torch.cat([kept, (best % size).unsqueeze(2)], 2)
        return torch.where(score > -torch.inf, -node, 0), score

    def _tokens(self, codes: Tensor) -> Tensor:
        return torch.where(codes < 0, PAD, codes + self.prompts.text)

    def _users(self, users: Tensor | None, rows: int) -> Tensor:
        """Tokens of users' numbers, (B, V); none where nobody is known."""
        known, size = self.config.num_users, self.config.tokens
        if users is None or not known:
            return torch.zeros(rows, 0, dtype=torch.int64)
        written = torch.from_numpy(digits(users.cpu().numpy(), known, size)) + self.prompts.text + size
        return torch.where(((users >= 0) & (users < known)).cpu().unsqueeze(1), written, PAD)


@dataclass(frozen=True)
class P5Ranker:
    """A `recgym.backbones.ranking.Ranker`: exact log-likelihoods, or those of the beams with all others below them."""

    model: P5
    sequences: Sequences
    """The log, which says who the users are."""
    beams: int | None = None
    """Width of the beam search; items it did not find share the last place. None: every item's exact likelihood."""

    @torch.no_grad()
    def __call__(self, items: Tensor, feedback: Tensor, steps: IntArray) -> Tensor:
        """(B, L), (B, L, F) and the steps asked about (B,) -> (B, N) on the CPU."""
        model, device = self.model, self.model.codes.device
        users = torch.from_numpy(self.sequences.user_of_step[steps])
        wide = min(_PATHS, len(model.paths)) if self.beams is None else self.beams
        row = wide * model.codes.shape[1] * (model.prompts.text + 2 * model.config.tokens)
        parts = [torch.zeros(0, model.num_items)]
        for rows in batches(len(items), max(1, _CELLS // row)):
            read = model.read(items[rows].to(device), feedback[rows].to(device), users[rows])
            if self.beams is None:
                parts.append(model.scores(read).cpu())
                continue
            found, score = model.beam_search(read, self.beams)
            ranked = score.new_full((len(found), model.num_items + 1), -torch.inf)
            parts.append(ranked.scatter_(1, found, score)[:, 1:].cpu())
        return torch.cat(parts)
