from __future__ import annotations

import itertools
import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from m3core.train.similar import GROUP, similar_batches, similar_sets, trigram_vectors

_SUBJECTS = ("nuclear magnetic resonance", "the harbour of the old town", "a recipe for rye bread", "цены на билеты")


def _passages(each: int) -> list[str]:
    # The number keeps passages of one subject apart without making them near copies.
    return [f"{subject} {chr(200 + 7 * i)}{i * 7919} {i * 104729}" for i in range(each) for subject in _SUBJECTS]


def test_a_batch_is_made_of_sets_on_one_subject() -> None:
    passages = _passages(each=2 * GROUP)
    batches = list(similar_batches(passages, ["g"] * len(passages), 2 * GROUP, np.random.default_rng(0)))
    assert sorted(i for batch in batches for i in batch) == list(range(len(passages)))
    mates = [sum(passages[i][:6] == passages[j][:6] for j in batch) for batch in batches for i in batch]
    # At random a passage would meet under 5 of its subject, itself among them.
    assert np.mean(mates) > 6


def test_near_copies_are_in_no_set_together_and_a_passages_questions_in_no_batch() -> None:
    copies = [f"the very same long sentence about the cryostat and its helium {i}" for i in range(12)]
    others = [f"{i * 7919} passage {chr(97 + i % 26) * 9} {i * 104729}" for i in range(36)]
    vectors = trigram_vectors([*copies, *others])
    sets = similar_sets(vectors, np.random.default_rng(1))
    assert sorted(i for members in sets for i in members) == list(range(48))
    products = [float(vectors[i] @ vectors[j]) for members in sets for i, j in itertools.combinations(members, 2)]
    assert max(products) <= 0.6
    passages = [*copies, *others, *others]
    batches = list(similar_batches(passages, ["g"] * len(passages), 24, np.random.default_rng(1)))
    assert all(len({passages[i] for i in batch}) == len(batch) for batch in batches)


@given(
    st.lists(st.tuples(st.text(max_size=30), st.sampled_from("ab")), max_size=60),
    st.integers(3, 12),
    st.integers(0, 5),
)
def test_no_index_is_twice_in_an_epoch_and_no_batch_mixes_groups(
    rows: list[tuple[str, str]], size: int, seed: int
) -> None:
    passages, groups = [text for text, _ in rows], [group for _, group in rows]
    batches = list(similar_batches(passages, groups, size, np.random.default_rng(seed)))
    used = [i for batch in batches for i in batch]
    assert len(used) == len(set(used))
    assert all(len({groups[i] for i in batch}) == 1 and size // 3 <= len(batch) <= size for batch in batches)


def test_trigram_vectors_are_hashed_binary_tf_idf() -> None:
    texts = ["abcd", "abcx", "xyz"]
    grams = [{"abc", "bcd"}, {"abc", "bcx"}, {"xyz"}]
    rarity = {gram: math.log(4 / (1 + sum(gram in other for other in grams))) for own in grams for gram in own}
    lengths = [math.sqrt(sum(rarity[gram] ** 2 for gram in own)) for own in grams]
    found = trigram_vectors(texts) @ trigram_vectors(texts).T
    for i, left in enumerate(grams):
        for j, right in enumerate(grams):
            expected = sum(rarity[gram] ** 2 for gram in left & right) / lengths[i] / lengths[j]
            np.testing.assert_allclose(found[i, j], expected, atol=1e-6)
