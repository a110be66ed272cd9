"""Tests of constrained decoding: no banned phrase and no broken form, by search of all texts."""

import itertools
import json
import re

import jsonschema
import keras
import numpy as np
import pytest
from keras import ops

from tfgpt import (
    GPT,
    BeamSearch,
    BPETokenizer,
    CharTokenizer,
    ContrastiveSearch,
    LanguageModel,
    generate,
    stream,
)
from tfgpt.compilation import programs_of
from tfgpt.generation.beam import beam_loop
from tfgpt.generation.constraints import FORBIDDEN
from tfgpt.generation.settings import Wish
from tfgpt.generation.together import decode_together
from tfgpt.safety import BannedPhrases, Grammar
from tfgpt.safety.banned import phrase_automaton
from tfgpt.safety.patterns import byte_automaton
from tfgpt.safety.schema import schema_pattern
from tfgpt.serving.asking import Limits
from tfgpt.serving.lite_model import hide_forbidden
from tfgpt.serving.served import Served

STOP = 1


class Pieces:
    """A tokenizer of any pieces, which may overlap or be parts of a character."""

    def __init__(self, *pieces):
        self.pieces = [piece if isinstance(piece, bytes) else piece.encode() for piece in pieces]
        self.vocab_size = len(self.pieces)

    def token_bytes(self, token_id):
        return self.pieces[token_id]

    def text(self, token_ids):
        return b"".join(self.pieces[token_id] for token_id in token_ids)


def make_model(vocab_size, context_length=16, seed=0, pad_id=0):
    """Make a GPT with large random weights, whose texts differ much."""
    keras.utils.set_random_seed(seed)
    sizes = {"num_layers": 1, "d_model": 16, "num_heads": 2, "pad_id": pad_id}
    model = GPT(vocab_size, context_length, **sizes)
    randomise(model, seed)
    return model


def randomise(model, seed):
    """Give a model other weights; its programs stay."""
    for weight in model.trainable_variables:
        weight.assign(np.random.default_rng(seed + 1).normal(size=weight.shape))


def grammar_of(pattern, tokenizer, stop_token=STOP):
    """Make a Grammar of a pattern or a schema."""
    if isinstance(pattern, dict):
        return Grammar.from_json_schema(pattern, tokenizer, stop_token=stop_token)
    return Grammar.from_regex(pattern, tokenizer, stop_token=stop_token)


def allowed_texts(constraint, prompt, length):
    """List all token strings of a length that a constraint lets through."""
    found = [((), constraint.start(prompt))]
    for _ in range(length):
        found = [
            ((*tokens, int(token)), int(constraint.table[state, token]))
            for tokens, state in found
            for token in np.flatnonzero(constraint.table[state] != FORBIDDEN)
        ]
    return {tokens for tokens, _ in found}


def holds(tokenizer, prompt, tokens, phrases):
    """Search a text for phrases that are complete after the prompt, with Python's own search."""
    text, start = tokenizer.text([*prompt, *tokens]), len(tokenizer.text(prompt))
    return any(
        text.find(phrase.encode(), max(start - len(phrase.encode()) + 1, 0)) >= 0
        for phrase in phrases
    )


LETTERS = Pieces(b"", "a", "b")
OVERLAPPING = Pieces(b"", "a", "b", "ab", "ba", "aab", "bb")
TWO_BYTES = Pieces(b"", "é", "e", b"\xc3", b"\xa9", b"\xa9e")


