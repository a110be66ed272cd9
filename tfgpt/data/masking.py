"""Masked tokens: what an encoder learns from, as BERT does it. Shapes: B batch, T tokens."""

import numpy as np

from tfgpt.validation import check_positive

NO_TARGET = -100  # a place that is not predicted
SHARE_MASKED, SHARE_RANDOM = 0.8, 0.1  # of the chosen places; the rest stay as they are


def mask_tokens(token_ids, mask_id, vocab_size, rng, rate=0.15, starts=None, special_ids=(0,)):
    """Choose tokens to be predicted, and hide most of them.

    Of the chosen places 80 % become the mask token, 10 % another token, 10 % stay: so the
    model cannot trust what it reads there, and must look around.

    Args:
        token_ids: int array (B, T).
        mask_id: int, the id that hides a token.
        vocab_size: int, random tokens are below it.
        rng: numpy Generator.
        rate: float in (0, 1], the share of real tokens that is chosen.
        starts: bool array (B, T), where a word begins: then whole words are chosen; None:
            each token by itself.
        special_ids: ids that are never chosen and never drawn, such as padding.

    Returns:
        int32 arrays (B, T): what the model reads, and the targets, -100 where nothing is to
        be predicted. Each row with a real token has at least one target.

    Raises:
        ValueError: if rate is outside (0, 1] or the shapes differ.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> read, targets = mask_tokens(np.full((1, 200), 7), 9, 9, rng)
        >>> int((targets == 7).sum()), int((read == 9).sum())  # about 15 %, and 80 % of them
        (30, 24)

    Source: Devlin et al., "BERT" (2019), section 3.1 and appendix A.1.
    """
    token_ids = np.asarray(token_ids, dtype="int32")
    if not 0 < rate <= 1:
        raise ValueError(f"rate must be in (0, 1], got {rate!r}.")
    check_positive("vocab_size", vocab_size)
    starts = np.ones(token_ids.shape, bool) if starts is None else np.asarray(starts)
    if starts.shape != token_ids.shape or token_ids.ndim != 2:
        raise ValueError(
            f"starts must have the shape (B, T) of token_ids, got {starts.shape} and "
            f"{token_ids.shape}."
        )
    is_real = ~np.isin(token_ids, special_ids)
    chosen = np.stack([choose(*row, rate, rng) for row in zip(is_real, starts, strict=True)])
    allowed = np.setdiff1d(np.arange(vocab_size), special_ids)
    kind = rng.random(token_ids.shape)
    read = np.where(chosen & (kind < SHARE_MASKED), mask_id, token_ids)
    is_random = chosen & (kind >= SHARE_MASKED) & (kind < SHARE_MASKED + SHARE_RANDOM)
    read = np.where(is_random, rng.choice(allowed, token_ids.shape), read)
    return read.astype("int32"), np.where(chosen, token_ids, NO_TARGET).astype("int32")


def choose(is_real, starts, rate, rng):
    """Choose words of one row until `rate` of its real tokens is reached: bool (T,)."""
    word = np.cumsum(starts)  # the number of the word of each token
    words = np.unique(word[is_real])
    wanted = max(round(rate * is_real.sum()), 1)
    chosen = np.zeros(len(is_real), bool)
    for number in rng.permutation(words):
        if chosen.sum() >= wanted:
            break
        chosen |= is_real & (word == number)
    return chosen


def word_starts(tokenizer, token_ids):
    """Mark the tokens with which a word begins.

    A word begins where a token begins with white space, a sign or a Chinese character, and
    behind them.

    Args:
        tokenizer: CharTokenizer or BPETokenizer.
        token_ids: int array (..., T).

    Returns:
        bool array of the same shape.

    Example:
        >>> from tfgpt import CharTokenizer
        >>> tokenizer = CharTokenizer.train("ab c明月")
        >>> word_starts(tokenizer, tokenizer.encode("ab c明月")).tolist()
        [True, False, True, True, True, True]
    """
    token_ids = np.asarray(token_ids)
    values = np.unique(token_ids)
    texts = [tokenizer.token_bytes(int(value)).decode(errors="replace") for value in values]
    goes_on = np.array([bool(text) and is_letter(text[0]) for text in texts])
    is_open = np.array([bool(text) and is_letter(text[-1]) for text in texts])
    places = np.searchsorted(values, token_ids)
    continues = goes_on[places]
    continues[..., 1:] &= is_open[places][..., :-1]
    continues[..., 0] = False
    return ~continues


def is_letter(character):
    """Say whether a character goes on with a word: a letter, digit or part of a character."""
    is_chinese = "\u3040" <= character <= "\u9fff" or "\uac00" <= character <= "\ud7af"
    return (character.isalnum() and not is_chinese) or character == "\ufffd"


def sentence_pairs(sentences, rng):
    """Make pairs for next-sentence prediction: half are neighbours, half are not.

    Args:
        sentences: list of N >= 3 int arrays, in the order of their text.
        rng: numpy Generator.

    Returns:
        list of N - 1 (first, second), and int array (N - 1,): 1 where the second follows.

    Source: Devlin et al., "BERT" (2019), section 3.1; Liu et al., "RoBERTa" (2019), section
    4.2, found no use in it.
    """
    if len(sentences) < 3:
        raise ValueError(f"sentences must be at least 3, got {len(sentences)}.")
    follows = rng.integers(0, 2, len(sentences) - 1)
    pairs = []
    for place, is_next in enumerate(follows):
        others = [other for other in (place, place + 1) if other < len(sentences)]
        second = place + 1
        while not is_next and second in others:
            second = int(rng.integers(len(sentences)))
        pairs.append((sentences[place], sentences[second]))
    return pairs, follows
