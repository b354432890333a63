"""Our forward pass and heads against transformers and against loops over tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from m3core import Encoder
from m3core.errors import ModelError
from m3core.heads import Linear
from m3core.model import dense_vectors, position_ids, token_vectors, token_weights
from m3core.types import Signal
from tests.tiny import make_tiny_model

TEXTS = [
    "the key of the laboratory",
    "a",
    "",
    "低温実験室の鍵は受付にあります。",
    "travel by night train " * 60,
    "a row is filled with <pad><pad> and then <pad> it goes on",
    "the key of the desk",
]


def transformers_states(folder: Path, ids: list[int]) -> torch.Tensor:
    """Last hidden states of one text by transformers' own model, float32, no padding."""
    from transformers import AutoModel

    model = AutoModel.from_pretrained(folder, dtype=torch.float32, add_pooling_layer=False).eval()
    with torch.no_grad():
        return model(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.int64)).last_hidden_state[
            0
        ]


@pytest.mark.parametrize("family", ["bert", "xlm-roberta"])
def test_all_three_signals_equal_transformers_and_naive_heads(family: str, tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path / family, family=family, seed=3)
    encoder = Encoder.load(folder)
    encoded = encoder.encode(TEXTS, batch_tokens=200)
    assert encoded.dense is not None
    assert encoded.lexical is not None
    assert encoded.multi is not None
    rows, _ = encoder.tokenizer.encode(TEXTS, "passage: ", encoder.spec.max_length)
    sparse = torch.load(folder / "sparse_linear.pt", weights_only=True)
    colbert = torch.load(folder / "colbert_linear.pt", weights_only=True)
    for i, ids in enumerate(rows):
        states = transformers_states(folder, ids)
        mean = states.mean(0)
        assert encoded.dense[i] == pytest.approx((mean / mean.norm()).numpy(), abs=1e-5)
        expected: dict[int, float] = {}
        for token, state in zip(ids, states, strict=True):
            weight = float(torch.relu(sparse["weight"].float() @ state + sparse["bias"].float()))
            if weight > 0 and token not in (0, 1, 2, 3):
                expected[token] = max(expected.get(token, 0.0), weight)
        token_ids, weights = encoded.lexical.row(i)
        assert token_ids.tolist() == sorted(expected)
        assert weights == pytest.approx([expected[token] for token in sorted(expected)], abs=1e-4)
        vectors = [colbert["weight"].float() @ state + colbert["bias"].float() for state in states[1:]]
        assert encoded.multi.row(i) == pytest.approx(np.stack([(v / v.norm()).numpy() for v in vectors]), abs=1e-4)


_TOKEN_IDS = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=8), min_size=1, max_size=6)


@given(_TOKEN_IDS)
def test_positions_equal_transformers_with_padding_tokens_anywhere(texts: list[list[int]]) -> None:
    from transformers.models.xlm_roberta.modeling_xlm_roberta import XLMRobertaEmbeddings

    count = XLMRobertaEmbeddings.create_position_ids_from_input_ids
    packed, lengths = torch.tensor([token for text in texts for token in text]), [len(text) for text in texts]
    expected = torch.cat([count(torch.tensor([text]), padding_idx=1)[0] for text in texts])
    assert position_ids(packed, lengths, padding=1).tolist() == expected.tolist()
    plain = [place for text in texts for place in range(len(text))]
    assert position_ids(packed, lengths, padding=None).tolist() == plain


