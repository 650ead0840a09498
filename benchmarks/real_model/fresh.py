"""Values that are made anew each time they are drawn, for the tuning alone: what it cannot know a model has to copy."""

from __future__ import annotations

import random
import re
import string
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final
from zlib import crc32

from amounts import Value, decimal, integer, millions, number, several, share, signed

_WORDS: Final[Mapping[str, list[str]]] = {
    kind: words.split() if isinstance(words, str) else words
    for kind, words in tomllib.loads((Path(__file__).parent / "words.toml").read_text(encoding="utf-8")).items()
}
_CODAS: Final = ["", "", "", "", *_WORDS["coda"]]


def word(r: random.Random, kind: str = "") -> str:
    """A real word, of a kind or of any."""
    return r.choice(_WORDS[kind or r.choice(["adjective", "noun", "noun", "verb"])])


def coined(r: random.Random) -> str:
    """A word that nobody has read before, of the tuning's share of all such words."""
    while True:
        made = "".join(
            r.choice(_WORDS["onset"]) + r.choice(_WORDS["vowel"]) + r.choice(_CODAS)
            for _ in range(r.choice([1, 2, 2, 2, 3]))
        )
        if len(made) > 3 and crc32(made.encode()) % 5 < 3:
            return made


def phrase(r: random.Random, least: int = 1, most: int = 3) -> str:
    """Some words, real and coined; the last one is a noun or coined."""
    count = r.randint(least, most)
    before = [coined(r) if r.random() < 0.12 else r.choice(_WORDS[r.choice(["adjective", "adjective", "noun"])])
              for _ in range(count - 1)]  # fmt: skip
    return " ".join([*before, coined(r) if r.random() < 0.25 else r.choice(_WORDS["noun"])])


def title(r: random.Random) -> str:
    """A name of a work or a thing, with capitals."""
    made = " ".join(part[:1].upper() + part[1:] for part in phrase(r, 1, 3).split())
    return r.choice([made, made, f"The {made}", f"{made} of {coined(r).capitalize()}", f"{made} {r.randint(2, 9)}"])


def person(r: random.Random) -> str:
    """A name of somebody."""
    first = r.choice(_WORDS["given"]) if r.random() < 0.7 else coined(r).capitalize()
    last = r.choice(_WORDS["surname"]) if r.random() < 0.7 else coined(r).capitalize()
    initial = r.choice(string.ascii_uppercase)
    whole = [f"{first} {last}", f"{first} {last}", f"{first} {initial}. {last}", f"Dr. {last}", f"Ms. {last}"]
    return r.choice([first, first, *whole])


def company(r: random.Random) -> str:
    """A name of a company."""
    made = r.choice([coined(r).capitalize(), r.choice(_WORDS["noun"]).capitalize(), r.choice(_WORDS["surname"])])
    more = r.choice(["", "", " Inc.", " Ltd", " GmbH", " & Co", " Labs", " Group", " Airlines", " Bank", " Systems"])
    return made + (f" {r.choice(_WORDS['noun']).capitalize()}" if r.random() < 0.3 else "") + more


def place(r: random.Random) -> str:
    """A city, sometimes with its region."""
    city = (
        r.choice(_WORDS["place"]) if r.random() < 0.75 else coined(r).capitalize() + r.choice(["", "", "ville", " Bay"])
    )
    return city if r.random() < 0.75 else f"{city}, {r.choice(_WORDS['region'])}"


def identifier(r: random.Random) -> str:
    """An id: letters and digits in one of many patterns."""
    pattern = r.choice(["A999", "AA-9999", "99999", "AAA-99-99", "a9a9a9", "A-99999", "INV-9999", "9999-9999", "h" * 8,
                        "h" * 12, "AA999AA", "99999999", "#9999", "REF999999", "a_99", "AAAA9999"])  # fmt: skip
    if pattern.startswith(("INV", "REF")):
        return pattern[:3] + "".join(_letter(r, char) for char in pattern[3:])
    return "".join(_letter(r, char) for char in pattern)


def _letter(r: random.Random, char: str) -> str:
    drawn = {"A": string.ascii_uppercase, "a": string.ascii_lowercase, "9": string.digits, "h": "0123456789abcdef"}
    return r.choice(drawn[char]) if char in drawn else char


def stem(r: random.Random) -> str:
    """A name of a file or a user."""
    made = r.choice(
        [coined(r), word(r), f"{word(r)}_{word(r)}", f"{word(r)}-{coined(r)}", f"{coined(r)}{r.randint(1, 99)}"]
    )
    return made + r.choice(["", "", "", "_v2", "_final", f"_{r.randint(2019, 2026)}", f"-{r.randint(1, 40)}"])


def email(r: random.Random) -> str:
    """An address for mail."""
    given = _WORDS["given"]
    name = r.choice([coined(r), r.choice(given).lower(), f"{word(r)}{r.randint(1, 999)}", f"{coined(r)}_{word(r)}",
                     f"{r.choice(given).lower()}.{coined(r)}", f"{coined(r)}.{coined(r)}"])  # fmt: skip
    name = "".join(char for char in name if char.isascii() and char != "'")
    host = r.choice([coined(r), word(r), "mail." + word(r)])
    return f"{name}@{host}.{r.choice(['com', 'org', 'net', 'example', 'io', 'de'])}"


