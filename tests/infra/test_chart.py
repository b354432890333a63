"""The Helm chart: linted, rendered, validated against Kubernetes' schemas, and read for what an operator relies on."""

from __future__ import annotations

import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from m3core.config.model import Config
from tests.infra.dockerfile import read_dockerfile
from tests.infra.places import CHART, INFRA
from tests.infra.tools import check

KUBERNETES = ("1.29.0", "1.37.0")
# Their schemas are the operator's, and come in no package.
FOREIGN = ("PodMonitor", "PrometheusRule")
EVERYTHING = Path(__file__).parent / "everything.yaml"
CASES = {"default": [], "everything": ["--values", str(EVERYTHING)]}


@cache
def rendered(case: str, version: str = KUBERNETES[-1]) -> str:
    """What the chart makes of the values, for a cluster of this version."""
    where = ["--namespace", "search", "--kube-version", version]
    return check("helm", "template", "m3", str(CHART), *where, *CASES[case])


def objects(case: str) -> list[dict[str, Any]]:
    """All objects."""
    return [found for found in yaml.safe_load_all(rendered(case)) if found]


def pods(case: str) -> dict[str, dict[str, Any]]:
    """Pod specifications by the name of what makes them."""
    found = {}
    for each in objects(case):
        spec = each.get("spec", {})
        spec = spec["jobTemplate"]["spec"] if each["kind"] == "CronJob" else spec
        if "template" in spec:
            found[each["metadata"]["name"]] = spec["template"]["spec"]
    return found


def one(case: str, kind: str, name: str) -> dict[str, Any]:
    """The object of this kind and name."""
    return next(each for each in objects(case) if (each["kind"], each["metadata"]["name"]) == (kind, name))


def test_the_values_hold_a_configuration_of_ours() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text("utf-8"))
    config = Config.model_validate(tomllib.loads(values["config"]))
    assert {signal for store in config.stores.values() for signal in store.signals} == {"dense", "lexical", "multi"}


def test_files_of_the_chart_are_those_that_are_tested_elsewhere() -> None:
    for name, source in {"nightly.sh": ".", "alerts.yaml": "monitoring", "dashboard.json": "monitoring"}.items():
        assert (CHART / "files" / name).resolve() == (INFRA / source / name).resolve()


@pytest.mark.parametrize("case", CASES)
def test_helm_lint(case: str) -> None:
    check("helm", "lint", "--strict", str(CHART), *CASES[case])


@pytest.mark.parametrize("wrong", ["image.tag=latest", "serve.replicas=0", "ingest.schedule=nightly", "typo=1"])
def test_wrong_values_are_refused(wrong: str) -> None:
    with pytest.raises(AssertionError, match="values don't meet the specifications"):
        check("helm", "template", "m3", str(CHART), "--kube-version", KUBERNETES[0], "--set", wrong)


def test_an_old_cluster_is_refused() -> None:
    with pytest.raises(AssertionError, match="chart requires kubeVersion"):
        rendered("default", "1.26.0")


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("case", CASES)
def test_kubernetes_knows_every_object_and_field(case: str, version: str, tmp_path: Path) -> None:
    validate = ("kubernetes-validate", "--strict", "-k", version.rpartition(".")[0])
    file = tmp_path / "rendered.yaml"
    file.write_text(rendered(case, version))
    told = check(*validate, str(file)).splitlines()
    passed = [line for line in told if " passed for resource " in line]
    assert len(passed) == sum(each["kind"] not in FOREIGN for each in objects(case))
    file.write_text(rendered(case, version).replace("minAvailable:", "minAvailble:"))
    with pytest.raises(AssertionError, match="minAvailble"):
        check(*validate, str(file))


@pytest.mark.parametrize("case", CASES)
def test_containers_run_without_rights(case: str) -> None:
    for name, pod in pods(case).items():
        assert pod["automountServiceAccountToken"] is False, name
        assert pod["securityContext"]["runAsNonRoot"], name
        for container in pod["containers"]:
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False, (name, container["name"])
            assert security["capabilities"] == {"drop": ["ALL"]}, (name, container["name"])
            assert {"requests", "limits"} <= container["resources"].keys(), (name, container["name"])
            if "registry.example.org" in container["image"]:
                assert security["readOnlyRootFilesystem"], (name, container["name"])


