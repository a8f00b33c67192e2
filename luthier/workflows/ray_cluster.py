"""Hand a run to Ray Train: as many workers as wanted, on this machine or a cluster, started again when one is lost.

Ray starts the processes and finds them again; the training, its checkpoints and its run folder are the same as everywhere else.

Reference: https://docs.ray.io/en/latest/train/user-guides/fault-tolerance.html.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import signal
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core.errors import Interrupted, LuthierError, ProcessLost, RunStopped, SetupError
from luthier.core.machine import available_cores
from luthier.core.run_folder import RunFolder
from luthier.core.tick import Tick
from luthier.flow import Training, free_name
from luthier.recipe import Changes, resolve
from luthier.training.signals import StopSignal
from luthier.workflows.ray_worker import Job, work

if TYPE_CHECKING:
    from luthier.workflows.ray_post import News

log = logging.getLogger("luthier")
INSTALL = "pip install 'ray[train]', on every machine of the cluster"
NO_ANSWER = "see that it runs there (ray status) and that no firewall stands between, or unset RAY_ADDRESS to use this machine"
LONGEST_WAIT = 12 * 3600  # seconds; as elsewhere: for a process that measures, or waits for disk space
SECONDS_BETWEEN_LOOKS = 0.2
SECONDS_TO_CONNECT = 10.0
OBJECT_STORE_BYTES = 128 * 2**20


@dataclass(frozen=True)
class Workers:
    """The workers that are wanted.

    Args:
        processes: How many.
        max_restarts: How often Ray starts them again after one was lost.
        code: Files named with --code; their text travels with the run.
    """

    processes: int = 2
    max_restarts: int = 3
    code: Sequence[str] = ()


def begin(recipe: Any, workers: Workers, *, changes: Changes = (), started: float, again: bool = False) -> Training | RayTraining:
    """Return a new run on Ray, or, with `again`, the one in the recipe's output folder; a finished run needs no Ray.

    Raises:
        ConfigError: if the recipe is wrong.
        SetupError: if Ray is not installed.
    """
    resolved = resolve(recipe, changes)
    if again and (resolved.output is None or RunFolder(resolved.output).complete):
        return Training.begin(recipe, changes=changes, started=started, again=True)
    output = str(Path(resolved.output or free_name(resolved)).absolute())
    if not again:
        RunFolder(output).require_free()
    return RayTraining({**resolved.as_dict(), "output": output}, output, workers, started=started, again=again)


def resume(path: str, workers: Workers, *, started: float) -> Training | RayTraining:
    """Return a run that goes on where it stopped; a finished run needs no Ray.

    Raises:
        SetupError: if there is no such run, or Ray is not installed.
    """
    if RunFolder.open(path).complete:
        return Training.again(path, started=started)
    return RayTraining(None, str(Path(path).absolute()), workers, started=started, again=True)


class RayTraining:
    """A training on the workers of Ray Train: iterate over it for its ticks; at the end `metrics` holds what `metrics.json` says.

    Args:
        recipe: The recipe, resolved whole; None to go on with a run as it began.
        output: The run folder.
        workers: The workers that are wanted.
        started: When the command began, in seconds since the epoch.
        again: Whether to go on with the run that is in the folder.

    Raises:
        SetupError: if Ray is not installed; when iterated over, if no cluster answers.
    """

    def __init__(self, recipe: dict[str, Any] | None, output: str, workers: Workers, *, started: float, again: bool) -> None:
        if importlib.util.find_spec("ray") is None:
            raise SetupError("--cluster ray needs Ray, which is not installed", fix=INSTALL)
        self.run = RunFolder(output)
        self.metrics: dict[str, Any] | None = None
        code = tuple((str(Path(path).absolute()), Path(path).read_text(encoding="utf-8")) for path in workers.code)
        self._job = Job(recipe, output, again, code, folder=str(Path.cwd()), sign="", started=started)
        self._processes, self._max_restarts = workers.processes, workers.max_restarts
        self._failure: BaseException | None = None

    def __iter__(self) -> Iterator[Tick]:
        """Yield one Tick per optimiser step; after a worker was lost they go on from the last checkpoint.

        Raises:
            LuthierError: what ended the run for good.
            Interrupted: on Ctrl-C or SIGTERM, after the state was saved where the run had begun.
        """
        with StopSignal() as stop, connected(self._processes), sign_beside(self.run.path) as sign:
            post = _post()
            config = {"job": replace(self._job, sign=str(sign)), "post": post}
            fitting = threading.Thread(target=self._fit, args=(config,), daemon=True)  # in the main thread Ray would take Ctrl-C
            if stop.received is None:
                fitting.start()
            yield from self._followed(fitting, post, stop)

    def _followed(self, fitting: threading.Thread, post: Any, stop: StopSignal) -> Iterator[Tick]:
        import ray

        is_told = is_alive = False
        while is_alive or self.metrics is None:
            is_alive = fitting.is_alive()  # asked before the news, so that the last of them is not missed
            yield from self._heard(ray.get(post.news.remote()))
            if stop.received is not None and not is_told:
                is_told = True
                if not (is_alive and ray.get(post.ask_to_stop.remote(stop.received))):
                    fix = f"if the run had begun: luthier train --cluster ray --resume {self.run.path}"
                    raise Interrupted("stopped before or after the training itself", exit_code=stop.exit_code, fix=fix)
            if not is_alive and self.metrics is None:
                raise self._as_known(self._failure)
            time.sleep(SECONDS_BETWEEN_LOOKS)

    def _heard(self, news: News) -> Iterator[Tick]:
        """Pass on what the workers said."""
        for level, text in news.notices:
            log.log(level, "%s", text)
        yield from news.ticks
        if news.error is not None:
            raise news.error.as_error()
        self.metrics = self.metrics or news.metrics

    def _fit(self, config: dict[str, Any]) -> None:
        """Run Ray Train to its end, in a thread; its own files are temporary, the state of the run is in the run folder."""
        import ray.train
        from ray.train.torch import TorchConfig, TorchTrainer

        use_gpu = ray.cluster_resources().get("GPU", 0) > 0
        backend = "cpu:gloo,cuda:nccl" if use_gpu else "gloo"
        try:
            with tempfile.TemporaryDirectory(prefix="luthier-ray-", ignore_cleanup_errors=True) as own:
                TorchTrainer(
                    work,
                    train_loop_config=config,
                    torch_config=TorchConfig(backend=backend, timeout_s=LONGEST_WAIT),
                    scaling_config=ray.train.ScalingConfig(num_workers=self._processes, use_gpu=use_gpu),
                    run_config=ray.train.RunConfig(
                        name=self.run.path.name,
                        storage_path=own,
                        failure_config=ray.train.FailureConfig(max_failures=self._max_restarts),
                        callbacks=[_lost_workers(config["post"], self._max_restarts)],
                        logging_config=ray.train.LoggingConfig(log_level="ERROR"),
                    ),
                ).fit()
        except BaseException as error:  # raised again where the ticks are taken
            self._failure = error

    def _as_known(self, failure: BaseException | None) -> BaseException:
        """Return the error behind what Ray says when it gives up."""
        import ray

        failures = getattr(failure, "worker_failures", None)
        if not failures:
            return failure or RuntimeError("Ray ended the run without a result and without an error")
        rank, cause = first_cause(failures)
        if isinstance(cause, LuthierError):
            return cause
        if isinstance(cause, ray.exceptions.RayError):
            return RunStopped(
                f"process {rank} was lost, after {self._max_restarts} restarts: {_first_line(cause)}",
                fix="look whether a machine ran out of memory or went away; then: "
                f"luthier train --cluster ray --processes {self._processes} --resume {self.run.path}",
            )
        cause.__cause__ = failure  # says where in the worker it was raised
        return cause


def first_cause(failures: dict[int, Exception]) -> tuple[int, BaseException]:
    """Return the worker that failed by itself, and its error; others only lost it.

    Args:
        failures: Errors by rank, as Ray hands them over.
    """
    own = {rank: _inside(error) for rank, error in sorted(failures.items())}
    causes = [(rank, error) for rank, error in own.items() if not isinstance(error, ProcessLost)]
    return (causes or list(own.items()))[0]


def _inside(error: BaseException) -> BaseException:
    """Return the error that Ray has wrapped."""
    for name in ("_base_exc", "health_check_failure"):
        error = getattr(error, name, error)
    return error


def _lost_workers(post: Any, max_restarts: int) -> Any:
    """Return a callback of Ray Train that says which worker was lost and that the run goes on."""
    import ray.train

    class LostWorkers(ray.train.UserCallback):
        def __init__(self) -> None:
            self.count = 0

        def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
            self.count += 1
            rank, cause = first_cause(worker_exceptions)
            if self.count <= max_restarts:
                text = f"process {rank} ended: {_first_line(cause)} Ray starts again ({self.count} of at most {max_restarts} times)"
                post.notice.remote(logging.WARNING, text)

    return LostWorkers()


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def _post() -> Any:
    """Start the actor that carries messages, on this machine."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from luthier.workflows.ray_post import Post

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=here)(Post).remote()


