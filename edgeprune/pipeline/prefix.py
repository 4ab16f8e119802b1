"""A finished run's trajectory, cut at any share of the parameters: a smaller network without another walk."""

from __future__ import annotations

from edgeprune.config import BuildConfig
from edgeprune.errors import ConfigError
from edgeprune.pipeline import ranked, sharing
from edgeprune.pipeline.building import Build
from edgeprune.pipeline.inputs import Inputs
from edgeprune.pipeline.kept import check_groups, check_walked, keep_settings, recorded_walk
from edgeprune.pipeline.ledger import ROUNDING
from edgeprune.pipeline.pruning import found_without, make_study
from edgeprune.pipeline.room import check_room
from edgeprune.pipeline.saving import PrunedModel, make_pruned
from edgeprune.pipeline.study import Study
from edgeprune.pipeline.trajectory import Order, taken, within
from edgeprune.pipeline.watching import Silence, Watcher
from edgeprune.records import Pruning
from edgeprune.runfolder import RunFolder


def prune_run(config: BuildConfig, param_ratio: float, *, watcher: Watcher | None = None) -> PrunedModel:
    """Cut out as much of the trajectory in `config.out` as stays within a share of the parameters.

    Units go in the order of the walk; widths stay whole steps; survivors are compensated and refitted as the
    method of the run says. The trajectory of the result says how each class stands after that.

    Args:
        config: Of the run: `kept_config` reads it from the folder.
        param_ratio: Share of the parameters to remove at most, in (0, 1].
        watcher: Sees the progress.

    Raises:
        ConfigError: the run's walk ended before this share.
        RunFolderError: there is no walk there, or it is of other inputs.
    """
    check_walked(config.out)
    watcher = watcher or Silence()
    inputs = Inputs.load(config)
    with RunFolder.open(config.out) as folder:
        build = Build(inputs, folder, watcher)
        record = check_groups(build, recorded_walk(build))
        _check_reached(record, param_ratio, config)
        study = make_study(build.analysed, build.images, build.options, build.journey)
        removed = within(study, _order(study, build, record), param_ratio)
        why = f"cut out of the trajectory at {param_ratio:g} of the parameters"
        return make_pruned(build.analysed, found_without(study, record, removed, why))


def _check_reached(record: Pruning, ratio: float, config: BuildConfig) -> None:
    """Raise where the walk might have gone on and was not asked to."""
    end = record.plan.param_ratio
    if not record.trajectory.steps or ratio <= end + ROUNDING:
        return  # a criterion's order has no end
    if config.max_param_ratio is not None and ratio <= config.max_param_ratio + ROUNDING:
        return  # the walk went as near to it as whole steps of the width allow, or as its other limits do
    raise ConfigError(
        f"--param-ratio {ratio:g}: the trajectory in {config.out} ends at {end:.4f} of the parameters; "
        f"for more, walk further: `edgeprune build --out {config.out} --max-param-ratio {ratio:g}`."
    )


def _order(study: Study, build: Build, record: Pruning) -> Order:
    if record.trajectory.steps:
        return taken(record.trajectory.steps)
    if study.options.method in ("c-swap", "c-swap-c"):
        return []
    pieces = ranked.rank(study, ranked.scores(study, build.analysed.module))
    return [(piece.group, unit) for piece in pieces for unit in piece.units]


def analyse_only(config: BuildConfig, *, watcher: Watcher | None = None) -> PrunedModel:
    """The analysis and surgery of a build in `config.out`, resumable, without export and measurement."""
    inputs = Inputs.load(config)
    with RunFolder.open(config.out) as folder:
        keep_settings(config, folder.path)
        build = Build(inputs, folder, watcher or Silence())
        check_room(build, deployed=False)
        with sharing.leading(build.crew):
            return build.pruned