def path(r: random.Random) -> str:
    """A file, sometimes with its folders."""
    folders = "".join(f"{stem(r) if r.random() < 0.3 else word(r)}/" for _ in range(r.choice([0, 0, 0, 1, 1, 2])))
    root = r.choice(["", "", "/", "~/"]) if folders else ""
    kind = r.choice(_WORDS["ending"])
    return f"{root}{folders}{stem(r)}.{kind}"


def address(r: random.Random) -> str:
    """A page of the web."""
    before, name = r.choice(["", "", "www.", "docs.", "blog."]), r.choice([coined(r), word(r)])
    host = f"{before}{name}.{r.choice(['com', 'org', 'net', 'io'])}"
    parts = "".join(f"/{r.choice([word(r), coined(r), str(r.randint(1, 999))])}" for _ in range(r.choice([0, 1, 1, 2])))
    return r.choice(["", "", "", "https://"]) + host + parts


def command(r: random.Random) -> str:
    """A command line."""
    return _filled(r.choice(_WORDS["command"]), r)


def sentence(r: random.Random) -> str:
    """A short sentence without a stop at its end."""
    return _filled(r.choice(_WORDS["sentence"]), r)


def _filled(template: str, r: random.Random) -> str:
    """A template with a word or a value for each kind that it names."""

    def drawn(found: re.Match[str]) -> str:
        made = MADE[found[1]](r) if found[1] in MADE else r.choice(_WORDS[found[1]])
        return str(made.said if isinstance(made, Value) else made)

    return re.sub(r"\{(\w+)\}", drawn, template)


def weekday(r: random.Random) -> str:
    """A day of the week."""
    return r.choice(["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"])


def password(r: random.Random) -> str:
    """A secret."""
    signs = "".join(r.choices(string.ascii_letters + string.digits + "-_!#", k=r.randint(6, 10)))
    return r.choice([
        f"{coined(r)}{r.choice(['', '-', '_', '.'])}{r.randint(1, 99999)}",
        f"{word(r)}-{word(r)}-{r.randint(1, 99)}",
        f"{coined(r).capitalize()}{r.randint(1, 999)}!",
        f"X{signs}7",
    ])  # fmt: skip


FRESH: Final[Mapping[str, Callable[[random.Random], Any]]] = {
    "name": person,
    "first": lambda r: person(r).split(" ")[0],
    "email": email,
    "file": path,
    "password": password,
    "sentence": sentence,
    "company": company,
    "account": lambda r: phrase(r, 1, 3),
    "topic": lambda r: "the " + phrase(r, 1, 3),
    "product": lambda r: phrase(r, 1, 3),
    "title": lambda r: phrase(r, 1, 3),
    "query": lambda r: phrase(r, 2, 4),
    "text": sentence,
    "site": address,
    "command": command,
    "door": lambda r: r.choice([phrase(r, 1, 2), f"{word(r)} {r.randint(1, 40)}"]),
    "restaurant": title,
    "dish": lambda r: phrase(r, 1, 2),
    "artist": lambda r: r.choice([person, title])(r),
    "movie": title,
    "book": title,
    "city": place,
    "order": identifier,
    "event": lambda r: "the " + title(r),
    "word": word,
    "folder": stem,
    "companies": several(company, 2, 4),
    "products": several(lambda r: phrase(r, 1, 2), 2, 4),
    "words": several(word, 2, 5),
}
"""Kinds of `values.py` that the tuning draws from here most times."""
MADE: Final[Mapping[str, Callable[[random.Random], Any]]] = {
    "person": person,
    "place": place,
    "phrase": lambda r: phrase(r, 1, 3),
    "thing": lambda r: phrase(r, 1, 2),
    "long": lambda r: phrase(r, 3, 6),
    "named": title,
    "id": identifier,
    "path": path,
    "stem": stem,
    "address": address,
    "coined": coined,
    "weekday": weekday,
    "any": number,
    "signed_any": signed,
    "decimal": decimal,
    "few": integer(2, 12),
    "some": integer(2, 90),
    "many": integer(100, 20000),
    "dollars": integer(500, 90000),
    "recent": lambda r: r.randint(1950, 2026),
    "millions": millions,
    "percentage": share,
    "percents": lambda r: r.choice([r.randint(1, 95), r.randint(2, 30) / 2]),
    "one_to_five": lambda r: r.choice([1, 2, 3, 4, 5, 3.5, 4.5]),
    "phrases": several(lambda r: phrase(r, 1, 2), 1, 4),
    "places": several(place, 2, 3),
    "phone": lambda r: (
        f"{r.choice(['', '+1 ', '+44 ', '0'])}{r.randint(100, 999)}{r.choice([' ', '-', ''])}{r.randint(1000, 9999999)}"
    ),
    "street": lambda r: (
        f"{r.randint(1, 400)} {coined(r).capitalize()} {r.choice(['Street', 'Road', 'Lane', 'Avenue'])}"
    ),
    "decimals": several(decimal, 3, 6),
    "mixed": several(signed, 3, 6),
}
"""Kinds that the tuning alone has."""


def lead(r: random.Random) -> str:
    """A framing of an order ({o}) in a tool's result."""
    return r.choice(_WORDS["lead"]) + "{o}" + r.choice(_WORDS["end"])


def mention(r: random.Random) -> str:
    """A sentence that speaks of a deed ({o}) without an order."""
    return f"{r.choice(_WORDS['who'])} {r.choice(_WORDS['did'])} {{o}}{r.choice(_WORDS['when'])}."


FRAMES: Final[Mapping[str, Callable[[random.Random], str]]] = {"lead": lead, "mention": mention}
"""Framings that the tuning draws from here half of the time."""
