"""The entry points of both programs: registers their commands."""

from __future__ import annotations

from typing import Annotated

import typer

from pcnet.commands import distill, evaluate, export_onnx, predict, train
from pcnet.commands import report as run_report
from prep.commands import (
    audit,
    concepts,
    export,
    import_masks,
    init,
    look,
    phrases,
    proposals,
    recipe,
    scores,
    store,
)
from prep.commands.entry import SETTINGS, print_version, run_program
from prep.commands.help import Command
from prep.commands.options import Debug

prep_app = typer.Typer(
    help="Prepare data for weakly supervised referring segmentation: phrases, proposals and their store.",
    **SETTINGS,
)
pcnet_app = typer.Typer(help="Train and evaluate PCNet on prepared phrases and proposals.", **SETTINGS)


def _prep_version(wanted: bool) -> None:
    print_version("pcnet-prep", wanted)


def _pcnet_version(wanted: bool) -> None:
    print_version("pcnet", wanted)


@prep_app.callback()
def _prep_callback(
    _: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_prep_version, is_eager=True)
    ] = False,
    debug: Debug = False,
) -> None:
    """Prepare data for weakly supervised referring segmentation: phrases, proposals and their store."""


@pcnet_app.callback()
def _pcnet_callback(
    _: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_pcnet_version, is_eager=True)
    ] = False,
    debug: Debug = False,
) -> None:
    """Train and evaluate PCNet on prepared phrases and proposals."""


def _recipe_commands() -> dict[str, object]:
    """The commands that may have a section in a file of `pcnet-prep run`, in the order in which they run."""
    stages = typer.main.get_command(prep_app).commands  # type: ignore[attr-defined]
    training = typer.main.get_command(pcnet_app).commands  # type: ignore[attr-defined]
    return {
        **{name: stages[name] for name in ("phrases", "sam", "score", "concepts")},
        **{name: training[name] for name in ("train", "eval")},
    }


_RUN_SETTINGS: dict[str, object] = {"ignore_unknown_options": True, "obj": _recipe_commands}

prep_app.command("phrases", cls=Command)(phrases.phrases)
prep_app.command("sam", cls=Command)(proposals.sam)
prep_app.command("import", cls=Command)(import_masks.import_masks)
prep_app.command("export", cls=Command)(export.export)
prep_app.command("audit", cls=Command)(audit.audit)
prep_app.command("score", cls=Command)(scores.score)
prep_app.command("concepts", cls=Command)(concepts.concepts)
prep_app.command("status", cls=Command)(store.status)
prep_app.command("card", cls=Command)(store.card)
prep_app.command("verify", cls=Command)(store.verify)
prep_app.command("compact", cls=Command)(store.compact)
prep_app.command("init", cls=Command)(init.init)
prep_app.command("run", cls=Command, context_settings=_RUN_SETTINGS)(recipe.run)
prep_app.command("doctor", cls=Command)(look.doctor)
prep_app.command("report", cls=Command)(look.report)
prep_app.command("demo", cls=Command)(look.demo)

pcnet_app.command("train", cls=Command)(train.train)
pcnet_app.command("distill", cls=Command)(distill.distill)
pcnet_app.command("eval", cls=Command)(evaluate.evaluate)
pcnet_app.command("predict", cls=Command)(predict.predict)
pcnet_app.command("export-onnx", cls=Command)(export_onnx.export_onnx)
pcnet_app.command("report", cls=Command)(run_report.report)


def prep_main() -> None:
    """Entry point of ``pcnet-prep``."""
    run_program(prep_app)


def pcnet_main() -> None:
    """Entry point of ``pcnet``."""
    run_program(pcnet_app)
