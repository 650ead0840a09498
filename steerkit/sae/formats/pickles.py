"""Reads PyTorch files without running anything of them, and says of a refused one what was found in it.

torch's own reader (`weights_only=True`) makes tensors and plain values. What scripts leave in a checkpoint besides, the
numbers of NumPy and a few containers of Python, is read through stand-ins under their names: no function that a file
names is ever called, NumPy's neither.
"""

from __future__ import annotations

import pickletools
import re
import threading
import warnings
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal

import numpy
import torch
from torch import Tensor

from steerkit.errors import SaeError
from steerkit.files import plain, shown

_NUMBER: Final = re.compile(r"[fiub]\d{1,2}")
"""NumPy's kinds of real numbers, as it writes their types."""
_loading = threading.Lock()
"""The names that torch allows are the process's, so that one file at a time is read."""


class NumpyType:
    """Stand-in for `numpy.dtype`: its code, such as `f8`, and its order of bytes."""

    def __init__(self, code: object = "", *_: object) -> None:
        self.code, self.order = code, "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]

    @property
    def real(self) -> numpy.dtype[Any] | None:
        """The type itself, if it is one of real numbers."""
        if isinstance(self.code, str) and self.order in ("<", ">", "=", "|") and _NUMBER.fullmatch(self.code):
            try:
                return numpy.dtype(f"{self.order}{self.code}")
            except TypeError:
                pass
        return None


class NumpyValue:
    """Stand-in for a scalar or an array of NumPy: its type, shape and bytes, which become numbers when asked for."""

    def __init__(self, *_: object) -> None:
        self._type: object = NumpyType()
        self._shape: object = ()
        self._raw: object = b""
        self._order: Literal["C", "F"] = "C"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, self._shape, self._type, fortran, self._raw = state
        self._order = "F" if fortran else "C"

    def array(self) -> numpy.ndarray[Any, Any] | None:
        """Its numbers, in this machine's order of bytes; None if they are no real numbers, or fewer than it says."""
        kind = self._type.real if isinstance(self._type, NumpyType) else None
        if kind is None or not isinstance(self._raw, bytes) or not isinstance(self._shape, tuple):
            return None
        try:
            flat: numpy.ndarray[Any, Any] = numpy.frombuffer(self._raw, kind).astype(kind.newbyteorder("="))
            return numpy.reshape(flat, self._shape, order=self._order)
        except (ValueError, TypeError):
            return None


def _scalar(kind: object, raw: object = b"") -> NumpyValue:
    found = NumpyValue()
    found.__setstate__((1, (), kind, False, raw))
    return found


def _empty_dict(*_: object) -> dict[Any, Any]:
    return {}


def _empty_list(*_: object) -> list[Any]:
    return []


def _items(_: object = None, items: object = ()) -> object:
    return items


def _decimal(text: object = "nan") -> float:
    return float(text) if isinstance(text, str) else float("nan")


def _named(*_: object) -> None:
    """Stand-in for types that only stand beside a container, as a defaultdict's `list` does."""


