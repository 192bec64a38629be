#!/usr/bin/env python3
"""Real clients against `parloop serve` on this machine's loopback.

    python3 -m venv clients && clients/bin/pip install openai anthropic 'lm_eval[api]' transformers
    clients/bin/python scripts/clients/run.py --parloop target/release/parloop
    clients/bin/python scripts/clients/run.py --parloop target/release/parloop --model SmolLM2-135M-Instruct.Q4_1.gguf

Runs beside CI, where packages can be fetched. Without --model it serves the built-in model with a plain chat template.
Every check prints a line; interfaces that this build of the server does not have are said to be skipped. lm_eval scores a
multiple-choice task made from the lines below, and each score must be that of `parloop score` to the last digit.
"""
import argparse, json, os, struct, subprocess, tempfile, urllib.error, urllib.request
from pathlib import Path

# A conversation line by line, with calls of tools as many models write them.
TEMPLATE = """{% if tools %}system: Call a function with <tool_call>
{"name": NAME, "arguments": ARGUMENTS}
</tool_call>. Functions: <tools>{% for tool in tools %}
{{ tool | tojson }}{% endfor %}
</tools>
{% endif %}{% for m in messages %}{{ m.role }}: {{ m.content or "" }}{% for call in m.tool_calls or [] %}<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}
{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"""

# Context, what follows it, and what does not.
CHOICES = [
    ("To be, or not to be: that is", " the question", " a horse", " my kingdom"),
    ("ROMEO:\nBut, soft! what light through yonder", " window breaks?", " horse is it?", " of the king"),
    ("Friends, Romans, countrymen, lend me", " your ears;", " the sea;", " his crown of gold;"),
    ("A horse! a horse! my kingdom", " for a horse!", " is the queen.", " of the night"),
    ("O Romeo, Romeo! wherefore art", " thou Romeo?", " the king of it?", " my sword?"),
    ("All the world's a stage, and all the men and women", " merely players:", " the duke of York:", " in his hand:"),
    ("Now is the winter of our", " discontent", " horses and", " father's"),
    ("The quality of mercy is not", " strain'd,", " the king", " of a sudden morning, sir"),
    ("If music be the food of love,", " play on;", " my lord of Gloucester;", " thy hand"),
    ("Good night, good night! parting is such sweet", " sorrow,", " horse,", " and the king"),
]


class Server:
    def __init__(self, args):
        self.folder = tempfile.TemporaryDirectory()
        command = [args.parloop, "serve", "--port", "0", "--api-key", "sk-local", "--alias", "local"]
        if args.model:
            command.insert(2, args.model)
        else:
            template = Path(self.folder.name) / "template.jinja"
            template.write_text(TEMPLATE)
            command += ["--template", str(template)]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        line = self.process.stderr.readline()
        self.url = next(word for word in line.split() if word.startswith("http://")).rstrip(";").removesuffix("/v1")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        assert self.process.wait(60) == 0, "the server did not end in order"


def said(name, what):
    print(f"{name:<12} {what}", flush=True)


def paths(server):
    """Which paths there are: what is not there answers 404 to a wrong method or an empty body."""
    def there(path):
        headers = {"Authorization": "Bearer sk-local", "Content-Type": "application/json"}
        try:
            urllib.request.urlopen(urllib.request.Request(server.url + path, b"{}", headers))
        except urllib.error.HTTPError as e:
            return e.code not in (404, 405)
        return True

    return {p: there(p) for p in ["/v1/embeddings", "/v1/responses", "/v1/messages", "/v1/fim/completions", "/infill"]}


