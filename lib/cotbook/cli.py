"""The command ``cotflow``: re-run a chapter at other values, list what there is, pair notebooks."""

from __future__ import annotations

import errno
import logging
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click


@contextmanager
def _sentences() -> Iterator[None]:
    """Errors that a person can act on end with a sentence and an exit code.

    Ctrl-C exits with 130. A termination (143) and a closed terminal (129) unwind like it, so that
    they clean up.
    """
    caught = [signal.SIGINT]

    def terminate(number: int, frame: object) -> None:
        caught.append(number)
        raise KeyboardInterrupt

    ends = (signal.SIGTERM, signal.SIGHUP)
    heard = [end for end in ends if signal.getsignal(end) != signal.SIG_IGN]  # nohup ignores one
    before = {end: signal.signal(end, terminate) for end in heard}
    try:
        yield
    except KeyboardInterrupt as interrupt:
        # asyncio would add the traceback of the task that waited for the cell
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        _say(str(interrupt) or "Interrupted: nothing half-written was left behind.", err=True)
        sys.exit(128 + caught[-1])
    except (ValueError, RuntimeError, OSError, MemoryError) as error:
        code, sentence = _answer(error)
        if code is None:
            raise
        _say(sentence, err=True)
        sys.exit(code)
    finally:
        for end, handler in before.items():
            signal.signal(end, handler)


def _answer(error: Exception) -> tuple[int | None, str]:
    """The exit code and the sentence; no code for a fault of this program, or a closed pipe."""
    from cotbook.errors import BadInput, DoesNotHold, Unfinished
    from cotbook.parameters import ParameterError

    match error:
        case BadInput() | ParameterError():
            return 2, str(error)
        case DoesNotHold():
            return 1, str(error)
        case Unfinished():
            return 3, str(error)
        case MemoryError():
            return 3, "could not finish: there is not enough memory"
        case OSError() if error.errno != errno.EPIPE:
            where = "" if error.filename is None else f"{error.filename}: "
            return 3, f"could not finish: {where}{error.strerror or error}"
    return None, ""


@contextmanager
def _harmless() -> Iterator[None]:
    """What was typed does not speak to the terminal when click repeats it."""
    try:
        yield
    except click.ClickException as error:
        from cotbook.render import terminal

        error.message = terminal(error.message)
        raise


class _Command(click.Group):
    """All commands print any text in any encoding, and answer errors with a sentence."""

    def main(self, *args: Any, **options: Any) -> Any:
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")
        return super().main(*args, **options)

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        with _harmless():
            return super().parse_args(context, args)

    def invoke(self, context: click.Context) -> Any:
        with _sentences(), _harmless():
            try:
                return super().invoke(context)
            finally:
                if sys.stdout is not None:
                    sys.stdout.flush()  # a full disk is told of here, not after the end


def _say(text: object = "", err: bool = False) -> None:
    """Print text that may come from a file: it does not speak to the terminal."""
    from cotbook.render import terminal

    click.echo(terminal(str(text)), err=err)