_STAND_INS: Final[dict[str, Callable[..., Any]]] = {
    **{f"numpy.{core}.multiarray.scalar": _scalar for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray._reconstruct": NumpyValue for core in ("core", "_core")},
    "numpy.ndarray": NumpyValue,
    "numpy.dtype": NumpyType,
    "collections.defaultdict": _empty_dict,
    "collections.deque": _empty_list,
    "array.array": _items,
    "builtins.range": range,
    "decimal.Decimal": _decimal,
    **dict.fromkeys(("builtins.list", "builtins.float", "builtins.int", "builtins.dict"), _named),
}
_HARMLESS: Final = re.compile(
    r"torch\.\w+|torch\._utils\._rebuild_\w+|torch\.(storage|nn\.parameter|serialization|_tensor)\.\w+|"
    r"collections\.(OrderedDict|Counter)|_codecs\.encode|builtins\.(set|bytearray|complex)"
)
"""Types that torch itself reads; the few of these that it refuses stand in its message."""


def load_pickle(path: Path, expected: str) -> Any:
    """Content of a PyTorch file, memory-mapped where it can be; nothing in it is run (`weights_only=True`).

    NumPy's arrays of real numbers in a dict are tensors then.

    Args:
        path: the file.
        expected: what it should have been, for the error.

    Raises:
        SaeError: the file is missing, truncated or no PyTorch file, or it wants to run code.
    """
    if not path.is_file():
        raise SaeError(f"{path}: no such file{' but a folder' * path.is_dir()}; expected {expected}")
    try:
        if zipfile.is_zipfile(path):
            _check_stored(path)
        with _loading, warnings.catch_warnings(), torch.serialization.safe_globals(_allowed()):
            warnings.simplefilter("ignore")
            found = _load(path)
    except SaeError:
        raise
    except PermissionError:
        raise SaeError(f"{path}: cannot be read (Permission denied); expected {expected}") from None
    except Exception as error:  # torch raises whatever its archive reader and the pickle's own calls raise
        raise SaeError(f"{path}: {_refusal(path, error, expected)}") from None
    return {key: _tensor(value) for key, value in found.items()} if isinstance(found, Mapping) else found


def _load(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError as error:
        if "mmap" not in str(error):
            raise
        return torch.load(path, map_location="cpu", weights_only=True)  # the older format cannot be mapped


def _allowed() -> list[Any]:
    """The stand-ins, but for names that the process has allowed as they are."""
    taken = {one[1] if isinstance(one, tuple) else _full_name(one) for one in torch.serialization.get_safe_globals()}
    return [(function, name) for name, function in _STAND_INS.items() if name not in taken]


def _full_name(one: Any) -> str:
    return f"{one.__module__}.{one.__qualname__}"


def _check_stored(path: Path) -> None:
    """Refuse an archive that unpacks to more than the file holds; torch packs nothing."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if any(one.compress_type != zipfile.ZIP_STORED for one in entries):
        raise SaeError(f"{path}: a compressed archive; expected one that torch.save wrote, which compresses nothing")
    if sum(one.file_size for one in entries) > path.stat().st_size:
        raise SaeError(f"{path}: an archive whose entries overlap; expected one that torch.save wrote")


def _tensor(value: Any) -> Any:
    array = value.array() if isinstance(value, NumpyValue) else value
    if isinstance(array, numpy.ndarray) and array.ndim and array.dtype.kind in "fiub":
        return _from_numpy(array)
    return value


def _from_numpy(array: numpy.ndarray[Any, Any]) -> Tensor:
    try:
        return torch.from_numpy(array.copy())
    except TypeError:  # such as long doubles
        return torch.from_numpy(array.astype(numpy.float64))


def _refusal(path: Path, error: Exception, expected: str) -> str:
    """Fault of a file that torch does not read, in one line and without its advice to load unsafely."""
    refused = re.findall(r"GLOBAL ([\w.]+)", str(error))  # also of the names that torch reads in other places
    if wanted := sorted(set(_unknown_names(path)) or set(refused)):
        names = ", ".join(shown(name)[1:-1] for name in wanted[:5]) + (" and more" if len(wanted) > 5 else "")
        return (
            f"refused, the pickle wants to run code: it asks for {names}; expected tensors, numbers and plain "
            f"containers alone (save it again with those)"
        )
    if kind := _foreign(path):
        return f"{kind}; truncated or not a PyTorch checkpoint, expected {expected}"
    said = re.search(r"WeightsUnpickler error: (.+)", str(error))
    line = said[1] if said else re.sub(r"\[enforce fail at [^]]*\][ .]*", "", plain(str(error)))
    reason = line.split(". ")[0]
    why = "" if "weights_only" in reason or "Weights only" in reason else f" ({shown(ValueError(reason))})"
    return f"truncated or not a PyTorch checkpoint{why}; expected {expected}"


def _foreign(path: Path) -> str:
    """Kind of a file that never was a pickle, by its first bytes; empty if nothing tells."""
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError:
        return ""
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer (`git lfs pull` fetches the file)"
    if not head:
        return "an empty file"
    return "a text file" if all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in head) else ""


def _unknown_names(path: Path) -> Iterator[str]:
    """The names that a file's pickles ask for and that neither torch nor this module reads."""
    for name in _names(path):
        if name not in _STAND_INS and not _HARMLESS.fullmatch(name):
            yield name


def _names(path: Path) -> Iterator[str]:
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                for entry in archive.namelist():
                    if entry.endswith(".pkl"):
                        with archive.open(entry) as file:
                            yield from _names_in(file)
            return
        with path.open("rb") as file:
            for _ in range(5):  # the older format is five pickles, and then the numbers
                yield from _names_in(file)
    except Exception:  # a broken pickle: what was read of it stands
        return


def _names_in(file: Any) -> Iterator[str]:
    """The names in one pickle, nothing of which is run."""
    texts: list[str] = []
    for operation, argument, _ in pickletools.genops(file):
        if operation.name in ("GLOBAL", "INST"):
            module, _, name = str(argument).partition(" ")
            module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
            yield f"{module}.{name}"
        elif operation.name == "STACK_GLOBAL":
            yield ".".join(texts[-2:])
        elif isinstance(argument, str):
            texts.append(argument)
