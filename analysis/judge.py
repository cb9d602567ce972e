"""`begira judge`: free answers judged in pairs or one by one, by any OpenAI-compatible endpoint or elsewhere, offline.

    plan -> ask(endpoint) or write_batch ... read_batch -> journals and table (analysis.judgements)

Each reply is written down as it comes; called again, only what is missing is asked. A process that is killed loses the
replies that were under way, no others. Equal answers are a tie without a call. What to make of the verdicts is
`analysis.preferences`'."""
from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from analysis import judge_prompt
from analysis.judge_plan import Answered, pair_records, picture, rubric_records
from analysis.judgements import Journal, asked, journal, keep_asked, path_of
from core.chat import Chat, Failure, Reply, reply
from core.errors import UserError
from core.files import replacing

READABLE = ("ok", "same")
FINAL = (*READABLE, "unreadable")  # an error may pass; the same request at temperature 0 stays unreadable


@dataclass(frozen=True)
class Judge:
    """Who judges and how. Prices: of a million tokens, in any currency. prompt_language: "item" is that of the item."""

    model: str
    prompt: str = "pair-1"
    prompt_language: str = "en"
    images: bool = True
    price_in: float = 0.0
    price_out: float = 0.0

    @property
    def kind(self) -> str:
        return judge_prompt.load(self.prompt)["kind"]

    @property
    def fields(self) -> dict[str, Any]:
        """What names the judge in every judgement."""
        return {"judge": self.model, "kind": self.kind, "prompt": Path(self.prompt).stem,
                "prompt_language": self.prompt_language, "images": self.images}

    @property
    def name(self) -> str:
        return "-".join([self.model, Path(self.prompt).stem, self.prompt_language, *["blind"] * (not self.images)])

    def cost(self, tokens_in: float, tokens_out: float) -> float:
        return (tokens_in * self.price_in + tokens_out * self.price_out) / 1e6


