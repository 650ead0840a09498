"""Signed notes (c2sp.org/signed-note) with Ed25519, and the checkpoints they carry (c2sp.org/tlog-checkpoint).

A checkpoint's text is three lines: the log's name, how many records it has, and its root in base64. Keys are written as
Go's `sumdb/note` writes them: `NAME+HASH+BASE64` and `PRIVATE+KEY+NAME+HASH+BASE64`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass, field
from types import ModuleType

from steerkit.errors import AuditError, MissingExtraError

_ED25519 = b"\x01"
_DASH = "\N{EM DASH} "
_MAX_SIZE = 1 << 20
"""Bytes of a note that are looked at."""


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A public key under its name."""

    name: str
    public: bytes
    """32 bytes."""

    def __str__(self) -> str:
        return f"{self.name}+{key_id(self.name, self.public).hex()}+{encoded(_ED25519 + self.public)}"

    @classmethod
    def parse(cls, text: str) -> VerifierKey:
        """The key of its text.

        Raises:
            AuditError: it is none.
        """
        name, public = _parsed(text.strip(), "", "a public key: NAME+HASH+BASE64")
        return cls(name, public)._checked(text.strip())

    def _checked(self, text: str) -> VerifierKey:
        if str(self) != text:
            raise AuditError(f"key {self.name}: its hash is not that of its name and key; was it copied whole?")
        return self


@dataclass(frozen=True, slots=True)
class SignerKey:
    """A private key under its name."""

    name: str
    seed: bytes = field(repr=False)
    """32 bytes: the secret."""

    @property
    def verifier(self) -> VerifierKey:
        """The public half."""
        private = _ed25519().Ed25519PrivateKey.from_private_bytes(self.seed)
        return VerifierKey(self.name, private.public_key().public_bytes_raw())

    def __str__(self) -> str:
        public = self.verifier
        return f"PRIVATE+KEY+{self.name}+{key_id(self.name, public.public).hex()}+{encoded(_ED25519 + self.seed)}"

    @classmethod
    def parse(cls, text: str) -> SignerKey:
        """The key of its text.

        Raises:
            AuditError: it is none.
        """
        name, seed = _parsed(text.strip(), "PRIVATE+KEY+", "a private key: PRIVATE+KEY+NAME+HASH+BASE64")
        key = cls(name, seed)
        if str(key) != text.strip():
            raise AuditError(f"private key {name}: its hash is not that of its name and key; was it copied whole?")
        return key

    @classmethod
    def new(cls, name: str) -> SignerKey:
        """A fresh key.

        Raises:
            AuditError: the name is empty, or has spaces or a plus.
        """
        return cls(_named(name), _ed25519().Ed25519PrivateKey.generate().private_bytes_raw())


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint of a log: the size and root that are signed."""

    origin: str
    """The log's name; that of the key."""
    size: int
    """Number of records."""
    root: bytes
    """32 bytes."""

    @property
    def text(self) -> str:
        """The text that is signed."""
        return f"{self.origin}\n{self.size}\n{encoded(self.root)}\n"

    @classmethod
    def parse(cls, note: str, key: VerifierKey) -> Checkpoint:
        """The checkpoint of a signed note.

        Raises:
            AuditError: the signature does not hold, or the text is no checkpoint of this key's log.
        """
        lines = open_note(note, key).split("\n")
        if len(lines) < 4 or not re.fullmatch("0|[1-9][0-9]{0,18}", lines[1]):
            raise AuditError("the note is no checkpoint; expected the lines: name, size, root")
        root = decoded(lines[2])
        if root is None or len(root) != 32:
            raise AuditError(f"the checkpoint's root: got {lines[2][:60]!r}, expected 32 bytes in base64")
        if lines[0] != key.name:
            raise AuditError(f"the checkpoint is of {lines[0][:60]!r}, expected one of {key.name!r}")
        return cls(lines[0], int(lines[1]), root)


def key_id(name: str, public: bytes) -> bytes:
    """The four bytes by which a signature line names its key."""
    return hashlib.sha256(name.encode() + b"\n" + _ED25519 + public).digest()[:4]


def sign_note(text: str, key: SignerKey) -> str:
    """The text, a blank line, and one signature line.

    Raises:
        AuditError: the text does not end with a line break, or has control characters or an empty line.
    """
    if not text.endswith("\n") or "\n\n" in text or any(char < " " and char != "\n" for char in text):
        raise AuditError("a note's text must be lines without control characters, each ended, and none empty")
    signature = _ed25519().Ed25519PrivateKey.from_private_bytes(key.seed).sign(text.encode())
    return f"{text}\n{_DASH}{key.name} {encoded(key_id(key.name, key.verifier.public) + signature)}\n"


def open_note(note: str, key: VerifierKey) -> str:
    """The text of a note, once the key's signature holds; those of other keys are passed over.

    Raises:
        AuditError: the note is malformed, this key did not sign it, or its signature does not hold.
    """
    text, gap, lines = note.rpartition("\n\n")
    if not gap or not lines.endswith("\n") or len(note) > _MAX_SIZE:
        raise AuditError("no signed note; expected text, a blank line and signature lines")
    text += "\n"
    if any(char < " " and char != "\n" for char in note):
        raise AuditError("no signed note: it has control characters")
    signatures = []
    for line in lines.removesuffix("\n").split("\n"):
        name, _, signed = line.removeprefix(_DASH).partition(" ")
        data = decoded(signed)
        if not line.startswith(_DASH) or not name or data is None or len(data) < 5:
            raise AuditError(f"no signed note: got {line[:60]!r}, expected '{_DASH}NAME BASE64'")
        if name == key.name and data[:4] == key_id(key.name, key.public):
            signatures.append(data[4:])
    if not signatures:
        raise AuditError(f"the note has no signature of {key.name}")
    for signature in signatures:
        _check(key, text, signature)
    return text


def _check(key: VerifierKey, text: str, signature: bytes) -> None:
    public = _ed25519().Ed25519PublicKey.from_public_bytes(key.public)
    from cryptography.exceptions import InvalidSignature

    try:
        public.verify(signature, text.encode())
    except InvalidSignature:
        raise AuditError(f"the signature of {key.name} does not hold: the note was changed") from None


def _ed25519() -> ModuleType:
    try:
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError:
        raise MissingExtraError.of("signing", "sign") from None
    return ed25519


def _named(name: str) -> str:
    if not name or "+" in name or any(char.isspace() or char < " " for char in name):
        raise AuditError(f"key name: got {name!r}, expected one without spaces and '+', such as example.org/audit")
    return name


def _parsed(text: str, prefix: str, expected: str) -> tuple[str, bytes]:
    parts = text.removeprefix(prefix).split("+", 2)
    data = decoded(parts[2]) if len(parts) == 3 and text.startswith(prefix) else None
    if data is None or len(data) != 33 or data[:1] != _ED25519:
        raise AuditError(f"got no Ed25519 key, expected {expected}")
    return _named(parts[0]), data[1:]


def encoded(data: bytes) -> str:
    """Bytes in base64."""
    return base64.b64encode(data).decode()


def decoded(text: str) -> bytes | None:
    """The bytes of base64 text; None of any other."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
