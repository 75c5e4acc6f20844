"""The cluster files that users get: valid, alike where they should be, and checked before they cost money."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from namespace_hosts import wait_for

from hpsearch.cli import main
from hpsearch.cluster.clusterfile import cost, examine_cluster, search_settings, traps

ROOT = Path(__file__).parents[2]
RAY_FILES = ("cluster.yaml", "deploy/on_prem.yaml", "deploy/gcp.yaml")
FILLED = {"EDIT-ME-SHARED-FOLDER": "/shared", "EDIT-ME": "edited"}


def load(name: str) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((ROOT / name).read_text())
    return config


def edited(tmp_path: Path, name: str, *changes: tuple[str, str]) -> Path:
    """A copy with all places edited and further changes made."""
    text = (ROOT / name).read_text()
    for old, new in (*FILLED.items(), *changes):
        assert old in text or old == "EDIT-ME-SHARED-FOLDER", f"{old!r} is not in {name}"
        text = text.replace(old, new)
    path = tmp_path / "cluster.yaml"
    path.write_text(text)
    return path


def problems(path: Path) -> dict[str, str]:
    return {f.topic: f"{f.name}: {f.detail}" for f in examine_cluster(path) if f.state != "works"}


@pytest.mark.parametrize("name", RAY_FILES)
def test_after_the_edits_nothing_stands_in_the_way(tmp_path: Path, name: str) -> None:
    assert problems(edited(tmp_path, name)) == {}


@pytest.mark.parametrize("name", RAY_FILES)
def test_at_most_five_places_are_to_be_edited_and_each_is_named(name: str) -> None:
    lines = [line for line in (ROOT / name).read_text().splitlines() if "EDIT-ME" in line and line.lstrip()[0] != "#"]
    assert 1 <= len(lines) <= 5
    named = [finding for finding in examine_cluster(ROOT / name) if finding.topic == "edit"]
    assert len(named) == len(lines)
    assert all(finding.state == "missing" for finding in named)


def test_the_unedited_file_ends_with_code_1_and_the_edited_with_0(tmp_path: Path) -> None:
    assert main(["doctor", "--cluster", str(ROOT / "cluster.yaml")]) == 1
    assert main(["doctor", "--cluster", str(edited(tmp_path, "cluster.yaml"))]) == 0


@pytest.mark.parametrize("name", RAY_FILES)
def test_the_family_mounts_the_same_files_and_all_of_them_exist(name: str) -> None:
    mounts = load(name)["file_mounts"]
    assert mounts == load("cluster.yaml")["file_mounts"]
    assert all((ROOT / source).exists() for source in mounts.values())
    assert "~/hpsearch" not in mounts


@pytest.mark.parametrize("name", RAY_FILES)
def test_the_family_sets_up_and_starts_by_the_same_commands(name: str) -> None:
    def commands(config: dict[str, Any]) -> str:
        text = "\n".join(
            config["setup_commands"] + config["head_start_ray_commands"] + config["worker_start_ray_commands"]
        )
        text = re.sub(r"HPSEARCH_(STORAGE_PATH|MAX_CONCURRENT)=\S+", r"HPSEARCH_\1", text)
        text = re.sub(r"\[cluster(,aws|,gcp)?\]", "[cluster]", text)
        # the one difference on premises: see the comment there
        return text.replace("export RAY_enable_autoscaler_v2=0; ", "")

    assert commands(load(name)) == commands(load("cluster.yaml"))


def test_kubernetes_and_slurm_ask_for_the_same_search_with_the_same_versions() -> None:
    job = load("deploy/kuberay.yaml")["spec"]
    wanted = search_settings(load("cluster.yaml"))
    variables = yaml.safe_load(job["runtimeEnvYAML"])["env_vars"]
    assert {**variables, "HPSEARCH_NAME": None} == {**wanted, "HPSEARCH_NAME": None}
    locked = dict(re.findall(r"^(ray|torch)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M))
    assert job["rayClusterSpec"]["rayVersion"] == locked["ray"]
    assert f"rayproject/ray:{locked['ray']}-py311" in (ROOT / "deploy/Dockerfile").read_text()
    slurm = (ROOT / "deploy/slurm.sh").read_text()
    assert all(
        f"{key}:-{wanted[key]}" in slurm for key in ("HPSEARCH_SPACE", "HPSEARCH_TRIALS", "HPSEARCH_GPUS_PER_TRIAL")
    )


# KubeRay 1.x, ray-operator/apis/ray/v1: rayjob_types.go and raycluster_types.go; Kubernetes drops what it does not know
KUBERAY = {
    "job": {
        "activeDeadlineSeconds", "backoffLimit", "clusterSelector", "deletionStrategy", "entrypoint",
        "entrypointNumCpus", "entrypointNumGpus", "entrypointResources", "jobId", "managedBy", "metadata",
        "rayClusterSpec", "runtimeEnvYAML", "shutdownAfterJobFinishes", "submissionMode", "submitterConfig",
        "submitterPodTemplate", "suspend", "ttlSecondsAfterFinished",
    },
    "cluster": {
        "autoscalerOptions", "enableInTreeAutoscaling", "headGroupSpec", "headServiceAnnotations", "rayVersion",
        "suspend", "workerGroupSpecs",
    },
    "head": {"enableIngress", "headService", "rayStartParams", "serviceType", "template"},
    "workers": {
        "groupName", "maxReplicas", "minReplicas", "numOfHosts", "rayStartParams", "replicas", "scaleStrategy",
        "template",
    },
    "pod": {"containers", "serviceAccountName", "terminationGracePeriodSeconds"},
    "container": {"name", "image", "resources"},
}  # fmt: skip


def test_kubernetes_knows_each_field_and_its_type() -> None:
    config = load("deploy/kuberay.yaml")
    assert (config["apiVersion"], config["kind"]) == ("ray.io/v1", "RayJob")
    job, cluster = config["spec"], config["spec"]["rayClusterSpec"]
    head, (workers,) = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    for kind, part in (("job", job), ("cluster", cluster), ("head", head), ("workers", workers)):
        assert set(part) <= KUBERAY[kind], kind
    for group in (head, workers):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values()), "numbers are refused"
        pod = group["template"]["spec"]
        assert set(pod) <= KUBERAY["pod"]
        for container in pod["containers"]:
            assert set(container) == KUBERAY["container"]
            assert container["resources"]["limits"] == container["resources"]["requests"], "Ray counts the limits"
    assert 1 <= workers["minReplicas"] <= workers["replicas"] <= workers["maxReplicas"]
    variables = yaml.safe_load(job["runtimeEnvYAML"])["env_vars"]
    assert all(isinstance(value, str) for value in variables.values()), "Ray refuses numbers"
    n_unedited = sum("EDIT-ME" in line for line in (ROOT / "deploy/kuberay.yaml").read_text().splitlines()[10:])
    assert 1 <= n_unedited <= 5


def test_kubernetes_gives_the_head_no_trial_slots_and_no_way_in_from_outside() -> None:
    head = load("deploy/kuberay.yaml")["spec"]["rayClusterSpec"]["headGroupSpec"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert head["serviceType"] == "ClusterIP"


def test_the_slurm_script_is_valid_shell() -> None:
    done = subprocess.run(["bash", "-n", str(ROOT / "deploy/slurm.sh")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_slurms_notice_reaches_the_search_alone_and_the_job_waits_for_its_end(tmp_path: Path) -> None:
    tools, repository = tmp_path / "tools", tmp_path / "repository"
    for folder in (tools, repository / ".venv" / "bin", repository / "hpsearch"):
        folder.mkdir(parents=True)
    scripts = {
        tools / "scontrol": "echo node1",
        # what comes before `--` is Ray's; it runs on this machine and dies of a signal, as Ray does
        tools / "srun": 'case "$*" in *--ip-address*) echo 127.0.0.1; exit;; esac\n'
        'while [ "$1" != -- ]; do shift; done; shift; "$@"',
    }
    for path, text in scripts.items():
        path.write_text(f"#!/bin/bash\n{text}\n")
        path.chmod(0o755)
    (repository / ".venv" / "bin" / "python").symlink_to(sys.executable)
    search = (
        "import pathlib, signal, sys, time",
        "folder = pathlib.Path(__file__).parent",
        "def end(*_): time.sleep(0.3); (folder / 'kept').touch(); sys.exit(5)",
        "signal.signal(signal.SIGTERM, end)",
        "(folder / 'begun').write_text(' '.join(sys.argv[1:]))",
        "time.sleep(60)",
    )
    (repository / "hpsearch" / "run.py").write_text("\n".join(search))
    variables = {
        **os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "GREENPRUNE_REPOSITORY": str(repository),
        "SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_JOB_NODELIST": "node1", "SLURM_NNODES": "1",
        "SLURM_CPUS_PER_TASK": "1",
    }  # fmt: skip
    job = subprocess.Popen(["bash", str(ROOT / "deploy/slurm.sh"), "--trials", "9"], env=variables)
    try:
        wait_for(lambda: (repository / "hpsearch" / "begun").exists(), "the search to begin", 30)
        job.terminate()
        assert job.wait(timeout=30) == 5
    finally:
        job.kill()
    assert (repository / "hpsearch" / "begun").read_text() == "--trials 9"
    assert (repository / "hpsearch" / "kept").exists()


def test_a_head_alone_may_keep_its_runs_on_its_own_disk(tmp_path: Path) -> None:
    path = edited(
        tmp_path, "deploy/on_prem.yaml", ("[edited-WORKER-1, edited-WORKER-2]", "[]"), ("/shared/greenprune", "runs")
    )
    assert problems(path) == {}


@pytest.mark.parametrize("name", RAY_FILES)
def test_heads_keep_their_processors_for_the_driver_and_their_dashboard_on_loopback(name: str) -> None:
    (start,) = [line for line in load(name)["head_start_ray_commands"] if "ray start" in line]
    assert "--num-cpus=0" in start
    assert "--dashboard-host=127.0.0.1" in start


@pytest.mark.parametrize(
    ("change", "topic", "word"),
    [
        (("cluster_name: greenprune", "cluster_nam: greenprune"), "schema", "cluster_nam"),
        (("head_node_type: head", "head_node_type: tail"), "schema", "head_node_type"),
        (("max_workers: 4", "max_workers: four"), "schema", "four"),
        (("s3://edited-BUCKET/greenprune", "runs"), "storage", "all nodes see"),
        (("GPUS_PER_TRIAL=0.25", "GPUS_PER_TRIAL=2"), "start", "no node type has more than 1"),
        (("GPUS_PER_TRIAL=0.25", 'GPUS_PER_TRIAL="2"'), "start", "2 asked, but no node type has more than 1"),
        (("GPUS_PER_TRIAL=0.25", "GPUS_PER_TRIAL=one"), "start", "must be a number, but is one"),
        (
            ("\nsetup_commands:", "\nsetup_commands: null\nworker_start_ray_commands:"),
            "schema",
            "empty: setup_commands",
        ),
        (("--dashboard-host=127.0.0.1", "--dashboard-host=0.0.0.0"), "safety", "anybody"),
        (("InstanceType: g4dn.xlarge", "InstanceType: x9.huge"), "cost", "no price known for x9.huge"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[1].strip(),
)
def test_a_broken_file_is_told_with_the_reason(tmp_path: Path, change: tuple[str, str], topic: str, word: str) -> None:
    found = problems(edited(tmp_path, "cluster.yaml", change))
    assert word in found[topic]


def test_a_door_open_to_the_world_is_told_unless_it_is_ssh() -> None:
    def group(port: int) -> dict[str, Any]:
        rule = {"FromPort": port, "ToPort": port, "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}
        return {"provider": {"type": "aws", "security_group": {"IpPermissions": [rule]}}}

    from hpsearch.cluster.clusterfile import safety

    assert list(safety(group(22))) == []
    (finding,) = safety(group(6379))
    assert "6379" in finding.detail


def test_on_premises_the_second_autoscaler_is_told(tmp_path: Path) -> None:
    path = edited(tmp_path, "deploy/on_prem.yaml", ("export RAY_enable_autoscaler_v2=0; ", ""))
    assert "ray #59905" in problems(path)["start"]
    assert [f for f in traps(load("cluster.yaml")) if f.name == "autoscaler"] == []


def test_an_hour_costs_the_head_and_the_dearest_workers_that_the_limits_allow() -> None:
    def kind(machine: str, most: int = 9) -> dict[str, Any]:
        return {"node_config": {"InstanceType": machine}, "max_workers": most}

    config = {
        "provider": {"type": "aws"},
        "max_workers": 3,
        "head_node_type": "head",
        "available_node_types": {"head": kind("m6i.large"), "big": kind("g5.xlarge", 2), "small": kind("g4dn.xlarge")},
    }
    (finding,) = cost(config)
    # 0.096 + 2 * 1.006 + 1 * 0.526 = 2.634
    assert "$2.63 an hour" in finding.detail
    assert "$0.10 with the head alone" in finding.detail
    assert "2 g5.xlarge and 1 g4dn.xlarge beside the m6i.large" in finding.detail
    assert "early 2025" in finding.detail
    assert "aws.amazon.com/ec2/pricing" in finding.detail
    assert finding.state == "works"


@pytest.mark.parametrize(("region", "state"), [("us-west-2", "works"), ("eu-central-1", "limited")])
def test_a_region_whose_prices_are_not_known_is_told(tmp_path: Path, region: str, state: str) -> None:
    path = edited(tmp_path, "cluster.yaml", ("region: us-west-2", f"region: {region}"))
    (finding,) = [finding for finding in examine_cluster(path) if finding.topic == "cost"]
    assert finding.state == state
    assert ("eu-central-1 may cost" in finding.detail) is (state == "limited")


@pytest.mark.parametrize(
    "text", ["- a list", "provider: aws", "a: [b"], ids=["list", "provider without type", "no yaml"]
)
def test_what_is_no_cluster_file_ends_with_code_2(
    tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    assert main(["doctor", "--cluster", str(path)]) == 2
    assert main(["doctor", "--cluster", str(tmp_path / "none.yaml")]) == 2
    path.write_bytes(b"provider: \xff\xfe")
    assert main(["doctor", "--cluster", str(path)]) == 2
    assert main(["doctor", "--cluster", str(tmp_path / ("a" * 300))]) == 2
    assert all(line.startswith("hpsearch: ") for line in capsys.readouterr().err.splitlines())
