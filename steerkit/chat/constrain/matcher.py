"""Matchers: a grammar over one reply, token by token. Behind them stands llguidance, an extra."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any, Final

from steerkit.chat.dialects import dialect_of
from steerkit.chat.tokenizer import Tokenizer
from steerkit.errors import MissingExtraError, ModelError, SettingError
from steerkit.fingerprints import sha256_of

_MOST_GRAMMARS: Final = 64
"""Compiled grammars that are kept."""
_WITHOUT: Final = "without "
"""Beginning of the text of a constraint that is no grammar."""


class Matcher:
    """A grammar over one reply. Nothing it is asked changes it but `take` and `take_forced`."""

    def __init__(self, compiled: Any, written: str, call: int) -> None:
        self._matcher, self.written, self._call = compiled, written, call
        self.fingerprint = sha256_of(written)
        self._before_call = True

    def take(self, token: int) -> bool:
        """Go on by a token; False where the grammar refuses it, and nothing has changed then."""
        if self._matcher.validate_tokens([token]) != 1:
            return False
        self._matcher.consume_token(token)
        self._before_call = self._before_call and token != self._call
        return True

    def allowed(self) -> bytes:
        """A byte for each token of the vocabulary, 0 for those that may not come next."""
        mask: bytes = self._matcher.compute_logit_bias()
        return mask

    def forced(self) -> list[int]:
        """The tokens that come next without a choice, if any."""
        tokens: list[int] = self._matcher.compute_ff_tokens()
        return tokens

    @property
    def must_call(self) -> bool:
        """True where the next token can only begin the first call, or what may stand before it."""
        return self._before_call and self._matcher.validate_tokens([self._call]) == 1


class Without:
    """A reply without a token: any other may come."""

    def __init__(self, tokenizer: Tokenizer, token: int) -> None:
        self._tokenizer, self._token = tokenizer, token
        self.written = f"{_WITHOUT}{token}"
        self.fingerprint = sha256_of(self.written)

    def take(self, token: int) -> bool:
        """False for that token."""
        return token != self._token

    def allowed(self) -> bytes:
        """A byte for each token of the vocabulary, 0 for that one."""
        mask = bytearray(b"\1" * _size(self._tokenizer))
        mask[self._token] = 0
        return bytes(mask)

    def forced(self) -> list[int]:
        """None."""
        return []

    must_call = False


def matcher(tokenizer: Tokenizer, grammar: str) -> Matcher:
    """A matcher of a grammar, as `grammar_of` makes it, on a tokenizer.

    The first one of a tokenizer takes 5 s and 410 MB where its vocabulary has 262,144 tokens; each process has one.

    Raises:
        MissingExtraError: llguidance is not installed.
        ModelError: its tokenizer is none that llguidance reads.
        SettingError: the grammar is too large.
    """
    compiled = _compiled(tokenizer, grammar)
    return Matcher(compiled.deep_copy(), grammar, dialect_of(tokenizer).call)


def read_constraint(tokenizer: Tokenizer, written: str) -> Matcher | Without:
    """A fresh constraint from another's text, such as a process beside this one is sent. Raises as `matcher`."""
    if written.startswith(_WITHOUT):
        return Without(tokenizer, int(written.removeprefix(_WITHOUT)))
    return matcher(tokenizer, written)


@lru_cache(maxsize=8)
def _size(tokenizer: Tokenizer) -> int:
    """Ids of a vocabulary, up to the highest."""
    return max(tokenizer.get_vocab().values()) + 1


@lru_cache(maxsize=_MOST_GRAMMARS)
def _compiled(tokenizer: Tokenizer, grammar: str) -> Any:
    table, make = _table(tokenizer), _library().LLMatcher
    found = make(table, make.grammar_from_lark(grammar), log_level=0)
    if error := found.get_error():
        raise SettingError(f"the grammar of these tools cannot be used: {error.splitlines()[0]:.200}; use fewer tools")
    return found


@lru_cache(maxsize=2)
def _table(tokenizer: Tokenizer) -> Any:
    """llguidance's own tokenizer, in which the dialect's control tokens are no text."""
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ModelError(f"{type(tokenizer).__name__}: constrained decoding needs a fast tokenizer (tokenizer.json)")
    said, control = json.loads(backend.to_str()), dialect_of(tokenizer).control
    said["truncation"] = said["padding"] = None
    for token in said["added_tokens"]:
        token["special"] = token["special"] or token["id"] in control
    unused = dialect_of(tokenizer).turn  # it treats its end token in ways of its own; grammars name theirs
    return _library().LLTokenizer(json.dumps(said), eos_token=unused)


def _library() -> Any:
    try:
        import llguidance
    except ImportError:
        raise MissingExtraError.of("constrained decoding (tool_choice, strict, response_format)", "constrain") from None
    return llguidance
