"""The command line: every verb in one place, no logic. Heavy libraries are imported inside the verbs."""
from __future__ import annotations

import errno
import json
import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
                  context_settings={"help_option_names": ["-h", "--help"]},
                  help="How much data in a low-resource language does a multimodal LLM need? GRID is a YAML file, or "
                       "the name of one in experiments/grids. --debug shows the traceback of an error.")

data = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Build, check and show data sets.")
app.add_typer(data, name="data")
_PLACES = {"ENOSPC", "EDQUOT", "EROFS", "EACCES", "EPERM", "ENOTDIR", "EISDIR", "EEXIST"}


def _option(words: str, metavar: str | None = None, least: float | None = None) -> Any:
    return typer.Option(help=words, metavar=metavar, min=least)


Grid = Annotated[str, typer.Argument(help="A grid's name or its YAML file.", metavar="GRID")]
Overrides = Annotated[list[str] | None, typer.Argument(help="key=value: an axis or a dotted key.",
                                                          metavar="[KEY=VALUE]...")]
Selectors = Annotated[list[str] | None, typer.Argument(help="stage=finetune state=failed target_ratio=0.2, or ids.",
                                                          metavar="[SELECTOR]...")]
RunName = Annotated[str, typer.Argument(help="A run's id (or its beginning), name or directory.", metavar="RUN")]
DataDir = Annotated[Path, typer.Argument(help="A data set's folder.", metavar="DIR")]
Cluster = Annotated[str | None, typer.Option(help="local, or a profile in slurm/profiles.", metavar="PROFILE")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def plan(grid: Grid, overrides: Overrides = None, cluster: Cluster = None, as_json: Json = False) -> None:
    """Show what `submit` would do: runs, what they share, what is missing."""
    from analysis.questions import declared
    from slurm import studies

    study = studies.open_study(grid, overrides or [])
    declared(study.grid.resolved())
    intended = studies.plan(study, studies.choose_backend(cluster, study.name))
    _print_plan(intended, as_json)


@app.command()
def submit(grid: Grid, overrides: Overrides = None, cluster: Cluster = None, as_json: Json = False) -> None:
    """Make it so: run what is missing, go on with what was stopped. Calling it again changes nothing that is well."""
    from analysis.questions import declared
    from slurm import studies

    study = studies.open_study(grid, overrides or [])
    declared(study.grid.resolved())
    backend = studies.choose_backend(cluster, study.name)
    intended = studies.plan(study, backend)
    _print_plan(intended, as_json)
    with redirect_stdout(sys.stderr if as_json else sys.stdout):  # a study that runs here tells how it goes
        raise typer.Exit(studies.submit(intended, backend))


@app.command()
def status(grid: Grid, selectors: Selectors = None, cluster: Cluster = None, as_json: Json = False,
           watch: Annotated[bool, typer.Option(help="Refresh until Ctrl-C.")] = False,
           every: Annotated[float, typer.Option(help="Seconds between refreshes.")] = 2.0) -> None:
    """One line a run: state, step, time to go, tokens/s, attempts, why it waits or how it ended."""
    from slurm import studies, table

    dotted, chosen = studies.parted(selectors or [])
    study = studies.open_study(grid, dotted)
    backend = studies.choose_backend(cluster, study.name)
    if watch and not as_json:
        table.watch(lambda: studies.status_rows(study, backend, chosen), every)
        return
    found = studies.status_rows(study, backend, chosen)
    if as_json:
        _print_json([row.as_dict() for row in found])
    else:
        table.console().print(table.status_table(found), table.summary(found))


@app.command()
def logs(run: RunName,
         follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on until the run ends.")] = False,
         last: Annotated[int, typer.Option("-n", help="Lines per node; 0 for all.", min=0)] = 40) -> None:
    """The log of a run's newest attempt."""
    from experiments.store import find_run
    from slurm.logs import lines

    for line in lines(find_run(run), follow, last):
        typer.echo(line)


@app.command()
def cancel(grid: Grid, selectors: Selectors = None, cluster: Cluster = None,
           save: Annotated[bool, typer.Option(help="Let runs save before they end.")] = True) -> None:
    """End runs and keep them from starting until `retry`. Without selectors: all that are not done."""
    from slurm import studies

    dotted, words = studies.parted(selectors or [])
    study = studies.open_study(grid, dotted)
    chosen = studies.cancel(study, studies.choose_backend(cluster, study.name), words, save)
    _print_names("cancelled", chosen)


@app.command()
def retry(grid: Grid, selectors: Selectors = None, cluster: Cluster = None) -> None:
    """Give failed, lost and cancelled runs a new budget of attempts; the next `submit` starts them."""
    from slurm import studies

    dotted, words = studies.parted(selectors or [])
    study = studies.open_study(grid, dotted)
    chosen = studies.retry(study, studies.choose_backend(cluster, study.name), words)
    _print_names("to be retried by the next submit", chosen)


@app.command()
def report(grid: Grid, overrides: Overrides = None,
           out: Annotated[Path | None, typer.Option(help="Default: reports/<study>.", metavar="DIR")] = None,
           store: Annotated[list[Path] | None, _option("The study's folder on another cluster.", "DIR")] = None,
           as_json: Json = False) -> None:
    """Write tables, figures, LaTeX and one HTML page, and answer the study's questions as the numbers have it."""
    from analysis.report import report as write
    from experiments.store import study_path
    from slurm import studies

    study = studies.open_study(grid, overrides or [])
    stores = [study_path(study.name), *(store or [])]
    written = write(stores, study.grid.resolved(), out or Path("reports") / study.name, study.targets)
    if as_json:
        _print_json(written)
        return
    for answer in written["answers"]:
        typer.echo(f"{answer['question']} {answer['answer']}.\n  {answer['sentence']} {answer['outlook']}".rstrip())
    typer.echo(f"report: {written['paths']['report.html']}")


@app.command()
def judge(grid: Grid, selectors: Selectors = None, *,
          endpoint: Annotated[str, _option("An OpenAI-compatible server, up to and with /v1.", "URL")] = "",
          model: Annotated[str, _option("The judge, as the server calls it.", "NAME")] = "",
          prompt: Annotated[str, _option("pair-1, rubric-1, or a YAML file like theirs.")] = "pair-1",
          prompt_language: Annotated[str, _option("A code, or item: that of the item.")] = "en",
          task: Annotated[list[str] | None, _option("Default: all with free answers.")] = None,
          language: Annotated[list[str] | None, _option("Default: all.")] = None,
          items: Annotated[int, _option("Per subset, task and language; 0: all.")] = 100,
          pairs: Annotated[int, _option("Pairs of conditions per item; 0: all.", least=0)] = 0,
          images: Annotated[bool, _option("Show the judge the image.")] = True,
          requests: Annotated[int, _option("At the same time.", least=1)] = 8,
          timeout: Annotated[float, _option("Seconds for one reply.", least=1)] = 120.0,
          price_in: Annotated[float, _option("Of a million tokens read.", least=0)] = 0.0,
          price_out: Annotated[float, _option("Of a million tokens written.", least=0)] = 0.0,
          dry_run: Annotated[bool, _option("Say how many calls, tokens and what cost; ask nothing.")] = False,
          write: Annotated[Path | None, _option(".html: a page for people to vote on; .jsonl: a batch file.")] = None,
          shown: Annotated[int, _option("Pairs on the page.", least=1)] = 100,
          read: Annotated[Path | None, _option("Votes (.json, .csv), or results of a batch (.jsonl).")] = None,
          out: Annotated[Path | None, _option("The report's folder. Default: reports/<study>.", "DIR")] = None,
          store: Annotated[list[Path] | None, _option("The study's folder on another cluster.", "DIR")] = None) -> None:
    """Have free answers judged, by a server, a batch file or people. Called again, it goes on where it stopped."""
    from analysis import judging
    from experiments.store import study_path
    from slurm import studies

    dotted, words = studies.parted(selectors or [])
    study = studies.open_study(grid, dotted)
    folder = (out or Path("reports") / study.name) / "judge"
    if read:
        typer.echo(judging.read(folder, read))
        return
    found = judging.answers([study_path(study.name), *(store or [])], study, task, language, items,
                            studies.chosen_ids(study, words) if words else None)
    if write and write.suffix == ".html":
        typer.echo(judging.write_page(found, folder, write, study.name, shown, pairs))
        return
    intended = judging.plan(found, judging.Judge(model, prompt, prompt_language, images, price_in, price_out), folder,
                            pairs)
    typer.echo("\n".join(intended.lines()))
    if write:
        typer.echo(judging.write_requests(intended, folder, write))
    elif not dry_run:
        typer.echo(judging.ask(intended, folder, endpoint, timeout, requests))


@app.command()
def board(grid: Grid, selectors: Selectors = None,
          port: Annotated[int, typer.Option(help="0: any that is free.")] = 6006,
          host: Annotated[str, typer.Option(help="0.0.0.0 lets other machines in.")] = "localhost",
          serve: Annotated[bool, typer.Option(help="Start TensorBoard, not only make its folder.")] = True) -> None:
    """TensorBoard on the study: runs by readable names, hyper-parameters, scores over the ratio."""
    from analysis.board import CURVES
    from analysis.board import board as make
    from experiments.store import study_path
    from slurm import studies

    dotted, words = studies.parted(selectors or [])
    study = studies.open_study(grid, dotted)
    folder = make(study_path(study.name), selected=studies.chosen_ids(study, words) if words else None)
    typer.echo(f"board: {folder}")
    if serve:
        if port:
            typer.echo(f"scores over the ratio: http://{host}:{port}/{CURVES}")
        os.execv(sys.executable, [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder),
                                  "--port", str(port), "--host", host])