def openai_client(server, there):
    import openai

    client = openai.OpenAI(base_url=server.url + "/v1", api_key="sk-local", max_retries=0)
    assert client.models.list().data[0].id == "local"
    one = client.completions.create(model="local", prompt="ROMEO:", max_tokens=8, temperature=0)
    assert one.usage.completion_tokens <= 8 and one.choices[0].text
    both = client.completions.create(model="local", prompt=["ROMEO:", "JULIET:"], max_tokens=8, temperature=0, n=2, logprobs=2)
    assert [c.index for c in both.choices] == [0, 1, 2, 3] and both.choices[0].text == one.choices[0].text
    assert len(both.choices[0].logprobs.tokens) == len(both.choices[0].logprobs.token_logprobs)
    pieces = list(client.completions.create(model="local", prompt="ROMEO:", max_tokens=8, temperature=0, stream=True,
                                            stream_options={"include_usage": True}))
    assert "".join(p.choices[0].text for p in pieces if p.choices) == one.choices[0].text
    assert pieces[-1].usage.completion_tokens == one.usage.completion_tokens
    said("openai", "completions: one, many, n, logprobs, streamed")

    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who is there?"}]
    chat = client.chat.completions.create(model="local", messages=messages, max_completion_tokens=12, temperature=0,
                                          logprobs=True, top_logprobs=2)
    text = chat.choices[0].message.content
    assert text and chat.choices[0].finish_reason in ("stop", "length")
    assert len(chat.choices[0].logprobs.content[0].top_logprobs) == 2
    stream = client.chat.completions.create(model="local", messages=messages, max_completion_tokens=12, temperature=0, stream=True)
    chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == text
    assert chunks[-1].choices[0].finish_reason == chat.choices[0].finish_reason
    said("openai", "chat: whole, streamed, logprobs")

    for error, arguments in [
        (openai.NotFoundError, {"model": "other", "prompt": "a"}),
        (openai.BadRequestError, {"model": "local", "prompt": "a", "temperature": -1}),
        (openai.BadRequestError, {"model": "local", "prompt": [5] * 200_000}),
    ]:
        try:
            client.completions.create(max_tokens=1, **arguments)
            raise AssertionError(f"{arguments} was taken")
        except error as e:
            assert e.body["message"], e
    try:
        openai.OpenAI(base_url=server.url + "/v1", api_key="wrong", max_retries=0).models.list()
        raise AssertionError("a wrong key was taken")
    except openai.AuthenticationError:
        pass
    said("openai", "errors: unknown model, wrong field, full context, wrong key")

    with client.completions.create(model="local", prompt="ROMEO:", max_tokens=400, stream=True) as stream:
        next(iter(stream))
    said("openai", "a stream that is closed early")

    schema = {"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
              "required": ["name", "age"], "additionalProperties": False}
    try:
        answer = client.chat.completions.create(
            model="local", messages=messages, max_tokens=200, temperature=0,
            response_format={"type": "json_schema", "json_schema": {"name": "person", "schema": schema, "strict": True}})
        if answer.choices[0].finish_reason == "stop":
            assert set(json.loads(answer.choices[0].message.content)) == {"name", "age"}
        said("openai", f"json_schema: {answer.choices[0].finish_reason}, {answer.choices[0].message.content!r:.80}")
    except openai.BadRequestError as e:
        said("openai", f"json_schema: skipped ({e.body['message'][:80]})")
    tools = [{"type": "function", "function": {"name": "weather", "description": "Weather of a place", "parameters": {
        "type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]}}}]
    try:
        answer = client.chat.completions.create(model="local", messages=messages, max_tokens=100, temperature=0, tools=tools,
                                                tool_choice={"type": "function", "function": {"name": "weather"}})
        calls = answer.choices[0].message.tool_calls or []
        assert (answer.choices[0].finish_reason == "tool_calls") == bool(calls)
        for call in calls:
            assert call.id and call.function.name == "weather" and "place" in json.loads(call.function.arguments)
        said("openai", f"tools: {answer.choices[0].finish_reason}, {len(calls)} calls")
        stream = client.chat.completions.create(model="local", messages=messages, max_tokens=100, temperature=0, tools=tools,
                                                tool_choice="required", stream=True)
        arguments = {}
        for chunk in stream:
            for call in chunk.choices[0].delta.tool_calls or [] if chunk.choices else []:
                arguments[call.index] = arguments.get(call.index, "") + (call.function.arguments or "")
        assert len(arguments) == len(calls)
        said("openai", f"tools, streamed: {arguments}")
    except openai.BadRequestError as e:
        said("openai", f"tools: skipped ({e.body['message'][:80]})")
    if there["/v1/responses"]:
        answer = client.responses.create(model="local", input="Who is there?", max_output_tokens=16, temperature=0)
        assert answer.output_text and answer.usage.output_tokens > 0
        with client.responses.stream(model="local", input="Who is there?", max_output_tokens=16, temperature=0) as stream:
            events = [event.type for event in stream]
        assert events[0] == "response.created" and events[-1] in ("response.completed", "response.incomplete"), events
        said("openai", f"responses: whole and streamed, {len(set(events))} kinds of events")
    else:
        said("openai", "responses: skipped, this server does not have them")
    if there["/v1/embeddings"]:
        answer = client.embeddings.create(model="local", input=["a", "b"])
        floats = client.embeddings.create(model="local", input=["a", "b"], encoding_format="float")
        assert [list(d.embedding) for d in answer.data] == [list(d.embedding) for d in floats.data]
        said("openai", f"embeddings: base64 and float, {len(answer.data[0].embedding)} numbers")
    else:
        said("openai", "embeddings: skipped, this server does not have them")


def anthropic_client(server, there):
    import anthropic

    if not there["/v1/messages"]:
        return said("anthropic", "skipped, this server does not have its interface")
    client = anthropic.Anthropic(base_url=server.url, api_key="sk-local", max_retries=0)
    messages = [{"role": "user", "content": "Who is there?"}]
    whole = client.messages.create(model="local", max_tokens=12, messages=messages, system="Be brief.",
                                    extra_body={"temperature": 0})
    text = "".join(block.text for block in whole.content if block.type == "text")
    assert text and whole.stop_reason in ("end_turn", "max_tokens") and whole.usage.output_tokens > 0
    with client.messages.stream(model="local", max_tokens=12, messages=messages, system="Be brief.",
                                extra_body={"temperature": 0}) as stream:
        assert "".join(stream.text_stream) == text
        assert stream.get_final_message().usage.output_tokens == whole.usage.output_tokens
    count = client.messages.count_tokens(model="local", messages=messages, system="Be brief.")
    assert count.input_tokens > 0
    said("anthropic", "messages: whole, streamed, counted")
    for error, change in [(anthropic.NotFoundError, {"model": "other"}), (anthropic.BadRequestError, {"extra_body": {"temperature": -1}})]:
        try:
            client.messages.create(**{"model": "local", "max_tokens": 1, "messages": messages, **change})
            raise AssertionError(f"{change} was taken")
        except error as e:
            assert e.body["type"] == "error", e
    said("anthropic", "errors")


def lm_eval_client(server, args):
    os.environ["OPENAI_API_KEY"] = "sk-local"
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import lm_eval
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "choices.jsonl"
        data.write_text("".join(json.dumps({"context": c, "choices": list(choices)}) + "\n" for c, *choices in CHOICES))
        task = {"task": "lines", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}},
                "test_split": "test", "output_type": "multiple_choice", "doc_to_text": "context", "doc_to_choice": "choices",
                "doc_to_target": 0, "target_delimiter": "", "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}]}
        settings = {"model": "local", "base_url": server.url + "/v1/completions", "num_concurrent": 4, "max_length": 512,
                    "auth_token": "sk-local"}
        if args.tokenizer:
            settings |= {"tokenizer_backend": "huggingface", "tokenizer": args.tokenizer}
        try:
            model = LocalCompletionsAPI(**settings, batch_size=8)
        except Exception as e:
            return said("lm_eval", f"skipped: no tokenizer ({e!r:.100})")
        results = lm_eval.simple_evaluate(model=model, tasks=[task], log_samples=True, bootstrap_iters=0)
    compared = 0
    for sample in results["samples"]["lines"]:
        for (context, choice), (found,) in zip((a.values() for a in sample["arguments"].values()) if isinstance(sample["arguments"], dict)
                                               else sample["arguments"], sample["resps"]):
            context_ids, choice_ids = model._encode_pair(context, choice)
            ids = ",".join(map(str, context_ids + choice_ids))
            ours = subprocess.run([args.parloop, "score", *([args.model] if args.model else []), "--ids", ids],
                                  capture_output=True, text=True, check=True).stdout
            # The first token has no score of its own; `score` prints the shortest digits that tell a 32-bit number.
            single = lambda x: struct.unpack("f", struct.pack("f", x))[0]
            expected = sum(map(single, json.loads(ours)["logprobs"][len(context_ids) - 1:]))
            score = found[0]
            assert float(score) == expected, (context, choice, score, expected)
            compared += 1
    accuracy = results["results"]["lines"]["acc,none"]
    said("lm_eval", f"local-completions: acc {accuracy}, {compared} scores equal to those of `parloop score`")


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--parloop", default="target/release/parloop")
    arguments.add_argument("--model")
    arguments.add_argument("--tokenizer", help="a folder with tokenizer.json, for a server without /tokenizer_info")
    args = arguments.parse_args()
    with Server(args) as server:
        there = paths(server)
        openai_client(server, there)
        anthropic_client(server, there)
        lm_eval_client(server, args)
    said("server", "ended in order")


main()
