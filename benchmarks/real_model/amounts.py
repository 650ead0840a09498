"""Numbers and lists of the tuning's values: as an argument, and as people say it."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Final, NamedTuple

_NUMBERS: Final = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


class Value(NamedTuple):
    """A value as an argument, and as people say it."""

    value: Any
    said: str


def several(make: Callable[[random.Random], Any], least: int = 1, most: int = 4) -> Callable[[random.Random], Value]:
    """A list of values that a request names: with commas, with `and`, between brackets or in quotes."""

    def some(r: random.Random) -> Value:
        found = list(dict.fromkeys(make(r) for _ in range(r.randint(least, most))))
        if len(found) < least:
            return some(r)
        words = [str(item) for item in found]
        joined = ", ".join(words[:-1]) + f" and {words[-1]}" if len(words) > 1 else words[0]
        quoted = str(found) if isinstance(found[0], str) and "'" not in joined else f"[{', '.join(words)}]"
        return Value(found, r.choice([joined, joined, joined, ", ".join(words), quoted if len(words) > 1 else joined]))

    return some


def integer(low: int, high: int) -> Callable[[random.Random], Value]:
    """A whole number; thousands now and then with a comma, small ones as a word."""

    def one(r: random.Random) -> Value:
        number = r.randint(low, high)
        if number >= 1000:
            number = r.choice([number, number // 100 * 100, number // 1000 * 1000]) or low
            return Value(number, r.choice([str(number), str(number), f"{number:,}"]))
        return Value(number, _NUMBERS[number - 2] if 2 <= number <= 12 and r.random() < 0.18 else str(number))

    return one


def decimal(r: random.Random) -> float:
    """A number with a point."""
    digits = r.choice([1, 1, 1, 2, 2, 3])
    made = round(r.uniform(0, r.choice([1, 10, 10, 100, 1000])), digits)
    return int(made) if made == int(made) else made


def number(r: random.Random) -> float:
    """A number of any kind."""
    return r.choice([r.randint(1, 20), r.randint(2, 100), r.randint(5, 100) * 5, r.randint(100, 5000), decimal(r)])


def signed(r: random.Random) -> float:
    """A number that may be less than nothing."""
    return r.choice([-1, 1]) * number(r)


def millions(r: random.Random) -> Value:
    """A large number, as people say it."""
    count, (unit, factor) = r.randint(1, 90), r.choice([("million", 10**6), ("million", 10**6), ("thousand", 10**3)])
    return Value(count * factor, r.choice([f"{count} {unit}", f"{count * factor:,}"]))


def share(r: random.Random) -> Value:
    """A percentage as a share of one."""
    percent = r.choice([r.randint(1, 25), r.randint(1, 99), r.randint(2, 40) / 2, r.randint(5, 199) / 20])
    value = round(percent / 100, 6)
    return Value(value, r.choice([f"{percent:g}%", f"{percent:g}%", f"{percent:g} percent", str(value)]))
