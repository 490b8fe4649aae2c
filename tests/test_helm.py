"""The Helm chart is written from the manifests, and installs the same."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from hwsigner import __version__
from pages import ROOT

HELM = ROOT / "packaging" / "helm"
CHART = HELM / "hwsigner-pods"
MANIFESTS = ROOT / "packaging" / "kubernetes"
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())


def rendered(template: str, values: dict[str, Any]) -> str:
    """Render what the templates have of Helm's language, for a release in the namespace hwsigner."""
    whole = re.sub(
        r"\{\{- /\*.*?\*/ -\}\}\n|^\{\{- (if \.Values\.\w+\.enabled|end) \}\}\n", "", template, flags=re.MULTILINE
    )
    parts = r"\s*\{\{- with \.Values\.(\w+) \}\}(.*?)\s*\{\{- end \}\}"
    whole = re.sub(parts, lambda found: given(values[found[1]], found[2]), whole, flags=re.DOTALL)
    whole = whole.replace("{{ .Release.Namespace }}", "hwsigner")
    blocks = r"^ *\{\{- toYaml \.Values\.(\w+) \| nindent (\d+) \}\}$"
    whole = re.sub(blocks, lambda found: indented(values[found[1]], int(found[2])), whole, flags=re.MULTILINE)
    whole = re.sub(r"\{\{ \.Values\.([\w.]+) \}\}", lambda found: str(value(values, found[1])), whole)
    assert "{{" not in whole
    return whole


def given(content: Any, part: str) -> str:
    """Render a part that is there if its content is not empty."""
    if not content:
        return ""
    return re.sub(
        r"\s*\{\{- toYaml \. \| nindent (\d+) \}\}", lambda found: "\n" + indented(content, int(found[1])), part
    )


def indented(content: Any, indent: int) -> str:
    return "\n".join(" " * indent + line for line in yaml.safe_dump(content).splitlines())


def value(values: Any, path: str) -> Any:
    for name in path.split("."):
        values = values[name]
    return values


def written() -> list[dict[str, Any]]:
    """Return what the manifests have, but for the Namespace, which a chart does not make."""
    texts = [(MANIFESTS / name).read_text() for name in ("pods.yaml", "pods-admission.yaml", "pods-monitor.yaml")]
    documents = [each for text in texts for each in yaml.safe_load_all(text)]
    return [each for each in documents if each["kind"] != "Namespace"]


def test_templates_are_written_from_the_manifests() -> None:
    """If this fails, run `python packaging/helm/chart.py`."""
    templates = dict(runpy.run_path(str(HELM / "chart.py"))["templates"]())
    assert templates == {path.name: path.read_text() for path in (CHART / "templates").iterdir()}


def test_chart_with_its_defaults_installs_the_manifests() -> None:
    texts = [
        rendered((CHART / "templates" / name).read_text(), VALUES)
        for name in ("pods.yaml", "admission.yaml", "monitor.yaml")
    ]
    assert [each for text in texts for each in yaml.safe_load_all(text)] == written()


def test_chart_gives_the_pod_what_the_values_add() -> None:
    env = [{"name": "HTTPS_PROXY", "value": "http://proxy.example.com:3128"}]
    added = {
        "env": env,
        "imagePullSecrets": [{"name": "registry"}],
        "affinity": {"nodeAffinity": {}},
        "podAnnotations": {"a": "b"},
        "maxSurge": "25%",
        "link": "lo",
        "memoryLimit": "512Mi",
    }
    text = rendered((CHART / "templates" / "pods.yaml").read_text(), {**VALUES, **added})
    [owner] = [each["spec"] for each in yaml.safe_load_all(text) if each["kind"] == "DaemonSet"]
    pod = owner["template"]["spec"]
    assert {name: pod[name] for name in ("imagePullSecrets", "affinity")} == {
        name: added[name] for name in ("imagePullSecrets", "affinity")
    }
    assert owner["template"]["metadata"]["annotations"] == {"a": "b"}
    assert owner["updateStrategy"]["rollingUpdate"] == {"maxSurge": "25%", "maxUnavailable": 0}
    found = {each["name"]: each for each in [*pod["initContainers"], *pod["containers"]]}
    assert [name for name, each in found.items() if env[0] in each.get("env", [])] == ["enroll", "serve", "renew"]
    assert found["address"]["args"][:2] == ["--keep", "lo"]
    assert found["serve"]["resources"]["limits"]["memory"] == "512Mi"


def test_chart_has_this_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (__version__, __version__)
    assert VALUES["image"].endswith(f":{__version__}")


def test_each_value_is_used() -> None:
    used = set(re.findall(r"\.Values\.(\w+)", "".join(path.read_text() for path in (CHART / "templates").iterdir())))
    assert used == VALUES.keys()


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("image", ""),
        ("enroll", []),
        ("files", {"config.toml": ""}),
        ("admission", {"enabled": "no", "url": "http://169.254.170.23/v1/credentials", "region": ""}),
        ("admission", {"enabled": True, "url": "http://x'+'/v1/credentials", "region": ""}),
        ("admission", {**VALUES["admission"], "region": "x'"}),
        ("maxSurge", "0%"),
        ("maxSurge", 0),
        ("env", [{"value": "without a name"}]),
        ("memoryLimit", "much"),
        ("dnsPolicy", "None"),
        ("link", "two words"),
        ("tpmResource", "tpm"),
        ("registrar", "https://registrar.example.com:8443"),
    ],
)
def test_wrong_value_is_refused(name: str, wrong: Any) -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    jsonschema.validate(VALUES, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**VALUES, name: wrong}, schema)


def test_manifest_that_lacks_a_replaced_line_is_an_error(tmp_path: Path) -> None:
    script = runpy.run_path(str(HELM / "chart.py"))
    with pytest.raises(SystemExit, match="'dnsPolicy: Default' is in the manifest 0 times, not 1"):
        script["_replaced"]("hostNetwork: true\n", (("dnsPolicy: Default", 1, ""),))
