"""JSON schema as a regular expression, for a stated part of JSON schema.

Each key that is not understood is refused: a rule that nobody holds is worse than none.
The JSON is compact, without white space, with the keys in the order of the schema.
"""

import json
import re

from tfgpt.generation.constraints import FORBIDDEN
from tfgpt.safety.patterns import byte_automaton
from tfgpt.validation import check_integer

# One character of a string, as JSON writes it.
CHARACTER = r'(?:[^"\\\x00-\x1f\x7f]|\\["\\/bfnrt])'
NUMBER = r"-?(?:0|[1-9][0-9]{0,14})(?:\.[0-9]{1,15})?"
INTEGER = r"(?:0|-?[1-9][0-9]{0,14})"
# They would end or break a string.
NOT_IN_STRINGS = (*range(0x20), ord('"'), ord("\\"))
ANNOTATIONS = {"title", "description", "$schema", "$id", "default", "examples"}
# What each type may say beside its annotations.
KEYS = {
    "object": {"type", "properties", "required", "additionalProperties"},
    "array": {"type", "items", "minItems", "maxItems"},
    "string": {"type", "minLength", "maxLength", "pattern"},
    "integer": {"type", "minimum", "maximum"},
    "number": {"type"},
    "boolean": {"type"},
    "null": {"type"},
}


def schema_pattern(schema):
    """Turn a JSON schema into a regular expression of its documents.

    Args:
        schema: dict: enum, const or anyOf, without a type; or one of these types:
            object with `properties`, all of them written, in their order;
            array with `items`, minItems, maxItems; string with minLength, maxLength, or
            a `pattern` of the whole string, without quotes, backslashes and control
            characters; integer with minimum and maximum; number; boolean; null.

    Returns:
        str. Numbers without limits have at most 15 digits before and after the point.

    Raises:
        ValueError: if the schema has a key, or a type, that is not understood.

    Example:
        >>> schema_pattern({"type": "integer", "minimum": 8, "maximum": 12})
        '(?:[8-9]|1[0-2])'
        >>> schema_pattern({"type": "object", "properties": {"ok": {"type": "boolean"}}})
        '\\\\{"ok":(?:true|false)\\\\}'
    """
    if not isinstance(schema, dict):
        raise ValueError(f"schema must be a dict, got {schema!r}.")
    for name in ("enum", "const", "anyOf"):
        if name in schema:
            check_keys(schema, {name})
            return one_of(choices(name, schema[name]))
    kind = schema.get("type")
    if kind not in KEYS:
        raise ValueError(
            f"schema must have enum, const, anyOf or a type of {sorted(KEYS)}, got {schema!r}."
        )
    check_keys(schema, KEYS[kind])
    return WRITERS[kind](schema)


def check_keys(schema, known):
    """Raise if a schema says something that would not be held."""
    unknown = schema.keys() - known - ANNOTATIONS
    if unknown:
        raise ValueError(
            f"schema must have only the keys {sorted(known)} beside annotations, "
            f"got {sorted(unknown)}."
        )


def choices(name, content):
    """List the patterns of an enum, a const or anyOf."""
    if name == "anyOf":
        return [schema_pattern(part) for part in content]
    values = content if name == "enum" else [content]
    return [re.escape(as_json(value)) for value in values]


def one_of(patterns):
    """Join patterns as alternatives."""
    if not patterns:
        raise ValueError("enum and anyOf must have at least one choice, got none.")
    return f"(?:{'|'.join(patterns)})"


def as_json(value):
    """Write a value as compact JSON; characters beyond ASCII as themselves."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def object_pattern(schema):
    """Write all keys in their order."""
    properties = schema.get("properties", {})
    missing = set(schema.get("required", ())) - properties.keys()
    if missing:
        raise ValueError(f"required must name keys of properties, got {sorted(missing)}.")
    if schema.get("additionalProperties", False) not in (False, True):
        raise ValueError(
            "additionalProperties must be true or false, "
            f"got {schema['additionalProperties']!r}: no key is added."
        )
    members = [
        f"{re.escape(as_json(key))}:{schema_pattern(part)}" for key, part in properties.items()
    ]
    return rf"\{{{','.join(members)}\}}"


def array_pattern(schema):
    """Write between minItems and maxItems items."""
    item = schema_pattern(schema["items"]) if "items" in schema else None
    if item is None:
        raise ValueError(f"schema of an array must have items, got {schema!r}.")
    fewest, most = limits(schema, "minItems", "maxItems")
    if most == 0:
        return r"\[\]"
    rest = "" if most is None else most - 1
    some = f"{item}(?:,{item}){{{max(fewest - 1, 0)},{rest}}}"
    return rf"\[{some}\]" if fewest else rf"\[(?:{some})?\]"


def string_pattern(schema):
    """Write a string by its length or by its pattern."""
    fewest, most = limits(schema, "minLength", "maxLength")
    if "pattern" not in schema:
        return f'"{CHARACTER}{{{fewest},{"" if most is None else most}}}"'
    if (fewest, most) != (0, None):
        raise ValueError(f"schema must have a pattern or lengths, not both, got {schema!r}.")
    pattern = schema["pattern"].removeprefix("^")
    if pattern.endswith("$") and not pattern.endswith(r"\$"):
        pattern = pattern[:-1]
    following, _ = byte_automaton(pattern)
    if (following[:, list(NOT_IN_STRINGS)] != FORBIDDEN).any():
        raise ValueError(
            "pattern of a string must allow no quote, backslash or control character, "
            f"got {schema['pattern']!r}."
        )
    return f'"(?:{pattern})"'


def limits(schema, least, most):
    """Return two limits of a schema, 0 and None where it has none."""
    low = check_integer(least, schema.get(least, 0), 0)
    high = schema.get(most)
    return low, None if high is None else check_integer(most, high, low)


def integer_pattern(schema):
    """Write an integer between two limits, by its digits."""
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is None and high is None:
        return INTEGER
    largest = 10**15 - 1
    low = check_integer("minimum", -largest if low is None else low, -largest)
    high = check_integer("maximum", largest if high is None else high, low)
    parts = [] if low >= 0 else [f"-(?:{part})" for part in ranges(max(-high, 1), -low)]
    parts += [] if high < 0 else ranges(max(low, 0), high)
    return one_of(parts)


def ranges(low, high):
    """List patterns that together match the integers from `low` >= 0 to `high`.

    Example:
        >>> ranges(8, 123)
        ['[8-9]', '[1-9][0-9]', '1[0-1][0-9]', '12[0-3]']
    """
    if low > high:
        return []
    # The largest block that begins at `low`: all numbers with the same first digits.
    block = 1
    while low % (10 * block) == 0 and low and low + 10 * block - 1 <= high:
        block *= 10
    # Blocks side by side differ in one digit.
    digit = low // block % 10
    count = min(9 - digit, (high - low + 1) // block - 1)
    zeros = len(str(block)) - 1
    start = str(low // block)
    first = f"[{digit}-{digit + count}]" if count else str(digit)
    return [start[:-1] + first + "[0-9]" * zeros, *ranges(low + (count + 1) * block, high)]


WRITERS = {
    "object": object_pattern,
    "array": array_pattern,
    "string": string_pattern,
    "integer": integer_pattern,
    "number": lambda schema: NUMBER,
    "boolean": lambda schema: "(?:true|false)",
    "null": lambda schema: "null",
}