def _table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows in aligned columns, each two spaces from the next."""
    from cotbook.render import terminal

    rows = [[terminal(cell).replace("\n", "\\n") for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        _say("  ".join(cells).rstrip())


def _report(complaints: Sequence[str]) -> None:
    for sentence in complaints:
        _say(sentence, err=True)
    sys.exit(1 if complaints else 0)


@click.group(cls=_Command)
def main() -> None:
    """Re-run the chapters of the book at other values, and keep the book in order.

    The exit code is 0 if all claims hold, 1 if a claim or a check does not, 2 if the input was
    wrong, 3 if something could not finish, and 129, 130 or 143 after a signal.
    """


@main.command()
@click.argument("chapter")
@click.option("--profile", default="default", show_default=True, help="Named set of values.")
@click.option(
    "-p", "values", nargs=2, multiple=True, metavar="NAME VALUE", help="Set one parameter."
)
@click.option("-o", "output", type=click.Path(path_type=Path), help="New or empty folder.")
def run(
    chapter: str, profile: str, values: tuple[tuple[str, str], ...], output: Path | None
) -> None:
    """Execute CHAPTER and report whether its claims hold.

    The exit code is 0 if all claims hold, 1 if one does not, 2 if the input was wrong, 3 if the
    run could not finish: the chapter crashed, or the disk is full.

    Example: cotflow run depth-limit --profile smoke -p depths "[8, 32]" -p iterations 40
    """
    from cotbook import parameters, render
    from cotbook.errors import BadInput
    from cotbook.run import runs

    overrides: dict[str, Any] = {}
    for name, text in values:
        if name in overrides:
            raise BadInput(f"-p {name}: expected one value, received several")
        overrides[name] = parameters.parse_value(text)
    done = runs.run(chapter, profile, overrides, output)
    if done.claims:
        head = ("verdict", "claim", "predicted", "measured [low, high]", "tolerance", "source")
        _table([head, *map(render.row, done.claims)])
    if done.failure:
        _say(done.failure.sentence, err=True)
    _say(f"outputs: {click.format_filename(done.output)}")
    crashed = done.failure is not None and done.failure.crash
    sys.exit(3 if crashed else 0 if done.holds else 1)


@main.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("snakemake", nargs=-1, type=click.UNPROCESSED, metavar="[-- SNAKEMAKE ARGUMENTS]")
@click.option("-o", "output", type=click.Path(path_type=Path), help="Folder of the sweep.")
@click.option("--cores", type=click.IntRange(min=1), help="Jobs at once; all cores by default.")
@click.option("--retry", is_flag=True, help="Run again the jobs that failed before.")
def sweep(
    file: Path, snakemake: tuple[str, ...], output: Path | None, cores: int | None, retry: bool
) -> None:
    """Execute a chapter at every value of the grid in FILE, and gather what it measured.

    The same command goes on where an earlier one was stopped, and runs only what is new.
    Results lie in runs/sweep-NAME of the current folder: index.html, table.csv, jobs/.
    What follows -- goes to Snakemake. The exit code is 0 if every claim of every job holds,
    1 if one does not, 2 if the input was wrong, 3 if a job could not finish.

    Example: cotflow sweep book/sweeps/features.yml --cores 2
    """
    from cotbook.grid import engine, outcome
    from cotbook.grid import file as sweep_file
    from cotbook.run import runs, tree

    if snakemake and not snakemake[0].startswith("-"):
        raise tree.BadInput(
            f"expected one sweep file, then -- and options of Snakemake, received {snakemake[0]!r}"
        )
    asked = sweep_file.read(file, tree.book_root(), elsewhere=engine.remote(snakemake))
    folder = runs.output_folder(output or Path(f"runs/sweep-{asked.name}"))
    if engine.shows_only(snakemake):
        sys.exit(engine.show(asked, folder, retry, snakemake))
    outcomes = engine.run(asked, folder, str(cores or "all"), retry, snakemake, _say)
    for found in outcomes:
        if found.failure:
            _say(f"failed: {asked.chapter}, {found.job.label}: {found.failure}", err=True)
            _say(f"  log: {found.log}", err=True)
    _say(f"table: {click.format_filename(folder / outcome.TABLE)}")
    _say(f"summary: {click.format_filename(folder / outcome.PAGE)}")
    ended = all(found.finished for found in outcomes)
    sys.exit(0 if all(found.holds for found in outcomes) else 1 if ended else 3)


@main.command()
@click.argument("names", nargs=-1, metavar="[ERRORS]...")
@click.option("--generated", type=click.IntRange(min=0), default=0, help="So many made by rule.")
@click.option("--seed", type=int, default=0, help="Which of them.")
@click.option("--chapter", "chosen", multiple=True, help="Only in this chapter; may be repeated.")
@click.option("--profile", default="smoke", show_default=True, help="Of book/profiles.")
@click.option("--every", is_flag=True, help="Also in chapters after the first that notices.")
@click.option("-o", "output", type=click.Path(path_type=Path), help="Folder of the results.")
@click.option("--cores", type=click.IntRange(min=1), help="Jobs at once; all cores by default.")
@click.option("--record", type=click.Path(path_type=Path, dir_okay=False), help="File to extend.")
def sabotage(
    names: tuple[str, ...],
    generated: int,
    seed: int,
    chosen: tuple[str, ...],
    profile: str,
    every: bool,
    output: Path | None,
    cores: int | None,
    record: Path | None,
) -> None:
    """Plant errors in copies of the library and of chapters, and tell which claims notice.

    ERRORS are names of book/sabotage/errors.yml, all of them by default, and none besides those
    made by rule if there are such. Each is executed in the chapters that use its place. The same
    command goes on where an earlier one was stopped. What --record FILE holds of these errors and
    of this code of the library and the chapter stays, the rest is tried anew. The exit code is 0
    if every error makes a claim fail, 1 if one does not.

    Example: cotflow sabotage adjoint-without-layer --chapter gradient
    """
    from cotbook.run import runs, tree
    from cotbook.sabotage import campaign, catalogue
    from cotbook.sabotage import record as matrix

    root = tree.book_root()
    sources = tree.chapters(root)
    asked = [tree.chapter(root, name, sources) for name in chosen or sources]
    errors = catalogue.choose(catalogue.read(root, generated, seed), names)
    folder = runs.output_folder(output or Path("runs/sabotage"))
    known = matrix.read(record) if record else {}

    def keep(found: matrix.Record, whole: bool = False) -> None:
        if record:
            matrix.write(record, known | {n: row for n, row in found.items() if whole or row.tried})

    found = campaign.run(
        errors, asked, root, folder, profile, str(cores or "all"), every, _say, known, keep
    )
    keep(found, whole=not chosen)
    for error in errors:
        _say(campaign.line(error, found[error.name]))
    _say(campaign.summary(errors, found))
    sys.exit(1 if campaign.toothless(errors, found) else 0)


@main.command()
@click.argument("names", nargs=-1, metavar="[CHAPTERS]...")
@click.option("--times", type=click.IntRange(min=1), default=20, show_default=True, help="Runs.")
@click.option("--from", "first", type=click.IntRange(min=1), default=1, help="First repetition.")
@click.option("--profile", default="default", show_default=True, help="Named set of values.")
@click.option("-o", "output", type=click.Path(path_type=Path), help="Folder of the results.")
@click.option("--cores", type=click.IntRange(min=1), help="Jobs at once; all cores by default.")
@click.option("--retry", is_flag=True, help="Run again what crashed before.")
@click.option("--gather", is_flag=True, help="Run nothing; tell what the folder holds.")
@click.option(
    "--record", type=click.Path(path_type=Path, dir_okay=False), help="File that keeps the counts."
)
def reseed(
    names: tuple[str, ...],
    times: int,
    first: int,
    profile: str,
    output: Path | None,
    cores: int | None,
    retry: bool,
    gather: bool,
    record: Path | None,
) -> None:
    """Run CHAPTERS, or all, with other seeds, and tell how often a claim does not hold.

    Repetition j adds 10000·j to every seed. All chapters do repetition 1 first, then 2, and so on;
    the same command goes on where an earlier one was stopped. What the record has of the same
    chapters, library and profile counts and is not run again. The exit code is 0 if everything
    held, 1 if something did not, 2 if the input was wrong, 3 if something could not finish.

    Example: cotflow reseed one-model --times 20 --record book/records/reseed.json
    """
    from cotbook.run import runs, tree
    from cotbook.seeds import campaign
    from cotbook.seeds import record as records

    root = tree.book_root()
    known = tree.chapters(root)
    sources = [tree.chapter(root, name, known) for name in dict.fromkeys(names or known)]
    folder = runs.output_folder(output or Path("runs/reseed"))
    before = records.read(record, profile) if record else {}

    def save(rows: dict[str, records.Row]) -> None:
        if record:
            records.write(record, campaign.kept(before, rows))

    rows, whole = campaign.run(
        sources,
        root,
        folder,
        range(first, first + times),
        profile=profile,
        cores=cores,
        retry=retry,
        gather=gather,
        known=before,
        save=save,
        echo=_say,
    )
    save(rows)
    for line in campaign.report(rows):
        _say(line)
    sys.exit(3 if not whole else 1 if any(row.missed for row in rows.values()) else 0)


@main.command(name="ledger")
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path))
def ledger_(folders: tuple[Path, ...]) -> None:
    """Print the claims of executed FOLDERS, of runs or of sweeps, as Markdown tables."""
    from cotbook.grid import report

    _say(report.markdown(folders))


@main.command()
@click.argument("old", type=click.Path(path_type=Path))
@click.argument("new", type=click.Path(path_type=Path))
@click.option("--exact", is_flag=True, help="Exit with 1 if anything differs, in the last bit.")
def diff(old: Path, new: Path, exact: bool) -> None:
    """Compare two ledgers: of two versions, machines or profiles.

    OLD and NEW are files ledger.json, or folders of built books or of runs. A line for each
    difference; of a measured number it says how far it moved, in units of its claim's tolerance
    and of half its interval. Hashes, dates, durations, machines and versions may differ. The exit
    code is 0 if every verdict is what it was, 1 if one changed, came or went, 2 if a path holds
    no ledger.

    Example: cotflow diff before/ledger.json _build/html/ledger.json
    """
    from cotbook.keep.diff import differences, summary

    found = list(differences(old, new))
    for line in found:
        _say(line)
    _say(summary(found))
    sys.exit(1 if any(line.verdict or exact for line in found) else 0)


@main.command()
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path))
def published(folders: tuple[Path, ...]) -> None:
    """Record runs at the published sizes in book/records/paper.json, which the book shows.

    FOLDERS are those of finished runs with the profile paper. The exit code is 2, and nothing is
    written, if one of them is something else.

    Example: cotflow run failures --profile paper -o paper && cotflow published paper
    """
    from cotbook.keep import published as keep
    from cotbook.run import tree

    root = tree.book_root()
    for name in keep.add(root, folders):
        _say(f"recorded: {name}")
    _say(f"record: {root / keep.RECORD}")


@main.command(name="list")
def list_() -> None:
    """Chapters with their titles, and profiles with what they are for."""
    from cotbook.run import profiles, tree

    root = tree.book_root()
    known = tree.chapters(root)
    described = [
        (name, profiles.profile(root, name).description) for name in profiles.profile_names(root)
    ]
    _table([("chapter", "title"), *((name, known[name].title) for name in known)])
    _say()
    _table([("profile", "description"), *described])


@main.command(name="parameters")
@click.argument("chapter")
def parameters_(chapter: str) -> None:
    """Parameters of CHAPTER: name, type, default and what it is."""
    from cotbook.run import tree

    declared = tree.chapter(tree.book_root(), chapter).parameters
    rows = [(p.name, p.annotation, str(p.default), p.help) for p in declared]
    _table([("name", "type", "default", "help"), *rows])


@main.command()
@click.argument("chapters", nargs=-1)
@click.option("--check", is_flag=True, help="Look at cells and outputs; execute and write nothing.")
def notebooks(chapters: tuple[str, ...], check: bool) -> None:
    """Regenerate the paired notebooks of CHAPTERS, or of all, from their texts."""
    from cotbook.keep.notebooks import complaints, regenerate
    from cotbook.run import tree

    root = tree.book_root()
    known = tree.chapters(root)
    chosen = [tree.chapter(root, name, known) for name in chapters or known]
    if check:
        _report([sentence for source in chosen for sentence in complaints(source)])
    for source in chosen:
        checked = regenerate(source)
        where = source.paired.relative_to(root)
        _say(f"{where}: compared cells: {checked}")


@main.command()
def bibliography() -> None:
    """Check that every citation is defined and every entry is cited and leads somewhere."""
    from cotbook.keep.bibliography import complaints
    from cotbook.run import tree

    _report(complaints(tree.book_root()))


@main.command()
@click.argument("chapter")
@click.option("--title", help="Its heading; by default made of the name.")
@click.option("--after", metavar="CHAPTER", help="Where it stands; by default after the last one.")
def new(chapter: str, title: str | None, after: str | None) -> None:
    """Start CHAPTER from the template: its text, its profiles, its place in the contents."""
    from cotbook.keep.new import new
    from cotbook.run import tree

    root = tree.book_root()
    for path in new(root, chapter, title or chapter.replace("-", " ").capitalize(), after):
        _say(path.relative_to(root))
    _say(f"next: cotflow run {chapter} --profile smoke, then cotflow notebooks {chapter}")


@main.command()
@click.option("--check", is_flag=True, help="Only say whether this tree may be released.")
def release(check: bool) -> None:
    """Pack the built book and its ledger into dist/; `make release` builds it first."""
    from cotbook.keep.release import check_tree, release
    from cotbook.run import tree

    root = tree.book_root()
    if check:
        check_tree(root)
        return
    archive = release(root, root / "_build/html", root / "dist")
    _say(f"archive: {archive}")


@main.command()
@click.option("-o", "output", type=click.Path(path_type=Path, dir_okay=False), help="Record file.")
@click.option("--only", multiple=True, metavar="PART", help="Measure this part anew alone.")
@click.option("--gpu", is_flag=True, help="On a CUDA device instead: under eight minutes.")
def bench(output: Path | None, only: tuple[str, ...], gpu: bool) -> None:
    """Measure the cost of a step and write the record that the book shows.

    Takes about a quarter of an hour; nothing else should run meanwhile.
    """
    from cotbook.bench import record
    from cotbook.run import tree

    output = output or (record.RECORD_GPU if gpu else record.RECORD)
    if not output.resolve().parent.is_dir():
        raise tree.BadInput(f"expected a file in an existing folder, received {output}")
    parts = record.PARTS_GPU if gpu else record.PARTS
    if unknown := set(only) - set(parts):
        raise tree.BadInput(
            f"--only: expected some of {', '.join(parts)}, received {', '.join(sorted(unknown))}"
        )

    if gpu:
        from cotbook.bench import gpu as benchmarks

        if missing := benchmarks.missing():
            raise tree.BadInput(missing)
    else:
        from cotbook.bench import bench as benchmarks  # torch and all the contenders

    benchmarks.record(output, only, _say)
    _say(f"record: {output}")


if __name__ == "__main__":
    main()
