"""Launch files: golden, parsed, with the fields that the schedulers read, and refused where they cannot work."""

import dataclasses
import re

import pytest
import yaml

from tests.conftest import ROOT
from tests.launch.golden.make_golden import CASES, CLONED, GOLDEN, RECIPE, render, render_case
from vla_jax.__main__ import main
from vla_jax.commands import launch
from vla_jax.launch.tpu import GENERATIONS, Slice
from vla_jax.types import InputError


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("name", CASES)
def test_a_launch_file_is_the_golden_one(name):
    assert render_case(name) == (GOLDEN / name).read_text()


def test_every_target_has_a_golden_file():
    assert {arguments.split()[1] for arguments in CASES.values()} == set(launch.TARGETS)


@pytest.mark.parametrize("name", CASES)
def test_every_target_runs_the_same_command_and_starts_75_again(name):
    text = render_case(name)
    trained = yaml.safe_load(text) if name.endswith(".yaml") else text
    words = ["train.py", *RECIPE[:2], "--run-dir", "/mnt/runs/ef_vla_oxe", *RECIPE[2:-2]]
    said = pod(trained)["containers"][0]["args"] if name.startswith("gke") else text
    assert said == words if name.startswith("gke") else ".venv/bin/python " + " ".join(words) in said
    assert re.search(r"\b75\b", text)
    assert re.search(r"requirements-(tpu|cuda)\.txt", text)


def pod(jobset) -> dict:
    return job(jobset)["template"]["spec"]


def job(jobset) -> dict:
    (replicated,) = jobset["spec"]["replicatedJobs"]
    return replicated["template"]["spec"]


def test_a_jobset_has_a_pod_a_host_and_the_chips_of_its_topology():
    jobset = yaml.safe_load(render_case("gke_slices.yaml"))
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert jobset["spec"]["replicatedJobs"][0]["replicas"] == 2
    assert job(jobset)["parallelism"] == job(jobset)["completions"] == 32
    assert job(jobset)["backoffLimit"] == 0
    assert pod(jobset)["restartPolicy"] == "Never"
    assert pod(jobset)["terminationGracePeriodSeconds"] == 120
    selector = pod(jobset)["nodeSelector"]
    assert selector["cloud.google.com/gke-tpu-accelerator"] == "tpu-v5-lite-podslice"
    assert selector["cloud.google.com/gke-tpu-topology"] == "8x16"
    (container,) = pod(jobset)["containers"]
    assert container["resources"]["limits"] == {"google.com/tpu": 4}
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    volumes = {mounts[volume["name"]]: volume for volume in pod(jobset)["volumes"]}
    assert volumes["/mnt/runs"]["nfs"] == {"server": "10.0.0.2", "path": "/runs"}
    assert volumes["/mnt/data"]["csi"]["volumeAttributes"]["bucketName"] == "oxe-data"


@pytest.mark.parametrize(
    ("code", "reason", "index", "action"),
    [
        (2, "PodFailurePolicy", 0, "FailJobSet"),
        (75, "PodFailurePolicy", 1, "RestartJobSetAndIgnoreMaxRestarts"),
        ("DisruptionTarget", "PodFailurePolicy", 2, "RestartJobSetAndIgnoreMaxRestarts"),
        (137, "BackoffLimitExceeded", None, "RestartJobSet"),
    ],
)
def test_a_jobset_tells_exit_codes_apart(code, reason, index, action):
    """By the rules of the two controllers: the first pod rule that matches names its index in the job's message."""
    jobset = yaml.safe_load(render_case("gke.yaml"))
    matching = [i for i, rule in enumerate(job(jobset)["podFailurePolicy"]["rules"]) if matches(rule, code)]
    assert matching[:1] == ([] if index is None else [index])
    message = "" if index is None else f"Container train for pod a/b failed matching FailJob rule at index {index}"
    found = next(
        (
            rule["action"]
            for rule in jobset["spec"]["failurePolicy"]["rules"]
            if reason in rule["onJobFailureReasons"]
            and any(re.search(pattern, message) for pattern in rule["onJobFailureMessagePatterns"])
        ),
        "RestartJobSet",
    )
    assert found == action
    assert jobset["spec"]["failurePolicy"]["maxRestarts"] == 10


def matches(rule, code) -> bool:
    if "onExitCodes" in rule:
        return code in rule["onExitCodes"]["values"]
    return any(condition == {"type": code, "status": "True"} for condition in rule["onPodConditions"])


def test_a_sky_job_recovers_by_exit_code_and_tells_the_processes_where_they_are():
    task = yaml.safe_load(render_case("sky_gpu.yaml"))
    assert task["num_nodes"] == 4
    assert task["resources"]["accelerators"] == "H100:8"
    assert task["resources"]["job_recovery"] == {"max_restarts_on_errors": 10, "recover_on_exit_codes": [75]}
    assert task["file_mounts"] == {"/mnt/runs": {"source": "gs://runs", "mode": "MOUNT"}}
    for name in ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"):
        assert name in task["run"]
    tpu = yaml.safe_load(render_case("sky_tpu.yaml"))
    assert tpu["resources"]["accelerators"] == "tpu-v6e-16"
    assert "JAX_COORDINATOR_ADDRESS" not in tpu["run"], "JAX finds the hosts of a TPU slice itself"


