#!/usr/bin/env python3
"""Writes what Jinja2, set up as Hugging Face's `transformers` does it, makes of the chat templates in
crates/parloop-model/tests/chat, for the tests (pip install jinja2)."""
import json
import pathlib

from jinja2 import nodes
from jinja2.exceptions import TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "crates/parloop-model/tests/chat"


class Generation(Extension):
    """`{% generation %}` marks text and changes none."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller):
        return caller()


def environment():
    def raise_exception(message):
        raise TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda format: "01 Jan 2025"
    return env


TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather at a place — \"now\".",
        "parameters": {
            "type": "object",
            "properties": {"place": {"type": "string", "description": "Città"}, "days": {"type": "integer", "minimum": 1, "scale": 0.5}},
            "required": ["place"],
            "empty": {}, "none": None, "list": [],
        },
    },
}
CALL = {"id": "abcdef123", "type": "function", "function": {"name": "get_weather", "arguments": {"place": "Zürich", "days": 2, "exact": True}}}



def U(text):
    return {"role": "user", "content": text}


def A(text):
    return {"role": "assistant", "content": text}


def S(text):
    return {"role": "system", "content": text}


CONVERSATIONS = {
    "hello": dict(messages=[U("Hello!")], add_generation_prompt=True),
    "finished": dict(messages=[U("Hello!"), A("Hi there.")], add_generation_prompt=False),
    "system": dict(messages=[S("Be brief."), U("Who are you?")], add_generation_prompt=True),
    "turns": dict(messages=[S("Be <b>brief</b> & 'kind'."), U("  One \n"), A(" Two\n\n"), U("Drei ß 三 👍🏽"), A(""), U("{{ not a template }}")], add_generation_prompt=True),
    "thinking": dict(messages=[U("2+2?"), A("<think>\nadd them\n</think>\n\n4"), U("and 3+3?")], add_generation_prompt=True),
    "no thinking": dict(messages=[U("2+2?")], add_generation_prompt=True, enable_thinking=False),
    "wrong order": dict(messages=[A("I begin."), U("Oh.")], add_generation_prompt=True),
    "tools": dict(messages=[S("Use tools."), U("Weather in Zürich?")], tools=[TOOL], add_generation_prompt=True),
    "tools apart": dict(messages=[U("Weather?")], tools=[TOOL, TOOL], add_generation_prompt=True, tools_in_user_message=False),
    "tool result": dict(
        messages=[U("Weather in Zürich?"), {"role": "assistant", "content": None, "tool_calls": [CALL]},
                  {"role": "tool", "content": "21 °C", "tool_call_id": "abcdef123"}],
        tools=[TOOL], add_generation_prompt=True,
    ),
    "after tools": dict(
        messages=[U("Weather?"), {"role": "assistant", "content": "", "tool_calls": [CALL]},
                  {"role": "tool", "content": "21", "tool_call_id": "abcdef123"}, A("It is warm."), U("Thanks")],
        tools=[TOOL], add_generation_prompt=True,
    ),
    "parts": dict(messages=[{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": " What is this? "}]}], add_generation_prompt=True),
    "extra": dict(messages=[U("x")], extra={"name": "Ada", "missing": ""}, date_string="2 Mar 2024"),
    "empty": dict(messages=[], add_generation_prompt=True),
}


def main():
    env = environment()
    rows = []
    for path in sorted(FOLDER.glob("*.jinja")):
        template = env.from_string(path.read_text())
        for name, conversation in CONVERSATIONS.items():
            # Today's date is no expectation.
            conversation = {"date_string": "01 Jan 2025", **conversation} if path.stem == "llama3" else dict(conversation)
            row = {"template": path.stem, "name": name, "conversation": conversation}
            context = {"tools": None, "documents": None, "bos_token": "<s>", "eos_token": "</s>", "add_generation_prompt": False, **conversation}
            try:
                row["text"] = template.render(**context)
            except TemplateError as error:
                row["refused" if type(error) is TemplateError else "failed"] = str(error)
            except TypeError as error:
                row["failed"] = str(error)
            rows.append(row)
    text = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (FOLDER / "expected.json").write_text(f"[\n{text}\n]\n")
    count = {key: sum(key in row for row in rows) for key in ["text", "refused", "failed"]}
    print(f"{len(rows)} renderings of {len(set(r['template'] for r in rows))} templates: {count}")


if __name__ == "__main__":
    main()
