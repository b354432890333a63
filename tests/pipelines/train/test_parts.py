"""Progress, curves and card by themselves."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from m3core.checkpoint import read_spec
from m3core.train.record import shown_command
from pipelines.train.card import Facts, card, flag_line
from pipelines.train.curves import smoothed, write_csv
from pipelines.train.progress import Lines, Meter
from pipelines.train.rows import DataFile


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def _row(loss: float) -> dict[str, float]:
    return {"tokens": 500.0, "loss": loss, "dense": 2 * loss, "dense_taught": 9.0}


def test_a_line_has_the_mean_loss_the_pace_and_the_time_left() -> None:
    clock = Clock()
    meter = Meter(100, clock)
    clock.now = 10.0
    assert meter.add(1, 0.01, _row(1.0)) == "step 1/100   loss 1.000 dense 2.000   50 tokens/s   0:16:30 left"
    clock.now = 20.0
    assert meter.add(2, 0.02, _row(2.0)) == "step 2/100   loss 1.500 dense 3.000   50 tokens/s   0:16:20 left"


def test_a_resumed_run_does_not_count_what_others_did() -> None:
    clock = Clock()
    meter = Meter(100, clock)
    clock.now = 10.0
    assert meter.add(51, 0.51, _row(1.0)).endswith("50 tokens/s   0:08:10 left")


def test_where_minutes_end_a_run_what_is_left_counts_from_its_first_step() -> None:
    """Also of a run that was resumed half way."""
    clock = Clock()
    meter = Meter(None, clock)
    clock.now = 6.0
    assert meter.add(51, 0.5, _row(1.0)).endswith("tokens/s")
    clock.now = 18.0
    assert meter.add(52, 0.55, _row(1.0)).endswith("0:01:48 left")


def test_plain_lines_come_every_ten_seconds_at_most() -> None:
    clock, stream = Clock(), io.StringIO()
    lines = Lines(stream, None, clock)
    for second in range(1, 26):
        clock.now = float(second)
        lines.stepped(second, second / 60, _row(1.0))
    lines.note("dev \x1b[2J")
    told = stream.getvalue().splitlines()
    assert [line.split()[:3] for line in told[:2]] == [["train", "step", "10"], ["train", "step", "20"]]
    assert len(told) == 3
    assert "\x1b" not in told[2]


def test_means_of_a_twentieth() -> None:
    values = np.arange(40, dtype=np.float64)
    assert smoothed(values).tolist() == [0.0, *(values[1:] - 0.5).tolist()]
    assert smoothed(values[:3]).tolist() == [0.0, 1.0, 2.0]


def test_a_table_has_every_column_of_any_step(tmp_path: Path) -> None:
    write_csv([{"step": 0, "loss": 0.5}, {"step": 1, "loss": 2.0, "dense_teacher": 0.25}], tmp_path / "l.csv")
    with (tmp_path / "l.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows == [
        {"step": "0", "loss": "0.5", "dense_teacher": ""},
        {"step": "1", "loss": "2", "dense_teacher": "0.25"},
    ]


def test_a_card_says_where_it_comes_from_and_how_to_load_it(tiny_model: Path) -> None:
    spec = read_spec(tiny_model)
    facts = Facts(
        spec=spec,
        start="m3-small",
        start_fingerprint="float-1",
        mode="lora",
        files=[DataFile("a.jsonl", "ab" * 32, 1200)],
        seed=7,
        command="m3 train a.jsonl",
        steps=100,
        tokens=12345,
        best_step=60,
        before={"dev": {"dense": 0.5, "fused": 0.6}},
        after={"dev": {"dense": 0.55, "fused": 0.66}},
        dev_queries=300,
        shared=2,
        presets={"balanced": (0.5, 0.1, 0.4)},
    )
    text = card(facts)
    for part in (
        "mode `lora`, seed 7, 100 steps, 12,345 tokens; the weights are those of step 60.",
        f"| a.jsonl | 1,200 | `{'ab' * 32}` |",
        "| dev | 0.500 -> 0.550 | 0.600 -> 0.660 |",
        "2 texts of these sets were in the training data",
        "preset `balanced`: 0.5, 0.1, 0.4",
        "query, passage = 'query: ', 'passage: '",
    ):
        assert part in text
    assert "No dev set was given" in card(replace(facts, before={}, after={}))
    whole = replace(spec, pooling="cls", multi_dim=spec.dense_dim)
    assert flag_line(whole) == 'BGEM3FlagModel("FOLDER", use_fp16=False)'


def test_a_recorded_command_has_no_path_of_the_machine() -> None:
    assert (
        shown_command("m3", ["train", "/home/a/b/rows.jsonl", "--mode", "lora"]) == "m3 train b/rows.jsonl --mode lora"
    )


@pytest.mark.parametrize("steps", [None, 10])
def test_a_run_without_steps_has_no_total(steps: int | None) -> None:
    clock = Clock()
    clock.now = 0.0
    meter = Meter(steps, clock)
    clock.now = 1.0
    assert meter.add(1, 0.5, _row(1.0)).startswith("step 1/10 " if steps else "step 1 ")