@app.command("next")
def further(grid: Grid, overrides: Overrides = None,
            out: Annotated[Path | None, _option("Default: next-<study>.yaml.", "FILE")] = None) -> None:
    """Write a grid of further seeds for what the study leaves open: half of those that are expected to decide it."""
    from analysis.answers import answer
    from analysis.collect import collect
    from analysis.further import next_grid, write_grid
    from analysis.questions import declared
    from analysis.study import study_of
    from experiments.store import study_path
    from slurm import studies

    study = studies.open_study(grid, overrides or [])
    declaration = study.grid.resolved()
    found = study_of(collect([study_path(study.name)], study.targets), declared(declaration))
    document = next_grid(found, answer(found), declaration, study.grid.source)
    path = write_grid(document, out or Path(f"next-{study.name}.yaml"))
    typer.echo(f"{document['description']}: `begira submit {path}`")


@app.command()
def export(run: RunName, out: Annotated[Path, typer.Argument(help="Folder to write.", metavar="DIR")]) -> None:
    """Write a trained model as a plain transformers folder, which loads without begira."""
    from experiments.store import find_run

    path = find_run(run)
    with _quiet():
        from core.model import export as write

        written = write(path, out)
    typer.echo(str(written))


@app.command()
def ask(run: RunName, image: Annotated[Path, typer.Argument(help="PNG, JPEG or WebP.", metavar="IMAGE")],
        question: Annotated[str, typer.Argument(help="In any language it learned.", metavar="QUESTION")]) -> None:
    """Ask a trained model a question about an image."""
    from experiments.store import find_run

    path = find_run(run)
    with _quiet():
        from core.ask import ask as put

        answer = put(path, image, question)
    typer.echo(answer)


