"""The command ``cotflow``: re-run a chapter at other values, list what there is, pair notebooks."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click


@contextmanager
def _sentences() -> Iterator[None]:
    """Errors that a person can act on: exit 2 for bad input, 1 for a failure, 130 for Ctrl-C.

    A termination (143) and a closed terminal (129) unwind like Ctrl-C, so that they clean up.
    """
    caught = [signal.SIGINT]

    def terminate(number: int, frame: object) -> None:
        caught.append(number)
        raise KeyboardInterrupt

    ends = (signal.SIGTERM, signal.SIGHUP)
    heard = [end for end in ends if signal.getsignal(end) != signal.SIG_IGN]  # nohup ignores one
    before = {end: signal.signal(end, terminate) for end in heard}
    try:
        from cotbook.errors import BadInput, CellFailure
        from cotbook.parameters import ParameterError

        try:
            yield
        except (BadInput, ParameterError) as error:
            click.echo(str(error), err=True)
            sys.exit(2)
        except CellFailure as error:
            click.echo(str(error), err=True)
            sys.exit(1)
    except KeyboardInterrupt as interrupt:
        # asyncio would add the traceback of the task that waited for the cell
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        plain = "Interrupted: nothing half-written was left behind."
        click.echo(str(interrupt) or plain, err=True)
        sys.exit(128 + caught[-1])
    finally:
        for end, handler in before.items():
            signal.signal(end, handler)


def _table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows in aligned columns, each two spaces from the next."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())


def _report(complaints: Sequence[str]) -> None:
    for sentence in complaints:
        click.echo(sentence, err=True)
    sys.exit(1 if complaints else 0)


@click.group()
def main() -> None:
    """Re-run the chapters of the book at other values, and keep the book in order."""


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

    Example: cotflow run depth-limit --profile smoke -p depths "[8, 32]" -p iterations 40
    """
    with _sentences():
        from cotbook import parameters, render
        from cotbook.run import runs

        overrides = {name: parameters.parse_value(text) for name, text in values}
        done = runs.run(chapter, profile, overrides, output)
    if done.claims:
        head = ("verdict", "claim", "predicted", "measured [low, high]", "tolerance", "source")
        _table([head, *map(render.row, done.claims)])
    if done.failure:
        click.echo(done.failure.sentence, err=True)
    click.echo(f"outputs: {click.format_filename(done.output)}")
    sys.exit(0 if done.holds else 1)


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
    1 if one does not or a job failed, 2 if the input was wrong.

    Example: cotflow sweep book/sweeps/features.yml --cores 2
    """
    with _sentences():
        from cotbook.grid import engine, outcome
        from cotbook.grid import file as sweep_file
        from cotbook.run import runs, tree

        if snakemake and not snakemake[0].startswith("-"):
            raise tree.BadInput(
                "expected one sweep file, then -- and options of Snakemake, "
                f"received {snakemake[0]!r}"
            )
        asked = sweep_file.read(file, tree.book_root(), elsewhere=engine.remote(snakemake))
        folder = runs.output_folder(output or Path(f"runs/sweep-{asked.name}"))
        if engine.shows_only(snakemake):
            sys.exit(engine.show(asked, folder, retry, snakemake))
        outcomes = engine.run(asked, folder, str(cores or "all"), retry, snakemake, click.echo)
    for found in outcomes:
        if found.failure:
            click.echo(
                f"failed: {asked.chapter}, {found.job.label}: {found.failure}",
                err=True,
            )
            click.echo(f"  log: {found.log}", err=True)
    click.echo(f"table: {click.format_filename(folder / outcome.TABLE)}")
    click.echo(f"summary: {click.format_filename(folder / outcome.PAGE)}")
    sys.exit(0 if all(found.holds for found in outcomes) else 1)


@main.command(name="ledger")
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path))
def ledger_(folders: tuple[Path, ...]) -> None:
    """Print the claims of executed FOLDERS, of runs or of sweeps, as Markdown tables."""
    with _sentences():
        from cotbook.grid import report

        text = report.markdown(folders)
    click.echo(text, nl=False)


@main.command()
@click.argument("old", type=click.Path(path_type=Path))
@click.argument("new", type=click.Path(path_type=Path))
def diff(old: Path, new: Path) -> None:
    """Compare two files ledger.json: every number to its last bit, every verdict and text.

    A line for each difference; hashes, dates, durations, machines and versions may differ. The
    exit code is 0 if there is no difference, 1 if there is one, 2 if a file is no ledger.

    Example: cotflow diff before/ledger.json _build/html/ledger.json
    """
    with _sentences():
        from cotbook.keep.diff import differences

        found = list(differences(old, new))
    for line in found:
        click.echo(line)
    sys.exit(1 if found else 0)


@main.command(name="list")
def list_() -> None:
    """Chapters with their titles, and profiles with what they are for."""
    with _sentences():
        from cotbook.run import profiles, tree

        root = tree.book_root()
        known = tree.chapters(root)
        described = [
            (name, profiles.profile(root, name).description)
            for name in profiles.profile_names(root)
        ]
        _table([("chapter", "title"), *((name, known[name].title) for name in known)])
        click.echo()
        _table([("profile", "description"), *described])


@main.command(name="parameters")
@click.argument("chapter")
def parameters_(chapter: str) -> None:
    """Parameters of CHAPTER: name, type, default and what it is."""
    with _sentences():
        from cotbook.run import tree

        declared = tree.chapter(tree.book_root(), chapter).parameters
        rows = [(p.name, p.annotation, str(p.default), p.help) for p in declared]
        _table([("name", "type", "default", "help"), *rows])


@main.command()
@click.argument("chapters", nargs=-1)
@click.option("--check", is_flag=True, help="Look at cells and outputs; execute and write nothing.")
def notebooks(chapters: tuple[str, ...], check: bool) -> None:
    """Regenerate the paired notebooks of CHAPTERS, or of all, from their texts."""
    with _sentences():
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
            click.echo(f"{where}: compared cells: {checked}")


@main.command()
def bibliography() -> None:
    """Check that every citation is defined and every entry is cited and leads somewhere."""
    with _sentences():
        from cotbook.keep.bibliography import complaints
        from cotbook.run import tree

        _report(complaints(tree.book_root()))


@main.command()
@click.argument("chapter")
@click.option("--title", help="Its heading; by default made of the name.")
@click.option("--after", metavar="CHAPTER", help="Where it stands; by default after the last one.")
def new(chapter: str, title: str | None, after: str | None) -> None:
    """Start CHAPTER from the template: its text, its profiles, its place in the contents."""
    with _sentences():
        from cotbook.keep.new import new
        from cotbook.run import tree

        root = tree.book_root()
        for path in new(root, chapter, title or chapter.replace("-", " ").capitalize(), after):
            click.echo(path.relative_to(root))
    click.echo(f"next: cotflow run {chapter} --profile smoke, then cotflow notebooks {chapter}")


@main.command()
@click.option("--check", is_flag=True, help="Only say whether this tree may be released.")
def release(check: bool) -> None:
    """Pack the built book and its ledger into dist/; `make release` builds it first."""
    with _sentences():
        from cotbook.keep.release import check_tree, release
        from cotbook.run import tree

        root = tree.book_root()
        if check:
            check_tree(root)
            return
        archive = release(root, root / "_build/html", root / "dist")
    click.echo(f"archive: {archive}")


@main.command()
@click.option("-o", "output", type=click.Path(path_type=Path, dir_okay=False), help="Record file.")
@click.option("--only", multiple=True, metavar="PART", help="Measure this part anew alone.")
def bench(output: Path | None, only: tuple[str, ...]) -> None:
    """Measure the cost of a step and write the record that the book shows.

    Takes about a quarter of an hour; nothing else should run meanwhile.
    """
    with _sentences():
        from cotbook.bench import record
        from cotbook.run import tree

        output = output or record.RECORD
        if not output.resolve().parent.is_dir():
            raise tree.BadInput(f"expected a file in an existing folder, received {output}")
        if unknown := set(only) - set(record.PARTS):
            raise tree.BadInput(
                f"--only: expected some of {', '.join(record.PARTS)}, "
                f"received {', '.join(sorted(unknown))}"
            )

        from cotbook.bench import bench  # torch and all the contenders

        bench.record(output, only, click.echo)
    click.echo(f"record: {output}")


if __name__ == "__main__":
    main()
