"""The figures of agents: how soon one is there, and what our way adds to what opencode itself takes for an answer."""

import json
from pathlib import Path
from typing import Any, Final

from tests import scripted_model
from tests.bench.figures import Bench
from tests.bench.stopwatch import Samples, sampled
from tests.clients import Sandbox, eventually, fresh

PORT: Final = 9801
ENV: Final = {
    "OPENAI_BASE_URL": f"http://127.0.0.1:{PORT}/v1",
    "OPENAI_API_KEY": scripted_model.KEY,
    "OPENAI_MODEL": "acme/large-1",
}
AGENT: Final[dict[str, Any]] = {"opencode": {"enabled": True}}
PROMPT: Final = 'Say it\nSCRIPT [{"text": "said"}]'
READY_S: Final = 180.0
OWN = """
import json, os, subprocess, sys, time, urllib.request
url = os.environ["OPENAI_BASE_URL"]
provider = {"npm": "@ai-sdk/openai-compatible", "name": "m", "models": {"m": {"name": "m"}}}
provider["options"] = {"baseURL": url, "apiKey": os.environ["OPENAI_API_KEY"]}
config = {"provider": {"m": provider}, "enabled_providers": ["m"], "model": "m/m", "small_model": "m/m"}
names = ("MODELS_FETCH", "AUTOUPDATE", "LSP_DOWNLOAD", "DEFAULT_PLUGINS", "SHARE")
alone = {f"OPENCODE_DISABLE_{name}": "1" for name in names}
env = {**os.environ, **alone, "OPENCODE_CONFIG_CONTENT": json.dumps(config), "XDG_DATA_HOME": "/tmp/own"}
server = subprocess.Popen(["opencode", "serve", "--port", "4500"], env=env, cwd="/workspace",
                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
def ask(method, path, body=None, within=60):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request("http://127.0.0.1:4500" + path, data, {"Content-Type": "application/json"},
                                     method=method)
    return json.loads(urllib.request.urlopen(request, timeout=within).read())
while True:
    try:
        ask("GET", "/global/health", within=1)
        break
    except OSError:
        time.sleep(0.2)
took = []
for _ in range(int(sys.argv[1]) + 1):
    began = time.perf_counter()
    session = ask("POST", "/session", {"title": "t"})["id"]
    ask("POST", f"/session/{session}/message", {"parts": [{"type": "text", "text": sys.argv[2]}]})
    took.append((time.perf_counter() - began) * 1000)
server.kill()
print(json.dumps(took[1:]))
"""


def agents(bench: Bench, isolation: str) -> None:
    """How soon an agent is ready, and an answer of a model that answers at once: through the API, and by an opencode
    that is asked inside."""
    wish: dict[str, Any] = {"runtime": "python", "isolation": isolation, "capabilities": AGENT, "env": ENV}

    def once() -> None:
        with fresh(bench.api, **wish) as box:
            _ready(box)

    bench.tell("create → agent ready", isolation, sampled(once, bench.count(3)))
    with fresh(bench.api, **wish) as box:
        box.write("/opt/model.py", Path(scripted_model.__file__).read_bytes())
        box.background(f"python3 /opt/model.py {PORT}")
        _ready(box)
        count = bench.count(10)
        _prompt(box)
        bench.tell("prompt of a model that answers at once", isolation, sampled(lambda: _prompt(box), count))
        box.write("/opt/own.py", OWN.encode())
        own = box.run(f"python3 /opt/own.py {count} '{PROMPT}'", timeout=300_000)
        bench.tell("the same, opencode asked inside", isolation, Samples(tuple(json.loads(own))))


def _ready(box: Sandbox) -> None:
    eventually("the agent", lambda: box.api.get(box.id)["opencode"]["status"] == "ready", READY_S, 0.05)


def _prompt(box: Sandbox) -> None:
    done = box.post("/opencode/prompt", prompt=PROMPT)
    assert done["result"]["text"] == "said", done