@contextmanager
def sign_beside(run: Path) -> Iterator[Path]:
    """Make a file beside the run folder, by which every machine can tell that it sees the place; removed afterwards.

    Args:
        run: The run folder.
    """
    run.parent.mkdir(parents=True, exist_ok=True)
    sign = run.parent / f".{run.name}-{uuid.uuid4().hex[:8]}"
    sign.touch()
    try:
        yield sign
    finally:
        sign.unlink(missing_ok=True)


@contextmanager
def connected(processes: int) -> Iterator[None]:
    """Within the context there is a Ray: the one at RAY_ADDRESS, or one of this machine that is ended afterwards.

    Args:
        processes: How many are wanted of it.

    Raises:
        SetupError: if no cluster answers.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
    address = os.environ.get("RAY_ADDRESS")
    if address:
        _require_answer(address)
    here: dict[str, Any] = {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
    if not address:
        os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
        here["num_cpus"] = max(processes, available_cores())
    import ray

    try:
        with _begun({"address": address or "local", "logging_level": logging.ERROR, "log_to_driver": False, **({} if address else here)}):
            _warn_of_scarcity(ray.cluster_resources(), processes)
            yield
    except ConnectionError as error:
        token = f"{NO_ANSWER}; a cluster with a token wants RAY_AUTH_MODE=token here too"
        raise SetupError(f"no Ray cluster answers at RAY_ADDRESS={address}", where=_first_line(error), fix=token) from error


def _require_answer(address: str) -> None:
    """Raise SetupError unless something answers at the address of a cluster; Ray itself would go on trying for many minutes."""
    wanted = "got RAY_ADDRESS={}, wanted HOST:PORT of the cluster, such as 10.0.0.1:6379, or auto on a machine of the cluster"
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or "/" in host:
        raise SetupError(wanted.format(address), fix="from elsewhere use: ray job submit -- luthier train ... --cluster ray")
    try:
        socket.create_connection((host.strip("[]"), int(port)), SECONDS_TO_CONNECT).close()
    except OSError as error:
        raise SetupError(f"no Ray cluster answers at RAY_ADDRESS={address}", where=str(error), fix=NO_ANSWER) from error


@contextmanager
def _begun(wishes: dict[str, Any]) -> Iterator[None]:
    """Have Ray begun in a thread, where it cannot put its handlers of signals in the place of ours.

    The thread stays until the end: Linux ends what Ray started together with the thread that started it.
    """
    import ray

    failures: list[BaseException] = []
    is_ready, is_over = threading.Event(), threading.Event()

    def stay() -> None:
        try:
            ray.init(**wishes)
        except BaseException as error:  # raised again below
            failures.append(error)
        is_ready.set()
        is_over.wait()

    threading.Thread(target=stay, daemon=True).start()
    while not is_ready.wait(SECONDS_BETWEEN_LOOKS):
        _take_sigterm_back()
    _take_sigterm_back()
    try:
        if failures:
            raise failures[0]
        yield
    finally:
        ray.shutdown()
        is_over.set()


def _take_sigterm_back() -> None:
    """Put our handler of SIGTERM in the place of one that Ray's native code has put over it."""
    handler = signal.getsignal(signal.SIGTERM)
    if handler is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


def _warn_of_scarcity(resources: dict[str, float], processes: int) -> None:
    kind = "GPU" if resources.get("GPU") else "CPU"
    there = int(resources.get(kind, 0))
    if there < processes:
        log.warning("the cluster has %d %ss for %d processes: the run waits until there are more", there, kind, processes)
