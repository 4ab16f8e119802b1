"""A finished run's network under one intervention for each unit: which classes need it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from edgeprune import causal
from edgeprune.config import BuildConfig
from edgeprune.pipeline.building import Build
from edgeprune.pipeline.inputs import Inputs
from edgeprune.pipeline.kept import check_groups, check_walked, recorded_walk, walk_inputs
from edgeprune.pipeline.pruning import make_study
from edgeprune.pipeline.study import Study
from edgeprune.pipeline.watching import Silence, Watcher
from edgeprune.records import ChannelGroup, Doubles, GroupEffects
from edgeprune.runfolder import RunFolder

STAGE = "explain-"


def explain_run(
    config: BuildConfig, chosen: Mapping[str, Sequence[int]], *, watcher: Watcher | None = None
) -> tuple[GroupEffects, ...]:
    """Take out each unit alone, from the dense network, on the run's calibration images.

    The survivors are compensated where the run's method does so. A whole group's table is kept in the run
    folder.

    Args:
        config: Of the run, in `config.out`.
        chosen: Group -> units; no units: all of them. No group: all of them.
        watcher: Sees the progress.

    Raises:
        RunFolderError: there is no walk there, or it is of other inputs.
    """
    check_walked(config.out)
    watcher = watcher or Silence()
    inputs = Inputs.load(config)
    with RunFolder.open(config.out) as folder:
        build = Build(inputs, folder, watcher)
        check_groups(build, recorded_walk(build))
        study = make_study(build.analysed, build.images, build.options, build.journey)
        runner = _Interventions(study)
        digests = walk_inputs(build)

        def make(group: ChannelGroup, units: Sequence[int]) -> GroupEffects:
            def on_done(done: int) -> None:
                watcher.progress(group.name, done, len(units), "units taken out alone")

            return causal.explain(group.name, units, runner.scores, study.examiner(), on_done=on_done)

        found = []
        for group in runner.groups:
            if chosen and group.name not in chosen:
                continue
            if units := chosen.get(group.name, ()):
                found.append(make(group, units))
                continue
            stage = f"{STAGE}{group.name}"
            table, reused = folder.reuse_or_make(
                stage, GroupEffects, digests, partial(make, group, range(group.units))
            )
            watcher.stage(stage, reused=reused, seconds=folder.seconds[stage])
            found.append(table)
        return tuple(found)


class _Interventions:
    """Interventions on the dense network: what lies before a group is computed once."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.replay = study.replay()
        self.groups = sorted(study.groups, key=lambda group: (self.replay.position(group), group.name))
        self.by_name = {group.name: group for group in study.groups}
        self.entered = ""
        dense = study.program.dense
        self.survivors = (
            None if study.options.compensation == "none" else study.survivors(dense, study.measure(dense), {})
        )

    def scores(self, shard: causal.Shard, group: str, unit: int) -> Doubles:
        """Scores of a shard's images without one unit."""
        study = self.study
        if self.survivors is not None:
            changed = self.survivors.without({group: (unit,)})
            return study.scores(shard, {**study.program.dense, **changed})
        if self.entered != group:
            self.replay.enter(self.by_name[group])
            self.entered = group
        outputs = self.replay.outputs(shard.number, self.by_name[group], [unit]).numpy()
        return study.scores_of(shard, outputs)
