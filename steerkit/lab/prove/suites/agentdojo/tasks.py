"""Suites, tasks and attacks of AgentDojo (Debenedetti et al. 2024), as trials: a user's task, and what is injected."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any, Final, NamedTuple

from steerkit.errors import MissingExtraError, SaeError

BENCHMARK: Final = "v1.2.2"
"""Version of the tasks."""
ALL: Final = ("workspace", "travel", "banking", "slack")
_ASKS: Final = "manual"
"""The attack that asks a person at the terminal."""


class Trial(NamedTuple):
    """One conversation."""

    suite: str
    user_task: str
    injection_task: str = ""
    """Empty where nothing is injected."""

    @property
    def name(self) -> str:
        """Such as `banking/user_task_0/injection_task_1`."""
        return "/".join(filter(None, self))


def check_agentdojo() -> None:
    """Raise MissingExtraError where AgentDojo is not installed."""
    if find_spec("agentdojo") is None:
        raise MissingExtraError.of("eval --suite agentdojo", "agentdojo")


def release() -> str:
    """The library's version and that of its tasks."""
    return f"agentdojo {version('agentdojo')}, tasks {BENCHMARK}"


def trials_of(chosen: Sequence[str] = ALL, attack: str | None = None, limit: int | None = None) -> list[Trial]:
    """The trials of suites or of single tasks: each user task with nothing injected, then with each injection task.

    Args:
        chosen: names such as `banking`, `banking/user_task_0` or `banking/user_task_0/injection_task_1`.
        attack: way of writing injections; None for the user tasks alone.
        limit: user tasks of a suite at most.

    Raises:
        MissingExtraError: AgentDojo is not installed.
        SaeError: an unknown name; says which there are.
    """
    check_agentdojo()
    if attack is not None:
        attack_on(ALL[0], attack)
    found: dict[Trial, None] = {}
    for name in chosen:
        found |= dict.fromkeys(_trials(name, attack, limit))
    return list(found)


def suite_of(name: str) -> Any:
    """A suite of AgentDojo's, by name."""
    return _suites()[name]


def injections_of(trial: Trial, attack: str | None) -> dict[str, str]:
    """Texts that are put into the environment, by the place that takes them."""
    if not trial.injection_task or attack is None:
        return {}
    suite = suite_of(trial.suite)
    tasks = suite.user_tasks[trial.user_task], suite.injection_tasks[trial.injection_task]
    injected: dict[str, str] = attack_on(trial.suite, attack).attack(*tasks)
    return injected


@cache
def attack_on(suite: str, name: str) -> Any:
    """An attack on a suite; the model it speaks to is `local`. Raises SaeError for an unknown one."""
    from agentdojo.attacks import load_attack
    from agentdojo.attacks.attack_registry import ATTACKS

    if name not in ATTACKS or name == _ASKS:
        raise SaeError(f"--attack: got {name!r}, expected one of {', '.join(sorted({*ATTACKS} - {_ASKS}))}")
    return load_attack(name, suite_of(suite), SimpleNamespace(name="local"))


@cache
def _suites() -> dict[str, Any]:
    from agentdojo.task_suite.load_suites import get_suites

    found: dict[str, Any] = get_suites(BENCHMARK)
    return found


def _trials(name: str, attack: str | None, limit: int | None) -> Iterator[Trial]:
    suite, user_task, injection_task = (*name.split("/"), "", "")[:3]
    _known(name, suite, ALL)
    tasks = _suites()[suite]
    _known(name, user_task, tasks.user_tasks)
    _known(name, injection_task, tasks.injection_tasks)
    if injection_task and attack is None:
        raise SaeError(f"--suites: got {name} without an attack; give --attack, or leave {injection_task} out")
    for task in [user_task] if user_task else list(tasks.user_tasks)[:limit]:
        if injection_task:
            yield Trial(suite, task, injection_task)
            continue
        yield Trial(suite, task)
        if attack is not None:
            injected = list(tasks.injection_tasks)
            most = 1 if attack_on(suite, attack).is_dos_attack else len(injected)
            yield from (Trial(suite, task, one) for one in injected[:most])


def _known(name: str, part: str, known: Any) -> None:
    if part and part not in known:
        raise SaeError(f"--suites: got {name}, but there is no {part}; expected one of {', '.join(known)}")