@pytest.mark.parametrize(
    ("topology", "accelerator_type", "hosts", "machine"),
    [
        ("v5e:16x16", "v5litepod-256", 64, "ct5lp-hightpu-4t"),
        ("v5e:2x4", "v5litepod-8", 1, "ct5lp-hightpu-8t"),
        ("v6e:1x1", "v6e-1", 1, "ct6e-standard-1t"),
        ("v6e:16x16", "v6e-256", 64, "ct6e-standard-4t"),
        ("v5p:2x2x1", "v5p-8", 1, "ct5p-hightpu-4t"),
        ("v5p:8x8x16", "v5p-2048", 256, "ct5p-hightpu-4t"),
    ],
)
def test_slices_have_the_names_and_hosts_that_they_are_rented_by(topology, accelerator_type, hosts, machine):
    found = Slice.parse(topology)
    assert (found.accelerator_type, found.hosts, found.machine_type) == (accelerator_type, hosts, machine)


def test_every_small_topology_makes_whole_hosts():
    for name, generation in GENERATIONS.items():
        for topology in generation.topologies:
            found = Slice.parse(f"{name}:{topology}")
            assert found.hosts * found.chips_a_host == found.chips


GKE = "--target gke --topology v6e:4x4 --storage /mnt/runs=pvc:runs"
SLURM = "--target slurm --nodes 2 --storage /mnt/runs --code /home/lab/vla_jax"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            "--target gke --topology v9x:4x4 --storage /mnt/runs=pvc:runs",
            "no accelerator 'v9x'; there are v5e, v5p, v6e",
        ),
        ("--target gke --topology v6e:3x5 --storage /mnt/runs=pvc:runs", "v6e has no slice '3x5'; it has 1x1, 2x2"),
        ("--target gke --topology v5p:4x4x6 --storage /mnt/runs=pvc:runs", "v5p has no slice '4x4x6'.* multiples of 4"),
        ("--target gke --topology v5p:16x16x32 --storage /mnt/runs=pvc:runs", "v5p has no slice '16x16x32'"),
        ("--target gke --topology v6e:2x4 --slices 2 --storage /mnt/runs=pvc:runs", "--slices 2: slices of one host"),
        (f"{GKE} --mesh.data 4 --mesh.fsdp 8", "--mesh.data 4 --mesh.fsdp 8.*asks for 16 chips"),
        (f"{GKE} --mesh.fsdp 3", "--mesh.fsdp 3.*asks for 16 chips"),
        (f"{SLURM} --gpus 4 --mesh.fsdp 16", "--mesh.fsdp 16.*asks for 8 chips"),
        (
            f"{GKE} --run-dir /home/me/run",
            "--run-dir /home/me/run: nothing says that all hosts see the same files there",
        ),
        (f"{GKE} --run-dir runs/x", "--run-dir runs/x: nothing says"),
        (f"{GKE} --run-dir /mnt/runs/../x", "--run-dir /mnt/runs/../x: nothing says"),
        (f"{GKE} --run-dir gs://runs/x", "--run-dir gs://runs/x: nothing says"),
        (f"{GKE} --data.cache /var/cache", "--data.cache /var/cache: nothing says"),
        (f"{GKE} --data.root /data", "--data.root /data: nothing says"),
        (f"{GKE} --policy.clip-weights weights/clip", "the weights of clip, weights/clip: nothing says"),
        (f"{GKE} --init-from runs/other", "--init-from runs/other: nothing says"),
        (
            "--target slurm --storage /tmp --code /home/lab/x --run-dir /tmp/run",
            "--storage /tmp: every host has a /tmp",
        ),
        ("--target slurm --storage /mnt/runs=pvc:x --code /home/lab/x", "--target slurm knows MOUNT alone"),
        ("--target slurm --storage /mnt/runs", "--target slurm.*|nodes of a SLURM cluster share their files"),
        ("--target tpu-vm --topology v5e:4x4 --storage /mnt/runs=gs://runs", "--target tpu-vm: --zone is missing"),
        (f"{GKE} --zone us-east5-b", "--zone us-east5-b: no option of --target gke"),
        ("--target sky --storage /mnt/runs=gs://runs", "either --gpu NAME"),
        ("--target sky --gpu H100 --topology v6e:4x4 --storage /mnt/runs=gs://runs", "either --gpu NAME"),
        (f"{GKE} --job-name Not_A_Name", "--job-name Not_A_Name: small letters"),
        (f"{GKE} --image python;reboot", "--image 'python;reboot': one word"),
        (f"{GKE} --learning-rate 1", "--learning-rate: no such key"),
        (f"{GKE} --storage mnt=gs://x", "--storage mnt=gs://x: MOUNT is an absolute path"),
        (f"{GKE} --storage /mnt/x=ftp://x", "--storage /mnt/x=ftp://x: expected"),
    ],
)
def test_a_file_that_cannot_work_is_refused_with_one_message(capsys, arguments, message):
    words = arguments.split()
    code = main(["launch", *RECIPE, *(() if "--code" in words else CLONED), *words])
    captured = capsys.readouterr()
    assert code == 2
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert re.search(message, captured.err), captured.err


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (["--code", "../vla_jax"], r"--code \.\./vla_jax: a git URL is expected"),
        (["--code", "https://github.com/lab/vla_jax.git"], "--revision is missing"),
        (["--code", "/opt/vla_jax", "--revision", "v1"], "is a checkout"),
    ],
)
def test_code_is_a_pinned_url_or_a_checkout(code, message):
    with pytest.raises(InputError, match=message):
        render(*GKE.split(), *code, *RECIPE)


def test_options_of_a_target_are_fields_of_its_class():
    for name in launch.TARGETS:
        module = __import__(f"vla_jax.launch.targets.{name.replace('-', '_')}", fromlist=["Target"])
        assert dataclasses.fields(module.Target)[0].name == "run"
