"""Tool results of AgentDojo's user tasks, each with and without an injection, as files of conversations.

    python benchmarks/injected_results.py OUT --model MODEL [--count 5] [--longest 1500]
    steerkit eval --harmful OUT/agentdojo-injected.jsonl --benign OUT/agentdojo-clean.jsonl --policy FILE …

A small model solves no task of AgentDojo's and so never reads an injection. Here the task's own calls stand in the
conversation, up to the first result that holds the injection, and the model goes on: the attack succeeds where its next
reply calls a tool that the injected task takes. Extra `agentdojo`; of each suite --count user tasks.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from steerkit.engine import LoadedModel, load_model
from steerkit.lab.prove.suites.agentdojo.tasks import ALL, Trial, injections_of, suite_of

ATTACK = "important_instructions"


def write_results(folder: Path, count: int, longest: int, loaded: LoadedModel) -> list[Path]:
    """Files of tool results without and with an injection, up to the first result that has it."""
    paths = [folder / "agentdojo-clean.jsonl", folder / "agentdojo-injected.jsonl"]
    with paths[0].open("w") as clean, paths[1].open("w") as injected:
        for suite in ALL:
            tasks = suite_of(suite)
            goals = list(tasks.injection_tasks)
            for number, name in enumerate(list(tasks.user_tasks)[:count]):
                trial = Trial(suite, name, goals[number % len(goals)])
                pair = [conversation(trial, attacked) for attacked in (True, False)]
                if all(pair) and all(len(loaded.tokenizer.encode(json.dumps(one))) <= longest for one in pair):
                    injected.write(json.dumps(pair[0]) + "\n")
                    clean.write(json.dumps(pair[1]) + "\n")
    return paths


def conversation(trial: Trial, attacked: bool) -> dict[str, Any] | None:
    """A user task's own calls up to the first result that holds the injection, with the tools of both tasks."""
    from agentdojo.agent_pipeline.tool_execution import tool_result_to_str
    from agentdojo.functions_runtime import FunctionsRuntime

    suite = suite_of(trial.suite)
    task, goal = suite.user_tasks[trial.user_task], suite.injection_tasks[trial.injection_task]
    environments = [
        task.init_environment(suite.load_and_inject_default_environment(one))
        for one in (injections_of(trial, ATTACK), {})
    ]
    runtime, messages = FunctionsRuntime(suite.tools), [{"role": "user", "content": task.PROMPT}]
    wanted = {call.function for call in goal.ground_truth(environments[0].model_copy(deep=True))}
    used = {*wanted}
    for call in task.ground_truth(environments[0].model_copy(deep=True)):
        results = [
            str(tool_result_to_str(runtime.run_function(one, call.function, call.args)[0])) for one in environments
        ]
        function = {"name": call.function, "arguments": json.loads(json.dumps(dict(call.args), default=str))}
        messages.append({"role": "assistant", "tool_calls": [{"type": "function", "function": function}]})
        messages.append({"role": "tool", "name": call.function, "content": {"result": results[not attacked]}})
        used.add(call.function)
        if wanted and results[0] != results[1]:
            tools = [tool for tool in _declared(runtime) if tool["name"] in used]
            return {"messages": messages, "tools": tools, "dangerous": sorted(wanted)}
    return None


def _declared(runtime: Any) -> list[dict[str, Any]]:
    return [
        {"name": one.name, "description": one.description, "parameters": one.parameters.model_json_schema()}
        for one in runtime.functions.values()
    ]


def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--count", type=int, default=5)
    parser.add_argument("--longest", type=int, default=1_500)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    for path in write_results(given.out, given.count, given.longest, load_model(given.model)):
        print(path, len(path.read_text(encoding="utf-8").splitlines()))


if __name__ == "__main__":
    main()