@data.command()
def build(name: Annotated[str, typer.Argument(help="e.g. emoji", metavar="NAME")], overrides: Overrides = None,
          lang: Annotated[str, typer.Option(help="The target language.")] = "eu",
          out: Annotated[Path | None, typer.Option(help="Default: data/NAME-LANG.", metavar="DIR")] = None,
          as_json: Json = False) -> None:
    """Fetch the sources and write the shards; what stands already is left as it is."""
    from data_tools.build import build as make
    from data_tools.describe import built
    from experiments.overrides import parse

    found = make(name, out, lang, parse(overrides or []))
    _print_json(found) if as_json else typer.echo(built(found))


@data.command()
def check(folder: DataDir, mark: Annotated[bool, typer.Option(help="Flag broken samples in the index.")] = False,
          as_json: Json = False) -> None:
    """Read a whole data set and name everything that is broken; exit code 2 if anything is."""
    from data_tools.check import check as look
    from data_tools.describe import checked

    found = look(folder, mark)
    _print_json(found) if as_json else typer.echo(checked(folder, found))
    raise typer.Exit(2 if any(one["level"] == "error" for one in found) else 0)


@data.command()
def show(folder: DataDir,
         tokenizer: Annotated[Path | None, typer.Option(help="Count tokens with this.", metavar="FOLDER")] = None,
         sheet: Annotated[Path | None, typer.Option(help="Contact sheet, without suffix.", metavar="FILE")] = None,
         as_json: Json = False) -> None:
    """Counts, words and tokens per language, licences, and a contact sheet of the images."""
    from data_tools.describe import shown
    from data_tools.show import show as look

    found = look(folder, tokenizer, sheet)
    _print_json(found) if as_json else typer.echo(shown(found))


