"""The framing fuzzer's seeds are what the wire vectors and the hand-made edges say."""

from tests.support.corpus import CORPUS, FINDING, seeds


def test_the_corpus_is_the_generated_one() -> None:
    kept = {path.name: path.read_bytes() for path in CORPUS.iterdir()}
    generated = {name: data for name, data in kept.items() if not name.startswith(FINDING)}
    assert generated == seeds(), "python -m tests.support.corpus writes it"
