"""The files for clusters are what Kubernetes, Slurm and the command line take."""

from __future__ import annotations

import copy
import os
import shlex
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kubeflow_trainer_api import models

from luthier.cli.train import parser
from luthier.core import yaml

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "examples" / "kubernetes"
SLURM = ROOT / "examples" / "slurm" / "train.sbatch"
SCHEMAS = {
    ("trainer.kubeflow.org/v1alpha1", "TrainJob"): models.TrainerV1alpha1TrainJob,
    ("jobset.x-k8s.io/v1alpha2", "JobSet"): models.JobsetV1alpha2JobSet,
}
MANIFESTS = sorted(KUBERNETES.glob("*.yaml"))
RANKS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS")


def manifest(path: Path) -> dict[str, Any]:
    return yaml.load_file(path)


def refused(found: dict[str, Any]) -> str | None:
    """What the official model says against a manifest; it drops keys that it does not know, so what comes back must be what went in."""
    model = SCHEMAS[found["apiVersion"], found["kind"]]
    try:
        back = model.from_dict(found).to_dict()
    except ValueError as error:
        return str(error)
    return None if back == found else "keys that the schema does not know"


def container(found: dict[str, Any]) -> dict[str, Any]:
    """The part of a manifest that runs luthier."""
    if found["kind"] == "TrainJob":
        return found["spec"]["trainer"]
    return found["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"][0]


def test_there_is_one_manifest_of_each_kind() -> None:
    assert {(found["apiVersion"], found["kind"]) for found in map(manifest, MANIFESTS)} == set(SCHEMAS)


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_a_manifest_is_what_its_schema_asks_for(path: Path) -> None:
    assert refused(manifest(path)) is None


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_the_schema_sees_a_wrong_key_a_wrong_type_and_a_missing_name(path: Path) -> None:
    found = manifest(path)
    unknown, wrong, missing = copy.deepcopy(found), copy.deepcopy(found), copy.deepcopy(found)
    container(unknown)["imagee"] = "x"
    container(wrong)["args"] = "--nnodes=2"
    if found["kind"] == "TrainJob":
        del missing["spec"]["runtimeRef"]["name"]
    else:
        del container(missing)["name"]
    assert all(refused(broken) for broken in (unknown, wrong, missing))


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_a_manifest_runs_a_command_line_that_exists(path: Path) -> None:
    words = container(manifest(path))["args"]
    launcher, command = words[: words.index("-m")], words[words.index("-m") + 1 :]
    assert command[:2] == ["luthier", "train"]
    parsed, unknown = parser().parse_known_intermixed_args(command[2:])
    assert not unknown and parsed.resume == "auto" and parsed.output == "/shared/runs/reviews"
    from torch.distributed.run import get_args_parser

    get_args_parser().parse_args([*launcher, "-m", "luthier"])


def test_pods_meet_at_the_name_that_jobset_gives_pod_0() -> None:
    found = manifest(KUBERNETES / "jobset.yaml")
    name, job = found["metadata"]["name"], found["spec"]["replicatedJobs"][0]
    pods = job["template"]["spec"]
    assert f"--rdzv-endpoint={name}-{job['name']}-0-0.{name}:29400" in container(found)["args"]
    assert f"--nnodes={pods['parallelism']}" in container(found)["args"] and pods["parallelism"] == pods["completions"]


@pytest.fixture
def slurm(tmp_path: Path) -> Callable[..., tuple[int, list[str], str]]:
    """Run the script where `srun` runs two tasks one after the other; returns its code, what luthier was told, what scontrol was asked."""
    told, asked = tmp_path / "told", tmp_path / "asked"

    def command(name: str, text: str) -> None:
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(stat.S_IRWXU)

    def run(ends_with: int) -> tuple[int, list[str], str]:
        command("scontrol", f'case $1 in show) printf "node-a\\nnode-b\\n";; *) echo "$@" >> {asked};; esac')
        command("luthier", f'echo "{" ".join(f"${name}" for name in RANKS)} $*" >> {told}; exit {ends_with}')
        command(
            "srun",
            'while [[ "$1" == --* ]]; do shift; done; code=0\n'
            'for task in 0 1; do SLURM_PROCID=$task SLURM_LOCALID=$task "$@" || code=$?; done; exit $code',
        )
        given = {"SLURM_JOB_ID": "41", "SLURM_JOB_NODELIST": "node-[a-b]", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2"}
        environment = {**os.environ, **given, "SLURM_CPUS_PER_TASK": "3", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
        words = ["bash", str(SLURM), "my recipe.yaml", "--output", "/shared/runs/x"]
        ended = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60)
        return ended.returncode, told.read_text().splitlines(), asked.read_text() if asked.exists() else ""

    return run


def test_the_slurm_script_is_bash() -> None:
    subprocess.run(["bash", "-n", str(SLURM)], check=True, timeout=60)


def test_slurm_tells_each_process_who_it_is(slurm: Callable[..., tuple[int, list[str], str]]) -> None:
    code, told, asked = slurm(0)
    command = "train my recipe.yaml --output /shared/runs/x --resume auto"
    assert told == [f"0 2 0 2 node-a 20041 3 {command}", f"1 2 1 2 node-a 20041 3 {command}"]
    assert (code, asked) == (0, "")


def test_slurm_queues_a_saved_run_again_and_no_other(slurm: Callable[..., tuple[int, list[str], str]]) -> None:
    assert slurm(143)[::2] == (143, "requeue 41\n")
    assert slurm(2)[::2] == (2, "requeue 41\n"), "still the one of the line above"


def test_slurm_warns_the_tasks_before_the_time_is_over() -> None:
    options = [shlex.split(line)[1] for line in SLURM.read_text().splitlines() if line.startswith("#SBATCH")]
    assert {"--signal=TERM@120", "--requeue", "--open-mode=append"} <= set(options)
