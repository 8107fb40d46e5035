"""What commands on searches share: a run's study, and a search from its first trial to its closing lines."""

import sys

from tuner.plan import points, space
from tuner.plan.spec import SearchSpec, parse
from tuner.runs.run import EXPORTED, Run
from tuner.search.study import Study

WAIT = 600.0  # seconds that a launch waits for a cluster that has no room yet


def opened(run: Run, spec: SearchSpec) -> Study:
    """The study of a run, to be continued.

    Raises:
        UserError: something in the run is damaged, or what defines the trials was changed.
    """
    run.check_journal()
    run.read_baseline()
    return Study(run.journal, spec, points.load(spec) if spec.table else space.load(run.space(spec.space)))


def read(run: Run) -> Study:
    """The study of a run, to be looked at.

    Raises:
        UserError: something in the run is damaged.
    """
    run.check_journal()
    return Study(run.journal, parse(run.spec), None, reading=True)


def seconds_to_wait(given: float | None, address: str) -> float:
    """How long to wait for room on a cluster.

    Args:
        given: on the command line; None where it was not.
        address: of the cluster. This machine gets no more room than it has.
    """
    if address == "local":
        return 0.0
    return WAIT if given is None else given


def first_words(address: str) -> str:
    """What a command says before it imports Ray, which takes a while.

    Args:
        address: of the cluster; "local" for one on this machine alone.
    """
    return "starting Ray on this machine" if address == "local" else f"joining the Ray cluster at {address}"


def finish(run: Run, study: Study, wait: float | None = None) -> int:
    """Runs what is left of a search, exports its best configurations, and then prints what it came to.

    Args:
        run: of the search.
        study: of the run.
        wait: seconds to wait for a cluster that has no room for a trial yet; None for the default.

    Returns:
        The exit status: 1 where no trial, or no point of a table, is complete; 0 where the user ended the search and a
        stopped trial has a score.
    """
    from tuner.report import beside_table, closing, export, terminal
    from tuner.report.viewer import view_of

    _run(run, study, seconds_to_wait(wait, study.spec.address))
    done = bool(study.best(1)) or study.best_stopped() is not None
    exported = export.export(run, study, EXPORTED, run.best_folder / "best.yaml") if done else []
    if study.spec.table:
        view = view_of(run, study)
        terminal.console().print(terminal.points_table(view), *beside_table.tables_of(view.paper))
    if not exported:
        lacking = "point was completed with all of its seeds" if study.spec.table else "trial was completed"
        print(f"error: no {lacking}; see: tuner status {run.path}", file=sys.stderr)
        return 1
    print("\n".join(closing.lines(run, study, exported[0])))
    return 0


def _run(run: Run, study: Study, wait: float) -> None:
    """Runs what is left of a search; its first words are printed before Ray is imported, which takes a while."""
    from tuner.report.lasting import LastingConsole
    from tuner.report.progress import Progress

    if all(trial.state.is_finished() for trial in study.trials()) and len(study.trials()) >= study.spec.trials:
        return
    console = LastingConsole(file=sys.stdout)  # not what standard output becomes while Ray runs: the driver's log

    def say(text: str) -> None:
        console.print(text, soft_wrap=True, highlight=False, markup=False)

    say(first_words(study.spec.address))

    from tuner.fleet import session
    from tuner.report.tensorboard import TensorBoard

    def screen(room: int) -> Progress:
        return Progress(run, study, room, console)

    session.run_search(run, study, screen, [lambda: TensorBoard(run, study)], wait, say)
