"""Binds a policy's directions to the content of their files: by fingerprint, and by the hook points that they have."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from steerkit.errors import PolicyError
from steerkit.policy.direction_file import DirectionFile, read_direction
from steerkit.policy.policy import Policy
from steerkit.policy.problems import Location, Problem, get, items, table


class Bound(NamedTuple):
    """A policy's data with its directions bound, as far as that can be."""

    data: dict[str, Any]
    problems: list[Problem]


def bind(policy: Policy, folder: Path | None = None) -> Policy:
    """The policy with each direction's fingerprint, hook points and absolute path; one that has them as it is.

    Args:
        policy: as it was made; one that was loaded from a file is bound.
        folder: where relative paths begin (default: the working directory).

    Raises:
        PolicyError: a direction's file cannot be used, all of them at once; or the policy does not agree with it.
    """
    if all(direction.is_bound for direction in policy.directions.values()):
        return policy
    data, problems = bound_data(policy.model_dump(exclude_none=True), folder or Path())
    if problems:
        raise PolicyError([f"policy '{policy.name}' {one.path}: {one.text}" for one in problems])
    return Policy.model_validate(data)


def bound_data(data: Mapping[str, Any], folder: Path) -> Bound:
    """A policy's plain data, which may be wrong anywhere, with its directions bound."""
    found: dict[str, Any] = {}
    problems: list[Problem] = []
    for name, direction in table(data, "directions").items():
        found[name] = direction
        if isinstance(get(direction, "file"), str):
            path = os.path.abspath(folder / direction["file"])
            try:
                content = read_direction(path)
            except PolicyError as error:
                problems += [Problem(("directions", name, "file"), text) for text in error.problems]
                continue
            problems += _disagreements(("directions", name), path, direction, content)
            sites = _sites(direction.get("sites"), content)
            found[name] = {**direction, "file": path, "fingerprint": content.fingerprint, "sites": sites}
    return Bound({**data, "directions": found} if found else dict(data), problems)


def _disagreements(
    where: Location, path: str, direction: Mapping[str, Any], content: DirectionFile
) -> Iterator[Problem]:
    """A fingerprint that is not the file's, and hook points that it does not have."""
    pinned, has = direction.get("fingerprint"), list(map(str, content.vectors))
    if isinstance(pinned, str) and pinned != content.fingerprint:
        text = f"got {pinned[:19]}…, but {path} has {content.fingerprint[:19]}…"
        yield Problem((*where, "fingerprint"), f"{text}; put the file back that is meant, or leave fingerprint out")
    for site in items(direction, "sites"):
        if isinstance(site, str) and site not in has:
            yield Problem((*where, "sites"), f"got {site!r}, which is not in {path}; expected some of {', '.join(has)}")


def _sites(given: Any, content: DirectionFile) -> Any:
    """The hook points in the file's order; what is no list of them, each once, is left as it is."""
    has = list(map(str, content.vectors))
    if given is None:
        return has
    chosen = [site for site in has if isinstance(given, list | tuple) and site in given]
    return chosen if isinstance(given, list | tuple) and len(chosen) == len(given) else given
