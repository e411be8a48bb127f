"""The `callforge` command. Start-up is light: torch, kfp and mlflow are imported by what needs them.

Exit codes: 0 done, 1 the work failed, 2 the input or configuration is wrong, 3 the gate refused a promotion. Errors are
one paragraph; `--debug` shows the traceback as well.
"""

from __future__ import annotations

import enum
import os
import sys
import time
import traceback
from contextlib import ExitStack
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer

from components.errors import CallforgeError, InputError, without_login
from components.files import exists, expand_home, is_folder
from components.stages.catalogue import NAMED_MODELS, find_stage
from pipelines.console import console, errors, print_table

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
INTERRUPTED = 130
SHOWN_RUNS = 5  # reports that `callforge ui` names: the latest


class Alias(enum.StrEnum):
    """What a version may be promoted to."""

    challenger = "challenger"
    champion = "champion"


Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.NAME=VALUE", help="Change one setting; docs/settings.md lists them."),
]
Profile = Annotated[str, typer.Option(help="Named recipe of pipelines/profiles.py.")]
Data = Annotated[str | None, typer.Option(help="Records: `sample` or `sample/home` (built in), a path, or s3://...")]
DataFormat = Annotated[str | None, typer.Option(help="Layout of the records: openai, xlam, ..., or auto.")]
BaseModel = Annotated[str | None, typer.Option(help="Model directory, hub id, s3://..., or package://NAME.")]
Endpoint = Annotated[str, typer.Option(help="Address of the Kubeflow Pipelines API.", envvar="KFP_ENDPOINT")]
Namespace = Annotated[str | None, typer.Option(help="Kubeflow namespace, where there are several users.")]
Out = Annotated[Path, typer.Option(help="Stage folder to write.")]
ArtifactRoot = Annotated[str | None, typer.Option(help="s3://bucket/prefix for outputs.")]
StageRun = Annotated[
    str | None, typer.Option("--run-id", help="Its run in S3 and MLflow. (default: one for this --out only)")
]
Model = Annotated[str, typer.Argument(help="Registered model.")]
DEBUG = "--debug"


def _print_version(wanted: bool) -> None:
    if wanted:
        from components.model_registration.lineage import commit

        console.print(f"callforge {metadata.version('callforge')}, commit {commit()}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print version and commit.")
    ] = False,
    debug: Annotated[  # here for the help: `main` reads it, before typer sees the command line
        bool, typer.Option(DEBUG, help="Show the traceback of an error; may stand anywhere.")
    ] = False,
) -> None:
    """Turns a base language model into one that calls functions well, here or on Kubeflow."""


@app.command()
def run(
    profile: Annotated[
        str | None,
        typer.Option(help="Named recipe: demo, gpu, gpu8, paper, paper-lora. (default: demo, or what the run had)"),
    ] = None,
    data: Data = None,
    data_format: DataFormat = None,
    base_model: BaseModel = None,
    model_name: Annotated[str | None, typer.Option(help="Registered model that receives the version.")] = None,
    experiment: Annotated[str | None, typer.Option(help="MLflow experiment.")] = None,
    artifact_root: ArtifactRoot = None,
    run_id: Annotated[
        str | None, typer.Option(help="Names the run; the same id goes on where it stopped. (default: the time)")
    ] = None,
    changes: Set = None,
) -> None:
    """Run the whole pipeline on this machine: refine, warm up, EGPO, evaluate, register.

    `--run-id X` by itself continues a stopped run with the settings it had; its finished stages are not redone.
    """
    from components.settings import read_assignment
    from pipelines.local import RUNS, Request, run_here, this_command

    parameters = {
        "data_refine.data": _local_path(data),
        "data_refine.data_format": data_format,
        "sft_warmup.base_model": _local_path(base_model),
        "model_registration.model_name": model_name,
        "run.experiment": experiment,
        "run.artifact_root": artifact_root,
    }
    settings: dict[str, Any] = {name: value for name, value in parameters.items() if value is not None}
    settings |= dict(read_assignment(text) for text in changes or [])
    run_id = run_id or time.strftime("%Y%m%d-%H%M%S")
    try:
        run_here(Request(run_id=run_id, profile=profile, settings=settings), console)
    except BaseException as error:
        begun = exists(RUNS / run_id / "run.json")
        if begun and isinstance(error, KeyboardInterrupt | CallforgeError):
            console.print(f"`{this_command()} run --run-id {run_id}` goes on where it stopped")
        if isinstance(error, KeyboardInterrupt):
            raise SystemExit(INTERRUPTED) from None
        raise