@pytest.mark.parametrize("case", CASES)
def test_images_of_ours_are_targets_of_the_dockerfile(case: str) -> None:
    targets = read_dockerfile(INFRA / "images" / "Dockerfile").stages
    images = [container["image"] for pod in pods(case).values() for container in pod["containers"]]
    ours = {re.fullmatch(r"registry\.example\.org/threefold/([\w-]+):0\.1\.0", image) for image in images}
    assert {found[1] for found in ours if found} <= targets.keys()
    assert all(re.search(r":\d", image) for image in images)
    if case == "everything":
        assert {"ingest-cuda", "flink-worker-cuda", "serve"} <= {found[1] for found in ours if found}


@pytest.mark.parametrize("case", CASES)
def test_secrets_are_references(case: str) -> None:
    assert not any(each["kind"] == "Secret" for each in objects(case))
    for name, pod in pods(case).items():
        for container in pod["containers"]:
            for entry in container.get("envFrom", []):
                assert entry == {"secretRef": {"name": "threefold-stores"}}, name


def test_a_gpu_is_asked_for_where_there_is_one() -> None:
    gpus = {
        (name, container["name"])
        for name, pod in pods("everything").items()
        for container in pod["containers"]
        if container["resources"]["limits"].get("nvidia.com/gpu") == 1
    }
    assert gpus == {("m3-threefold-ingest", "ingest"), ("m3-threefold-flink-taskmanager", "workers")}
    assert pods("everything")["m3-threefold-ingest"]["nodeSelector"] == {"gpu": "l4"}
    assert "nvidia.com/gpu" not in rendered("default")


def test_the_service_is_probed_scaled_and_kept_up() -> None:
    (container,) = pods("default")["m3-threefold-serve"]["containers"]
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    scaler = one("default", "HorizontalPodAutoscaler", "m3-threefold-serve")
    assert scaler["spec"]["scaleTargetRef"]["name"] == "m3-threefold-serve"
    assert "replicas" not in one("default", "Deployment", "m3-threefold-serve")["spec"]
    assert one("everything", "Deployment", "m3-threefold-serve")["spec"]["replicas"] == 2
    labels = one("default", "Deployment", "m3-threefold-serve")["spec"]["template"]["metadata"]["labels"]
    for kind in ("PodDisruptionBudget", "Service"):
        spec = one("default", kind, "m3-threefold-serve")["spec"]
        assert (spec["selector"].get("matchLabels") or spec["selector"]).items() <= labels.items()


def test_every_pod_is_fenced_in_and_opened_where_it_has_to_be() -> None:
    policies = {
        each["metadata"]["name"]: each["spec"] for each in objects("everything") if each["kind"] == "NetworkPolicy"
    }
    everybody = policies["m3-threefold-default"]
    assert everybody["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in everybody
    for each in objects("everything"):
        if each["kind"] == "Deployment":
            labels = each["spec"]["template"]["metadata"]["labels"]
            assert everybody["podSelector"]["matchLabels"].items() <= labels.items()
    ports = [port["port"] for rule in policies["m3-threefold-serve"]["ingress"] for port in rule["ports"]]
    assert ports == [8080, 9464]


def test_the_night_is_the_script_and_its_codes_end_it() -> None:
    job = one("everything", "CronJob", "m3-threefold-ingest")["spec"]["jobTemplate"]["spec"]
    codes = next(rule["onExitCodes"] for rule in job["podFailurePolicy"]["rules"] if "onExitCodes" in rule)
    assert 143 not in codes["values"]
    assert 1 not in codes["values"]
    config = one("everything", "ConfigMap", "m3-threefold")["data"]
    assert config["nightly.sh"].strip() == (INFRA / "nightly.sh").read_text("utf-8").strip()
    assert tomllib.loads(config["next.toml"]) == {"collection": {"name": "docs"}}


def test_rules_and_dashboard_are_the_tested_ones() -> None:
    rules = one("everything", "PrometheusRule", "m3-threefold")["spec"]
    assert rules == yaml.safe_load((INFRA / "monitoring" / "alerts.yaml").read_text("utf-8"))
    dashboard = one("everything", "ConfigMap", "m3-threefold-dashboard")["data"]["threefold.json"]
    assert yaml.safe_load(dashboard) == yaml.safe_load(Path(INFRA / "monitoring" / "dashboard.json").read_text("utf-8"))


def test_flinks_parts_name_each_other() -> None:
    text = rendered("everything")
    assert "--flink-master=m3-threefold-flink-jobmanager:8081" in text
    for name in ("m3-threefold-flink-jobmanager", "m3-threefold-flink-jobserver"):
        service, deployment = one("everything", "Service", name), one("everything", "Deployment", name)
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        assert service["spec"]["selector"].items() <= labels.items()
        ports = {port["containerPort"] for port in pods("everything")[name]["containers"][0]["ports"]}
        assert {port["port"] for port in service["spec"]["ports"]} <= ports
