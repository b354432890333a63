"""Linear layers in bytes, against the exact product and its rounding bound."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from m3core import Encoder, int8, precision
from m3core.errors import UsageError
from m3core.heads import Linear
from m3core.int8 import Int8Linear, int8_is_exact
from m3core.precision import choose_execution

needs_vnni = pytest.mark.skipif(not int8_is_exact(), reason="this CPU has no exact products of bytes (VNNI)")


def layer(seed: int, inputs: int, outputs: int, spread: float) -> Linear:
    chance = torch.Generator().manual_seed(seed)
    return Linear(
        torch.randn(outputs, inputs, generator=chance) * spread, torch.randn(outputs, generator=chance) * spread
    )


def bound(linear: Linear, states: torch.Tensor) -> torch.Tensor:
    """Most that rounding may move each output: half a step of every input and of every weight, and both together."""
    step = (states.amax(-1) - states.amin(-1)) / 255
    weight_step = linear.weight.abs().amax(1) / 127
    by_input = step[:, None] / 2 * linear.weight.abs().sum(1)[None, :]
    by_weight = weight_step[None, :] / 2 * (states.abs().sum(-1) + step * states.shape[1] / 2)[:, None]
    return by_input + by_weight


@needs_vnni
@given(
    seed=st.integers(0, 1 << 16),
    rows=st.integers(1, 40),
    inputs=st.sampled_from([1, 3, 32, 100]),
    outputs=st.sampled_from([1, 8, 33]),
    spread=st.sampled_from([1e-3, 1.0, 50.0]),
    shift=st.sampled_from([-30.0, 0.0, 0.5]),
)
@settings(max_examples=60, deadline=None)
@torch.inference_mode()
def test_no_output_is_further_from_the_exact_product_than_rounding_allows(
    seed: int, rows: int, inputs: int, outputs: int, spread: float, shift: float
) -> None:
    linear = layer(seed, inputs, outputs, spread)
    states = torch.randn(rows, inputs, generator=torch.Generator().manual_seed(seed + 1)) + shift
    exact = states.double() @ linear.weight.double().T + linear.bias.double()
    found = Int8Linear.of(linear)(states)
    slack = 1e-5 * (exact.abs() + states.abs().sum(-1, keepdim=True) * spread + 1e-3)
    assert ((found - exact).abs() <= bound(linear, states) + slack).all()


@needs_vnni
@torch.inference_mode()
def test_a_row_does_not_depend_on_the_rows_beside_it() -> None:
    linear = Int8Linear.of(layer(1, 48, 20, 0.1))
    states = torch.randn(2 * int8._ROWS + 77, 48)
    together = linear(states)
    for row in (0, int8._ROWS - 1, int8._ROWS, len(states) - 1):
        torch.testing.assert_close(linear(states[row : row + 1]), together[row : row + 1], atol=1e-6, rtol=1e-6)


@needs_vnni
@torch.inference_mode()
def test_rows_of_one_value_and_rows_of_zeros_are_exact() -> None:
    plain = layer(2, 16, 8, 0.1)
    plain.weight[3] = 0.0
    states = torch.stack([torch.full((16,), 2.5), torch.zeros(16)])
    stored = plain.weight.abs().amax(1, keepdim=True) / 127
    weight = torch.round(plain.weight / stored.clamp(min=1e-12)) * stored
    torch.testing.assert_close(Int8Linear.of(plain)(states), states @ weight.T + plain.bias, atol=1e-5, rtol=1e-5)


@needs_vnni
@torch.inference_mode()
def test_the_gelu_is_the_exact_one() -> None:
    linear = Int8Linear.of(layer(3, 16, 8, 1.0))
    states = torch.randn(5, 16)
    before = linear(states)
    torch.testing.assert_close(linear.gelu(states), before * 0.5 * (1 + torch.erf(before / 2**0.5)))


@needs_vnni
def test_int8_has_vectors_of_its_own_class_that_stay_close(tiny_model: Path) -> None:
    texts = ["the key is at the front desk", "Wer den Schlüssel verliert", "x", ""]
    exact, short = (Encoder.load(tiny_model, device="cpu", precision=name) for name in ("float32", "int8"))
    assert (exact.fingerprint.split("-")[0], short.fingerprint.split("-")[0]) == ("float", "int8")
    wide, narrow = exact.encode(texts), short.encode(texts)
    assert wide.dense is not None
    assert narrow.dense is not None
    assert (wide.dense * narrow.dense).sum(axis=1).min() > 0.99
    for place, text in enumerate(texts):
        alone = short.encode([text])
        assert alone.dense is not None
        np.testing.assert_allclose(alone.dense[0], narrow.dense[place], atol=1e-5)


@needs_vnni
@pytest.mark.slow
def test_m3_small_in_int8_keeps_its_vectors(m3_small: Path) -> None:
    texts = ["Wie hoch ist der Eiffelturm?", "低温実験室の鍵は受付にあります。", "The night train leaves at ten. " * 30]
    exact, short = (Encoder.load(m3_small, device="cpu", precision=name).encode(texts) for name in ("float32", "int8"))
    assert exact.dense is not None
    assert short.dense is not None
    assert exact.multi is not None
    assert short.multi is not None
    assert (exact.dense * short.dense).sum(axis=1).min() >= 0.99
    assert (exact.multi.values * short.multi.values).sum(axis=1).min() >= 0.98


def test_int8_is_refused_where_it_cannot_be_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "int8_is_exact", lambda: False)
    with pytest.raises(UsageError, match=r"this CPU .* loses bits when it multiplies bytes; it needs VNNI"):
        choose_execution("cpu", "int8")


def test_lost_bits_and_a_missing_operator_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def saturated(*_: object) -> torch.Tensor:
        return torch.full((2, 16), 32767.0 * 32)

    def missing(*_: object) -> torch.Tensor:
        raise AttributeError

    for product in (saturated, missing):
        monkeypatch.setattr(int8, "_product", product)
        int8_is_exact.cache_clear()
        assert not int8_is_exact()
    int8_is_exact.cache_clear()