@app.command()
def refine(
    out: Out,
    profile: Profile = "demo",
    data: Data = None,
    data_format: DataFormat = None,
    artifact_root: ArtifactRoot = None,
    run_id: StageRun = None,
    changes: Set = None,
) -> None:
    """Check records by rules: qualified, hard and rejected ones, each with its reason."""
    from pipelines.lone_stage import run_stage

    parameters = {"data_refine.data": _local_path(data), "data_refine.data_format": data_format}
    run_stage(find_stage("data_refine"), out, {}, profile, changes, parameters | _place(artifact_root, run_id))


@app.command()
def sft(
    out: Out,
    records: Annotated[Path, typer.Option(help="Folder that `callforge refine` wrote.")],
    profile: Profile = "demo",
    base_model: BaseModel = None,
    artifact_root: ArtifactRoot = None,
    run_id: StageRun = None,
    changes: Set = None,
) -> None:
    """Warm a base model up on refined records."""
    from pipelines.lone_stage import run_stage

    parameters = {"sft_warmup.base_model": _local_path(base_model)} | _place(artifact_root, run_id)
    run_stage(find_stage("sft_warmup"), out, {"records": records}, profile, changes, parameters)


@app.command()
def egpo(
    out: Out,
    records: Annotated[Path, typer.Option(help="Folder that `callforge refine` wrote.")],
    model: Annotated[Path, typer.Option(help="Folder that `callforge sft` wrote.")],
    profile: Profile = "demo",
    artifact_root: ArtifactRoot = None,
    run_id: StageRun = None,
    changes: Set = None,
) -> None:
    """Train a warmed-up model by EGPO."""
    from pipelines.lone_stage import run_stage

    inputs = {"records": records, "model": model}
    run_stage(find_stage("egpo_rl"), out, inputs, profile, changes, _place(artifact_root, run_id))


@app.command()
def evaluate(
    out: Out,
    models: Annotated[
        list[str],
        typer.Argument(help="Model directories, run ids, models:/NAME@ALIAS, hub ids, s3://..., or package://NAME."),
    ],
    records: Annotated[
        str | None,
        typer.Option(help="Own records to ask beside BFCL: a file, or a folder that `callforge refine` wrote."),
    ] = None,
    profile: Profile = "demo",
    artifact_root: ArtifactRoot = None,
    run_id: StageRun = None,
    changes: Set = None,
) -> None:
    """Evaluate models on BFCL and on own records; several are asked the same questions, and compared."""
    from components.evaluations.compare import compare_folders
    from components.evaluations.tables import scores_table
    from components.evaluations.words import distinct_names
    from pipelines.lone_stage import run_stage

    places = dict(zip(distinct_names(models), models, strict=True))
    parameters = {"bfcl_eval.records": _local_path(records)} | _place(artifact_root, run_id)
    with ExitStack() as stack:
        _use_services_of(stack, *models, records or "")
        run_stage(NAMED_MODELS, out, {}, profile, changes, parameters, places)
    folders = {name: out / name for name in places} if len(places) > 1 else dict.fromkeys(places, out)
    print_table(console, scores_table(folders))
    for table in compare_folders(folders).tables() if len(folders) > 1 else ():
        print_table(console, table)
    scores = ", ".join(str(folder / "scores.json") for folder in folders.values())
    console.print(f"report {out / 'report.html'}, scores {scores}")


@app.command()
def compare(
    places: Annotated[
        list[str], typer.Argument(help="Evaluation directories, here or s3://..., the earlier model first.")
    ],
    page: Annotated[Path, typer.Option(help="Page to write: the differences, and the questions that changed.")] = Path(
        "comparison.html"
    ),
) -> None:
    """Compare evaluations of the same questions: what was gained and lost, and how sure that is."""
    from components.evaluations.compare import compare_places

    with ExitStack() as stack:
        _use_services_of(stack, *places)
        found = stack.enter_context(compare_places(places))
        found.write_page(page)
    for table in found.tables():
        print_table(console, table)
    if found.note:
        console.print(f"not compared: {found.note}")
    console.print(f"page {page}")