@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.integers(0, 1000))
def test_heads_equal_a_loop_over_tokens(lengths: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(sum(lengths), 8, generator=generator)
    head = Linear(torch.randn(3, 8, generator=generator), torch.randn(3, generator=generator))
    sparse = Linear(torch.randn(1, 8, generator=generator), torch.randn(1, generator=generator))
    counts = torch.tensor(lengths)
    starts = counts.cumsum(0) - counts
    texts = list(torch.split(states, lengths))
    mean = torch.stack([text.mean(0) / text.mean(0).norm() for text in texts])
    first = torch.stack([text[0] / text[0].norm() for text in texts])
    assert torch.allclose(dense_vectors(states, starts, counts, "mean"), mean, atol=1e-6)
    assert torch.allclose(dense_vectors(states, starts, counts, "cls"), first, atol=1e-6)
    vectors = [head.weight @ state + head.bias for text in texts for state in text[1:]]
    expected = torch.stack([v / v.norm() for v in vectors]) if vectors else torch.zeros(0, 3)
    kept = torch.tensor([place for place in range(len(states)) if place not in starts.tolist()], dtype=torch.int64)
    assert torch.allclose(token_vectors(states, kept, head), expected, atol=1e-5)
    loop = torch.stack([torch.relu(sparse.weight[0] @ state + sparse.bias[0]) for state in states])
    assert torch.allclose(token_weights(states, sparse), loop, atol=1e-5)


def test_a_text_does_not_see_its_neighbours(tiny_model: Path) -> None:
    encoder = Encoder.load(tiny_model)
    alone = encoder.encode(["the key of the laboratory"])
    together = encoder.encode(["the key of the laboratory", "the key of the cryostation", "x"])
    assert alone.dense is not None
    assert together.dense is not None
    assert together.dense[0] == pytest.approx(alone.dense[0], abs=1e-5)


@pytest.mark.slow
def test_m3_small_dense_equals_mean_pooling_over_transformers(m3_small: Path) -> None:
    texts = [
        "Wie hoch ist der Eiffelturm?",
        "鍵は受付にあります。",
        "The dome closes when the wind exceeds 15 m/s.",
        "مرحبا بالعالم",
    ]
    encoder = Encoder.load(m3_small, signals=[Signal.DENSE])
    for kind, prefix in (("query", "query: "), ("passage", "passage: ")):
        encoded = encoder.encode(texts, kind)  # type: ignore[arg-type]
        assert encoded.dense is not None
        rows, _ = encoder.tokenizer.encode(texts, prefix, 512)
        for i, ids in enumerate(rows):
            mean = transformers_states(m3_small, ids).mean(0)
            assert encoded.dense[i] == pytest.approx((mean / mean.norm()).numpy(), abs=1e-5)


def test_missing_heads_are_an_error_and_never_made_up(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path / "headless")
    (folder / "sparse_linear.pt").unlink()
    with pytest.raises(ModelError, match=r"sparse_linear.pt is missing, so the model cannot give lexical weights"):
        Encoder.load(folder)
    assert Encoder.load(folder, signals=[Signal.DENSE, Signal.MULTI]).encode(["x"]).lexical is None
    (folder / "colbert_linear.pt").unlink()
    with pytest.raises(ModelError, match=r"colbert_linear.pt is missing, so the model cannot give multi-vectors"):
        Encoder.load(folder, signals=[Signal.MULTI])


def test_a_head_of_another_width_is_refused(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path / "wide")
    torch.save({"weight": torch.zeros(1, 33), "bias": torch.zeros(1)}, folder / "sparse_linear.pt")
    with pytest.raises(ModelError, match=r"weight is \[1, 33\]; this backbone needs \[1, 32\]"):
        Encoder.load(folder)


def test_a_head_with_values_that_are_not_finite_is_refused(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path / "nan")
    torch.save({"weight": torch.full((1, 32), torch.nan), "bias": torch.zeros(1)}, folder / "sparse_linear.pt")
    with pytest.raises(ModelError, match="not finite"):
        Encoder.load(folder)


class _Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, ("open('/dev/null')",)


def test_a_pickle_with_code_in_it_is_refused(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path / "bomb")
    torch.save({"weight": _Bomb(), "bias": torch.zeros(1)}, folder / "sparse_linear.pt")
    with pytest.raises(ModelError, match="not a plain file of tensors"):
        Encoder.load(folder)


def test_a_truncated_weight_file_is_refused(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path / "cut")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelError, match="not a whole safetensors file"):
        Encoder.load(folder)


def test_a_bin_checkpoint_gives_the_same_vectors(tiny_model: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    folder = make_tiny_model(tmp_path / "bin")
    tensors = {f"bert.{name}": tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    torch.save(tensors, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    expected, found = (Encoder.load(path).encode(["the key"]).dense for path in (tiny_model, folder))
    assert found is not None
    assert found == pytest.approx(expected, abs=1e-6)
