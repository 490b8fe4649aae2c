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
        r"\{\{- /\*.*?\*/ -\}\}\n|\{\{- if \.Values\.admission\.enabled \}\}\n|\{\{- end \}\}\n", "", template
    )
    whole = whole.replace("{{ .Release.Namespace }}", "hwsigner")
    blocks = r"^ *\{\{- toYaml \.Values\.(\w+) \| nindent (\d+) \}\}$"
    whole = re.sub(blocks, lambda found: indented(values[found[1]], int(found[2])), whole, flags=re.MULTILINE)
    whole = re.sub(r"\{\{ \.Values\.([\w.]+) \}\}", lambda found: str(value(values, found[1])), whole)
    assert "{{" not in whole
    return whole


def indented(content: Any, indent: int) -> str:
    return "\n".join(" " * indent + line for line in yaml.safe_dump(content).splitlines())


def value(values: Any, path: str) -> Any:
    for name in path.split("."):
        values = values[name]
    return values


def written() -> list[dict[str, Any]]:
    """Return what the manifests have, but for the Namespace, which a chart does not make."""
    texts = [(MANIFESTS / name).read_text() for name in ("pods.yaml", "pods-admission.yaml")]
    documents = [each for text in texts for each in yaml.safe_load_all(text)]
    return [each for each in documents if each["kind"] != "Namespace"]


def test_templates_are_written_from_the_manifests() -> None:
    """If this fails, run `python packaging/helm/chart.py`."""
    templates = dict(runpy.run_path(str(HELM / "chart.py"))["templates"]())
    assert templates == {path.name: path.read_text() for path in (CHART / "templates").iterdir()}


def test_chart_with_its_defaults_installs_the_manifests() -> None:
    texts = [rendered((CHART / "templates" / name).read_text(), VALUES) for name in ("pods.yaml", "admission.yaml")]
    assert [each for text in texts for each in yaml.safe_load_all(text)] == written()


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
        ("admission", {"enabled": "no", "url": "http://169.254.170.23/v1/credentials"}),
        ("admission", {"enabled": True, "url": "http://x'+'/v1/credentials"}),
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
