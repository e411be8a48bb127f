"""The compiled pipelines: never stale, described for the Kubeflow form, with the resources and secrets they need."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import yaml
from kfp import compiler

from components import images
from components.errors import InputError
from components.stages.catalogue import NAMES, STAGES, find_stage
from pipelines import compiled_files
from pipelines.profiles import CLUSTER_PROFILES, Resources, find_profile
from pipelines.steps import CONFIG_MAP, SECRET
from pipelines.train import train

COMPILED = sorted(compiled_files.COMPILED.glob("*.yaml"))


def load(path: Path) -> tuple[dict, dict]:
    """Pipeline specification and platform specification."""
    specification, platform = yaml.safe_load_all(path.read_text("utf-8"))
    return specification, platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]


def test_nothing_is_stale():
    assert compiled_files.stale_files() == [], "run `callforge compile`"


def test_a_changed_missing_or_superfluous_file_is_stale(tmp_path, monkeypatch):
    files = {tmp_path / "a.yaml": "a", tmp_path / "b.yaml": "b"}
    monkeypatch.setattr(compiled_files, "_contents", lambda: iter(files.items()))
    monkeypatch.setattr(compiled_files, "COMPILED", tmp_path)
    assert compiled_files.stale_files() == list(files)
    compiled_files.write_files()
    assert compiled_files.stale_files() == []
    (tmp_path / "a.yaml").write_text("changed")
    (tmp_path / "old.yaml").write_text("of a profile that is gone")
    assert compiled_files.stale_files() == [tmp_path / "a.yaml", tmp_path / "old.yaml"]
    compiled_files.write_files()
    assert sorted(tmp_path.iterdir()) == list(files)


def test_pipelines_alone_are_written_where_they_are_wanted(tmp_path):
    written = compiled_files.write_pipelines(tmp_path / "new")
    assert {path.name: path.read_text() for path in written} == {path.name: path.read_text() for path in COMPILED}
    with pytest.raises(InputError, match="cannot be written there"):
        compiled_files.write_pipelines(written[0])


@pytest.mark.parametrize(
    "image", ["team//callforge-light:1", "Team/callforge-light:1", "https://r.example/callforge-light:1",
              "/callforge-light:1", "team/callforge-light:a/b", "team/callforge-light:.a", "team/callforge-light:a b"],
)  # fmt: skip
def test_what_is_no_name_of_an_image_is_refused_before_anything_is_compiled(tmp_path, monkeypatch, image):
    monkeypatch.setattr(images, "LIGHT", image)
    with pytest.raises(InputError, match="CALLFORGE_REGISTRY"):
        compiled_files.write_pipelines(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", COMPILED, ids=lambda path: path.stem)
def test_every_parameter_is_described_and_has_a_default_that_shows(path):
    specification, _ = load(path)
    for name, parameter in specification["root"]["inputDefinitions"]["parameters"].items():
        assert len(parameter.get("description", "")) > 20, name
        assert "password" not in name and "token" not in name and "key" not in name, "credentials come from the secret"
        if "defaultValue" in parameter:
            assert parameter["defaultValue"] not in ("", False, None), f"{name}: the form shows it as missing"


@pytest.mark.parametrize(("profile", "trained", "steps"), [("gpu", "a LoRA adapter on 1 GPU ", 200),
                                                           ("paper", "all weights on 8 GPUs ", 410)])  # fmt: skip
def test_the_form_says_what_is_trained_on_what_and_what_auto_stands_for(profile, trained, steps):
    specification, _ = load(compiled_files.COMPILED / compiled_files.compiled_name("train", profile))
    said = specification["pipelineInfo"]["description"]
    assert trained in said and "Qwen/Qwen3-4B-Instruct-2507" in said
    parameters = specification["root"]["inputDefinitions"]["parameters"]
    assert f"`auto` is {steps}." in parameters["steps"]["description"]
    assert "Qwen/Qwen3-4B-Instruct-2507" in parameters["base_model"]["description"]
    assert "isOptional" not in parameters["data"], "nobody trains 4 billion weights on the built-in records unasked"


@pytest.mark.parametrize("path", COMPILED, ids=lambda path: path.stem)
def test_steps_run_our_images_and_install_nothing(path):
    specification, _ = load(path)
    for name, executor in specification["deploymentSpec"]["executors"].items():
        if "importer" in executor:
            continue
        assert executor["container"]["image"] in (images.LIGHT, images.TRAIN), name
        assert "pip install" not in " ".join(executor["container"]["command"]), name


@pytest.mark.parametrize("profile", CLUSTER_PROFILES)
def test_steps_ask_for_the_resources_of_the_profile(profile):
    specification, platform = load(compiled_files.COMPILED / compiled_files.compiled_name("train", profile))
    executors = specification["deploymentSpec"]["executors"]
    wanted = find_profile(profile).resources
    for step in NAMES:
        label = f"exec-{step.replace('_', '-')}"
        resources = executors[label]["container"]["resources"]
        assert resources["resourceCpuLimit"] == wanted[step].cpu
        assert resources["resourceMemoryLimit"] == wanted[step].memory
        accelerator = resources.get("accelerator", {})
        assert int(accelerator.get("resourceCount", 0)) == wanted[step].gpus
        if wanted[step].gpus:
            assert accelerator["resourceType"] == "nvidia.com/gpu"
            assert platform[label]["tolerations"][0]["key"] == "nvidia.com/gpu"
            shm = platform[label]["emptyDirMounts"][0]
            assert (shm["mountPath"], shm["medium"]) == ("/dev/shm", "Memory")
            assert shm["sizeLimit"] == wanted[step].shared_memory
        assert platform[label]["secretAsEnv"][0]["secretName"] == SECRET
        assert platform[label]["configMapAsEnv"][0]["configMapName"] == CONFIG_MAP
    assert sum(step.gpus for step in wanted.values()) > 0


def test_preflight_is_first_and_never_cached():
    specification, _ = load(compiled_files.COMPILED / compiled_files.compiled_name("train", "gpu"))
    tasks = specification["root"]["dag"]["tasks"]
    assert not tasks["preflight"].get("cachingOptions", {}).get("enableCache")
    assert "dependentTasks" not in tasks["preflight"]
    for name, task in tasks.items():
        if name != "preflight":
            assert "preflight" in task["dependentTasks"], name
            assert task["cachingOptions"]["enableCache"], name


def test_a_second_stage_of_one_kind_is_a_step_of_its_own(tmp_path, monkeypatch):
    inputs = {"records": "data_refine", "model": "egpo_rl"}
    second = dataclasses.replace(find_stage("egpo_rl"), name="egpo_rl-2", inputs=inputs)
    monkeypatch.setattr("pipelines.train.STAGES", (*STAGES, second))
    profile = find_profile("gpu")
    with pytest.raises(InputError, match="no resources for the step egpo_rl-2"):
        train(profile)
    resources = profile.resources | {second.name: Resources(cpu="77", memory="7Gi")}
    compiler.Compiler().compile(train(dataclasses.replace(profile, resources=resources)), str(tmp_path / "train.yaml"))
    specification, _ = load(tmp_path / "train.yaml")
    tasks = specification["root"]["dag"]["tasks"]
    for name in ("egpo-rl", "egpo-rl-2"):
        stage = tasks[name]["inputs"]["parameters"].pop("stage")
        assert stage["runtimeValue"]["constant"].replace("_", "-") == name
    assert tasks["egpo-rl"]["inputs"]["parameters"] == tasks["egpo-rl-2"]["inputs"]["parameters"], "one section"
    assert tasks["egpo-rl-2"]["inputs"]["artifacts"]["model"]["taskOutputArtifact"]["producerTask"] == "egpo-rl"
    executor = specification["deploymentSpec"]["executors"]["exec-egpo-rl-2"]["container"]
    assert executor["resources"]["resourceCpuLimit"] == "77"


def test_a_step_takes_its_own_section_alone():
    """A change of EGPO's settings must not change the cache key of the warm-up."""
    specification, _ = load(compiled_files.COMPILED / compiled_files.compiled_name("train", "gpu"))
    for name, task in specification["root"]["dag"]["tasks"].items():
        if name == "preflight":
            continue
        given = dict(task["inputs"]["parameters"])
        assert given.pop("stage")["runtimeValue"]["constant"].replace("_", "-") == name
        taken = {item["taskOutputParameter"]["outputParameterKey"] for item in given.values()}
        assert taken == {"run", name.replace("-", "_")}


