"""How the backbone's linear layers are multiplied."""

from __future__ import annotations

import pytest
import torch

from m3core import prepacked
from m3core.heads import Linear
from m3core.int8 import Int8Linear, int8_is_exact
from m3core.precision import Execution
from m3core.prepacked import PrepackedLinear, prepacks
from m3core.products import product

needs_prepacking = pytest.mark.skipif(
    not prepacks(torch.bfloat16), reason="this torch multiplies no prepacked bfloat16 weights on this CPU"
)
_BF16 = Execution("cpu", "bfloat16")


def layer() -> Linear:
    chance = torch.Generator().manual_seed(5)
    return Linear(torch.randn(48, 32, generator=chance) / 6, torch.randn(48, generator=chance))


@needs_prepacking
@pytest.mark.parametrize("rows", [1, 7, 64, 333])
@torch.inference_mode()
def test_prepacked_weights_give_the_plain_layers_product(rows: int) -> None:
    plain = layer().on("cpu", torch.bfloat16)
    states = torch.randn(rows, 32, generator=torch.Generator().manual_seed(rows)).bfloat16()
    exact = states.double() @ plain.weight.double().T + plain.bias.double()
    packed = PrepackedLinear.of(plain)
    # bfloat16 keeps 8 bits: half a unit in the last place is 2**-9 of the value.
    torch.testing.assert_close(packed(states).double(), exact, rtol=2**-8, atol=2**-8)
    activated = exact * 0.5 * (1 + torch.erf(exact / 2**0.5))
    torch.testing.assert_close(packed.gelu(states).double(), activated, rtol=2**-7, atol=2**-7)


def test_float32_stays_plain_and_shares_its_weights() -> None:
    plain = layer()
    made = product(plain, Execution("cpu", "float32"))
    assert isinstance(made, Linear)
    assert made.weight.data_ptr() == plain.weight.data_ptr()


@pytest.mark.skipif(not int8_is_exact(), reason="this CPU has no exact products of bytes (VNNI)")
def test_int8_is_int8() -> None:
    assert isinstance(product(layer(), Execution("cpu", "int8")), Int8Linear)


def test_the_plain_layer_stays_where_prepacking_fails_or_errs(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: Linear) -> PrepackedLinear:
        raise AttributeError("no such operator")

    def wrong(linear: Linear) -> PrepackedLinear:
        return PrepackedLinear(linear.weight, linear.bias + 1)

    for broken in (missing, wrong):
        monkeypatch.setattr(PrepackedLinear, "of", broken)
        monkeypatch.setattr(
            PrepackedLinear,
            "_product",
            lambda self, states, after, _: Linear(self.weight, self.bias)(states),
        )
        prepacked.prepacks.cache_clear()
        assert isinstance(product(layer(), _BF16), Linear)
    prepacked.prepacks.cache_clear()
