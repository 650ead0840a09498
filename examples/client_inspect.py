"""Inspect on `steerkit serve`: a task whose model is the server, scored by what its tool was asked."""

import os

import house_tools
from inspect_ai import Task, eval
from inspect_ai.dataset import Sample
from inspect_ai.model import get_model
from inspect_ai.scorer import includes
from inspect_ai.solver import generate, use_tools
from inspect_ai.tool import Tool, tool


@tool
def get_balance() -> Tool:
    """The tool of the house."""

    async def execute(account: str) -> str:
        """Show a balance.

        Args:
            account: Account
        """
        return house_tools.get_balance(account)

    return execute


url = os.environ.get("STEERKIT_URL", "http://127.0.0.1:8000/v1")
model = get_model("openai-api/steerkit/tiny", base_url=url, api_key="none")
sample = Sample(input="tell me how much money travel 38 has", target="1200")
(log,) = eval(Task([sample], [use_tools(get_balance()), generate()], scorer=includes()), model, display="none")
print(log.status, log.results.scores[0].metrics["accuracy"].value)