@data.command()
def translate(grid: Grid, overrides: Overrides = None, *,
              out: Annotated[Path, typer.Option(help="The data set to write.", metavar="DIR")],
              as_json: Json = False) -> None:
    """Put the translations of a grid of translate runs, all done, beside the source texts in a new data set."""
    from data_tools.describe import built
    from data_tools.translated import merge
    from slurm import studies

    began = time.monotonic()
    manifest = merge(studies.finished(studies.open_study(grid, overrides or [])), out)
    found = {"path": str(out), "state": "built", "manifest": manifest, "seconds": time.monotonic() - began}
    _print_json(found) if as_json else typer.echo(built(found))


@app.command()
def run(run_dir: Annotated[Path, typer.Argument(help="A run's directory.", metavar="RUN_DIR")]) -> None:
    """Execute one run; what a job calls, also by hand."""
    from experiments.execute import execute

    raise typer.Exit(execute(run_dir))


def main() -> None:
    """Run the command line: one line per error, exit code 2 for the user's mistakes and 1 for ours."""
    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")
    sys.exit(_guarded(debug))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the libraries' bars and warnings away: what a verb answers is all that it prints."""
    os.environ.update(TQDM_DISABLE="1", HF_HUB_DISABLE_PROGRESS_BARS="1", TRANSFORMERS_VERBOSITY="error")
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def _guarded(debug: bool) -> int:
    from core.errors import UserError

    try:
        code = app(standalone_mode=False, prog_name="begira")
        return code if isinstance(code, int) else 0
    except typer.Exit as leave:
        return leave.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except SystemExit as leave:
        if isinstance(leave.__context__, BrokenPipeError):  # typer's answer to a reader that has seen enough
            return 0
        raise
    except UserError as error:
        return _complain(str(error), 2, debug)
    except Exception as error:
        if isinstance(error, OSError) and errno.errorcode.get(error.errno or 0) in _PLACES:
            return _complain(f"{error.filename2 or error.filename or 'a file'}: {error.strerror}: make room, mend the "
                             "place or choose another, then repeat the command", 2, debug)
        if type(error).__name__ == "NoArgsIsHelpError":
            sys.stderr.write(f"{error.format_message()}\n")  # type: ignore[attr-defined]
            return 2
        if hasattr(error, "format_message"):  # a word that the parser does not understand
            return _complain(f"{error.format_message().rstrip('.')}. See `begira --help`.", 2, debug)
        return _complain(f"{type(error).__name__}: {error} (a fault of begira's: --debug shows where)", 1, debug)


def _complain(message: str, code: int, debug: bool) -> int:
    if debug:
        import traceback

        traceback.print_exc()
    sys.stderr.write(f"begira: {' '.join(message.split())}\n")
    return code


def _print_plan(intended: Any, as_json: bool) -> None:
    if as_json:
        findings = [vars(one) for one in intended.findings]
        _print_json({"lines": intended.lines, "findings": findings, **intended.details})
        return
    for line in intended.lines:
        typer.echo(line)
    for finding in intended.findings:
        typer.echo(f"{'problem' if finding.grave else 'note'}: {finding}")


def _print_names(what: str, runs: list) -> None:
    for one in runs:
        typer.echo(f"{one.id} {one.name}")
    typer.echo(f"{len(runs)} run{'s' * (len(runs) != 1)} {what}")


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=1, ensure_ascii=False, default=str))


if __name__ == "__main__":
    main()
