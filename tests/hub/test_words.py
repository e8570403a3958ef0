from hypothesis import given
from hypothesis import strategies as st

from kp_data.hub.words import marked, printable, shortened, word_diff

TEXTS = st.text("ab 1.\n\x1b[", max_size=30)


@given(TEXTS, TEXTS)
def test_the_pieces_make_up_both_texts(old, new):
    pieces = word_diff(old, new)
    assert "".join(text for kind, text in pieces if kind != "added") == old
    assert "".join(text for kind, text in pieces if kind != "removed") == new
    assert (old == new) == all(kind == "same" for kind, _ in pieces)


def test_whole_words_and_numbers_are_marked():
    assert marked(word_diff("score 0.25 of it", "score 0.75 of it all")) == "score [-0.25-]{+0.75+} of it{+ all+}"


def test_long_stretches_without_a_change_are_left_out():
    pieces = list(shortened(word_diff("a " * 500 + "x", "a " * 500 + "y"), context=4))
    assert marked(pieces) == "a a  … a a [-x-]{+y+}"


def test_texts_of_very_many_words_are_compared_as_wholes():
    old, new = "a " * 20_000, "b " * 20_000
    assert [kind for kind, _ in word_diff(old, new)] == ["removed", "added"]
    assert [kind for kind, _ in word_diff(old, old)] == ["same"]


@given(st.text())
def test_what_is_printed_moves_no_cursor(text):
    assert not any(ord(character) < 32 and character != "\t" for character in printable(text))
    assert "\x1b" not in printable(text)
    assert "\u202e" not in printable(text)
