"""An evaluation with Inspect: the model in the box is steered and recorded, and an approver judges what it calls."""

import sys
from collections.abc import Callable
from functools import wraps

from house_tools import REQUESTS, STORE, get_balance, unlock_door
from inspect_ai import Task, eval
from inspect_ai.approval import ApprovalPolicy
from inspect_ai.dataset import Sample
from inspect_ai.model import GenerateConfig, Model
from inspect_ai.solver import generate, use_tools
from inspect_ai.tool import Tool, ToolDef

from steerkit.integrations.inspect import SteerkitAPI, judged


def awaited(function: Callable[..., str]) -> Tool:
    """A plain function as a tool of Inspect."""

    @wraps(function)
    async def run(**arguments: object) -> str:
        return function(**arguments)

    return ToolDef(run).as_tool()


approval = [ApprovalPolicy(judged(path), "*") for path in sys.argv[1:] or ["policies/people.yaml"]]
solver = [use_tools(awaited(get_balance), awaited(unlock_door)), generate()]
task = Task([Sample(request) for request in REQUESTS], solver=solver, approval=approval)
model = Model(SteerkitAPI("tiny", policy="policies/payments.yaml", audit=STORE), GenerateConfig())
(log,) = eval(task, model, display="none", log_dir=str(STORE.parent / "inspect"))
for sample in log.samples or sys.exit(str(log.error)):
    decided = [f"{one.decision} ({one.explanation})" for one in sample.events if one.event == "approval"]
    print(sample.input, "->", sample.output.completion, decided)
