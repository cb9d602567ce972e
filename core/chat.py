"""Chat completions of an OpenAI-compatible server: one request, one reply, asked again while the server is busy.

What is asked and what is made of the reply is the caller's; several requests at a time are the caller's threads. The
key, where a server wants one, is OPENAI_API_KEY's."""
from __future__ import annotations

import json
import os
import random
import re
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

from core.errors import UserError

BUSY = (408, 409, 425, 429, 500, 502, 503, 504)


class Failure(str):
    """Instead of an answer: why there is none."""


@dataclass(frozen=True)
class Reply:
    """Tokens are the server's own count, 0 where it gives none."""

    text: str
    tokens_in: int = 0
    tokens_out: int = 0


@dataclass(frozen=True)
class Chat:
    """endpoint: up to and with /v1. timeout: seconds for one answer. tries: per request, with growing pauses."""

    endpoint: str
    timeout: float = 120.0
    tries: int = 6

    def ask(self, body: dict[str, Any]) -> Reply | Failure:
        """The reply to a chat-completion body, or why this request failed on its own.

        Raises UserError if the server refuses requests as such or cannot be reached at all."""
        reason, unreachable = "", False
        for attempt in range(self.tries):
            if attempt:
                time.sleep(pause(attempt, reason))
            try:
                return self._post(body)
            except urllib.error.HTTPError as error:
                reason, unreachable = f"HTTP {error.code} {error.headers.get('Retry-After', '')}", False
                if error.code not in BUSY:
                    said = error.read()[:150].decode("utf-8", "replace")
                    raise UserError(f"endpoint {self.endpoint} refuses requests (HTTP {error.code}: {said}): "
                                    "check model and address") from error
            except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
                reason = f"{type(error).__name__}: {error}"
                unreachable = isinstance(getattr(error, "reason", error), ConnectionRefusedError)
        if unreachable:
            raise UserError(f"endpoint {self.endpoint} does not answer ({reason}): start the server, then "
                            "repeat the command; finished work is kept")
        return Failure(f"no answer after {self.tries} tries: {reason[:100]}")

    def _post(self, body: dict[str, Any]) -> Reply | Failure:
        key = os.environ.get("OPENAI_API_KEY")
        request = urllib.request.Request(
            f"{self.endpoint.rstrip('/')}/chat/completions", json.dumps(body).encode(),
            {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})})
        with urllib.request.urlopen(request, timeout=self.timeout) as response:
            return reply(json.load(response))


def reply(body: dict[str, Any]) -> Reply | Failure:
    """What a chat completion's body says. Raises KeyError, IndexError or TypeError if it is none."""
    choice, usage = body["choices"][0], body.get("usage") or {}
    if choice.get("finish_reason") == "length":
        return Failure("the answer was cut at its greatest length")
    return Reply(str(choice["message"]["content"] or "").strip(), int(usage.get("prompt_tokens") or 0),
                 int(usage.get("completion_tokens") or 0))


def pause(attempt: int, reason: str) -> float:
    """Seconds before try number `attempt`: what the server asks for, else growing, spread by chance."""
    asked = re.search(r"HTTP \d+ (\d+)$", reason)
    return float(asked[1]) if asked else min(60.0, 0.25 * 2**attempt) * random.uniform(0.5, 1.5)
