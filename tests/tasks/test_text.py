import jax
import numpy as np
import pytest

from tasks.data import batches, text


def test_bytes_become_97_tokens_and_newline_stays_apart(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"a b\n\xc3\xa4~" * 100)
    tokens = text.load_text(f"file:{tmp_path}/a.txt[:7]").tokens
    np.testing.assert_array_equal(tokens, [67, 2, 68, 1, 0, 0, 96])


def test_the_documentation_of_python_is_english_of_documented_size_with_its_hash():
    docs = text.load_text("pydoc")
    assert len(docs.tokens) > 300_000 and docs.tokens.max() < docs.vocabulary == 97
    assert "sha256" in docs.source and (docs.tokens == 0).mean() < 0.01


def test_a_markov_text_depends_on_its_seed_and_is_predictable_from_two_symbols_only():
    first, again, other = (text._markov(seed) for seed in "112")
    np.testing.assert_array_equal(first.tokens, again.tokens)
    assert (first.tokens != other.tokens).any()

    def entropy(codes):
        p = np.unique(codes, return_counts=True)[1] / len(codes)
        return -(p * np.log(p)).sum()

    a, b, c = (first.tokens[i : len(first.tokens) - 2 + i].astype(int) for i in range(3))
    given_one = entropy(16 * b + c) - entropy(b)
    given_two = entropy(256 * a + 16 * b + c) - entropy(16 * a + b)
    # Dirichlet(0.1) rows of 16 have an expected entropy of psi(2.6) - psi(1.1) = 1.17 nats.
    assert 0.5 < given_two < 1.4 and given_one > given_two + 0.3


def test_windows_are_pieces_of_the_chosen_text_and_never_padding(tmp_path):
    (tmp_path / "a").write_bytes(bytes(range(32, 127)) * 2)
    (tmp_path / "b").write_bytes(bytes(range(126, 31, -1)) * 20)
    stack = text.stack_texts((f"file:{tmp_path}/a", f"file:{tmp_path}/b"), 5)
    for index, step in enumerate((1, -1)):
        pieces = np.asarray(batches.windows(stack.data["train"], index, jax.random.key(0), 200, 5))
        assert pieces.min() >= 2
        assert set(np.diff(pieces).ravel().tolist()) <= {step, -94 * step}
    assert stack.data["valid"]["length"].tolist() == [19, 190]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("pydok", "unknown text 'pydok'; did you mean pydoc"),
        ("markov:x", "seed of 'markov:x' must be an integer"),
        ("file:/does/not/exist", "cannot read '/does/not/exist': No such file"),
        ("markov:1[9:3]", "asks for tokens 9 to 3, there are 65536"),
    ],
)
def test_a_wrong_text_is_refused_in_one_line(name, words):
    with pytest.raises(ValueError, match=f"^texts: .*{words}") as error:
        text.load_text(name)
    assert "\n" not in str(error.value)


def test_a_text_too_short_for_its_windows_is_refused():
    with pytest.raises(ValueError, match=r"^texts: 'markov:1\[:50\]' has 50 tokens, windows of 8 need 90"):
        text.stack_texts(("markov:1[:50]",), 8)
