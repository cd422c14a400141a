"""An agent that compresses long tool results; a middleware makes the first call, as the default model is too small."""

import sys
from pathlib import Path

from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware, hook_config
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import tool
from langchain_spec_rag import ChatSpecKV, SpecPCMiddleware

HANDBOOK = Path(__file__).parent / "handbook"


@tool
def chapter(name: str) -> str:
    """Read a chapter of the handbook."""
    return next(HANDBOOK.glob(f"*{name}*.md")).read_text()


class ReadsFirst(AgentMiddleware):
    @hook_config(can_jump_to=["tools"])
    def before_model(self, state, runtime):
        call = {"name": "chapter", "args": {"name": "telescopes"}, "id": "chapter-1"}
        first = {"messages": [AIMessage("", tool_calls=[call])], "jump_to": "tools"}
        return first if isinstance(state["messages"][-1], HumanMessage) else None

    def wrap_model_call(self, request, handler):
        return handler(request.override(tools=[]))


def main(question: str = "What does the main mirror of the Ostrander reflector weigh?") -> None:
    model, compressing = ChatSpecKV(max_tokens=48), SpecPCMiddleware(max_tokens=200)
    agent = create_agent(model, tools=[chapter], middleware=[ReadsFirst(), compressing])
    for message in agent.invoke({"messages": [("human", question)]})["messages"]:
        print(f"{message.type} ({len(message.text)} characters): {message.text[:200]!r}")


if __name__ == "__main__":
    main(*sys.argv[1:])
