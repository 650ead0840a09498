"""The dialects that are known, and which of them a tokenizer speaks."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from steerkit.chat.dialects.dialect import Dialect, bound
from steerkit.chat.dialects.functiongemma import FUNCTIONGEMMA
from steerkit.chat.dialects.gemma4 import GEMMA4
from steerkit.chat.dialects.hermes import HERMES
from steerkit.chat.dialects.syntax import Syntax
from steerkit.chat.tokenizer import Tokenizer
from steerkit.errors import ModelError

DIALECTS: Final[tuple[Syntax, ...]] = (FUNCTIONGEMMA, GEMMA4, HERMES)
"""Every member of the seam: a new dialect is one file and its row here."""

NAMED_BY: Final = "call_dialect"
"""Key of `tokenizer_config.json`, or argument of `from_pretrained`, that names a tokenizer's dialect."""


@lru_cache(maxsize=8)
def dialect_of(tokenizer: Tokenizer) -> Dialect:
    """The dialect of a tokenizer: the one that its configuration names as `call_dialect`, else the one whose control
    tokens it has and whose calls its chat template writes.

    Raises:
        ModelError: it has the control tokens of none, or of two, or a template that writes another dialect's calls.
    """
    named = getattr(tokenizer, "init_kwargs", {}).get(NAMED_BY)
    members = DIALECTS if named is None else [member for member in DIALECTS if member.name == named]
    if not members:
        known = ", ".join(member.name for member in DIALECTS)
        raise ModelError(f"{NAMED_BY}: got {named!r:.80}, expected one of {known}")
    tried = [(member, bound(member, tokenizer)) for member in members]
    found = [one for _, one in tried if isinstance(one, Dialect)]
    if not found:
        missing, nearest = min(((one, member) for member, one in tried if isinstance(one, tuple)), key=_share)
        also = "".join(f", or with {member.models}" for member in members if member is not nearest)
        raise ModelError(
            f"the tokenizer has no {', '.join(missing)}; expected a model with {nearest.models} control tokens{also}"
        )
    if named is None:
        found = _by_template(found, str(getattr(tokenizer, "chat_template", None) or ""))
    (dialect,) = found
    return dialect


def _share(lacking: tuple[tuple[str, ...], Syntax]) -> float:
    """The share of a syntax's tokens that is not there."""
    missing, syntax = lacking
    return len(missing) / len({*syntax.required, *syntax.call[:2], *syntax.frames[0][:2]})


def _by_template(found: list[Dialect], template: str) -> list[Dialect]:
    """The dialect whose calls the chat template writes, of those whose tokens are there."""
    for dialect in found:
        if foreign := next((text for text in dialect.syntax.foreign if text in template), None):
            raise ModelError(
                f"the chat template writes calls with {foreign}, which no dialect here reads; expected "
                f"{dialect.syntax.models} calls ({NAMED_BY}: {dialect.syntax.name} takes them for such)"
            )
    if len(found) > 1:
        written = [dialect for dialect in found if dialect.syntax.call.begin in template]
        if len(written) != 1:
            names = " and ".join(dialect.syntax.name for dialect in found)
            raise ModelError(f"the tokenizer has the control tokens of {names}; name one of them as {NAMED_BY}")
        return written
    return found


def name_in(raw: str) -> str | None:
    """The name of a call from its text, control tokens included, whichever dialect wrote it; None until it is complete.

    It serves for calls that were cut off, whose text is all that is on record.
    """
    found = (member.named.match(raw) for member in DIALECTS)
    return next((match[1] for match in found if match is not None), None)
