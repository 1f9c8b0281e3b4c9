"""Histories as text: templates of words, with an item's id where an item is meant.

Source: Geng, Liu, Fu, Ge, Zhang (2022), "Recommendation as language processing (RLP): a unified pretrain, personalized
prompt and predict paradigm (P5)": personalized prompts and whole-word embeddings.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

TEMPLATES = (
    "user {user} has bought {history} what is next ?",
    "here is what user {user} has bought : {history} predict the next item",
    "after {history} what will user {user} buy next ?",
    "recommend the next item for user {user} who has bought {history}",
)
"""Ways to ask for the next item; training draws one for each minibatch, ranking asks in the first."""
PAD, END = 0, 1
_USER, _HISTORY = -1, -2


class Prompts(NamedTuple):
    """Templates in the tokens of a model."""

    templates: list[list[list[int]]]
    """Of each template its words, of each word its tokens; -1 stands for the user and -2 for the history."""
    text: int
    """Tokens of text, 0..text - 1; those of items and users follow."""

    @classmethod
    def own(cls) -> Prompts:
        """A vocabulary of the templates' words alone, one token each."""
        words = sorted({word for template in TEMPLATES for word in template.split()} - {"{user}", "{history}"})
        token = {word: [number] for number, word in enumerate(words, END + 1)}
        return cls.of(lambda word: token[word], END + 1 + len(words))

    @classmethod
    def of(cls, tokens_of: Callable[[str], list[int]], text: int) -> Prompts:
        """In the tokens of a tokenizer: word -> tokens."""
        slots = {"{user}": [_USER], "{history}": [_HISTORY]}
        read = [[slots.get(word) or tokens_of(word) for word in template.split()] for template in TEMPLATES]
        return cls([[*words, [END]] for words in read], text)

    @property
    def most_words(self) -> int:
        """Words of the longest template, its slots among them."""
        return max(map(len, self.templates))

    def write(self, template: int, items: Tensor, users: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens of B prompts and the word that each token is part of.

        Args:
            template: which.
            items: (B, L, E) tokens of the items' ids; 0 where there is none.
            users: (B, V) tokens of the users' ids, likewise.

        Returns:
            Tokens (B, S), padded with 0 on the right, and words 1, 2, ... (B, S), 0 for padding.
        """
        parts, begins = [], []
        for word in self.templates[template]:
            if word == [_HISTORY]:
                part, size = items.flatten(1), items.shape[2]
            elif word == [_USER]:
                part, size = users, users.shape[1]
            else:
                part, size = torch.tensor(word, device=items.device).expand(len(items), -1), len(word)
            parts.append(part)
            begins.append(torch.arange(part.shape[1], device=items.device) % max(size, 1) == 0)
        tokens = torch.cat(parts, 1)
        order = torch.argsort((tokens == PAD).to(torch.uint8), dim=1, stable=True)
        tokens = tokens.gather(1, order)
        there = tokens != PAD
        longest = int(there.sum(1).max()) if len(tokens) else 0
        words = (torch.cat(begins)[order] & there).cumsum(1) * there
        return tokens[:, :longest], words[:, :longest]
