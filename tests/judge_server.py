"""A real OpenAI-compatible server that judges by content: the answer that equals the reference is the better one.

Some pairs, by the hash of what is asked, always get "A", which is what a judge with a position bias does. Every request
is logged before it is answered, so that what was asked can be counted after any kill. As a process:
`python -m tests.judge_server ADDRESS_FILE LOG BIAS SECONDS`."""
from __future__ import annotations

import hashlib
import http.server
import json
import re
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

from core.files import append_line, write_text
from tests.begira_process import ROOT, end, wait_until


def biased(text: str, share: float) -> bool:
    """Whether the judge's bias decides this pair: the same for both orders."""
    parts = sorted(line for line in re.split(r"\n+|Answer [AB]: ", text) if line)
    return int(hashlib.sha256("|".join(parts).encode()).hexdigest()[:8], 16) / 2**32 < share


def verdict(text: str, share: float) -> str:
    """The reply to a user text of prompt pair-1 or rubric-1 in English."""
    reference = re.search(r"Reference answer: (.*)", text)[1]
    left, right = (re.search(rf"Answer{name}: (.*)", text) for name in ("(?: A)?", " B"))
    if right is None:
        return "[[5]]" if left[1] == reference else "[[2]]"
    if "unreadable" in text:
        return "I cannot say."
    if biased(text, share):
        return "The first, as always. [[A]]"
    good = left[1] == reference, right[1] == reference
    return {(True, False): "[[B]] would be wrong, so: [[A]]", (False, True): "[[B]]", (True, True): "[[tie]]",
            (False, False): "[[bad]]"}[good]


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        content = body["messages"][-1]["content"]
        text = content if isinstance(content, str) else content[-1]["text"]
        append_line(self.server.log, json.dumps({"text": text, "image": not isinstance(content, str)}))
        time.sleep(self.server.seconds)
        answer = {"choices": [{"message": {"content": verdict(text, self.server.share)}, "finish_reason": "stop"}],
                  "usage": {"prompt_tokens": len(text) // 4, "completion_tokens": 10}}
        data = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@contextmanager
def serving(folder: Path, share: float = 0.0, seconds: float = 0.0):
    """(address, log) of a server process with files in `folder`."""
    address, log = folder / "address", folder / "asked.jsonl"
    process = subprocess.Popen([sys.executable, "-m", "tests.judge_server", str(address), str(log), str(share),
                                str(seconds)], cwd=ROOT)
    try:
        wait_until(address.exists)
        yield address.read_text(), log
    finally:
        end(process)
        address.unlink(missing_ok=True)


def main() -> None:
    address, log, share, seconds = sys.argv[1:]
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.log, server.share, server.seconds = Path(log), float(share), float(seconds)
    write_text(address, f"http://127.0.0.1:{server.server_port}/v1")
    server.serve_forever()


if __name__ == "__main__":
    main()
