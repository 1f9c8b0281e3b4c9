"""A P5 is built from nothing or from a T5's folder, and its own folder reads back or says why not."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from recgym.backbones.p5 import INDEXINGS, P5
from recgym.backbones.p5_prompts import TEMPLATES
from recgym.backbones.p5_weights import load_p5, make_p5, save_p5
from recgym.files import FormatError
from tests.backbones.test_p5 import TINY, USERS, history, model, needs_p5
from tests.backbones.test_training import CYCLE, ROLES

__all__ = ["model"]  # a fixture


def t5_folder(folder: Path, *, heads: int = 2) -> Path:
    """A tiny T5 with a tokenizer that knows letters alone; heads of four units."""
    tokenizers, transformers = (pytest.importorskip(name) for name in ("tokenizers", "transformers"))
    letters = sorted(set("".join(TEMPLATES)) - {" "})
    vocabulary = {name: place for place, name in enumerate(["<pad>", "</s>", "<unk>", *letters])}
    model = tokenizers.models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>")
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer(model), pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    tokenizer.save_pretrained(folder)
    config = transformers.T5Config(
        vocab_size=len(vocabulary) + 3, d_model=8, d_kv=4, d_ff=16, num_layers=1, num_heads=heads,
        decoder_start_token_id=0,
    )  # fmt: skip
    transformers.T5ForConditionalGeneration(config).save_pretrained(folder)
    return folder


@needs_p5
def test_a_local_t5_is_read_with_its_tokenizer(tmp_path: Path) -> None:
    folder = t5_folder(tmp_path)
    text = (
        pytest.importorskip("transformers")
        .T5ForConditionalGeneration.from_pretrained(folder, local_files_only=True)
        .shared.weight
    )
    made = make_p5(replace(TINY, weights=str(folder), width=4, heads=1), CYCLE, ROLES)
    assert (made.config.width, made.config.layers, made.config.heads) == (8, 1, 2)
    table = made.t5.shared.weight
    assert torch.equal(table[: len(text)], text) and len(table) == len(text) + 2 * TINY.tokens
    assert made.t5.lm_head.weight is table
    first = made.prompts.templates[0]
    assert [len(word) for word in first[:4]] == [4, 1, 3, 6]  # user {user} has bought
    found, _ = made.beam_search(made.read(*history(), USERS), 7)
    assert found.sort(1).values.tolist() == [list(range(1, 8))] * 4


@needs_p5
def test_a_t5_whose_heads_do_not_divide_its_width_is_read_and_read_back(tmp_path: Path) -> None:
    made = make_p5(replace(TINY, weights=str(t5_folder(tmp_path / "t5", heads=3))), CYCLE, ROLES)
    assert (made.config.width, made.config.heads) == (8, 3)
    save_p5(made, tmp_path / "p5")
    again = load_p5(tmp_path / "p5")
    with torch.no_grad():
        assert torch.equal(*(one.scores(one.read(*history(), USERS)) for one in (made, again)))
    with pytest.raises(ValueError, match=r"width is 8, expected a multiple of heads \(3\)"):
        replace(TINY, width=8, heads=3)


@needs_p5
def test_a_folder_that_is_no_whole_t5_is_named(tmp_path: Path) -> None:
    config = replace(TINY, weights=str(tmp_path / "t5"))
    with pytest.raises(FormatError, match=r"t5: not a T5 with its tokenizer"):
        make_p5(config, CYCLE, ROLES)
    weights = t5_folder(tmp_path / "t5") / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FormatError, match=r"t5: not a T5 with its tokenizer"):
        make_p5(config, CYCLE, ROLES)
    weights.write_bytes(whole.replace(b'"encoder.final_layer_norm.weight"', b'"encoder.final_layer_n0rm.weight"'))
    with pytest.raises(FormatError, match=r"t5: weights lack encoder\.final_layer_norm\.weight"):
        make_p5(config, CYCLE, ROLES)


@torch.no_grad()
def test_a_folder_reads_back_and_a_damaged_one_is_refused(model: P5, tmp_path: Path) -> None:
    folder = tmp_path / "p5"
    save_p5(model, folder)
    before = torch.get_rng_state()
    again = load_p5(folder)
    assert torch.equal(before, torch.get_rng_state())
    scores = [one.scores(one.read(*history(), USERS)) for one in (model, again)]
    assert torch.equal(*scores)
    weights = folder / "weights.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FormatError, match=r"weights\.safetensors: cannot be read"):
        load_p5(folder)
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 64]))
    with pytest.raises(FormatError, match="not those that"):
        load_p5(folder)
    weights.write_bytes(whole.replace(b'"whole_word.weight"', b'"whole_w0rd.weight"'))
    with pytest.raises(FormatError, match=r"cannot be read with p5\.json \(2 tensors"):
        load_p5(folder)
    weights.unlink()
    with pytest.raises(FormatError, match="cannot be read"):
        load_p5(folder)
    with pytest.raises(FormatError, match=r"p5\.json: not found"):
        load_p5(tmp_path)


@needs_p5
def test_weights_follow_the_seed_and_global_randomness_is_left_alone() -> None:
    before = torch.get_rng_state()
    first, second, third = (make_p5(TINY, CYCLE, ROLES, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first.t5.shared.weight, second.t5.shared.weight)
    assert not torch.equal(first.t5.shared.weight, third.t5.shared.weight)


@pytest.mark.parametrize("indexing", INDEXINGS)
def test_a_missing_extra_is_named(indexing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("transformers", "scipy"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"recgym\[p5\]"):
        make_p5(replace(TINY, indexing=indexing), CYCLE, ROLES)
