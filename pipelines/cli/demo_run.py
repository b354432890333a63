"""The work behind `m3 demo`: the sample corpus in a folder of its own, and how well its questions are answered."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from m3core.config.load import LoadedConfig, load_config
from m3core.config.model import Config
from m3core.config.toml import toml_string
from m3core.evaluate.ranking import recall_at, reciprocal_rank
from m3core.types import ALL_SIGNALS, Identity
from pipelines.query.request import SearchRequest

if TYPE_CHECKING:
    from pipelines.query.answer import Answer

TENANT = "default"
# Everybody whom the sample's documents name: the demonstration reads all of them.
PRINCIPALS = ("everyone", "staff", "lab", "board")
FUSED = "fused"
CONFIG_NAME = "m3.toml"
_DOCUMENTS = "documents.jsonl"
# A ranking is looked at this far; the right document of a question is one.
_DEPTH = 100

_CONFIG = """\
# Written by `m3 demo`, which restores this file and documents.jsonl beside it.

[collection]
name = "demo"

[model]
name = {model}

[sources.sample]
kind = "jsonl"
path = "documents.jsonl"

[fields]
kind = "string"
department = "string"
year = "integer"
published = "string"

[search]
preset = "cross-lingual"
principals = ["everyone", "staff", "lab", "board"]
"""

Search = Callable[[SearchRequest], "Answer"]


@dataclass(frozen=True)
class Question:
    """A question and the documents that answer it."""

    query_id: str
    query: str
    language: str
    doc_ids: tuple[str, ...]


@dataclass(frozen=True)
class Outcome:
    """One question asked of each signal alone and of all together; `rankings` holds document ids, best first."""

    question: Question
    rankings: Mapping[str, tuple[str, ...]]
    answer: Answer

    def rank(self, signal: str) -> int | None:
        """Place (from 1) of the first right document."""
        found = reciprocal_rank(self.rankings[signal], self.question.doc_ids)
        return round(1 / found) if found else None


def build_name(model: str) -> str:
    """A folder name for each build of the demonstration: after another model or chunker it starts anew."""
    from pipelines.ingest.generation import Build

    config = Config.model_validate(tomllib.loads(_config(model)))
    return Build.of(config, Path()).collection[:12]


def prepare(folder: Path, model: str) -> LoadedConfig:
    """Write configuration and sample documents into `folder`, where they are not as they should be, and load them."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _restore(folder / _DOCUMENTS, _sample(_DOCUMENTS))
    _restore(folder / CONFIG_NAME, _config(model).encode())
    # The environment's overrides are meant for the user's own collections; the demonstration is always the same.
    return load_config(folder / CONFIG_NAME, {})


def read_questions() -> list[Question]:
    """The questions that ship with the sample."""
    rows = [json.loads(line) for line in _sample("questions.jsonl").splitlines()]
    return [Question(row["query_id"], row["query"], row["language"], tuple(row["doc_ids"])) for row in rows]


def read_languages() -> dict[str, str]:
    """Language of each sample document."""
    rows = [json.loads(line) for line in _sample(_DOCUMENTS).splitlines()]
    return {row["doc_id"]: row["language"] for row in rows}


def read_texts() -> list[str]:
    """The texts of the sample's documents."""
    return [json.loads(line)["text"] for line in _sample("documents.jsonl").splitlines()]


def ask(search: Search, question: Question) -> Outcome:
    """The fused ranking, and one per signal with that signal alone."""
    asker = Identity(TENANT, PRINCIPALS)
    fused = search(SearchRequest(question.query, asker, limit=_DEPTH))
    rankings = {FUSED: _documents(fused)}
    for signal in ALL_SIGNALS:
        alone = search(SearchRequest(question.query, asker, limit=_DEPTH, signals=(signal,)))
        rankings[signal.value] = _documents(alone)
    return Outcome(question, rankings, fused)


def recall_at_1(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Mean over the questions, per signal and fused."""
    return _means(outcomes, lambda ranking, right: recall_at(ranking, right, 1))


def mean_reciprocal_rank(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Mean over the questions, per signal and fused."""
    return _means(outcomes, reciprocal_rank)


def _config(model: str) -> str:
    return _CONFIG.format(model=toml_string(model))


def _means(outcomes: Sequence[Outcome], measure: Callable[[Sequence[str], Sequence[str]], float]) -> dict[str, float]:
    names = [*(signal.value for signal in ALL_SIGNALS), FUSED]
    sums = {name: sum(measure(each.rankings[name], each.question.doc_ids) for each in outcomes) for name in names}
    return {name: round(total / len(outcomes), 4) for name, total in sums.items()}


def _documents(answer: Answer) -> tuple[str, ...]:
    return tuple(hit.doc_id for hit in answer.hits)


def _sample(name: str) -> bytes:
    return files("pipelines").joinpath("sample", name).read_bytes()


def _restore(path: Path, content: bytes) -> None:
    if not path.is_file() or path.read_bytes() != content:
        path.write_bytes(content)