@dataclass
class Intended:
    """All judgements of the plan, and those that are still to be made, of which `calls` need the judge."""

    found: Answered
    judge: Judge
    records: list[dict[str, Any]]
    open: list[dict[str, Any]]
    measured: tuple[float, float] | None = None      # mean tokens in and out of the calls that were made
    pictures: dict[tuple, bytes | None] = field(default_factory=dict, repr=False)
    lock: Any = field(default_factory=threading.Lock, repr=False)

    @property
    def calls(self) -> list[dict[str, Any]]:
        return [record for record in self.open if not record["same"]]

    def body(self, record: dict[str, Any]) -> dict[str, Any]:
        """The request of a record, with its image if the judge sees. Raises UserError where it is not at hand."""
        question = self.found.questions[record["subset"], record["task"], record["item"], record["language"]]
        image = None
        if self.judge.images and "<image>" in question.prompt:
            with self.lock:  # readers of a subset share their files
                image = picture(self.found, question)
            if image is None:
                raise UserError(f"the image of item {record['item']} ({record['subset']}) is not at hand: judge where "
                                "the data set lies, or without images (--no-images)")
        return judge_prompt.body(judge_prompt.load(self.judge.prompt), self.judge.prompt_language, self.judge.model,
                                 question, record["left"], record["right"], image)

    def tokens(self) -> tuple[float, float]:
        """What the calls will take, in and out: as measured, else estimated on twenty of them."""
        calls = self.calls
        if self.measured is None and calls:
            sample = calls[::max(1, len(calls) // 20)]
            found = [judge_prompt.estimate(self.body(record)) for record in sample]
            means = [sum(column) / len(found) for column in zip(*found, strict=True)]
        else:
            means = list(self.measured or (0.0, 0.0))
        return means[0] * len(calls), means[1] * len(calls)

    def lines(self) -> list[str]:
        """What is intended, for people: answers, calls, tokens and cost."""
        languages = ", ".join(sorted({record["language"] for record in self.records}))
        tasks = ", ".join(sorted({record["task"] for record in self.records}))
        items = len({(record["subset"], record["item"]) for record in self.records})
        made = len(self.records) - len(self.open)
        came = self.tokens()
        source = "as measured so far" if self.measured else "estimated"
        said = {"pair": f"{len(self.records) // 2:,} pairs of answers, each in both orders",
                "rubric": f"{len(self.records):,} answers"}[self.judge.kind]
        return [f"{len(self.found.conditions)} conditions, {items:,} items of {tasks} in {languages}: {said}",
                f"{len(self.calls):,} calls of {self.judge.model or 'a judge'}; {made:,} judgements are there already, "
                f"{len(self.open) - len(self.calls):,} are ties of equal answers and need none",
                f"about {came[0]:,.0f} tokens in and {came[1]:,.0f} out ({source}), {self.judge.cost(*came):,.2f} at "
                f"{self.judge.price_in:g} and {self.judge.price_out:g} a million"]


def plan(found: Answered, judge: Judge, folder: Path, per_item: int = 0) -> Intended:
    """What is to be judged and what of it stands in the journal.

    Raises UserError if the prompt's file was changed under its name since."""
    prompt = judge_prompt.load(judge.prompt)
    for language in {question.key[3] for question in found.questions.values()}:
        judge_prompt.wording(prompt, judge.prompt_language, language)
    records = (pair_records(found, judge.fields, per_item) if judge.kind == "pair"
               else rubric_records(found, judge.fields))
    path = path_of(folder, judge.name)
    known = Journal(path).lines
    if any(line.get("prompt_digest") not in (None, prompt["digest"]) for line in known.values()):
        raise UserError(f"prompt {judge.prompt} was changed since {path.name} was begun: copy it under a new name "
                        "(the old judgements stay)")
    to_do = [record for record in records if not _is_made(record, known)]
    took = [line for line in known.values() if line.get("tokens_in")]
    measured = (sum(line["tokens_in"] for line in took) / len(took),
                sum(line["tokens_out"] for line in took) / len(took)) if took else None
    return Intended(found, judge, records, to_do, measured)


def _is_made(record: dict[str, Any], known: dict[str, dict[str, Any]]) -> bool:
    line = known.get(record["id"], {})
    return line.get("status") in FINAL and line.get("answers") == record["answers"]


def ask(intended: Intended, folder: Path, chat: Chat, requests: int = 8,
        tick: Callable[[int, int], None] = lambda done, total: None) -> None:
    """Make what is open, several requests at a time; every reply is in the journal before the next request starts.

    tick(done, total) is called after each. Raises UserError if the endpoint refuses or does not answer; what came
    before is kept."""
    with journal(folder, intended.judge.name) as book:
        intended.open = [record for record in intended.open if not _is_made(record, book.lines)]
        _keep_ties(intended, book)
        calls = intended.calls
        total = len(calls)

        def one(record: dict[str, Any]) -> Reply | Failure:
            return chat.ask(intended.body(record))

        with ThreadPoolExecutor(max(1, requests)) as pool:
            for done, (record, answer) in enumerate(_as_they_come(pool, one, calls, requests), 1):
                book.add(judged(record, intended.judge, answer))
                tick(done, total)
        intended.open = []


def _as_they_come(pool: ThreadPoolExecutor, one: Callable, records: list[dict[str, Any]],
                  requests: int) -> Iterator[tuple[dict[str, Any], Reply | Failure]]:
    """(record, answer) of all records, never more than `requests` under way; the first exception ends it."""
    rest, running = iter(records), {}

    def start() -> None:
        record = next(rest, None)
        if record is not None:
            running[pool.submit(one, record)] = record

    for _ in range(max(1, requests)):
        start()
    failed: BaseException | None = None
    while running:
        ended: set[Future] = wait(running, return_when=FIRST_COMPLETED).done
        for future in ended:
            record = running.pop(future)
            if future.exception() is not None:
                failed = failed or future.exception()
                continue
            yield record, future.result()
            if failed is None:
                start()
    if failed is not None:
        raise failed


def _keep_ties(intended: Intended, book: Journal) -> None:
    digest = judge_prompt.load(intended.judge.prompt)["digest"]
    for record in intended.open:
        if record["same"]:
            book.add({**record, "prompt_digest": digest, "status": "same", "verdict": "tie"})


def judged(record: dict[str, Any], judge: Judge, answer: Reply | Failure) -> dict[str, Any]:
    """The record with what the judge said: status ok, unreadable (a reply without a verdict) or error (no reply)."""
    line = {**record, "prompt_digest": judge_prompt.load(judge.prompt)["digest"]}
    if isinstance(answer, Failure):
        return {**line, "status": "error", "error": str(answer)}
    verdict, grade = judge_prompt.verdict(record["kind"], answer.text)
    return {**line, "status": "ok" if verdict or grade else "unreadable", "verdict": verdict, "grade": grade,
            "reply": answer.text, "tokens_in": answer.tokens_in, "tokens_out": answer.tokens_out,
            "cost": judge.cost(answer.tokens_in, answer.tokens_out)}


def write_batch(intended: Intended, folder: Path, path: Path) -> int:
    """Write the calls as a batch file of the OpenAI format (one JSON request a line); returns their number.

    vLLM's `run_batch` and the batch services read it. Ties of equal answers are made at once."""
    with journal(folder, intended.judge.name) as book:
        _keep_ties(intended, book)
    calls = intended.calls
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as stream:
        for record in calls:
            stream.write(json.dumps({"custom_id": record["id"], "method": "POST", "url": "/v1/chat/completions",
                                     "body": intended.body(record)}, ensure_ascii=False) + "\n")
    judge = intended.judge
    keep_asked(folder, judge.name, [{**record, "judge_name": judge.name, "price_in": judge.price_in,
                                     "price_out": judge.price_out, "prompt_file": judge.prompt} for record in calls])
    return len(calls)


def read_batch(folder: Path, path: Path) -> int:
    """Take the results of a batch file into the journals; returns how many. Read twice, it changes nothing.

    Raises UserError for a result that was never asked for."""
    known, count = asked(folder), 0
    results: dict[str, list[tuple[dict[str, Any], Reply | Failure]]] = {}
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not text.strip():
            continue
        try:
            result = json.loads(text)
            record = known[result["custom_id"]]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}, line {number}, is no result of a batch that this study wrote ({error}): "
                            "write one with --write FILE.jsonl, and give its results") from error
        results.setdefault(record["judge_name"], []).append((record, _batch_answer(result)))
    for name, rows in results.items():
        with journal(folder, name) as book:
            for asked_record, answer in rows:
                judge = Judge(asked_record["judge"], asked_record["prompt_file"], asked_record["prompt_language"],
                              asked_record["images"], asked_record["price_in"], asked_record["price_out"])
                record = {key: value for key, value in asked_record.items()
                          if key not in ("judge_name", "price_in", "price_out", "prompt_file")}
                if not _is_made(record, book.lines):
                    book.add(judged(record, judge, answer))
                    count += 1
    return count


def _batch_answer(result: dict[str, Any]) -> Reply | Failure:
    response = result.get("response") or {}
    if result.get("error") or response.get("status_code", 200) != 200:
        return Failure(f"in the batch: {result.get('error') or response.get('status_code')}")
    try:
        return reply(response["body"])
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        return Failure(f"in the batch: {type(error).__name__}: {error}")
