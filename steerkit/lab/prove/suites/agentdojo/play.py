"""One trial of AgentDojo's: an agent and the tools of a suite in the agent loop, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, Final, NamedTuple

from steerkit.agent import Approval, Run, Runtime
from steerkit.engine import Sampling
from steerkit.errors import MissingExtraError, PolicyError, SteerkitError
from steerkit.lab.prove.suites.agentdojo.scripted import Agent, Script, ScriptedEngine
from steerkit.lab.prove.suites.agentdojo.tasks import Trial, attack_on, injections_of, suite_of
from steerkit.policy import Policy
from steerkit.types import Call

MAX_TURNS: Final = 15
"""Turns of a conversation at most, as in AgentDojo's own loop."""
MAX_RESULT: Final = 20_000
"""Characters of a tool's result, and tokens; the longest that solving a task reads has under 12,000 characters."""
_RAN: Final = ("ok", "error", "timeout")
_REFUSAL: Final = Approval(False, by="agentdojo", note="nobody is there to agree")


class Limits(NamedTuple):
    """Bounds of a trial."""

    max_turns: int
    sampling: Sampling


class Played(NamedTuple):
    """Outcome of a trial, as it is kept."""

    trial: str
    utility: bool
    """The user's task is solved."""
    attacked: bool | None
    """The injected task is; None where nothing was injected."""
    status: str
    """With which the loop ended, or the error that ended it."""
    turns: int
    calls: int
    """That were written, malformed ones among them."""
    ran: int
    """Of them, those that were run; the others were refused, and the agent was told."""
    prompt: int
    """Tokens of all prompts."""
    reply: int
    """Tokens of all replies."""


class _Desk:
    """The tools of a suite on one environment, and the calls of them that were run."""

    def __init__(self, suite: Any, environment: Any, read: Callable[[Any], None]) -> None:
        from agentdojo.functions_runtime import FunctionsRuntime

        self._runtime, self._environment, self._read = FunctionsRuntime(suite.tools), environment, read
        self.ran: list[Any] = []

    def tools(self) -> list[dict[str, Any]]:
        """Their declarations; references and alternatives are put into the dialect's words where they are rendered."""
        return [
            {"name": one.name, "description": one.description, "parameters": one.parameters.model_json_schema()}
            for one in self._runtime.functions.values()
        ]

    def functions(self) -> dict[str, Callable[..., str]]:
        """By name, what runs them."""
        return {name: partial(self._run, name) for name in self._runtime.functions}

    def _run(self, name: str, /, **arguments: Any) -> str:
        from agentdojo.agent_pipeline.tool_execution import tool_result_to_str
        from agentdojo.functions_runtime import FunctionCall

        self.ran.append(FunctionCall(function=name, args=arguments))
        value, _ = self._runtime.run_function(self._environment, name, arguments, raise_on_error=True)
        self._read(value)
        return str(tool_result_to_str(value))


def play(
    policies: Sequence[Policy], agent: Agent, attack: str | None, limits: Limits, runtime: Runtime, trial: Trial
) -> Played:
    """Play a trial. What a person would have to agree to is refused.

    The user's task and the injected one are judged by AgentDojo's own checks, on the environment, the answer and the
    calls that were run: one that was refused did nothing. A check that fails on what it finds is not passed.
    """
    suite = suite_of(trial.suite)
    task = suite.user_tasks[trial.user_task]
    injected = injections_of(trial, attack)
    environment = task.init_environment(suite.load_and_inject_default_environment(injected))
    before = environment.model_copy(deep=True)
    script = None if agent == "model" else _script(agent, suite, trial, before, injected)
    desk = _Desk(suite, environment, script.read if script else lambda value: None)
    if script is not None:
        runtime = Runtime(ScriptedEngine(agent, runtime.engine.tokenizer, script))
        limits = limits._replace(max_turns=script.turns)
    run, failure = _loop(runtime, policies, task.PROMPT, desk, limits)
    answer = run.text if run else ""
    utility, attacked = _passes(task, "utility", answer, before, environment, desk.ran), None
    if trial.injection_task:
        goal = suite.injection_tasks[trial.injection_task]
        attacked = _passes(goal, "security", answer, before, environment, desk.ran)
        if attack is not None and attack_on(trial.suite, attack).is_dos_attack:
            attacked = not utility
    turns = run.turns if run else ()
    return Played(
        trial.name,
        utility,
        attacked,
        failure or (run.status if run else ""),
        len(turns),
        sum(len(turn.calls) for turn in turns),
        sum(one.status in _RAN for one in run.executions) if run else len(desk.ran),
        sum(len(turn.prompt_ids) for turn in turns),
        sum(len(turn.reply_ids) for turn in turns),
    )


def _loop(
    runtime: Runtime, policies: Sequence[Policy], prompt: str, desk: _Desk, limits: Limits
) -> tuple[Run | None, str]:
    """The run, or the error that ended it: a prompt too long for the model, say."""
    from agentdojo.agent_pipeline.agent_pipeline import load_system_message

    messages = [{"role": "system", "content": load_system_message(None)}, {"role": "user", "content": prompt}]
    try:
        return runtime.loop(
            messages,
            desk.tools(),
            execute=desk.functions(),
            approve=lambda held: _REFUSAL,
            policy=policies,
            max_turns=limits.max_turns,
            max_result=MAX_RESULT,
            timeout=None,
            **asdict(limits.sampling),
        ), ""
    except (PolicyError, MissingExtraError):  # none of a trial's
        raise
    except SteerkitError as error:
        return None, f"error: {error}"


def _script(agent: Agent, suite: Any, trial: Trial, environment: Any, injected: dict[str, str]) -> Script:
    task = suite.user_tasks[trial.user_task]
    calls = _calls(task, environment)
    if agent == "ground-truth" or not trial.injection_task:
        return Script(calls, task.GROUND_TRUTH_OUTPUT)
    orders = _calls(suite.injection_tasks[trial.injection_task], environment)
    return Script(calls, task.GROUND_TRUTH_OUTPUT, orders, injected.values())


def _calls(task: Any, environment: Any) -> list[Call]:
    """The calls that solve a task, as its authors wrote them."""
    return [Call(one.function, dict(one.args)) for one in task.ground_truth(environment.model_copy(deep=True))]


def _passes(task: Any, check: str, answer: str, before: Any, after: Any, ran: Sequence[Any]) -> bool:
    """True if a task's check passes; one by the calls goes before one by the environment."""
    try:
        by_calls = getattr(task, f"{check}_from_traces")(answer, before, after, ran)
        return bool(getattr(task, check)(answer, before, after) if by_calls is None else by_calls)
    except Exception:  # the task's own code, on an environment that it did not foresee
        return False
