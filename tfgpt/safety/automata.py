"""Automata over bytes, lifted to tokens: one step of a token is a step for each of its bytes.

All spellings of a text by tokens have the same bytes, so they lead to the same state.
S states, V tokens.
"""

import numpy as np

from tfgpt.generation.constraints import FORBIDDEN, NEVER

# Tables have 16, 32, 64, ... rows, so that many constraints share a compiled program.
FEWEST_ROWS = 16


class Ways:
    """Ways of bytes from node to node, of which several may be gone at once.

    Node 0 is the beginning.
    """

    def __init__(self):
        self.steps = [[]]  # of each node: (lowest byte, highest byte, next node)
        self.empty = [[]]  # of each node: nodes that are reached without a byte

    def add_node(self):
        """Add a node; return its number."""
        self.steps.append([])
        self.empty.append([])
        return len(self.steps) - 1

    def add_path(self, start, sequence, end):
        """Add a way through (lowest, highest) bytes, one after the other."""
        for low, high in sequence[:-1]:
            node = self.add_node()
            self.steps[start].append((low, high, node))
            start = node
        self.steps[start].append((*sequence[-1], end))

    def add_empty(self, start, end):
        """Let a node be reached without a byte."""
        self.empty[start].append(end)

    def closure(self, nodes):
        """Add all nodes that are reached without a byte: frozenset."""
        known, waiting = set(nodes), list(nodes)
        while waiting:
            new = set(self.empty[waiting.pop()]) - known
            known |= new
            waiting += new
        return frozenset(known)

    def automaton(self, ends):
        """Go all ways at once: a state is the set of nodes where a text may be.

        Args:
            ends: set of nodes.

        Returns:
            following: int32 array (S, 256), the next state, from state 0 on; -1: none.
            is_end: bool array (S,), the state holds an end.
        """
        first = self.closure([0])
        states, waiting, rows = {first: 0}, [first], []
        for nodes in waiting:
            reached = [set() for _ in range(256)]
            for low, high, end in (step for node in nodes for step in self.steps[node]):
                for byte in range(low, high + 1):
                    reached[byte].add(end)
            reached = [frozenset(some) for some in reached]
            closures = {some: self.closure(some) for some in set(reached) if some}
            for state in closures.values():
                if state not in states:
                    states[state] = len(states)
                    waiting.append(state)
            rows.append([states[closures[some]] if some else FORBIDDEN for some in reached])
        is_end = np.array([bool(nodes & ends) for nodes in waiting])
        return np.array(rows, dtype="int32"), is_end


def pieces_of(tokenizer):
    """List the bytes of each token of a tokenizer: none for a special one."""
    return [tokenizer.token_bytes(token_id) for token_id in range(tokenizer.vocab_size)]


def lift(following, pieces):
    """Turn steps by bytes into steps by tokens.

    Args:
        following: int32 array (S, 256), the next state after a byte; -1: forbidden.
        pieces: list of V bytes.

    Returns:
        int32 array (S, V), the next state after a token, -1 if one of its bytes is
        forbidden. A token without bytes stays where it is.

    Example:
        >>> following = np.full((2, 256), FORBIDDEN, "int32")
        >>> following[0, ord("a")], following[1, ord("b")] = 1, 0  # abab...
        >>> lift(following, [b"a", b"b", b"ab", b"bb", b""]).tolist()
        [[1, -1, 0, -1, 0], [-1, 0, -1, -1, 1]]
    """
    num_states = len(following)
    # The last row is the end of all ways: whatever follows, it remains there.
    ways = np.where(following == FORBIDDEN, num_states, following)
    ways = np.concatenate([ways, np.full((1, 256), num_states)]).astype("int32")
    table = np.repeat(np.arange(num_states, dtype="int32")[:, None], len(pieces), axis=1)
    lengths = np.array([len(piece) for piece in pieces])
    for place in range(lengths.max()):
        (longer,) = np.nonzero(lengths > place)
        values = [pieces[token_id][place] for token_id in longer]
        table[:, longer] = ways[table[:, longer], values]
    return np.where(table == num_states, FORBIDDEN, table)


def successors(table):
    """List the states that follow each state: (S, V) -> list of S int arrays."""
    return [np.unique(row[row != FORBIDDEN]) for row in table]


def distances_to(table, is_goal):
    """Count the fewest tokens from each state to a goal: (S, V) and bool (S,) -> int32 (S,)."""
    before = [[] for _ in table]
    for state, following in enumerate(successors(table)):
        for other in following:
            before[other].append(state)
    distances = np.where(is_goal, 0, NEVER).astype("int32")
    waiting = np.flatnonzero(is_goal).tolist()
    for state in waiting:  # the nearest first
        new = [other for other in before[state] if distances[other] == NEVER]
        distances[new] = distances[state] + 1
        waiting += new
    return distances


def endless(table):
    """Mark the states from which a text of any length can be written: (S, V) -> bool (S,)."""
    ways, is_endless = successors(table), np.ones(len(table), dtype=bool)
    while True:
        goes_on = np.array([len(way) > 0 and is_endless[way].any() for way in ways])
        if (goes_on == is_endless).all():
            return is_endless
        is_endless = goes_on


def without_dead_ends(table, distances):
    """Forbid the tokens that lead where no allowed text can be reached."""
    following = distances[np.maximum(table, 0)]
    return np.where((table == FORBIDDEN) | (following == NEVER), FORBIDDEN, table)


def reachable(table):
    """List the states that can be reached from state 0, which comes first: int array (R,)."""
    ways, known = successors(table), {0}
    waiting = [0]
    while waiting:
        new = set(ways[waiting.pop()].tolist()) - known
        known |= new
        waiting += new
    return np.array(sorted(known))


def with_states(table, distances, kept):
    """Keep some states of an automaton, numbered anew in their order."""
    numbers = np.full(len(table) + 1, FORBIDDEN, dtype="int32")  # the last is for -1
    numbers[kept] = np.arange(len(kept))
    return numbers[table[kept]], distances[kept]


def with_room(table, distances):
    """Fill a table with unused states up to 16, 32, 64, ... rows."""
    rows = FEWEST_ROWS
    while rows < len(table):
        rows *= 2
    missing = rows - len(table)
    table = np.pad(table, ((0, missing), (0, 0)), constant_values=FORBIDDEN)
    return table, np.pad(distances, (0, missing), constant_values=NEVER)
