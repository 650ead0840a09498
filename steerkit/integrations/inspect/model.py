"""steerkit as a provider of Inspect: each generation is a turn, and only calls that its policies release go out."""

from __future__ import annotations

from functools import cached_property
from inspect import signature
from typing import Any, Final

from inspect_ai.model import ChatMessage, GenerateConfig, ModelAPI, ModelOutput, modelapi
from inspect_ai.tool import ToolChoice, ToolInfo

from steerkit.agent import Runtime, load
from steerkit.errors import ContextError, SettingError
from steerkit.integrations.inspect.messages import openai
from steerkit.integrations.inspect.output import output, too_long
from steerkit.integrations.inspect.settings import form, sampling
from steerkit.integrations.turns import taken
from steerkit.runtime import Request

_TOLD: Final = {"name", "description", "parameters"}


@modelapi(name="steerkit")
class SteerkitAPI(ModelAPI):  # type: ignore[misc]  # untyped where the extra is not installed
    """A runtime as Inspect's model.

    `get_model("steerkit/tiny", policy="payments")`, `inspect eval task.py --model steerkit/tiny -M policy=payments`, or
    `Model(SteerkitAPI("tiny", runtime=runtime), GenerateConfig())` with a runtime of one's own.

    Args:
        model_name: the model, as `steerkit.load` takes it.
        base_url, api_key: nothing is asked of a server.
        config: settings for all generations.
        runtime: takes the turns; without it the model is loaded.
        how: the other arguments of `steerkit.load`.
    """

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig | None = None,
        *,
        runtime: Runtime | None = None,
        **how: Any,
    ) -> None:
        super().__init__(model_name, base_url, api_key, [], config or GenerateConfig())
        if runtime is not None and how:
            raise SettingError(f"SteerkitAPI: got {', '.join(how)} beside a runtime; give them to steerkit.load")
        signature(load).bind(model_name, **how)  # a misspelt option is refused now
        self._given, self._how = runtime, how

    @cached_property
    def runtime(self) -> Runtime:
        """What takes the turns; loaded for the first, since Inspect makes a second provider that it asks nothing."""
        return load(self.model_name, **self._how) if self._given is None else self._given

    async def generate(
        self, input: list[ChatMessage], tools: list[ToolInfo], tool_choice: ToolChoice, config: GenerateConfig
    ) -> ModelOutput:
        """One turn; its record is on disk before Inspect sees it. When cancelled, it ends within a token."""
        told = [one.model_dump(include=_TOLD, exclude_none=True) for one in tools]
        messages = [openai(one) for one in input]
        request = Request(messages, told, sampling=sampling(config), **form(tool_choice, config))
        try:
            turn = await taken(self.runtime, request)
        except ContextError as error:
            return too_long(self.model_name, error)
        return output(self.model_name, turn, self.runtime.engine.context)

    def max_connections(self) -> int:
        """One: a model generates one turn at a time."""
        return 1

    def connection_key(self) -> str:
        """Each runtime has its own queue."""
        return f"steerkit-{id(self._given or self)}"

    def close(self) -> None:
        """End the run of its records, where there is one."""
        if "runtime" in self.__dict__:
            self.runtime.close()
