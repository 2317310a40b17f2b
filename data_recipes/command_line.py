"""`mllm data`: build instruction data from scores and public sets, look at it, check it, describe it."""

from __future__ import annotations

import json
import os
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

data_verbs = typer.Typer(no_args_is_help=True, help="Instruction data: list, show, build, check, card.")
Folder = Annotated[
    str, typer.Argument(metavar="DIR", help="Folder that `mllm data build` made, or its fsspec address (s3://…).")
]


@data_verbs.command("list")
def data_list(
    licence: Annotated[str, typer.Option(help="Only recipes under this licence, for example cc-by.")] = "",
) -> None:
    """The collections that can be built from, with their licences, and the mixtures made of them.

    mllm data list

    mllm data list --licence cc-by
    """
    from rich.console import Console
    from rich.table import Table

    from mllm.data_recipes.config import HERE, load_mixture, load_recipe

    recipes = [load_recipe(path.stem) for path in sorted((HERE / "recipes").glob("*.yaml"))]
    table = Table("recipe", "licence", "what", "size", title="recipes (`mllm data show NAME` for all of one)")
    for recipe in recipes:
        if recipe.licence.startswith(licence):
            table.add_row(recipe.name, recipe.licence, recipe.title, recipe.size or str(recipe.count or ""))
    mixtures = Table("mixture", "made of", "where", title="mixtures (`mllm data build NAME`)")
    for path in sorted((HERE / "mixtures").glob("*.yaml")):
        mixture = load_mixture(path)
        clips = f"{mixture.clips.train} + {mixture.clips.validation} + {mixture.clips.test} clips"
        mixtures.add_row(mixture.name, f"{clips}; {', '.join(use.recipe for use in mixture.sources)}", str(path))
    console = Console(width=None if os.isatty(1) else 160)
    console.print(table)
    console.print(mixtures)


@data_verbs.command("show")
def data_show(
    name: Annotated[str, typer.Argument(help="A recipe, a mixture, or what `build` made: a folder or an address.")],
    rows: Annotated[int, typer.Option(min=0, help="Rows of a build to print.")] = 3,
) -> None:
    """What a recipe or mixture says, or what a build holds.

    mllm data show oneill

    mllm data show runs/data/mini --rows 5
    """
    from mllm.data_recipes.config import HERE, DataError
    from mllm.data_recipes.store import Store

    store = Store.at(name)
    if store.exists("manifest.json"):
        from mllm.data_recipes.shard_contents import rows_of

        try:
            manifest = dict(json.loads(store.read("manifest.json")))
        except (TypeError, ValueError) as error:
            raise DataError(f"{store.where('manifest.json')} is broken: run `mllm data build` again") from error
        wanted = ("name", "complete", "clips", "hours", "rows", "clips_by_source", "licences", "soundfonts", "left_out")
        typer.echo(json.dumps({key: manifest.get(key) for key in wanted}, indent=1, ensure_ascii=False))
        for shard in store.names("rows", ".parquet")[:1]:
            for row in islice(rows_of(store, shard), rows):
                typer.echo(json.dumps(row, ensure_ascii=False))
        return
    for path in (HERE / "recipes" / f"{name}.yaml", HERE / "mixtures" / f"{name}.yaml", Path(name)):
        if path.is_file() and path.suffix in (".yaml", ".yml"):
            typer.echo(path.read_text(encoding="utf-8").rstrip())
            return
    if store.exists("build.json"):
        raise DataError(f"{store.address}: this build is not complete: run `mllm data build` again")
    raise DataError(f"{name}: no recipe, mixture or build of this name; `mllm data list` shows them")


@data_verbs.command("build")
def data_build(
    mixture: Annotated[str, typer.Argument(help="A mixture's YAML, or the name of one that ships.")],
    output: Annotated[
        str | None, typer.Option(help="Folder or fsspec address (s3://…) for clips and rows; default runs/data/NAME.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = os.cpu_count() or 2,
    limit: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="At most so many training clips; counts and limits of all else shrink in proportion. Without clips it "
            "is rows (theory, else scores) or medleys; in a mixture of sets alone, training items over all sets.",
        ),
    ] = None,
) -> None:
    """Render clips and write instruction rows; a build that was stopped goes on when run again.

    mllm data build data_recipes/mixtures/mini.yaml

    mllm data build tiny --output /tmp/tiny --limit 20
    """
    from mllm.data_recipes.build import build_mixture
    from mllm.data_recipes.config import HERE

    path = HERE / "mixtures" / f"{mixture}.yaml"
    path = path if path.is_file() else Path(mixture)
    try:
        manifest = build_mixture(path, output or f"runs/data/{path.stem}", workers, limit)
    except KeyboardInterrupt:
        typer.echo("stopped; run the same command again to go on", err=True)
        raise typer.Exit(130) from None
    folder = manifest.removesuffix("/manifest.json")
    typer.echo(f"{folder}: done; look at it with `mllm data show {folder}`")


@data_verbs.command("check")
def data_check(
    folder: Folder,
    against: Annotated[
        list[str] | None,
        typer.Option(
            help="A benchmark: a build (folder or address), or a jsonl, json or csv of its items. May be given again."
        ),
    ] = None,
    threshold: Annotated[float, typer.Option(min=0, max=1, help="Share of rows that may be at fault.")] = 0.0,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = os.cpu_count() or 2,
    output: Annotated[Path | None, typer.Option(help="Write the whole report here as JSON.")] = None,
) -> None:
    """Licences, splits, duplicates, leakage into benchmarks, broken rows and audio; ends with 1 if anything is found.

    mllm data check runs/data/mini

    mllm data check s3://bucket/mini --against bench/mmau_mini.json --output report.json
    """
    from mllm.data_recipes.check import check_folder

    if not check_folder(folder, against or [], threshold, workers, output):
        raise typer.Exit(1)


@data_verbs.command("card")
def data_card(folder: Folder) -> None:
    """Write the data card: README.md with sources, licences, counts and plots.

    mllm data card runs/data/mini
    """
    from mllm.data_recipes.card import write_card

    typer.echo(f"{write_card(folder)}: written")
