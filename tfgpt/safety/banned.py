"""Banned phrases: what a model never writes, however its tokens spell it.

The automaton is that of Aho and Corasick, over bytes: a state is the longest beginning
of a phrase that the text ends with. So a phrase is seen also where it began in the prompt.
"""

import functools
import sys

import numpy as np

from tfgpt.generation.constraints import FORBIDDEN, NEVER, Constraint
from tfgpt.safety.automata import Ways, endless, lift, pieces_of, with_room, without_dead_ends

ROOT = 0
REPLACEMENT = "\ufffd"


class BannedPhrases(Constraint):
    """Phrases that are never written, in no spelling by tokens, across the prompt's end too.

    A token is forbidden if a phrase would be complete with it, or if only banned texts
    could follow. A phrase that is in the prompt already may stay there. Give it to
    `generate(..., constraint=...)`; it works with any samplers, with `stream`, with
    BeamSearch and past the context.

    Phrases are compared by characters: "é" as one character and as "e" with an accent
    are two phrases, and so are "ban" and "b a n".

    Args:
        phrases: str, or list of str, none of them empty.
        tokenizer: CharTokenizer or BPETokenizer of the model.
        ignore_case: bool, ban also what is equal to a phrase after `str.casefold`.

    Raises:
        TypeError: if a phrase is no str.
        ValueError: if there is no phrase, one is empty or has U+FFFD, which stands for
            bytes that are no character, or the phrases leave nothing to write.

    Example:
        >>> from tfgpt import CharTokenizer
        >>> tokenizer = CharTokenizer.train("abc")  # ids 1, 2, 3
        >>> banned = BannedPhrases(["ab", "cc"], tokenizer)
        >>> (banned.table[banned.start([1])] == FORBIDDEN).tolist()  # after a: no b
        [False, False, True, False]

    Source: Aho and Corasick, "Efficient String Matching: An Aid to Bibliographic
    Search" (1975).
    """

    stop_token = None

    def __init__(self, phrases, tokenizer, *, ignore_case=False):
        phrases = check_phrases(phrases)
        self.pieces = pieces_of(tokenizer)
        self.following, is_found = phrase_automaton(phrases, ignore_case)
        allowed = np.where(is_found[self.following], FORBIDDEN, self.following)
        table = lift(allowed, self.pieces)
        has_bytes = np.array([len(piece) > 0 for piece in self.pieces])
        distances = np.where(endless(table[:, has_bytes]), 0, NEVER).astype("int32")
        if distances[ROOT] == NEVER:
            raise ValueError(
                f"phrases must leave something to write with the tokenizer, got {phrases[:10]!r}."
            )
        self.table, self.distances = with_room(without_dead_ends(table, distances), distances)

    def start(self, prompt_ids):
        """Return the state after a prompt, which may hold banned phrases: int."""
        state = ROOT
        for token_id in prompt_ids:
            for byte in self.pieces[token_id]:
                state = self.following[state, byte]
        return int(state)


def check_phrases(phrases):
    """Return phrases as a list; raise unless each can be searched for."""
    phrases = [phrases] if isinstance(phrases, str) else list(phrases)
    for phrase in phrases:
        if not isinstance(phrase, str):
            raise TypeError(f"phrases must be str, got {type(phrase).__name__}.")
        if not phrase or REPLACEMENT in phrase:
            raise ValueError(f"phrases must be texts without U+FFFD, not empty, got {phrase!r}.")
    if not phrases:
        raise ValueError("phrases must have at least one, got none.")
    return phrases


def phrase_automaton(phrases, ignore_case):
    """Build the automaton that finds phrases in a stream of bytes.

    Args:
        phrases: list of str.
        ignore_case: bool.

    Returns:
        following: int32 array (S, 256), the next state; no byte is forbidden.
        is_found: bool array (S,), a phrase ends here.
    """
    ways = Ways()
    ways.add_path(ROOT, [(0, 255)], ROOT)  # a phrase may begin at any place
    ends = {add_phrase(ways, phrase, ignore_case) for phrase in phrases}
    return ways.automaton(ends)


def add_phrase(ways, phrase, ignore_case):
    """Add the nodes of a phrase, one for each character; return the last of them."""
    phrase = phrase.casefold() if ignore_case else phrase
    nodes = [ROOT, *(ways.add_node() for _ in phrase)]
    for start in range(len(phrase)):
        steps = character_steps(phrase, start) if ignore_case else {(phrase[start], start + 1)}
        for character, end in steps:
            ways.add_path(nodes[start], [(byte, byte) for byte in character.encode()], nodes[end])
    return nodes[-1]


def character_steps(phrase, start):
    """List the characters that may stand at a place of a folded phrase, and where they lead.

    A character may fold to several, of which the phrase has only the last, at its
    beginning, or only the first, at its end.

    Example:
        >>> sorted(character_steps("as", 1))
        [('S', 2), ('s', 2), ('ß', 2), ('ſ', 2), ('ẞ', 2), ('ﬅ', 2), ('ﬆ', 2)]
    """
    rest = phrase[start:]
    steps = {(rest[0], start + 1)}
    for character, folded in foldings().items():
        for skipped in range(len(folded) if start == 0 else 1):
            seen = folded[skipped:]
            if rest.startswith(seen) or seen.startswith(rest):
                steps.add((character, start + min(len(seen), len(rest))))
    return steps


@functools.cache
def foldings():
    """Map each character that `str.casefold` changes to what it becomes."""
    characters = (chr(code) for code in range(sys.maxunicode + 1))
    folded = {character: character.casefold() for character in characters}
    return {character: text for character, text in folded.items() if character != text}
