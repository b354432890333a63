"""`m3 train` from rows to a model folder: what comes out, what is refused, and going on after a kill."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from m3core import Encoder
from tests.m3core.train.test_distributed import free_port, torchrun_environment
from tests.pipelines.cli.conftest import M3, Ended
from tests.pipelines.train.conftest import Write

_ROOT = Path(__file__).parents[3]
_CODE = "import sys; from pipelines.cli.main import main; sys.exit(main(sys.argv[1:]))"


def _losses(folder: Path) -> list[dict[str, str]]:
    with (folder / "losses.csv").open(encoding="ascii") as file:
        return list(csv.DictReader(file))


def _home(here: Path) -> list[Path]:
    return [path for path in (here / "home" / "training").glob("*") if path.is_dir()]


def test_a_run_writes_a_model_with_its_card_and_leaves_nothing_else(
    train: M3, rows: Path, dev: Path, here: Path, tiny_model: Path
) -> None:
    ended = train(
        rows, "--out", "model", "--dev", "dev", "--steps", "12", "--dev-every", "4", "--batch", "16",
        "--teacher-scores", "--rate", "0.003", "--presets", "mine", "--seed", "5", "--json",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    document = json.loads(ended.out)
    assert (document["rows"], document["steps"], document["broken"]) == (40, 12, 0)
    assert set(document["dev"]["after"]["dev"]) == {"dense", "lexical", "multi", "fused"}
    assert document["best_step"] in (0, 4, 8, 12)
    table = _losses(here / "model")
    assert [int(row["step"]) for row in table] == list(range(12))
    assert sum(int(row["tokens"]) for row in table) == document["tokens"]
    assert {"dense", "lexical", "multi", "sum", "dense_taught", "dense_teacher"} <= set(table[0])
    loaded = Encoder.load(here / "model")
    assert loaded.fingerprint == document["fingerprint"]
    assert (loaded.fingerprint == Encoder.load(tiny_model).fingerprint) == (document["best_step"] == 0)
    settings = json.loads((here / "model" / "m3.json").read_text())
    assert sum(settings["presets"]["balanced"].values()) == pytest.approx(1)
    card = (here / "model" / "README.md").read_text()
    assert 'BGEM3FlagModel("FOLDER", use_fp16=False, pooling_method="mean", colbert_dim=8)' in card
    assert "seed 5, 12 steps" in card
    assert "| rows.jsonl | 40 | `" in card
    assert str(here) not in card
    assert not _home(here)
    assert "dev      step 4 dev: dense" in ended.err
    again = train(rows, "--out", "model", "--steps", "12")
    assert again.code == 2
    assert "model is there already, a folder with files in it" in again.err


def test_a_temperature_is_that_of_dense_and_multi_vector_scores(train: M3, rows: Path, here: Path) -> None:
    for name, options in (("usual", ()), ("same", ("--tau", "0.02")), ("flat", ("--tau", "1"))):
        assert train(rows, "--out", name, "--steps", "1", "--batch", "16", "--negatives", "0", *options).code == 0
    usual, same, flat = (_losses(here / name)[0] for name in ("usual", "same", "flat"))
    assert same == usual
    assert flat["lexical"] == usual["lexical"]
    # Cosines differ by 2 at most: over 1 that is how far the loss can be from an even share of 16 columns.
    assert all(abs(float(flat[name]) - np.log(16)) <= 2 for name in ("dense", "multi"))
    assert all(flat[name] != usual[name] for name in ("dense", "multi"))


def test_a_picture_is_drawn_unless_it_is_not_wanted(m3: M3, tiny_model: Path, rows: Path, here: Path) -> None:
    ended = m3("train", rows, "--model", tiny_model, "--out", "model", "--steps", "3", "--mode", "heads")
    assert ended.code == 0, ended.err
    assert (here / "model" / "losses.png").read_bytes().startswith(b"\x89PNG")
    assert ended.out.startswith("trained 3 steps, ")


def test_a_missing_matplotlib_is_told_before_the_training(
    m3: M3, tiny_model: Path, rows: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.train.curves.find_spec", lambda name: None)
    ended = m3("train", rows, "--model", tiny_model, "--out", "model")
    assert ended.code == 2
    assert "pip install 'threefold[train]', or add --no-plot" in ended.err


def test_a_dry_run_counts_and_trains_nothing(train: M3, write: Write, dev: Path, here: Path) -> None:
    good = [{"query": f"who {i}", "pos": [f"the key {i}"]} for i in range(6)]
    write("a.jsonl", [*good, good[0], {"query": "", "pos": ["x"]}, {"query": "long", "pos": ["key " * 300]}])
    ended = train("a.jsonl", "--out", "model", "--dev", "dev", "--dry-run", "--json")
    assert ended.code == 0, ended.err
    document = json.loads(ended.out)
    counted = {key: document[key] for key in ("rows", "broken", "duplicates", "cut", "dropped", "shared_with_dev")}
    assert counted == {"rows": 7, "broken": 1, "duplicates": 1, "cut": 1, "dropped": 0, "shared_with_dev": 0}
    told = ended.err.splitlines()
    assert told[:3] == [
        "1 broken rows, left out: a.jsonl:8 (query is empty)",
        "1 rows that came before, left out: a.jsonl:7",
        "1 rows with a text over 256 tokens (query) or 256 (passage), cut there: a.jsonl:9",
    ]
    ended = train("a.jsonl", "--out", "model", "--drop-long", "--dry-run")
    assert "left out: a.jsonl:9" in ended.err
    assert not (here / "model").exists()
    assert not _home(here)


def test_what_cannot_be_trained_on_is_refused_in_one_line(train: M3, write: Write, rows: Path, dev: Path) -> None:
    broken = write("broken.jsonl", ['{"query": "a"}'] * 3 + [{"query": "a", "pos": ["b"]}])
    shared = write("shared.jsonl", [json.loads((dev / "queries.jsonl").read_text().splitlines()[0]) | {
        "query": json.loads((dev / "queries.jsonl").read_text().splitlines()[0])["text"],
        "pos": [json.loads((dev / "corpus.jsonl").read_text().splitlines()[3])["text"]],
        "neg": ["other"],
    }])  # fmt: skip
    cases = [
        (
            [broken, "--max-bad-rows", "2"],
            2,
            "3 of 4 rows are broken, at most 2 may be: broken.jsonl:1 (pos is missing)",
        ),
        ([shared, "--dev", dev], 5, "2 texts of --dev are in the training data, so its figures would flatter: dev: "),
        ([rows, "--presets", "mine"], 2, "--presets mine without --dev"),
        ([rows, "--query-tokens", "999"], 2, "--query-tokens 999: this model reads 256 tokens"),
        ([rows, "--depth", "9"], 2, "an adapter of depth 9: the backbone has 2 blocks"),
        ([rows, "--precision", "float16"], 2, "--precision 'float16' is none of auto, float32, bfloat16"),
        ([rows, "--dev", "nowhere"], 2, "nowhere: no such folder"),
        (["none.jsonl"], 2, "none.jsonl: no such file"),
    ]
    for arguments, code, told in cases:
        ended = train(*arguments, "--out", "model")
        assert (ended.code, ended.out) == (code, ""), ended.err
        assert told in ended.err
        assert not Path("model").exists()
    ended = train(shared, "--dev", dev, "--allow-shared", "--steps", "2", "--out", "model")
    assert ended.code == 0, ended.err
    assert "2 texts of these sets were in the training data" in Path("model/README.md").read_text()


def test_a_loss_that_is_no_number_names_the_rows_and_saves_them(train: M3, rows: Path, here: Path) -> None:
    ended = train(rows, "--out", "model", "--mode", "full", "--rate", "1e30", "--head-rate", "1e30", "--steps", "9")
    assert ended.code == 2, ended
    assert "is nan on rows rows.jsonl:" in ended.err or "is inf on rows rows.jsonl:" in ended.err
    assert "Remedy: lower the learning rates, or look at these texts" in ended.err
    (folder,) = _home(here)
    saved = json.loads((folder / "not-finite.json").read_text())
    assert set(saved["rows"]) <= {f"rows.jsonl:{i}" for i in range(1, 41)}
    assert len(saved["rows"]) >= 2
    assert not (here / "model").exists()


@pytest.mark.parametrize(
    ("option", "said"),
    [(("--patience", "2"), "--patience without --dev"), (("--teacher-scores",), "--teacher-scores: no row has scores")],
)
def test_an_option_that_would_do_nothing_is_refused(
    train: M3, write: Write, option: tuple[str, ...], said: str
) -> None:
    write("plain.jsonl", [{"query": f"q{number}", "pos": [f"text {number}"]} for number in range(4)])
    ended = train("plain.jsonl", "--out", "model", "--steps", "1", *option)
    assert ended.code == 2
    assert said in ended.err


def test_the_best_step_is_kept_and_patience_ends_a_run(train: M3, rows: Path, dev: Path, here: Path) -> None:
    # A rate that destroys: the first measurement stays the best.
    ended = train(
        rows, "--out", "model", "--dev", dev, "--mode", "full", "--rate", "0.5", "--steps", "20",
        "--dev-every", "2", "--patience", "2", "--batch", "16", "--json",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    document = json.loads(ended.out)
    figures = {int(line.split()[2]): float(line.split()[-1]) for line in ended.err.splitlines() if line[:3] == "dev"}
    best = document["best_step"]
    # What is printed is rounded.
    assert figures[best] >= max(figures.values()) - 1e-3
    assert document["steps"] == best + 4 < 20
    assert "no better for 2 measurements: enough" in ended.err
    assert document["dev"]["after"]["dev"]["fused"] == pytest.approx(figures[best], abs=1e-3)


def _subprocess(here: Path, arguments: list[str]) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "M3_HOME": str(here / "home"), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(_ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", _CODE, *arguments], cwd=here, env=environment, stderr=subprocess.PIPE
    )


def _arguments(model: Path, out: str) -> list[str]:
    options = ["--steps", "60", "--batch", "8", "--dev", "dev", "--dev-every", "20", "--checkpoint-every", "0"]
    return ["train", "rows.jsonl", "--model", str(model), "--no-plot", "--precision", "float32", "--out", out, *options]


def _wait_for_checkpoint(here: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 600
    while not list((here / "home").glob("training/*/checkpoint.pt")):
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_run_goes_on_to_the_same_losses(
    m3: M3, tiny_model: Path, rows: Path, dev: Path, here: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    monkeypatch.setenv("M3_HOME", str(here / "other"))
    assert m3(*_arguments(tiny_model, "whole")).code == 0
    monkeypatch.setenv("M3_HOME", str(here / "home"))
    process = _subprocess(here, _arguments(tiny_model, "cut"))
    _wait_for_checkpoint(here, process)
    process.send_signal(number)
    process.communicate(timeout=300)
    assert process.returncode == (-9 if number == signal.SIGKILL else 143)
    assert not (here / "cut").exists()
    assert not [path for path in here.iterdir() if path.name.startswith(".tmp")]
    resumed = m3(*_arguments(tiny_model, "cut"))
    assert resumed.code == 0, resumed.err
    assert "resumed at step " in resumed.err
    # Two processes may differ in the last bits: kernels depend on threads and on where memory lies.
    cut, whole = _losses(here / "cut"), _losses(here / "whole")
    assert [row.keys() for row in cut] == [row.keys() for row in whole]
    for one, other in zip(cut, whole, strict=True):
        found, wanted = ({key: float(value) for key, value in row.items()} for row in (one, other))
        assert found == pytest.approx(wanted, rel=1e-5, abs=1e-5)
    vectors = [Encoder.load(here / name).encode(["the key"]).dense for name in ("cut", "whole")]
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-5)  # type: ignore[arg-type]


def test_the_same_job_twice_at_once_is_refused(
    m3: M3, train: M3, tiny_model: Path, rows: Path, dev: Path, here: Path
) -> None:
    arguments = _arguments(tiny_model, "first")
    arguments[arguments.index("60")] = "5000"
    process = _subprocess(here, arguments)
    try:
        _wait_for_checkpoint(here, process)
        ended = m3(*arguments)
        assert ended.code == 6
        assert "another process trains this very run" in ended.err
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_two_processes_write_the_model_of_one(
    m3: M3, train: M3, tiny_model: Path, rows: Path, dev: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def arguments(out: str) -> list[str]:
        options = ["--steps", "8", "--batch", "16", "--dev", "dev", "--sub-batch-tokens", "300"]
        return [
            "train",
            "rows.jsonl",
            "--model",
            str(tiny_model),
            "--no-plot",
            "--precision",
            "float32",
            "--out",
            out,
            *options,
        ]

    monkeypatch.setenv("M3_HOME", str(here / "other"))
    assert m3(*arguments("one")).code == 0
    port = free_port()
    with ExitStack() as ended:
        workers = []
        for rank in range(2):
            environment = torchrun_environment(rank, 2, port) | {"M3_HOME": str(here / "home")}
            command = [sys.executable, "-c", _CODE, *arguments("two")]
            worker = subprocess.Popen(command, cwd=here, env=environment, stderr=subprocess.PIPE, text=True)
            workers.append(ended.enter_context(worker))
            ended.callback(worker.kill)
        told = [worker.communicate(timeout=600)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], told
    one, two = _losses(here / "one"), _losses(here / "two")
    assert [row["tokens"] for row in one] == [row["tokens"] for row in two]
    for first, second in zip(one, two, strict=True):
        assert float(second["sum"]) == pytest.approx(float(first["sum"]), rel=1e-3)


def test_help_names_the_commands(m3: M3) -> None:
    ended: Ended = m3("--help")
    assert "train" in ended.out
    assert "mine" in ended.out