def test_the_settings_page_names_every_setting():
    page = compiled_files.settings_page()
    assert "`sft_warmup.adapter.rank`" in page and "`egpo_rl.algorithm.bonus_weight` | number, >= 0 | 0.4" in page
    assert "|  |" not in page, "a setting without a meaning"


def test_preflight_hands_every_stage_its_section():
    specification, _ = load(compiled_files.COMPILED / compiled_files.compiled_name("train", "gpu"))
    outputs = specification["components"]["comp-preflight"]["outputDefinitions"]["parameters"]
    assert {"run", *(stage.section for stage in STAGES)} <= outputs.keys()


@pytest.mark.parametrize("step", NAMES)
def test_a_step_without_resources_is_refused(step):
    """It would run without its ConfigMap and Secret as well."""
    profile = find_profile("gpu")
    missing = dataclasses.replace(
        profile, resources={name: item for name, item in profile.resources.items() if name != step}
    )
    with pytest.raises(InputError, match=f"profile gpu: it states no resources for the step {step}"):
        train(missing)


def test_evaluate_imports_what_the_pointer_of_a_stage_names():
    specification, _ = load(compiled_files.COMPILED / "evaluate.yaml")
    uri = specification["root"]["dag"]["tasks"]["importer"]["inputs"]["parameters"]["uri"]
    assert uri["taskOutputParameter"] == {"outputParameterKey": "model", "producerTask": "preflight"}
    given = specification["root"]["dag"]["tasks"]["preflight"]["inputs"]["parameters"]
    assert given["records"] == {"componentInputParameter": "records"}, "own records are named and checked first"
