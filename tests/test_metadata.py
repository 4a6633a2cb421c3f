"""What says the same in several files agrees: citation, archive and code metadata, container, CI and issue forms."""

import json
import re
import shlex
import subprocess
import tomllib

import pytest
import yaml

from ctadam import __version__


@pytest.fixture(scope="module")
def citation(root):
    return yaml.safe_load((root / "CITATION.cff").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def project(root):
    return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def read_json(path):
    return json.loads(path.read_text(encoding="utf-8"))


def paper_id(citation):
    (identifier,) = citation["preferred-citation"]["identifiers"]
    return identifier["value"]


def test_citation_agrees_with_the_package(citation, project):
    assert citation["version"] == project["version"] == __version__
    assert citation["license"] == project["license"] and citation["keywords"] == project["keywords"]
    assert citation["authors"] == project["authors"]


def test_zenodo_agrees_with_the_citation(root, citation):
    zenodo = read_json(root / ".zenodo.json")
    same = {
        "title": "title",
        "version": "version",
        "license": "license",
        "keywords": "keywords",
        "abstract": "description",
    }
    assert {theirs: zenodo[theirs] for theirs in same.values()} == {same[ours]: citation[ours] for ours in same}
    assert zenodo["creators"] == citation["authors"] and zenodo["upload_type"] == citation["type"]
    (paper,) = zenodo["related_identifiers"]
    assert paper["identifier"] == paper_id(citation) and paper["relation"] == "isSupplementTo"


def test_codemeta_agrees_with_the_citation_and_the_package(root, citation, project):
    meta = read_json(root / "codemeta.json")
    same = {"title": "name", "version": "version", "keywords": "keywords", "abstract": "description"}
    assert {theirs: meta[theirs] for theirs in same.values()} == {same[ours]: citation[ours] for ours in same}
    assert meta["license"] == f"https://spdx.org/licenses/{citation['license']}"
    assert [author["name"] for author in meta["author"]] == [author["name"] for author in citation["authors"]]
    assert meta["identifier"] == project["name"] and meta["softwareRequirements"] == project["dependencies"]
    assert meta["runtimePlatform"] == f"Python {project['requires-python']}"
    cited, (paper,) = citation["preferred-citation"], meta["referencePublication"]
    assert (
        paper["name"] == cited["title"] and paper["url"] == cited["url"] and paper["identifier"] == paper_id(citation)
    )
    assert paper["datePublished"] == str(cited["year"])
    assert [(a["familyName"], a["givenName"]) for a in paper["author"]] == [
        (a["family-names"], a["given-names"]) for a in cited["authors"]
    ]


def python_of_the_shipped_runs(root):
    (version,) = {read_json(path)["python"] for path in (root / "results/cached").glob("*/*/shard-*.json")}
    return version


@pytest.fixture(scope="module")
def instructions(root):
    """The Dockerfile's instructions as ``(name, words)``, read by BuildKit's own parser."""
    dockerfile = pytest.importorskip("dockerfile", reason="has wheels for Linux on x86-64 only")
    return [(command.cmd.upper(), command.value) for command in dockerfile.parse_file(str(root / "Dockerfile"))]


def test_the_container_has_the_python_of_the_shipped_runs_and_the_locked_versions(root, instructions):
    (image,) = (words[0] for name, words in instructions if name == "FROM")
    assert image == f"python:{python_of_the_shipped_runs(root)}-slim-bookworm"
    runs = " ; ".join(words[0] for name, words in instructions if name == "RUN")
    # `make environment` installs the lock (tests/test_environment.py). Nothing else may install Python packages.
    assert "make environment" in runs and not re.search(r"\b(pip3?|uv|conda|easy_install)\s+(install|pip|sync)", runs)
    assert dict(instructions)["CMD"] == ("make", "cached")


def test_the_container_s_instructions_are_known_and_in_order(instructions):
    names = [name for name, _ in instructions]
    assert names[0] == "FROM" and set(names) <= {"FROM", "RUN", "WORKDIR", "COPY", "ENV", "CMD"}
    (directory,) = (words[0] for name, words in instructions if name == "WORKDIR")
    assert names.index("WORKDIR") < names.index("COPY") and f"{directory}/.venv/bin:" in str(dict(instructions)["ENV"])
    for script in (words[0] for name, words in instructions if name == "RUN"):
        subprocess.run(["sh", "-n", "-c", script], check=True)
        # Package lists would stay in the layer, and recommended packages are not needed.
        assert "apt-get install" not in script or (
            "--no-install-recommends" in script and "rm -rf /var/lib/apt" in script
        )


def test_the_container_gets_no_file_that_git_ignores(root):
    ignored = (root / ".gitignore").read_text(encoding="utf-8").split()
    lines = (root / ".dockerignore").read_text(encoding="utf-8").splitlines()
    patterns = {line.removeprefix("**/") for line in lines if not line.startswith("#")}
    assert {name.strip("/") for name in ignored} <= patterns


def test_ci_runs_everything_on_the_python_of_the_shipped_runs(root):
    workflow = yaml.safe_load((root / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    (job,) = workflow["jobs"].values()
    assert job["container"] == f"python:{python_of_the_shipped_runs(root)}-bookworm"
    assert [step["run"] for step in job["steps"] if "run" in step][-1] == ".ci/run"
    assert {"push", "pull_request"} <= set(workflow[True])  # YAML 1.1 reads the key `on` as true
    subprocess.run(["bash", "-n", root / ".ci/run"], check=True)


def test_ci_installs_what_the_cluster_tests_start(root):
    script = (root / ".ci/run").read_text(encoding="utf-8").replace("\\\n", " ")
    (install,) = re.findall(r"if install ([^;]*);", script)
    assert {"munge", "slurm-client", "slurmctld", "slurmd"} <= set(shlex.split(install))
    assert "export CTADAM_REQUIRE_SLURM=1" in script


def test_issue_forms_are_valid(root):
    """As GitHub's schema for issue forms asks."""
    forms = [p for p in (root / ".github/ISSUE_TEMPLATE").glob("*.yml") if p.name != "config.yml"]
    assert len(forms) >= 3
    for path in forms:
        form = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert {"name", "description", "body"} <= set(form) <= {"name", "description", "body", "labels", "title"}, path
        ids = [item["id"] for item in form["body"]]
        assert len(ids) == len(set(ids)), path
        for item in form["body"]:
            assert item["type"] in ("input", "textarea") and item["attributes"]["label"], path
            assert set(item["attributes"]) <= {"label", "description", "placeholder", "render", "value"}, path
        assert any(item.get("validations", {}).get("required") for item in form["body"]), path


def test_no_file_of_packaging_names_an_index_or_a_place_on_a_machine(root):
    names = ["Dockerfile", ".dockerignore", ".ci/run", "CONTRIBUTING.md", "ARTIFACT.md", "Makefile", "pyproject.toml"]
    for path in [*(root / name for name in names), *(root / ".github").rglob("*.yml")]:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"index-url|find-links|trusted-host|PIP_INDEX|file://|/root/|/home/", text), path
