#!/usr/bin/env python3
"""Two servers behind nginx with docs/serving/nginx.conf, on loopback: who goes where, and what happens when one is gone.

    apt-get install nginx
    python3 scripts/clients/balance.py --parloop target/release/parloop
"""
import argparse, json, os, shutil, signal, socket, subprocess, tempfile, time, urllib.error, urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = """{% for m in messages %}{{ m.role }}: {{ m.content }}
{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"""


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def ask(url, path, body=None, headers={}):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url + path, data, {"Content-Type": "application/json", **headers})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.read().decode()


def requests_of(port):
    text = ask(f"http://127.0.0.1:{port}", "/metrics")
    return int(next(line for line in text.splitlines() if line.startswith("parloop_requests_total ")).split()[1])


def wait_for(url):
    for _ in range(200):
        try:
            return ask(url, "/health")
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    raise AssertionError(f"{url} does not come")


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--parloop", default="target/release/parloop")
    arguments.add_argument("--nginx", default=shutil.which("nginx") or "/usr/sbin/nginx")
    args = arguments.parse_args()
    processes = []
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        os.chmod(folder, 0o777)
        (folder / "template.jinja").write_text(TEMPLATE)
        (folder / "states").mkdir()
        ports = [free_port(), free_port()]
        for port in ports:
            command = [args.parloop, "serve", "--port", str(port), "--alias", "local", "--threads", "1", "--kv-budget", "100MB",
                       "--template", folder / "template.jinja", "--slot-save-path", folder / "states"]
            processes.append(subprocess.Popen(command, stderr=subprocess.DEVNULL))
        port = free_port()
        text = (ROOT / "docs/serving/nginx.conf").read_text()
        for name, value in [("PORT_A", ports[0]), ("PORT_B", ports[1]), ("PORT", port), ("PID_FILE", folder / "pid"),
                            ("TEMP_FOLDER", folder / "temporary")]:
            text = text.replace(name, str(value))
        (folder / "nginx.conf").write_text(text)
        processes.append(subprocess.Popen([args.nginx, "-p", folder, "-c", folder / "nginx.conf", "-g", "daemon off;"]))
        url = f"http://127.0.0.1:{port}"
        try:
            for one in [*ports, port]:
                wait_for(f"http://127.0.0.1:{one}")

            def turn(messages, stream=False, headers={}):
                body = {"model": "local", "messages": messages, "max_tokens": 8, "temperature": 0, "stream": stream}
                return ask(url, "/v1/chat/completions", body, headers)

            # Twenty conversations of three turns each: every later turn goes where the first went.
            before, reused = [requests_of(p) for p in ports], 0
            for i in range(20):
                first = f"Conversation {i}. " + "Good morrow, my lord, and good fortune to you and all your house. " * 6
                messages, started = [{"role": "user", "content": first}], [requests_of(p) for p in ports]
                for n in range(3):
                    answer = json.loads(turn(messages))
                    reused += answer["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
                    messages.append({"role": "assistant", "content": answer["choices"][0]["message"]["content"]})
                    messages.append({"role": "user", "content": "Speak on."})
                went = [requests_of(p) - b for p, b in zip(ports, started)]
                assert sorted(went) == [0, 3], (i, went)
            spread = [requests_of(p) - b for p, b in zip(ports, before)]
            assert sum(spread) == 60 and min(spread) >= 9, spread
            print(f"20 conversations of 3 turns: {spread[0]} requests here, {spread[1]} there, "
                  f"every later turn where the first was; {reused} of 40 found keys and values there")
            assert reused > 0

            before = [requests_of(p) for p in ports]
            for i in range(6):
                turn([{"role": "user", "content": f"{i} of one session"}], headers={"X-Session-Id": "a session"})
            spread = [requests_of(p) - b for p, b in zip(ports, before)]
            assert sorted(spread) == [0, 6], spread
            print("a client that names its session stays with one server, whatever it says")

            events = turn([{"role": "user", "content": "A stream."}], stream=True)
            assert events.rstrip().endswith("data: [DONE]") and events.count("data: ") > 5
            print("streams pass")

            # A state moves: what one has computed, the other goes on from.
            direct = [f"http://127.0.0.1:{p}" for p in ports]
            prompt = "First Citizen:\nBefore we proceed any further, hear me speak."
            body = {"prompt": prompt, "max_tokens": 8, "temperature": 0, "id_slot": 1}
            text = json.loads(ask(direct[0], "/v1/completions", body))["choices"][0]["text"]
            saved = json.loads(ask(direct[0], "/slots/1?action=save", {"filename": "moves.state"}))
            ask(direct[1], "/slots/1?action=restore", {"filename": "moves.state"})
            answer = json.loads(ask(direct[1], "/v1/completions", {**body, "prompt": prompt + text + " Speak"}))
            assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == saved["n_saved"], answer["usage"]
            print(f"a state of {saved['n_saved']} tokens moves from one to the other")

            # One is stopped: its conversations go on with the other, which computes them anew.
            processes[0].send_signal(signal.SIGTERM)
            assert processes[0].wait(60) == 0
            for i in range(10):
                turn([{"role": "user", "content": f"Conversation {i}: who is left?"}])
            print("one server is stopped: the other answers for both")
        finally:
            for process in processes:
                if process.poll() is None:
                    process.terminate()
                    process.wait(60)


main()