@pytest.mark.parametrize(
    ("tokenizer", "phrases"),
    [
        (LETTERS, ["ab"]),
        (LETTERS, ["aab", "bba"]),
        (LETTERS, ["abab"]),
        (OVERLAPPING, ["ab"]),
        (OVERLAPPING, ["aba", "bbb"]),
        (OVERLAPPING, ["b", "aaa"]),  # the second makes the end of "aa" a dead end
        (TWO_BYTES, ["é"]),
        (TWO_BYTES, ["ée", "ee"]),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_the_allowed_texts_are_those_that_a_search_of_all_finds(tokenizer, phrases):
    if phrases == ["b", "aaa"]:
        with pytest.raises(ValueError, match="phrases must leave something to write"):
            BannedPhrases(phrases, tokenizer)
        return
    banned = BannedPhrases(phrases, tokenizer)
    tokens = range(1, tokenizer.vocab_size)
    for prompt in ((), (1,), (2, 1), (1, 2, 1), tuple(tokens)[-2:]):
        texts = {
            text
            for text in itertools.product(tokens, repeat=4)
            if not holds(tokenizer, prompt, text, phrases)
        }
        # Token 0 is nothing in a text, and may stand anywhere.
        found = allowed_texts(banned, prompt, 4)
        assert {text for text in found if 0 not in text} == texts
        assert not any(holds(tokenizer, prompt, text, phrases) for text in found)


def test_a_text_never_runs_into_a_dead_end():
    tokenizer = Pieces(b"", "a", "b", "c")
    banned = BannedPhrases(["ba", "bb", "bc", "ca"], tokenizer)
    texts = allowed_texts(banned, (), 4)  # after b nothing may follow: so no b
    tokens = range(1, 4)
    expected = {
        text
        for text in itertools.product(tokens, repeat=4)
        if any(
            not holds(tokenizer, (), (*text, *more), ["ba", "bb", "bc", "ca"])
            for more in itertools.product(tokens, repeat=3)
        )
    }
    assert {text for text in texts if 0 not in text} == expected
    assert not any(2 in text for text in expected) and len(expected) == 5
    model = make_model(4)
    with pytest.raises(ValueError, match="prompt_ids must leave a token .* none after row 1"):
        generate(model, [[1], [2]], 3, constraint=banned)


CASES = ["a", "as", "straße", "Éa", "ı", "İx", "ﬁne", "ss", "ΣΑΣ", "k"]


def test_ignoring_case_is_what_casefold_finds(rng):
    characters = "aAsSſßẞtTkK\u212aéÉıIi\u0307İxXﬁﬀfFnNeEσςΣαΑ ﬆ"
    for phrase in CASES:
        following, is_found = phrase_automaton([phrase.casefold()], ignore_case=True)
        for _ in range(300):
            text = "".join(rng.choice(list(characters), size=rng.integers(1, 7)))
            # The phrase itself in a random case, at a random place.
            inner = "".join(rng.choice([c, c.upper(), c.swapcase()]) for c in phrase)
            place = rng.integers(0, len(text) + 1)
            for candidate in (text, text[:place] + inner + text[place:]):
                state, found = 0, False
                for byte in candidate.encode():
                    state = following[state, byte]
                    found |= bool(is_found[state])
                assert found == (phrase.casefold() in candidate.casefold()), (phrase, candidate)


PHRASES = ["moon", "light ov", "月光", "er the", " o"]


@pytest.fixture(scope="module")
def byte_pairs():
    """A tokenizer whose pieces cross the phrases in many ways."""
    text = "moon light over the moonlight; 床前明月光 the lighter moon, other 月亮 Moon " * 30
    return BPETokenizer.train([text], vocab_size=330)


def test_no_spelling_by_byte_pairs_gets_through(byte_pairs, rng):
    banned = BannedPhrases(PHRASES, byte_pairs)
    for _ in range(300):
        prompt = rng.integers(3, byte_pairs.vocab_size, size=rng.integers(0, 4)).tolist()
        state, tokens = banned.start(prompt), []
        for _ in range(12):
            allowed = np.flatnonzero(banned.table[state] != FORBIDDEN)
            # Long pieces, which come near a phrase, more often than single bytes.
            weights = np.array([1.0 if token < 259 else 30.0 for token in allowed])
            tokens.append(int(rng.choice(allowed, p=weights / weights.sum())))
            state = banned.table[state, tokens[-1]]
        start = len(byte_pairs.decode(prompt))
        text = byte_pairs.decode(prompt + tokens)
        for phrase in PHRASES:
            assert text.find(phrase, max(start - len(phrase) + 1, 0)) < 0


def test_what_is_forbidden_would_complete_a_phrase(byte_pairs, rng):
    """The other direction: no more is forbidden than must be."""
    banned = BannedPhrases(PHRASES, byte_pairs)
    for _ in range(200):
        prompt = rng.integers(0, byte_pairs.vocab_size, size=3).tolist()
        prompt += byte_pairs.encode(rng.choice(["moo", "light o", "月", "er t", ""])).tolist()
        row = banned.table[banned.start(prompt)]
        text = b"".join(byte_pairs.token_bytes(token) for token in prompt)
        for token, following in enumerate(row[: byte_pairs.vocab_size]):
            new = text + byte_pairs.token_bytes(token)
            completes = any(
                new.find(p.encode(), max(len(text) - len(p.encode()) + 1, 0)) >= 0 for p in PHRASES
            )
            assert completes == (following == FORBIDDEN)


def violations(tokenizer, prompts, rows, phrases):
    """List the texts that hold a phrase that the prompt does not hold alone."""
    texts = [tokenizer.text(row) for row in rows]
    starts = [len(tokenizer.text(prompt)) for prompt in prompts]
    return [
        text
        for text, start in zip(texts, starts, strict=True)
        for phrase in phrases
        if text.find(phrase.encode(), max(start - len(phrase) + 1, 0)) >= 0
    ]


@pytest.mark.slow
def test_models_write_no_banned_phrase_cached_sliding_streamed_and_in_beams():
    tokenizer = OVERLAPPING
    phrases = ["aba", "bbb"]
    banned = BannedPhrases(phrases, tokenizer)
    prompts = [[1, 2], [3], [6, 2, 1], [2, 6]]  # some end inside of a phrase
    model = make_model(tokenizer.vocab_size, context_length=12)
    some_free = 0
    for seed in range(3):
        randomise(model, seed)
        for settings in ({"temperature": 0}, {"seed": seed}):
            free = generate(model, prompts, 18, **settings)  # past the context of 12
            some_free += len(violations(tokenizer, prompts, free, phrases))
            rows = generate(model, prompts, 18, constraint=banned, **settings)
            assert not violations(tokenizer, prompts, rows, phrases)
            assert all(len(row) == len(p) + 18 for row, p in zip(rows, prompts, strict=True))
        alone = generate(model, prompts[2], 18, constraint=banned, seed=seed)[0]
        assert alone.tolist() == rows[2].tolist()
        for beam_size in (1, 2, 3):
            settings = {"strategy": BeamSearch(beam_size), "constraint": banned}
            texts = generate(model, prompts[2:3], 8, **settings)
            assert not violations(tokenizer, prompts[2:3], texts, phrases)
            if beam_size == 1:
                greedy = generate(model, prompts[2:3], 8, temperature=0, constraint=banned)
                assert texts.tolist() == greedy.tolist()
    assert some_free > 5  # without the constraint they do


@pytest.mark.slow
def test_streamed_pieces_and_joined_rows_are_the_text_that_generate_writes(byte_pairs):
    model = make_model(byte_pairs.vocab_size, context_length=12)
    banned = BannedPhrases(PHRASES, byte_pairs, ignore_case=True)
    for seed in range(3):
        settings = {"seed": seed, "constraint": banned}
        row = generate(model, byte_pairs.encode("moo"), 20, **settings)[0]
        pieces = stream(model, byte_pairs, "moo", 20, **settings)
        new = byte_pairs.decode(row)[len("moo") :]
        assert "".join(pieces) == new
    wishes = [Wish([byte_pairs.encode("moo")], 20, seed=2), Wish([[5, 6, 7, 8]], 3, seed=0)]
    decoding = decode_together(model, wishes, num_rows=4, constraint=banned)
    decoding.advance(decoding.total)
    np.testing.assert_array_equal(decoding.rows()[0], row)


class Echo:
    """A stand-in for the model of a file, which tells the rules it is given."""

    context_length, room, batch_size, stream = 8, None, 1, None

    def __init__(self):
        self.tokenizer = CharTokenizer.train("ab")

    def write_together(self, wishes, **rules):
        self.rules = rules
        return [iter(()) for _ in wishes]


@pytest.mark.slow
def test_a_server_gives_its_constraint_to_every_model_that_writes():
    echo = Echo()
    banned = BannedPhrases("ab", echo.tokenizer)
    Served(echo, "echo", Limits(), banned).warm_up()
    assert echo.rules == {"stop_token": None, "constraint": banned}
    tokenizer = CharTokenizer.train("ab")
    model = LanguageModel(make_model(3), tokenizer)
    decoding = Served(model, "gpt", Limits(), banned).decode([Wish([[1]], 8, seed=0)], 1)
    decoding.advance(decoding.total)
    assert tokenizer.decode(decoding.rows()[0][:9]) == "a" * 9


@pytest.mark.slow
def test_a_server_starts_with_a_grammar_whose_texts_have_several_tokens():
    tokenizer = CharTokenizer.train("ab")
    grammar = Grammar.from_regex("aa", tokenizer, stop_token=tokenizer.ids["b"])
    model = LanguageModel(make_model(3), tokenizer)
    Served(model, "gpt", Limits(rows=1), grammar).warm_up()


def test_a_batch_row_that_has_all_its_tokens_does_not_stop_the_others():
    """The first text is complete after 3 tokens; its row goes on with the longer one."""
    tokenizer = Pieces(b"", b"", "a")
    grammar = grammar_of("a{3,40}", tokenizer)
    rows = generate(make_model(3), [[2], [2, 2, 2, 2]], 3, constraint=grammar, seed=0)
    assert [row.tolist() for row in rows] == [[2] * 4, [2] * 7]


@pytest.mark.slow
def test_the_likeliest_allowed_text_is_found_by_a_wide_beam():
    tokenizer = Pieces(b"", "a", "b", "ab")
    banned = BannedPhrases(["ba", "aab"], tokenizer)
    model = make_model(4)
    texts = [
        text
        for text in itertools.product(range(1, 4), repeat=4)
        if not holds(tokenizer, (1,), text, ["ba", "aab"])
    ]
    rows = np.array([[1, *text] for text in texts])
    log_p = ops.convert_to_numpy(ops.log_softmax(model(rows)))  # (n, 5, 4)
    scores = np.take_along_axis(log_p[:, :-1], rows[:, 1:, None], axis=-1).sum(axis=(1, 2))
    best = generate(model, [1], 4, strategy=BeamSearch(27), constraint=banned)[0]
    assert best.tolist() == rows[scores.argmax()].tolist()


def test_a_strong_length_penalty_does_not_make_the_impossible_likely():
    """-1e9 divided by 45^6 would be likelier than any text."""

    def step(newest, caches, position):
        return ops.tile(np.array([[0.0, 3.0, 1.0]], "float32"), (2, 1)), caches

    numbers = {"stop_tokens": np.array([2]), "length_penalty": np.float32(6.0)}
    numbers |= {"rules": {}, "states": ops.zeros((1,), "int32")}
    token_ids, scores = beam_loop(
        step,
        (),
        ops.zeros((1, 2, 41), dtype="int32"),
        (np.int32(0), np.int32(40)),
        np.array([False, False, True]) | np.array([True, False, False]),
        numbers,
    )
    assert not (np.asarray(token_ids) == 1).any()


def test_other_phrases_of_the_same_size_need_no_new_program():
    model = make_model(OVERLAPPING.vocab_size)
    for phrases in (["aba"], ["bb"], ["abba", "aa"]):
        generate(model, [[1]], 3, constraint=BannedPhrases(phrases, OVERLAPPING), seed=0)
    assert len(programs_of(model)) == 1


@pytest.mark.slow
def test_a_constraint_leaves_the_probabilities_of_the_rest_alone():
    """Drawn among the allowed ones with the model's own odds."""
    model = make_model(OVERLAPPING.vocab_size)
    banned = BannedPhrases(["ab"], OVERLAPPING)
    logits = ops.convert_to_numpy(model(np.array([[1]])))[0, -1]
    allowed = banned.table[banned.start([1])] != FORBIDDEN
    allowed[0] = False  # padding
    expected = np.where(allowed, np.exp(logits - logits[allowed].max()), 0)
    drawn = generate(model, [[1]], 1, constraint=banned, seed=0, num_samples=4000)[:, 1]
    shares = np.bincount(drawn, minlength=OVERLAPPING.vocab_size) / 4000
    np.testing.assert_allclose(shares, expected / expected.sum(), atol=0.035)


def test_a_small_exported_file_follows_the_same_rules():
    banned = BannedPhrases(["ab"], OVERLAPPING)
    state = banned.start([1])
    logits = np.zeros(OVERLAPPING.vocab_size + 2)
    hide_forbidden(logits, banned, state, left=3)
    expected = banned.table[state] != FORBIDDEN
    assert (logits > -np.inf).tolist() == [*expected.tolist(), False, False]


@pytest.mark.parametrize(
    ("phrases", "error", "message"),
    [
        ([], ValueError, "phrases must have at least one, got none"),
        ([""], ValueError, "without U\\+FFFD, not empty, got ''"),
        (["a\ufffd"], ValueError, "without U\\+FFFD"),
        ([b"a"], TypeError, "phrases must be str, got bytes"),
        (["a", "b"], ValueError, "phrases must leave something to write"),
    ],
)
def test_phrases_that_cannot_be_banned_are_named(phrases, error, message):
    with pytest.raises(error, match=message):
        BannedPhrases(phrases, LETTERS)


def test_a_constraint_that_does_not_fit_is_named():
    model, banned = make_model(7), BannedPhrases("ab", OVERLAPPING)
    with pytest.raises(TypeError, match="constraint must be BannedPhrases, Grammar .* got 'ab'"):
        generate(model, [[1]], 3, constraint="ab")
    with pytest.raises(ValueError, match="at most the vocab_size=5 tokens .* got one of 7 tokens"):
        generate(model, [[1]], 3, constraint=banned, vocab_size=5)
    with pytest.raises(ValueError, match="strategy must be None or BeamSearch with a constraint"):
        generate(model, [[1]], 3, constraint=banned, strategy=ContrastiveSearch(2))
    grammar = grammar_of("a{3}", OVERLAPPING, stop_token=0)
    with pytest.raises(ValueError, match="stop_token must be 0, the one of the constraint"):
        generate(make_model(7, pad_id=None), [[1]], 3, constraint=grammar, stop_token=2)
    with pytest.raises(ValueError, match="max_new_tokens must be at least 3, .* got 2"):
        generate(make_model(7, pad_id=None), [[1]], 2, constraint=grammar)


FORMS = Pieces(b"", b"", "a", "b", "ab", "ba", "1", "b1")
PATTERNS = ["(ab)*1?", "a{2,3}b", "a+|b+1", "(a|b1)*", "(ab|ba){2}", "", "b?(a1|ba)"]


def texts_within(grammar, budget):
    """List the texts that a grammar lets through in at most `budget` tokens, ended or full."""
    found, running = set(), [((), grammar.start(()))]
    for left in range(budget, 0, -1):
        following = []
        for tokens, state in running:
            row = grammar.table[state]
            allowed = np.flatnonzero((row != FORBIDDEN) & (grammar.distances[row] < left))
            assert len(allowed), tokens  # never a dead end
            for token in allowed.tolist():
                if token == STOP:
                    found.add(tokens)
                else:
                    following.append(((*tokens, token), int(row[token])))
        running = following
    return found | {tokens for tokens, _ in running}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_grammar_lets_through_all_texts_of_a_pattern_and_no_other(pattern):
    grammar = grammar_of(pattern, FORMS)
    tokens = range(2, FORMS.vocab_size)
    for budget in range(max(int(grammar.distances[0]), 1), 5):
        expected = {
            text
            for length in range(budget + 1)
            for text in itertools.product(tokens, repeat=length)
            if re.fullmatch(pattern, FORMS.text(text).decode())
        }
        assert texts_within(grammar, budget) == expected


MEANINGS = [
    ("[^a-c]+", "abcxy\n月"),
    (r"\d{2,3}|\w\s?", "1a_ \t月"),
    (r"[\d\-x.]*", "1-x.a"),
    (r"\D\W\S", "1a! "),
    (".*é.?", "éa\n🌕"),
    (r"(?:a|)(b|c){0,2}\.", "abc."),
    (r"\x61[\u6708-\u6709]+", "a月有b"),
    ("[a-]b{2,}", "ab-"),
    ("(a*)*b", "ab"),
]


@pytest.mark.parametrize(("pattern", "characters"), MEANINGS, ids=[p for p, _ in MEANINGS])
def test_a_pattern_means_what_pythons_own_search_finds(pattern, characters):
    following, is_complete = byte_automaton(pattern)
    found = 0
    for length in range(5):
        for text in map("".join, itertools.product(characters, repeat=length)):
            state = 0
            for byte in text.encode():
                state = following[state, byte] if state >= 0 else state
            matches = re.fullmatch(pattern, text, re.ASCII) is not None
            assert (state >= 0 and bool(is_complete[state])) == matches, text
            found += matches
    assert found


def test_every_character_and_no_half_of_one_matches_a_point():
    following, is_complete = byte_automaton(".")
    for code in [*range(0x900), *range(0x900, 0x110000, 97), 0xD7FF, 0xE000, 0xFFFF, 0x10FFFF]:
        state = 0
        for byte in chr(code).encode("utf-8", "surrogatepass"):
            state = following[state, byte] if state >= 0 else state
        is_character = chr(code) != "\n" and not 0xD800 <= code <= 0xDFFF
        assert (state >= 0 and bool(is_complete[state])) == is_character, hex(code)
    assert following[0, 0xC0] == following[0, 0xF5] == following[0, 0x80] == FORBIDDEN


@pytest.mark.parametrize(
    ("pattern", "rule"),
    [
        ("(?=a)b", r"groups \(...\) and \(\?:...\) only"),
        (r"(a)\1", "after a backslash one of"),
        (r"\bmoon", "after a backslash one of"),
        ("^a$", "no \\^ or"),
        ("a**", "one sign of repetition"),
        ("a+?", "one sign of repetition"),
        ("a{3,2}", "counts such as"),
        ("a{x}", "counts such as"),
        ("(a", "brackets in pairs"),
        ("a)", "brackets in pairs"),
        ("[a", "an end of what it begins"),
        ("[]", "a character in each class"),
        ("[z-a]", "ranges of two characters"),
        (r"\xzz", "hexadecimal digits"),
    ],
)
def test_what_a_pattern_says_is_understood_or_refused(pattern, rule):
    with pytest.raises(ValueError, match=f"pattern must have .*{rule}.*, got"):
        byte_automaton(pattern)


def test_a_pattern_that_the_tokenizer_cannot_write_is_named():
    with pytest.raises(ValueError, match="pattern must have a text that the tokenizer can write"):
        grammar_of("a+c", FORMS)
    with pytest.raises(ValueError, match="stop_token must be given with a tokenizer without"):
        grammar_of("a", CharTokenizer.train("ab"), stop_token=None)
    with pytest.raises(ValueError, match="stop_token must be below the tokenizer's vocab_size=8"):
        grammar_of("a", FORMS, stop_token=8)


SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 6},
        "age": {"type": "integer", "minimum": -5, "maximum": 120},
        "mood": {"enum": ["good", "bad", "多云"]},
        "id": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"},
        "tags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3, "minItems": 1},
        "more": {"anyOf": [{"type": "null"}, {"type": "number"}]},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.mark.slow
def test_models_write_json_that_the_schema_allows_whatever_the_room(byte_pairs):
    grammar = grammar_of(SCHEMA, byte_pairs, stop_token=None)
    model = make_model(byte_pairs.vocab_size, context_length=96)
    shortest = int(grammar.distances[0])
    prompt = byte_pairs.encode("moon: ")
    written = set()
    for room in (shortest, shortest + 7, 92):
        for settings in ({"temperature": 0}, {"seed": room, "num_samples": 5, "temperature": 3.0}):
            rows = generate(model, prompt, room, constraint=grammar, **settings)
            written |= {byte_pairs.decode(row[len(prompt) :]) for row in rows}
    for beam_size in (1, 3):
        strategy = BeamSearch(beam_size)
        rows = generate(model, prompt[:2], shortest + 2, constraint=grammar, strategy=strategy)
        written |= {byte_pairs.decode(row[2:]) for row in rows}
    assert len(written) > 12
    for text in written:
        jsonschema.validate(json.loads(text), SCHEMA)


@pytest.mark.slow
def test_a_streamed_grammar_ends_at_its_stop_token(byte_pairs):
    grammar = grammar_of("(moon|light){1,3}", byte_pairs, stop_token=None)
    model = make_model(byte_pairs.vocab_size)
    for seed in range(5):
        pieces = stream(model, byte_pairs, "the ", 14, constraint=grammar, seed=seed)
        assert re.fullmatch("(moon|light){1,3}", "".join(pieces))


def test_integers_between_limits_are_exactly_those(rng):
    for _ in range(60):
        low, high = sorted(rng.integers(-1300, 1300, size=2).tolist())
        pattern = schema_pattern({"type": "integer", "minimum": low, "maximum": high})
        found = {n for n in range(-1400, 1400) if re.fullmatch(pattern, str(n))}
        assert found == set(range(low, high + 1))
        assert not re.fullmatch(pattern, "-0") and not re.fullmatch(pattern, "01")


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "string", "format": "date"}, r"only the keys .* got \['format'\]"),
        ({"type": "array", "items": {"type": "null"}, "uniqueItems": True}, "uniqueItems"),
        ({"type": "text"}, "schema must have enum, const, anyOf or a type"),
        ({"type": "array"}, "schema of an array must have items"),
        ({"type": "string", "pattern": "[^a]"}, "must allow no quote, backslash or control"),
        ({"type": "string", "pattern": "a", "maxLength": 3}, "a pattern or lengths, not both"),
        ({"type": "object", "required": ["a"]}, r"required must name keys .* got \['a'\]"),
        ({"type": "integer", "minimum": 3, "maximum": 2}, "maximum must be an integer >= 3"),
        ({"enum": []}, "must have at least one choice"),
        ("string", "schema must be a dict"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_a_schema_says_is_held_or_refused(schema, message):
    with pytest.raises(ValueError, match=message):
        schema_pattern(schema)