@app.command()
def register(
    out: Out,
    model: Annotated[Path, typer.Option(help="Folder that `callforge egpo` or `callforge sft` wrote.")],
    evaluation: Annotated[
        Path | None, typer.Option(help="Its evaluation, or the folder of its and its base's.")
    ] = None,
    profile: Profile = "demo",
    artifact_root: ArtifactRoot = None,
    run_id: StageRun = None,
    changes: Set = None,
) -> None:
    """Merge an adapter, upload the weights to S3, register them in MLflow."""
    from pipelines.lone_stage import run_stage

    inputs = {"model": model} | ({"evaluation": evaluation} if evaluation else {})
    run_stage(find_stage("model_registration"), out, inputs, profile, changes, _place(artifact_root, run_id))


@app.command()
def ask(
    model: Annotated[
        str,
        typer.Argument(help="Model directory, run id, models:/NAME@ALIAS, models:/NAME/VERSION, hub id, or s3://..."),
    ],
    question: Annotated[str, typer.Argument(help="What to ask.")],
    tools: Annotated[Path, typer.Option(help="JSON file with a list of tools, as OpenAI's API takes it.")],
    changes: Set = None,
) -> None:
    """Ask a model one question and print its thought and its calls; nothing is called.

    Prompt, sampler and parser are the evaluation's; `--set bfcl_eval.max_new_tokens=...` and its like apply.
    """
    from components.settings import read_assignment, resolve_settings
    from pipelines.ask import ask as ask_model

    settings = resolve_settings(dict(read_assignment(text) for text in changes or []))
    with ExitStack() as stack:
        _use_services_of(stack, model)
        with console.status("asking"):
            answer = list(ask_model(model, question, tools, settings.bfcl_eval))
        for line in answer:
            console.print(f"{line.name:<8} {line.text}", style="yellow" if line.warning else None)


@app.command("compile")
def compile_command(
    check: Annotated[bool, typer.Option("--check", help="Verify only; exit 1 when a file is stale.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Write only the pipelines, into this folder, e.g. to upload them by hand.")
    ] = None,
) -> None:
    """Write pipelines/compiled/*.yaml and docs/settings.md, or verify them."""
    from pipelines.compiled_files import stale_files, write_files, write_pipelines

    if out is not None:
        if check:
            raise InputError("--check verifies the files of the repository; call it without --out")
        for path in write_pipelines(expand_home(str(out))):
            console.print(f"wrote {path}")
        return
    if not check:
        for path in write_files():
            console.print(f"wrote {path}")
        return
    stale = stale_files()
    if stale:
        console.print(f"stale: {', '.join(map(str, stale))}; run `callforge compile`")
        raise SystemExit(1)
    console.print("compiled pipelines and docs/settings.md are up to date")


@app.command()
def upload(endpoint: Endpoint, namespace: Namespace = None) -> None:
    """Compile every pipeline and upload it to Kubeflow as a new version."""
    from pipelines.cluster import upload_pipelines

    for name, version in upload_pipelines(endpoint, namespace):
        console.print(f"uploaded {name} as version {version}")


@app.command()
def submit(
    endpoint: Endpoint,
    profile: Annotated[str, typer.Option(help="Cluster profile: gpu, gpu8, paper or paper-lora.")] = "gpu",
    parameter: Annotated[
        list[str] | None, typer.Option("--parameter", metavar="NAME=VALUE", help="Run parameter, e.g. data=s3://...")
    ] = None,
    run_name: Annotated[str | None, typer.Option(help="Name of the run in the Kubeflow UI.")] = None,
    namespace: Namespace = None,
    service_account: Annotated[
        str | None, typer.Option(help="Identity of the run's pods, e.g. callforge.  [default: the cluster's]")
    ] = None,
    follow: Annotated[bool, typer.Option(help="Wait for the run and print its states.")] = True,
    changes: Set = None,
) -> None:
    """Start a run on the cluster and follow it."""
    from components.settings import read_assignment
    from pipelines.cluster import follow_run, submit_run

    parameters: dict[str, str] = {}
    for text in parameter or []:
        name, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"--parameter {text}: write NAME=VALUE, e.g. data=s3://bucket/records.jsonl.gz")
        parameters[name] = value
    settings = dict(read_assignment(text) for text in changes or [])
    run = submit_run(endpoint, profile, parameters, settings, run_name, namespace, console.print, service_account)
    if follow:
        follow_run(endpoint, run, console.print)


