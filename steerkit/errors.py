"""All errors that steerkit raises, in one tree.

    SteerkitError
    ├── PolicyError          a policy file with mistakes, all of them at once
    ├── ToolError            a tool definition that cannot be declared to the model
    ├── MessageError         messages that cannot be rendered, or that try to forge structure
    ├── SaeError             an SAE file or set that cannot be used, and why
    ├── ModelError           a model or tokenizer that cannot be found, loaded or used
    │   ├── ContextError     a prompt that leaves no room for a reply in the model's context
    │   └── EngineError      an engine of its own processes that stopped, or could not answer
    ├── SteeringError        steering that could not be honoured: a site missing, a hook that never fired
    ├── LoopError            a run of the agent loop that cannot start or resume as asked
    ├── SettingError         an unknown argument or setting, or a value that it cannot have; also a TypeError
    ├── ApprovalError        a held call that cannot be decided on: none, decided already, or expired
    ├── AuditError           a store that cannot be opened, read or written
    │   └── TamperError      a store whose chain does not verify
    └── MissingExtraError    an optional dependency that is not installed

A message has the place, what was got, what was expected and what to do next. The CLI prints it as one line.
"""

from __future__ import annotations

from typing import Literal, Self


class SteerkitError(Exception):
    """Base of all errors a user can meet; its text is fit to be shown as it is."""


class PolicyError(SteerkitError):
    """A policy that cannot be used.

    `problems` holds one line per mistake, each `file:line path: got …, expected …`.
    """

    def __init__(self, problems: list[str]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(self.problems))

    def __reduce__(self) -> tuple[type[PolicyError], tuple[list[str]]]:
        """Pickle the problems, not the joined text."""
        return type(self), (self.problems,)


class ToolError(SteerkitError):
    """A tool definition that cannot be declared to the model."""


class MessageError(SteerkitError):
    """Messages that cannot be rendered, or untrusted text that carries control tokens where they are refused."""


class SaeError(SteerkitError):
    """An SAE checkpoint, its statistics or a set of them that cannot be used."""


class ModelError(SteerkitError):
    """A model or tokenizer that cannot be found, loaded or used."""


class ContextError(ModelError):
    """A prompt that leaves no room for a reply in the model's context."""


class EngineError(ModelError):
    """An engine of its own processes that stopped, or could not answer."""


class SteeringError(SteerkitError):
    """Steering that could not be honoured: no such site, a hook that never fired, a batch that does not fit."""


class LoopError(SteerkitError):
    """A run of the agent loop that cannot start or resume as asked: wrong settings, an invalid pending state."""


class SettingError(SteerkitError, TypeError):
    """An unknown argument or setting, or a value that it cannot have."""


class ApprovalError(SteerkitError):
    """A held call that cannot be decided on. `state`: `decided` already, `expired`, or None where there is no such."""

    def __init__(self, message: str, state: Literal["decided", "expired"] | None = None) -> None:
        self.state = state
        super().__init__(message)


class AuditError(SteerkitError):
    """An audit store that cannot be opened, read or written."""


class TamperError(AuditError):
    """An audit store whose chain of hashes does not verify.

    `sequence` is the first wrong record, `kind` the kind of damage: edited, deleted, inserted, reordered, truncated,
    forked, replaced or damaged.
    """

    def __init__(self, message: str, sequence: int | None = None, kind: str = "damaged") -> None:
        self.sequence, self.kind = sequence, kind
        super().__init__(message)


class MissingExtraError(SteerkitError):
    """An optional dependency that is not installed; the message names the extra to install."""

    @classmethod
    def of(cls, what: str, extra: str, instead: str = "") -> Self:
        """The error of a feature whose extra is missing.

        It installs from this package's own files: the name `steerkit` belongs to somebody else on the public index.

        Args:
            what: the feature, such as `signing`.
            extra: as pyproject.toml names it.
            instead: what can be done without it.
        """
        ways = f"pip install -e '.[{extra}]' in steerkit's checkout, or pip install 'FILE.whl[{extra}]' with its wheel"
        return cls(f"{what} needs the extra '{extra}': {ways}{f'; {instead}' if instead else ''}")
