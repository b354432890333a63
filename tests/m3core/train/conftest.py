from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

_TEXT = "key desk cryostat travel train night front laboratory handed nine refunded thirty days Schlüssel Leitung"
_WORDS = _TEXT.split()


@pytest.fixture
def pairs_file(tmp_path: Path) -> Path:
    """Questions that repeat words of their passage, translations that are the same words upside down, two pages."""
    rng = np.random.default_rng(0)
    passages = [" ".join(rng.choice(_WORDS, 12)) for _ in range(240)]
    rows = [(" ".join(passage.split()[2:6]), passage, "en", "ours", "question") for passage in passages[:120]]
    rows += [("same?", "one passage", "de", "ours", "question")] * 9
    rows += [(f"{passage} 1", passage, "de", "tquad", "question") for passage in passages[:10]]
    rows += [(passage[::-1], passage, "de", "tatoeba", "translation") for passage in passages[120:200]]
    rows += [(f"Eins zwei drei vier. {p}.", f"{p}. One.", "de", "ntrex", "translation") for p in passages[200:]]
    rows += [("Eins", passage, "tlh", "tatoeba", "translation") for passage in passages[:5]]
    for language in ("de", "fr"):
        rows += [(f"{language} {i}?", f"{language} {p}", language, "bitcoin-org-faq", "question")
                 for i, p in enumerate(passages[:12])]  # fmt: skip
    names = ("query", "positive", "language", "source", "kind")
    table = pa.table(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)))
    pq.write_table(table, tmp_path / "pairs.parquet")
    return tmp_path / "pairs.parquet"
