"""Where the weights of a P5 come from: fresh, from the folder of a T5, or from the folder of a trained P5."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from recgym.backbones.p5 import P5, P5Config
from recgym.backbones.p5_ids import collaborative_ids, sequential_ids
from recgym.backbones.p5_prompts import PAD, Prompts
from recgym.files import FormatError, new_folder, read_json, write_bytes, write_json
from recgym.logs.sequences import Sequences
from recgym.logs.splits import Roles

FORMAT, VERSION = "recgym-p5", 1


def make_p5(config: P5Config, sequences: Sequences, roles: Roles, *, seed: int = 0) -> P5:
    """A P5 for the items of `sequences`, called as its training steps suggest; in evaluation mode.

    Raises:
        FormatError: `config.weights` is not a folder with a whole T5 and its tokenizer.
        ImportError: the extra `p5` is not installed.
    """
    _transformers()  # whoever lacks the extra lacks scipy too, and is told so by name
    if config.indexing == "sequential":
        codes = sequential_ids(sequences, roles, tokens=config.tokens)
    else:
        codes = collaborative_ids(sequences, roles, tokens=config.tokens, clusters=config.clusters, seed=seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if config.weights:
            t5, prompts = _local_t5(Path(config.weights), config.dropout)
            size = t5.config
            config = dataclasses.replace(config, width=size.d_model, layers=size.num_layers, heads=size.num_heads)
        else:
            prompts = Prompts.own()
            t5 = _t5(_sizes(config, prompts))
        return P5(config, codes, prompts, t5).eval()


def save_p5(model: P5, folder: Path | str) -> None:
    """Write `p5.json` and `weights.safetensors` into `folder`, whole or not at all."""
    weights = safetensors.torch.save({name: t.detach().cpu().contiguous() for name, t in _tensors(model).items()})
    with new_folder(Path(folder)) as target:
        write_bytes(target / "weights.safetensors", weights)
        about = {
            "format": FORMAT,
            "version": VERSION,
            "config": dataclasses.asdict(model.config),
            "prompts": model.prompts._asdict(),
            "t5": model.t5.config.to_dict(),
            "fingerprint": _fingerprint(weights),
        }
        write_json(target / "p5.json", about)


def load_p5(folder: Path | str) -> P5:
    """Read what `save_p5` wrote; in evaluation mode, on the CPU.

    Raises:
        FormatError: a file is missing, truncated, foreign, or the weights belong to another model.
        ImportError: the extra `p5` is not installed.
    """
    folder = Path(folder)
    about = read_json(folder / "p5.json", format=FORMAT, version=VERSION)
    path = folder / "weights.safetensors"
    try:
        data = path.read_bytes()
        saved = safetensors.torch.load(data)
        config, prompts = P5Config(**about["config"]), Prompts(**about["prompts"])
        with torch.random.fork_rng(devices=[]):
            model = P5(config, saved["codes"].numpy(), prompts, _t5(about["t5"]))
        tensors = _tensors(model)
        if saved.keys() != tensors.keys():
            raise ValueError(f"{len(saved.keys() ^ tensors.keys())} tensors too many or too few")
        with torch.no_grad():
            for name, tensor in tensors.items():
                tensor.copy_(saved[name])
    except (OSError, SafetensorError, RuntimeError, KeyError, TypeError, ValueError) as error:
        raise FormatError(f"{path}: cannot be read with p5.json ({error}); save the model again") from error
    if _fingerprint(data) != about.get("fingerprint"):
        raise FormatError(f"{path}: weights are not those that p5.json describes; save the model again")
    return model.eval()


def _tensors(model: P5) -> dict[str, Tensor]:
    """Each tensor once: T5 has its table of tokens under four names."""
    return {"codes": model.codes, **dict(model.named_parameters())}


def _fingerprint(weights: bytes) -> str:
    return hashlib.sha256(weights).hexdigest()[:16]


def _sizes(config: P5Config, prompts: Prompts) -> dict[str, Any]:
    return {
        "vocab_size": prompts.text + 2 * config.tokens,
        "d_model": config.width,
        "d_kv": config.width // config.heads,
        "d_ff": 4 * config.width,
        "num_layers": config.layers,
        "num_heads": config.heads,
        "dropout_rate": config.dropout,
        "decoder_start_token_id": PAD,
    }


def _t5(sizes: dict[str, Any]) -> Any:
    """A T5 of these sizes, weights from torch's generator."""
    library = _transformers()
    return library.T5ForConditionalGeneration(library.T5Config.from_dict(sizes))


def _local_t5(folder: Path, dropout: float) -> tuple[Any, Prompts]:
    """The T5 in `folder`, and the templates in its tokenizer's tokens; nothing is downloaded."""
    library = _transformers()
    try:
        tokenizer = library.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        t5, about = library.T5ForConditionalGeneration.from_pretrained(
            folder, local_files_only=True, dropout_rate=dropout, output_loading_info=True
        )
    except Exception as error:  # the library raises a dozen kinds for what may lie in a folder
        raise FormatError(f"{folder}: not a T5 with its tokenizer ({str(error).strip().splitlines()[0]})") from error
    if about["missing_keys"]:
        raise FormatError(f"{folder}: weights lack {', '.join(sorted(about['missing_keys'])[:3])}; expected a whole T5")
    prompts = Prompts.of(lambda word: tokenizer.encode(word, add_special_tokens=False), t5.config.vocab_size)
    return t5.float(), prompts


def _transformers() -> Any:
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise ImportError("P5 needs transformers, in the extra 'p5': pip install 'recgym[p5]'") from error
