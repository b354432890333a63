"""Head training on a tiny backbone: the sample's rules, and that the loss goes down."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from m3core import Encoder
from m3core.train.heads import main
from m3core.train.pairs import SamplePlan, batches, read_pairs

_WORDS = [
    "key",
    "desk",
    "cryostat",
    "travel",
    "train",
    "night",
    "front",
    "laboratory",
    "handed",
    "nine",
    "refunded",
    "thirty",
    "days",
    "Schlüssel",
    "Leitung",
]


@pytest.fixture
def pairs_file(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    passages = [" ".join(rng.choice(_WORDS, 12)) for _ in range(160)]
    rows = {
        "query": [" ".join(passage.split()[2:6]) for passage in passages] + ["same?"] * 9,
        "positive": passages + ["one passage"] * 9,
        "language": ["en"] * 120 + ["de"] * 49,
        "source": ["ours"] * 150 + ["tquad"] * 10 + ["ours"] * 9,
        "kind": ["question"] * 130 + ["translation"] * 30 + ["question"] * 9,
    }
    pq.write_table(pa.table(rows), tmp_path / "pairs.parquet")
    return tmp_path / "pairs.parquet"


def test_the_sample_leaves_out_unclear_sources_and_bounds_repeats(pairs_file: Path) -> None:
    pairs = read_pairs(pairs_file, SamplePlan(pairs=1000))
    assert not any(pair.group.startswith("tquad") for pair in pairs)
    assert Counter(pair.positive for pair in pairs)["one passage"] == 4
    assert len({(pair.query, pair.positive) for pair in pairs}) >= len(pairs) - 4
    assert read_pairs(pairs_file, SamplePlan(pairs=1000)) == pairs


def test_batches_do_not_mix_groups_while_a_group_has_pairs_left() -> None:
    groups = ["a"] * 10 + ["b"] * 7 + ["c"]
    epoch = list(batches(groups, 4, np.random.default_rng(1)))
    mixed = [batch for batch in epoch if len({groups[i] for i in batch}) > 1]
    assert len(epoch) == 4
    assert len(mixed) == 1
    assert len({i for batch in epoch for i in batch}) == 16


def test_training_lowers_the_loss_and_writes_a_loadable_model(
    pairs_file: Path, tiny_model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "heads"
    main(["--backbone", str(tiny_model), "--data", str(pairs_file), "--out", str(out), "--epochs", "30"])
    record = json.loads((out / "training.json").read_text())
    first, last = record["losses"][0], record["losses"][-1]
    assert last["sum"] < first["sum"] * 0.9
    assert str(tmp_path.parent) not in record["command"]
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (out / name).symlink_to(tiny_model / name)
    encoder = Encoder.load(out)
    assert encoder.spec.multi_dim == min(128, 32)
    assert encoder.encode(["the key"]).multi is not None
