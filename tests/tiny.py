"""A real but tiny M3 checkpoint: a random 2-layer BertModel, random heads, a small trained tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

HIDDEN = 32
MULTI_DIM = 8
MAX_LENGTH = 256
_SPECIALS = ["<s>", "<pad>", "</s>", "<unk>"]
_WORDS = (
    "The cryostat of the low temperature laboratory is booked at the front desk, and the key is handed over at nine. "
    "Wer den Schlüssel verliert, meldet es sofort der Leitung. 低温実験室の鍵は受付にあります。 "
    "ключ хранится у дежурного. travel by night train is refunded within thirty days "
    "1234567890 abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ"
)


def make_tiny_model(
    folder: Path, *, seed: int = 0, family: str = "bert", max_length: int = MAX_LENGTH, pooling: str = "mean"
) -> Path:
    """Write a complete model folder in BGE-M3's layout; the same seed gives the same weights."""
    import torch
    from safetensors.torch import save_file

    torch_state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    offset = 2 if family == "xlm-roberta" else 0
    folder.mkdir(parents=True, exist_ok=True)
    tokens = _write_tokenizer(folder)
    config = {
        "model_type": family,
        "hidden_size": HIDDEN,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "vocab_size": tokens,
        "max_position_embeddings": max_length + offset,
        "type_vocab_size": 1 if family == "xlm-roberta" else 2,
        "layer_norm_eps": 1e-5,
        "hidden_act": "gelu",
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
    }
    _write_json(folder / "config.json", config)
    modes = {"pooling_mode_cls_token": pooling == "cls", "pooling_mode_mean_tokens": pooling == "mean"}
    _write_json(folder / "1_Pooling" / "config.json", modes)
    _write_json(folder / "config_sentence_transformers.json", {"prompts": {"query": "query: ", "passage": "passage: "}})
    _write_json(folder / "m3.json", {"multi_dim": MULTI_DIM})
    save_file(_random_backbone(config), folder / "model.safetensors", metadata={"format": "pt"})
    heads = {"sparse_linear.pt": 1, "colbert_linear.pt": MULTI_DIM}
    for name, outputs in heads.items():
        torch.save({"weight": torch.randn(outputs, HIDDEN).half(), "bias": torch.randn(outputs).half()}, folder / name)
    torch.random.set_rng_state(torch_state)
    return folder


def _write_tokenizer(folder: Path) -> int:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=False))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=_SPECIALS, show_progress=False)
    tokenizer.train_from_iterator([_WORDS] * 3, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    return int(tokenizer.get_vocab_size())


def _random_backbone(config: dict[str, object]) -> dict[str, object]:
    from transformers import BertConfig, BertModel, XLMRobertaConfig, XLMRobertaModel

    family = config["model_type"]
    settings = {key: value for key, value in config.items() if key != "model_type"}
    if family == "xlm-roberta":
        model = XLMRobertaModel(XLMRobertaConfig(**settings), add_pooling_layer=False)
    else:
        model = BertModel(BertConfig(**settings), add_pooling_layer=False)
    return {name: tensor.contiguous() for name, tensor in model.state_dict().items()}


def _write_json(path: Path, value: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
