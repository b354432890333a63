"""The file of one model's goldens: what the reference gave for each text, small enough to be committed.

Dense vectors and lexical weights are there in full. Of the multi-vectors there are a few positions per text, in 16-bit
fixed point (off by at most 2e-5), and the mean over all positions, so that no token is left out.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.reference.make_models import LOCAL

COMMITTED = Path(__file__).parents[1] / "m3core" / "golden"
# Goldens of these are committed and cover all texts; others stay on the machine and cover a few.
SMALL_MODELS = ("xlmr-2-layer", "m3-small")
POSITIONS_PER_TEXT = 5
PAIR_WEIGHTS = (0.4, 0.2, 0.4)
_FIXED_POINT = 32767

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Origin:
    """What the goldens were made from. `digest` is of the model's files: see `model_digest`."""

    model: str
    digest: str
    versions: dict[str, str]
    texts: list[str]


@dataclass(frozen=True)
class Golden:
    """Results of the reference for N texts, Q of them queries and P passages, in the order of `origin.texts`.

    `text_digests` and `token_digests` `[N]` are CRC-32 of the UTF-8 text and of its token ids as little-endian i32.
    Row i of the lexical weights is `lexical_starts[i]:lexical_starts[i + 1]`, ids ascending; of the multi-vectors,
    `multi_starts[i]:...`, at `multi_positions`. Scores are `[Q, P]`. `pairs` `[K, 2]` are places in `origin.texts`,
    `pair_scores` `[K, 5]` what `compute_score` says: dense, lexical, multi, the first two weighted, all weighted.
    """

    origin: Origin
    text_digests: Array
    token_counts: Array
    token_digests: Array
    dense: Array
    lexical_starts: Array
    lexical_ids: Array
    lexical_weights: Array
    multi_starts: Array
    multi_positions: Array
    multi_values: Array
    multi_means: Array
    dense_scores: Array
    lexical_scores: Array
    multi_scores: Array
    pairs: Array
    pair_scores: Array

    def lexical(self, i: int) -> dict[int, float]:
        """Token id -> weight of text i."""
        part = slice(int(self.lexical_starts[i]), int(self.lexical_starts[i + 1]))
        return dict(zip(self.lexical_ids[part].tolist(), self.lexical_weights[part].tolist(), strict=True))

    def multi(self, i: int) -> tuple[Array, Array]:
        """Some positions of text i and the vectors there, `[n]` and `[n, D']`."""
        part = slice(int(self.multi_starts[i]), int(self.multi_starts[i + 1]))
        return self.multi_positions[part], self.multi_values[part].astype(np.float32) / _FIXED_POINT


def check_telling(golden: Golden) -> None:
    """Raise ValueError if the goldens would fit a wrong encoder too: no lexical weights, or all vectors alike.

    A random model can be so: its tokens' states grow alike from layer to layer.
    """
    with_weights = np.count_nonzero(np.diff(golden.lexical_starts)) / len(golden.token_counts)
    shared = np.count_nonzero(golden.lexical_scores) / golden.lexical_scores.size
    dense = golden.dense @ golden.dense.T
    multi = [golden.multi(i)[1] for i, count in enumerate(golden.token_counts) if count > POSITIONS_PER_TEXT]
    found = {
        "share of texts without lexical weights": (1 - with_weights, 0.34),
        "share of pairs without a shared token": (1 - shared, 0.95),
        "mean cosine of dense vectors": (float(dense.mean()), 0.97),
        "mean cosine within a text": (float(np.mean([(vectors @ vectors.T).mean() for vectors in multi])), 0.97),
    }
    for what, (value, most) in found.items():
        if value > most:
            raise ValueError(
                f"{golden.origin.model}: {what} is {value:.2f}, over {most}: these goldens would tell little; change "
                "the model in tests/reference/make_models.py"
            )


def golden_path(name: str) -> Path:
    """Where a model's goldens are: committed for the small ones, else in the reference environment's folder."""
    return (COMMITTED if name in SMALL_MODELS else LOCAL / "goldens") / f"{Path(name).name}.npz"


def write_golden(golden: Golden, path: Path) -> None:
    """Write the file; the same golden gives the same bytes, so that a regeneration shows only what changed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in _arrays(golden).items():
            buffer = io.BytesIO()
            np.save(buffer, array)
            # A fixed date: zip would write today's.
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), buffer.getvalue(), zipfile.ZIP_DEFLATED)


def _arrays(golden: Golden) -> dict[str, Array]:
    origin = np.array(json.dumps(asdict(golden.origin), sort_keys=True))
    arrays = {field.name: getattr(golden, field.name) for field in fields(golden) if field.name != "origin"}
    return {"origin": origin, **arrays}


def read_golden(path: Path) -> Golden:
    """Read what `write_golden` wrote. Raises FileNotFoundError with the command that makes it."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there; make it with: make reference-goldens MODEL={path.stem}")
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    return Golden(origin=Origin(**json.loads(str(arrays.pop("origin")))), **arrays)


def text_digest(text: str) -> int:
    """CRC-32 of a text."""
    return zlib.crc32(text.encode("utf-8"))


def token_digest(ids: Sequence[int]) -> int:
    """CRC-32 of token ids."""
    return zlib.crc32(np.asarray(ids, dtype="<i4").tobytes())


def fixed_point(vectors: Array) -> npt.NDArray[np.int16]:
    """Values in -1..1 as 16-bit integers."""
    rounded: npt.NDArray[np.int16] = np.rint(vectors * _FIXED_POINT).astype(np.int16)
    return rounded


def sampled_positions(vectors: int) -> npt.NDArray[np.int32]:
    """A few positions of `vectors` ones, the first and the last among them."""
    return np.unique(np.linspace(0, vectors - 1, POSITIONS_PER_TEXT).astype(np.int32))


def model_digest(folder: Path) -> str:
    """12 hex digits over weights, heads and tokenizer, whatever container torch put the heads in."""
    import torch

    digest = hashlib.sha256()
    for name in ("model.safetensors", "pytorch_model.bin", "tokenizer.json"):
        path = folder / name
        if path.is_file():
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    for name in ("sparse_linear.pt", "colbert_linear.pt"):
        state: Mapping[str, torch.Tensor] = torch.load(folder / name, map_location="cpu", weights_only=True)
        for key in sorted(state):
            digest.update(key.encode("ascii") + state[key].float().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]