@app.command()
def follow(
    run: Annotated[str, typer.Argument(help="Id of the Kubeflow run, as `submit` printed it.")], endpoint: Endpoint
) -> None:
    """Follow a run on the cluster that was submitted before."""
    from pipelines.cluster import follow_run

    follow_run(endpoint, run, console.print)


@app.command()
def promote(
    model: Model,
    version: Annotated[str, typer.Argument(help="Version, by its number or one of its aliases.")],
    to: Annotated[Alias, typer.Option(help="Alias to give it.")] = Alias.champion,
    force: Annotated[bool, typer.Option(help="Move the alias even if the gate says no.")] = False,
) -> None:
    """Make a version challenger or champion, through the gate: better than the champion, on BFCL or on own records."""
    from components.model_registration.promotion import promote as promote_version

    with ExitStack() as stack:
        _use_own_services(stack)
        for line in promote_version(model, version, to.value, force):
            console.print(line)


@app.command()
def rollback(model: Model) -> None:
    """Make the previous champion the champion again."""
    from components.model_registration.promotion import roll_back

    with ExitStack() as stack:
        _use_own_services(stack)
        for line in roll_back(model):
            console.print(line)


@app.command()
def sync(
    folder: Annotated[
        Path | None, typer.Argument(help="Run directory or stage folder. (default: all runs of this directory)")
    ] = None,
) -> None:
    """Send to MLflow what earlier runs could not, while it was away. Running it twice sends nothing twice."""
    from components.services.tracking import send_runs
    from pipelines.local import RUNS

    if folder is not None and not is_folder(folder):
        raise InputError(f"{folder}: there is no such folder; name a run directory or a stage folder")
    with ExitStack() as stack:
        _use_own_services(stack)
        lines = list(send_runs(folder or RUNS))
    for line in lines or ["MLflow has everything already"]:
        console.print(line)


@app.command()
def clean(
    runs: Annotated[list[str] | None, typer.Argument(help="Run ids. (default: all runs of this directory)")] = None,
    checkpoints: Annotated[
        bool, typer.Option("--checkpoints", help="Only checkpoints of finished stages: those cannot be extended then.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Remove without asking.")] = False,
) -> None:
    """List what runs hold in .callforge, and remove it if you say so.

    Left alone: runs at work; versions with an alias and former champions, with what belongs to them; an S3 or MLflow
    of your own.
    """
    from pipelines.clean import give_back_space, look, remove
    from pipelines.embedded import S3_ADDRESSES
    from pipelines.local import SERVICES

    own = any(map(os.environ.get, (*S3_ADDRESSES, "MLFLOW_TRACKING_URI"))) or not SERVICES.is_dir()
    with ExitStack() as stack:
        if not own:
            _start_services(stack)
        found = look(runs or [], checkpoints, embedded=not own)
        for held in found:
            for line in held.describe():
                console.print(f"{held.run_id:<20} {line}")
        found = [held for held in found if not held.at_work and (held.bytes or held.versions or held.mlflow_runs)]
        if not found:
            console.print("nothing to remove")
            return
        console.print(f"together {sum(held.bytes for held in found) / 1e6:,.1f} MB")
        if not yes:
            if not (sys.stdin.isatty() and console.is_terminal):
                console.print("nothing was removed; --yes removes it")
                return
            if not typer.confirm("Remove it?"):
                return
        refusals = []
        for held in found:
            try:
                remove(held)
                console.print(f"removed {held.run_id}")
            except InputError as error:
                refusals.append(str(error))
        if any(held.objects for held in found):
            give_back_space()
        if refusals:
            raise InputError("\n".join(refusals))


@app.command()
def doctor() -> None:
    """Check that this machine has everything it needs, and say what to do if not."""
    from pipelines.doctor import examine

    healthy = True
    for name, fine, text in examine():
        healthy &= fine
        console.print(f"{'ok  ' if fine else 'MISS'}  {name:<22} {text}")
    if not healthy:
        raise SystemExit(1)


