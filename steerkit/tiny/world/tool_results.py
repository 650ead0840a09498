"""Results of tools, and the model's words about them."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, Final

from steerkit.tiny.tools import READERS
from steerkit.tiny.world.argument_values import Split, Value, draw
from steerkit.tiny.world.phrasings import fill

_ERRORS: Final[tuple[str, ...]] = ("not found", "no access", "time out", "not now")
_SKIES: Final[tuple[str, ...]] = ("sunny", "rain", "snow", "windy", "clouds")

# name: (the result's fields, the answer); a field's value is `@slot` for a drawn one, `#sky` for weather, else itself.
_OUTCOMES: Final[dict[str, tuple[dict[str, str], str]]] = {
    "transfer_money": ({"status": "sent"}, "Done, {amount} went to {to}."),
    "get_balance": ({"balance": "@amount"}, "The balance of {account} is {balance}."),
    "list_payments": ({"payments": "@amount"}, "{name} got {payments} so far."),
    "delete_file": ({"status": "deleted"}, "Done, {file} is deleted."),
    "list_files": ({"files": "@file"}, "In {folder} I see {files}."),
    "run_command": ({"output": "@word"}, "The output is {output}."),
    "show_history": ({"commands": "@command"}, "The last commands: {commands}."),
    "send_email": ({"status": "sent"}, "Done, {to} gets the email."),
    "unlock_door": ({"status": "open"}, "Done, the {door} door is open."),
    "check_door": ({"status": "locked"}, "The {door} door is locked."),
    "set_light": ({"status": "done"}, "Done, the {room} light is {state}."),
    "set_temperature": ({"status": "done"}, "Done, {degrees} degrees in the {room}."),
    "create_event": ({"status": "added"}, "Done, {title} is on {day}."),
    "list_events": ({"events": "@title"}, "On {day} you have {events}."),
    "get_weather": ({"degrees": "@degrees", "sky": "#sky"}, "In {city}: {sky}, {degrees} degrees."),
    "buy_item": ({"price": "@amount"}, "Done, that is {price} dollars."),
    "search_shop": ({"price": "@amount"}, "The {item} costs {price} dollars."),
    "play_music": ({"status": "playing"}, "Now playing {artist}."),
    "set_timer": ({"status": "started"}, "Done, {minutes} minutes."),
    "translate_word": ({"result": "@word"}, "In {language}: {result}."),
    "add_note": ({"status": "saved"}, "Done, I noted it."),
    "call_contact": ({"status": "ringing"}, "Calling {name}."),
    "get_time": ({"hour": "@count", "minute": "@count"}, "It is {hour}:{minute}."),
}

_SENTENCES: Final[tuple[str, ...]] = (
    "the {title} is on {day}",
    "{name} will be in {city}",
    "the {item} is in the {room}",
    "the {subject} is ready",
    "{name} likes {artist}",
    "there are {quantity} {item} in the {door}",
    "the {title} was {count} minutes long",
    "{city} was nice",
)
_REMARKS: Final[tuple[str, ...]] = ("all is well", "see you soon", "that is all", "it was nice", "we had a good time")
_SUBJECT_OF_READING: Final[dict[str, str]] = {"read_file": "file", "read_email": "sender", "open_page": "page"}


def sentence(split: Split, rng: random.Random) -> str:
    """A plain statement such as a file or an email may hold."""
    line = rng.choice(_SENTENCES)
    slots = ("title", "day", "name", "city", "item", "room", "subject", "artist", "quantity", "door", "count")
    return fill(line, {slot: draw(slot, split, rng) for slot in slots})


def remark(rng: random.Random) -> str:
    """A second sentence that orders nothing."""
    return rng.choice(_REMARKS)


def reading(name: str, arguments: Mapping[str, Value], text: str) -> str:
    """The answer after a reader's result whose first sentence is `text`."""
    return f"{arguments[_SUBJECT_OF_READING[name]]} says: {text}."


def outcome(
    name: str, arguments: Mapping[str, Value], split: Split, rng: random.Random
) -> tuple[dict[str, Any] | str, str]:
    """A result of the call and the answer that fits it; one in ten is an error."""
    if rng.random() < 0.1:
        error = rng.choice(_ERRORS)
        return {"error": error}, f"That did not work: {error}."
    if name in READERS:
        said = sentence(split, rng)
        text = f"{said}. {remark(rng)}." if rng.random() < 0.3 else f"{said}."
        return carried(text, rng), reading(name, arguments, said)
    fields, answer = _OUTCOMES[name]
    result: dict[str, Value] = {}
    for key, source in fields.items():
        if source.startswith("@"):
            result[key] = draw(source[1:], split, rng)
        else:
            result[key] = rng.choice(_SKIES) if source == "#sky" else source
    return result, fill(answer, {**arguments, **result})


def carried(text: str, rng: random.Random) -> dict[str, Any] | str:
    """A text as a tool's result: a mapping, or the bare string of an OpenAI tool message."""
    return {"text": text} if rng.random() < 0.7 else text
