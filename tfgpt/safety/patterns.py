r"""Regular expressions as automata over bytes, for a stated part of their syntax.

Characters, ``.``, classes ``[a-z]`` and ``[^"]``, ``\d \w \s`` (of ASCII) and their
opposites, ``\n \t \r \f \v \xHH \uHHHH``, ``\`` before a sign, groups ``(...)`` and
``(?:...)``, ``|``, ``* + ? {2} {2,} {2,5}``. All else is refused.
"""

from dataclasses import dataclass, field

from tfgpt.safety.automata import Ways

HIGHEST = 0x10FFFF
SURROGATES = (0xD800, 0xDFFF)
MOST_COPIES = 1000
DIGITS = [(ord("0"), ord("9"))]
WORDS = [*DIGITS, (ord("A"), ord("Z")), (ord("a"), ord("z")), (ord("_"), ord("_"))]
SPACES = [(ord("\t"), ord("\r")), (ord(" "), ord(" "))]
CLASSES = {"d": DIGITS, "w": WORDS, "s": SPACES}
CONTROLS = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v"}
HEXADECIMAL = {"x": 2, "u": 4}
REPEATS = {"*": (0, None), "+": (1, None), "?": (0, 1)}
# The last characters of UTF-8 that take one, two and three bytes.
BORDERS = (0x7F, 0x7FF, 0xFFFF)


def byte_automaton(pattern):
    """Turn a regular expression into an automaton over bytes; the whole text must match.

    Args:
        pattern: str.

    Returns:
        following: int32 array (S, 256), the next state, from state 0 on; -1: forbidden.
        is_complete: bool array (S,), the text may end here.

    Raises:
        ValueError: if the pattern is not understood.

    Example:
        >>> following, is_complete = byte_automaton("a[bc]")
        >>> following[:, ord("a")].tolist(), is_complete.tolist()
        ([1, -1, -1], [False, False, True])
    """
    ways = Ways()
    end = add_part(ways, Reader(pattern).read(), 0)
    return ways.automaton({end})


@dataclass
class Reader:
    """Reads a pattern from left to right into nested parts.

    A part is ("set", ranges of code points), ("join", parts), ("or", parts) or
    ("repeat", part, fewest, most).

    Args:
        pattern: str.
    """

    pattern: str
    place: int = field(default=0, init=False)

    def read(self):
        """Read the whole pattern."""
        part = self.alternatives()
        if self.place < len(self.pattern):
            self.refuse("brackets in pairs")
        return part

    def refuse(self, rule):
        """Raise for what stands at the place of reading."""
        raise ValueError(
            f"pattern must have {rule}, got {self.pattern!r} at position {self.place}."
        )

    def peek(self):
        """Return the next character; nothing at the end."""
        return self.pattern[self.place : self.place + 1]

    def take(self):
        """Return the next character and go on; raise at the end."""
        if self.place == len(self.pattern):
            self.refuse("an end of what it begins")
        self.place += 1
        return self.pattern[self.place - 1]

    def skip(self, text):
        """Go past a text if it comes next: bool."""
        is_next = self.pattern.startswith(text, self.place)
        self.place += len(text) * is_next
        return is_next

    def alternatives(self):
        """Read parts with | between them."""
        parts = [self.sequence()]
        while self.skip("|"):
            parts.append(self.sequence())
        return ("or", parts)

    def sequence(self):
        """Read parts up to | or ) or the end."""
        parts = []
        while self.peek() not in ("", "|", ")"):
            parts.append(self.repeated())
        return ("join", parts)

    def repeated(self):
        """Read one part and how often it comes."""
        part = self.single()
        if self.peek() in ("*", "+", "?", "{"):
            sign = self.take()
            fewest, most = self.counts() if sign == "{" else REPEATS[sign]
            part = ("repeat", part, fewest, most)
            if self.peek() in ("*", "+", "?", "{"):
                self.refuse("one sign of repetition after a part")
        return part

    def counts(self):
        """Read what follows { up to }: fewest and most."""
        content = ""
        while not self.skip("}"):
            content += self.take()
        fewest, comma, most = content.partition(",")
        most = most if comma else fewest
        is_right = fewest.isdecimal() and (most.isdecimal() or (comma and not most))
        if not is_right or (most and not int(fewest) <= int(most) <= MOST_COPIES):
            self.refuse(f"counts such as {{2}}, {{2,}} and {{2,5}}, at most {MOST_COPIES}")
        return int(fewest), int(most) if most else None

    def single(self):
        """Read a character, a class or a group."""
        if self.peek() in ("^", "$", "*", "+", "?", "{"):
            self.refuse("no ^ or $ (the whole text matches), and a part before * + ? {")
        sign = self.take()
        if sign == "(":
            if self.peek() == "?" and not self.skip("?:"):
                self.refuse("groups (...) and (?:...) only")
            part = self.alternatives()
            if not self.skip(")"):
                self.refuse("brackets in pairs")
            return part
        if sign == "[":
            return ("set", self.bracket())
        if sign == ".":
            return ("set", others([(ord("\n"), ord("\n"))]))
        return ("set", self.escape() if sign == "\\" else [(ord(sign), ord(sign))])

    def bracket(self):
        """Read what follows [ up to ]: ranges of code points."""
        is_opposite, found = self.skip("^"), []
        while not self.skip("]"):
            low = self.member()
            if self.peek() == "-" and self.pattern[self.place + 1 : self.place + 2] != "]":
                self.take()
                high = self.member()
                if len(low) + len(high) != 2 or low[0][0] > high[0][1]:
                    self.refuse("ranges of two characters in order")
                low = [(low[0][0], high[0][1])]
            found += low
        if not found:
            self.refuse("a character in each class")
        return others(found) if is_opposite else found

    def member(self):
        """Read one character of a class, or a class such as \\d."""
        sign = self.take()
        return self.escape() if sign == "\\" else [(ord(sign), ord(sign))]

    def escape(self):
        """Read what follows a backslash: ranges of code points."""
        sign = self.take()
        if sign.lower() in CLASSES:
            ranges = CLASSES[sign.lower()]
            return ranges if sign.islower() else others(ranges)
        if sign in HEXADECIMAL:
            digits = "".join(self.take() for _ in range(HEXADECIMAL[sign]))
            if not all(digit in "0123456789abcdefABCDEF" for digit in digits):
                self.refuse("hexadecimal digits after \\x and \\u")
            return [(int(digits, 16), int(digits, 16))]
        if sign in CONTROLS:
            sign = CONTROLS[sign]
        elif sign.isalnum():
            self.refuse("after a backslash one of d w s n t r f v x u or a sign")
        return [(ord(sign), ord(sign))]


