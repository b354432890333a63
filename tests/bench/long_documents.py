"""Build a set of long documents from short ones: each passage of a data set among others of one source and language.

python tests/bench/long_documents.py --data dev/SET --corpus corpus/passages.parquet --out FOLDER

Writes FOLDER in BEIR's layout, outside of this repository. A document is one passage of the set at a random place
between passages of the corpus, until it has --characters; queries and judgements stay as they are, so `m3 eval
--long-documents` shows what a model finds that reads the beginning alone. A passage of the set is never filler.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

# A source with fewer passages would repeat itself in every document.
_LEAST_PASSAGES = 20
_REPOSITORY = Path(__file__).resolve().parents[2]

Pools = Mapping[str, Sequence[str]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="plain BEIR folder with a language per document")
    parser.add_argument("--corpus", type=Path, required=True, help="Parquet: title, text, language, source")
    parser.add_argument("--out", type=Path, required=True, help="new folder")
    parser.add_argument("--characters", type=int, default=8000, help="of a document, at least")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.out.resolve().is_relative_to(_REPOSITORY):
        parser.error(f"--out {options.out} lies in the repository, which holds no data; name a folder elsewhere")
    passages = [json.loads(line) for line in (options.data / "corpus.jsonl").open(encoding="utf-8")]
    pools = filler_pools(pq.read_table(options.corpus).to_pylist(), passages)
    documents = [long_document(passage, pools, options.characters, options.seed) for passage in passages]
    kept = [document for document in documents if document is not None]
    options.out.mkdir(parents=True)
    with (options.out / "corpus.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(document, ensure_ascii=False) + "\n" for document in kept)
    for name in ("queries.jsonl", "qrels.tsv"):
        shutil.copyfile(options.data / name, options.out / name)
    mean = sum(len(document["text"]) for document in kept) / max(1, len(kept))
    print(f"{len(kept):,} documents of {mean:,.0f} characters; {len(documents) - len(kept):,} had no filler")
    return 0


def filler_pools(corpus: Sequence[Mapping[str, Any]], passages: Sequence[Mapping[str, Any]]) -> Pools:
    """Language -> texts of its largest source that are not in the set; languages with too few are left out."""
    own = {passage["text"] for passage in passages}
    free = [row for row in corpus if row["text"] not in own]
    sizes = Counter((row["language"], row["source"]) for row in free)
    largest: dict[str, str] = {}
    for (language, source), count in sizes.most_common():
        if count >= _LEAST_PASSAGES:
            largest.setdefault(language, source)
    pools = defaultdict(list)
    for row in free:
        if largest.get(row["language"]) == row["source"]:
            pools[row["language"]].append(whole(row))
    return pools


def long_document(passage: Mapping[str, Any], pools: Pools, characters: int, seed: int) -> dict[str, Any] | None:
    """The passage among fillers of its language, the same for the same seed; None if its language has none."""
    pool = pools.get(passage["language"])
    if not pool:
        return None
    rng = random.Random(f"{seed} {passage['_id']}")
    parts: list[str] = []
    length = len(passage["text"])
    for filler in rng.sample(pool, len(pool)):
        if length >= characters:
            break
        parts.append(filler)
        length += len(filler)
    parts.insert(rng.randint(0, len(parts)), whole(passage))
    return {"_id": passage["_id"], "title": "", "text": "\n\n".join(parts), "language": passage["language"]}


def whole(row: Mapping[str, Any]) -> str:
    """Title and text."""
    return f"{row.get('title') or ''}\n{row['text']}".strip()


if __name__ == "__main__":
    sys.exit(main())
