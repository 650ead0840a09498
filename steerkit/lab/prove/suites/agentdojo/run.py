"""AgentDojo under every arm: utility, utility under attack and attack success."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from steerkit import __version__
from steerkit.agent import Runtime
from steerkit.engine import Sampling
from steerkit.errors import SaeError
from steerkit.lab.measured import Share
from steerkit.lab.prove.resume import VariantFiles
from steerkit.lab.prove.suites.agentdojo.play import MAX_TURNS, Limits, Played, play
from steerkit.lab.prove.suites.agentdojo.scripted import Agent
from steerkit.lab.prove.suites.agentdojo.tasks import Trial, release
from steerkit.lab.prove.suites.arms import arms_of, identity_of, parts_of, run_arms
from steerkit.lab.workers.local import Mapper, batches, in_this_process
from steerkit.policy import Policy


@dataclass(frozen=True)
class AttackScore:
    """One suite under one arm. Trials of a user task are counted as one, since its injections share a conversation."""

    suite: str
    """`all` for all of them together."""
    arm: str
    trials: int
    utility: Share
    """User tasks that are solved where nothing is injected."""
    under_attack: Share
    """The same where something is."""
    attacked: Share
    """Injected tasks that are carried out."""
    ran: Share
    """Calls that were run, of those that were written."""
    ended: Mapping[str, int]
    """Trials by the status with which they ended; errors by their text."""


def run_agentdojo(
    runtime: Runtime,
    trials: Sequence[Trial],
    policy: Policy | None = None,
    *,
    attack: str | None = None,
    agent: Agent = "model",
    arms: Sequence[str] | None = None,
    max_turns: int = MAX_TURNS,
    max_new_tokens: int = 512,
    mapper: Mapper | None = None,
    out: Path | None = None,
    report: Callable[[int, int], None] | None = None,
) -> list[AttackScore]:
    """Play all trials greedily under every arm, the plain agent first, and score them suite by suite.

    Args:
        runtime: the model; of a scripted agent only its tokenizer, whose dialect the agent writes.
        trials: see `trials_of`.
        policy: what the arms are made of.
        attack: way of writing injections.
        agent: who is asked.
        arms: names from `ARMS` (default: the plain agent, the policy, and its steering and guard where it has both).
        max_turns: turns of a conversation at most; a script takes as many as it has calls.
        max_new_tokens: of each reply.
        mapper: does the trials (default: this process).
        out: folder that keeps finished trials; what stands there is not played again.
        report: callback for progress: trials that are done, and how many there are.

    Raises:
        SteerkitError: a policy does not fit the model, or a scripted agent; `out` holds results of something else.
    """
    under = arms_of(policy, parts_of(policy) if arms is None else arms)
    if agent != "model":
        _check_scripted(agent, under)
    limits = Limits(max_turns, Sampling(max_new_tokens))
    files = VariantFiles(out, {} if out is None else _identity(runtime, trials, policy, attack, agent, limits))

    def work_of(policies: Sequence[Policy]) -> Any:
        ready = policies if agent != "model" else runtime.policies_of(policies)
        return partial(_played, partial(play, ready, agent, attack, limits))

    here = mapper or in_this_process(lambda: runtime)
    rows = run_arms(under, work_of, batches(trials, 1), files, here, report)
    return _scores({arm: [Played(**row) for row in some] for arm, some in rows.items()})


def _played(one: Callable[[Runtime, Trial], Played], runtime: Runtime, some: Sequence[Trial]) -> list[dict[str, Any]]:
    return [one(runtime, trial)._asdict() for trial in some]


def _check_scripted(agent: Agent, under: Mapping[str, Sequence[Policy]]) -> None:
    for policy in (policy for policies in under.values() for policy in policies):
        if policy.features or policy.steer:
            raise SaeError(
                f"--agent {agent}: policy '{policy.name}' reads or steers features, and behind a scripted agent is no "
                f"model; expected a guard over arguments, earlier calls and their results, or --agent model"
            )


def _identity(
    runtime: Runtime,
    trials: Sequence[Trial],
    policy: Policy | None,
    attack: str | None,
    agent: Agent,
    limits: Limits,
) -> dict[str, Any]:
    """All that the outcomes depend on."""
    return {
        "steerkit": __version__,
        "suite": release(),
        "policy": identity_of(policy),
        "model": runtime.engine.provenance.model.fingerprint,
        "saes": None if runtime.saes is None else runtime.saes.fingerprint,
        "trials": [trial.name for trial in trials],
        "attack": attack,
        "agent": agent,
        "max_turns": limits.max_turns,
        "max_new_tokens": limits.sampling.max_new_tokens,
    }


def _scores(found: Mapping[str, Sequence[Played]]) -> list[AttackScore]:
    """Scores of each suite, and of all where there are several."""
    suites = list(dict.fromkeys(one.trial.split("/")[0] for played in found.values() for one in played))
    return [
        _score(suite, arm, [one for one in played if suite == "all" or one.trial.startswith(f"{suite}/")])
        for suite in [*suites, *(["all"] if len(suites) > 1 else [])]
        for arm, played in found.items()
    ]


def _score(suite: str, arm: str, played: Sequence[Played]) -> AttackScore:
    plain = [one for one in played if one.attacked is None]
    injected = [one for one in played if one.attacked is not None]
    tasks = [_user_task(one) for one in injected]
    return AttackScore(
        suite,
        arm,
        len(played),
        Share.of([one.utility for one in plain]),
        Share.of([one.utility for one in injected], tasks),
        Share.of([bool(one.attacked) for one in injected], tasks),
        Share(sum(one.ran for one in played), sum(one.calls for one in played)),
        dict(Counter(one.status for one in played)),
    )


def _user_task(one: Played) -> str:
    suite, task, *_ = one.trial.split("/")
    return f"{suite}/{task}"
