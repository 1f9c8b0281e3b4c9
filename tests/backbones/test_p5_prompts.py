"""Prompts by hand: slots filled, what is unknown left out, tokens of one word counted as one."""

from __future__ import annotations

import torch

from recgym.backbones.p5_prompts import END, TEMPLATES, Prompts


def test_a_prompt_holds_user_and_history_in_their_places() -> None:
    tokens = {word: [number, number + 100] for number, word in enumerate(TEMPLATES[0].split(), 10)}
    prompts = Prompts.of(lambda word: tokens.get(word, [99]), 300)
    items = torch.tensor([[[301, 302], [303, 0]], [[0, 0], [304, 305]]])  # an id of one token; a step of padding
    written, words = prompts.write(0, items, torch.tensor([[401, 402], [0, 0]]))
    before, after = [10, 110], [12, 112, 13, 113]  # user, has bought
    end = [15, 115, 16, 116, 17, 117, 18, 118, END]  # what is next ?
    assert written[0].tolist() == [*before, 401, 402, *after, 301, 302, 303, *end]
    assert words[0].tolist() == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 7, 7, 8, 8, 9, 9, 10, 10, 11]
    assert written[1].tolist() == [*before, *after, 304, 305, *end, 0, 0, 0]
    assert words[1].tolist() == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 0, 0, 0]


def test_the_own_vocabulary_has_one_token_for_each_word() -> None:
    prompts = Prompts.own()
    none = torch.zeros(1, 0, dtype=torch.int64)
    seen = set()
    for template, text in enumerate(TEMPLATES):
        written, words = prompts.write(template, none.unsqueeze(2), none)
        count = len(text.split()) - 2 + 1  # without the slots, with the end
        assert words.tolist() == [list(range(1, count + 1))]
        seen |= set(written[0].tolist())
    assert seen == set(range(END, prompts.text))