@app.command()
def ui() -> None:
    """Keep the embedded MLflow and S3 running, to look at earlier runs; Ctrl-C ends."""
    from components.services.mlflow_server import page
    from components.services.s3 import endpoint
    from pipelines.embedded import embedded_services
    from pipelines.local import RUNS, SERVICES, shown
    from pipelines.mlflow_server import PASSWORD, USER
    from pipelines.run_page import INDEX
    from pipelines.seaweedfs import BUCKET, IDENTITIES

    with embedded_services(SERVICES) as environment:
        if not environment:
            raise InputError("ui: MLFLOW_TRACKING_URI and AWS_ENDPOINT_URL_S3 are set: open those")
        os.environ.update(environment)
        console.print(f"MLflow   {page('experiments')}")
        if PASSWORD in environment:
            console.print(f"         log in as {environment[USER]} with the password {environment[PASSWORD]}")
        console.print(f"S3       {endpoint()}, s3://{BUCKET}/; the keys are in {shown(SERVICES / IDENTITIES)}")
        for index in sorted(RUNS.glob(f"*/{INDEX}"), key=lambda path: path.stat().st_mtime)[-SHOWN_RUNS:]:
            console.print(f"report   {shown(index)}")
        console.print("Ctrl-C ends")
        try:
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            return


def _use_own_services(stack: ExitStack) -> None:
    """Where the environment names no MLflow server: that of this directory's runs, started unless it runs already.

    Raises:
        InputError: there were no runs here.
    """
    from components.services.mlflow_server import tracking_uri
    from pipelines.local import SERVICES

    if not tracking_uri():
        if not SERVICES.is_dir():
            raise InputError("MLFLOW_TRACKING_URI: set it to your MLflow server; no run has started one here")
        _start_services(stack)


def _place(artifact_root: str | None, run_id: str | None) -> dict[str, str | None]:
    """Where a stage by itself puts its outputs."""
    return {"run.artifact_root": artifact_root, "run.run_id": run_id}


def _use_services_of(stack: ExitStack, *places: str) -> None:
    """Where a place is in a registry, or in this directory's own store, and the environment does not name it: start
    it, unless it runs already.

    Raises:
        InputError: a registered model is named, and there were no runs here.
    """
    from components.model_registration.registry import MODELS
    from pipelines.embedded import S3_ADDRESSES
    from pipelines.local import SERVICES
    from pipelines.seaweedfs import BUCKET

    named = any(map(os.environ.get, S3_ADDRESSES))
    if any(place.startswith(MODELS) for place in places):
        _use_own_services(stack)
    elif any(place.startswith(f"s3://{BUCKET}/") for place in places) and not named and SERVICES.is_dir():
        _start_services(stack)


def _start_services(stack: ExitStack) -> None:
    """Start this directory's S3 and MLflow, unless they run already, and name them in the environment."""
    from pipelines.embedded import embedded_services
    from pipelines.local import SERVICES

    os.environ.update(stack.enter_context(embedded_services(SERVICES.resolve())))


def _local_path(value: str | None) -> str | None:
    """An existing path made absolute: stages run elsewhere than the caller."""
    return str(expand_home(value).resolve()) if value and exists(expand_home(value)) else value


def main() -> None:
    """Entry point: errors a user can cause become one paragraph and an exit code."""
    debug = DEBUG in sys.argv
    if debug:
        sys.argv.remove(DEBUG)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # a terminal that cannot show every letter
    # Before torch is loaded. A thread without work spins for some 30 microseconds, which bridges the gaps of a decode
    # step (a third faster than sleeping at once), and not for milliseconds, which would be taken from others' work.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    try:
        raise SystemExit(app(standalone_mode=False))
    except Exception as error:
        if debug:
            errors.print(without_login(traceback.format_exc()))
        text, exit_code = _last_words(error)
    if text:
        errors.print(f"callforge: {text}", style="red")
    raise SystemExit(exit_code)


def _last_words(error: Exception) -> tuple[str, int]:
    """What is printed of an error, and the exit code."""
    if isinstance(error, CallforgeError):
        return str(error), error.exit_code
    if isinstance(error, typer.TyperException):  # a wrong option; typer would print it as it was given, and in a frame
        text = error.format_message().rstrip(".")  # none without arguments: the help was printed
        return text and f"{text}; `callforge --help` lists commands, and after a command its options", error.exit_code
    if isinstance(error, OSError):  # a folder that may not be written, a full disk
        return str(error), 1
    return f"a defect of callforge: {type(error).__name__}: {error}; --debug shows where", 1


if __name__ == "__main__":
    main()