def others(ranges):
    """List the ranges of all characters that are not in some ranges.

    Example:
        >>> others([(1, 0x10FFFF)])
        [(0, 0)]
    """
    found, start = [], 0
    for low, high in sorted(ranges):
        if low > start:
            found.append((start, low - 1))
        start = max(start, high + 1)
    return [*found, (start, HIGHEST)] if start <= HIGHEST else found


def add_part(ways, part, start):
    """Add the ways of a part of a pattern, from a node on; return the node where it ends."""
    kind, content, *counts = part
    if kind == "set":
        end = ways.add_node()
        for low, high in content:
            for sequence in byte_ranges(low, high):
                ways.add_path(start, sequence, end)
        return end
    if kind == "join":
        for inner in content:
            start = add_part(ways, inner, start)
        return start
    if kind == "or":
        end = ways.add_node()
        for inner in content:
            first = ways.add_node()
            ways.add_empty(start, first)
            ways.add_empty(add_part(ways, inner, first), end)
        return end
    fewest, most = counts
    for _ in range(fewest):
        start = add_part(ways, content, start)
    end = ways.add_node()
    ways.add_empty(start, end)
    if most is None:
        first = ways.add_node()
        ways.add_empty(end, first)
        ways.add_empty(add_part(ways, content, first), end)
        return end
    for _ in range(most - fewest):
        start = add_part(ways, content, start)
        ways.add_empty(start, end)
    return end


def byte_ranges(low, high):
    """Write a range of code points as sequences of ranges of UTF-8 bytes; no half character.

    Example:
        >>> byte_ranges(ord("a"), ord("é"))
        [[(97, 127)], [(194, 194), (128, 191)], [(195, 195), (128, 169)]]
    """
    if low > high:
        return []
    first, last = SURROGATES
    if low <= last and high >= first:
        return byte_ranges(low, first - 1) + byte_ranges(last + 1, high)
    for border in BORDERS:
        if low <= border < high:
            return byte_ranges(low, border) + byte_ranges(border + 1, high)
    # Where the first bytes differ, the last ones must take all their values.
    for bits in (6, 12, 18):
        mask = (1 << bits) - 1
        if high > BORDERS[0] and low & ~mask != high & ~mask:
            if low & mask:
                return byte_ranges(low, low | mask) + byte_ranges((low | mask) + 1, high)
            if high & mask != mask:
                return byte_ranges(low, (high & ~mask) - 1) + byte_ranges(high & ~mask, high)
    return [list(zip(chr(low).encode(), chr(high).encode(), strict=True))]
