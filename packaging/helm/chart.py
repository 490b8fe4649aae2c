"""Write the templates of the Helm chart from the manifests of packaging/kubernetes: `python packaging/helm/chart.py`.

The manifests are the only source: here is which of their lines the chart's values replace. A line that is missing, or
there more often than it should be, is an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
MANIFESTS = HERE.parent / "kubernetes"
TEMPLATES = HERE / "hwsigner-pods" / "templates"

_ANNOTATIONS = '        prometheus.io/scrape: "true"\n        prometheus.io/port: "9912"\n'
_ACCOUNT = "      serviceAccountName: hwsigner-pods\n"
_NODE_NAME = "                fieldRef: {fieldPath: spec.nodeName}\n"


def _given(name: str) -> str:
    """Return a part of the Pod's specification that is there if its value is not empty."""
    return (
        f"      {{{{- with .Values.{name} }}}}\n      {name}: {{{{- toYaml . | nindent 8 }}}}\n      {{{{- end }}}}\n"
    )


# What is replaced, how often it is there, and by what.
_PODS = (
    ("image: registry.example.com/hwsigner:0.9.0", 4, "image: {{ .Values.image }}"),
    ("namespace: hwsigner\n", 4, "namespace: {{ .Release.Namespace }}\n"),
    ('        hwsigner/tpm: "true"\n', 1, "        {{- toYaml .Values.nodeSelector | nindent 8 }}\n"),
    ("        - operator: Exists\n", 1, "        {{- toYaml .Values.tolerations | nindent 8 }}\n"),
    ("priorityClassName: system-node-critical", 1, "priorityClassName: {{ .Values.priorityClassName }}"),
    ("args: [--keep, hwsigner, ", 1, "args: [--keep, {{ .Values.link }}, "),
    ("dnsPolicy: Default", 1, "dnsPolicy: {{ .Values.dnsPolicy }}"),
    ("memory: 256Mi, githedgehog.com/tpmrm: 1", 1, "memory: {{ .Values.memoryLimit }}, {{ .Values.tpmResource }}: 1"),
    ("maxSurge: 10%", 1, "maxSurge: {{ .Values.maxSurge }}"),
    (_ANNOTATIONS, 1, "        {{- toYaml .Values.podAnnotations | nindent 8 }}\n"),
    (_ACCOUNT, 1, _ACCOUNT + _given("imagePullSecrets") + _given("affinity")),
    (_NODE_NAME, 2, _NODE_NAME + "            {{- with .Values.env }}{{- toYaml . | nindent 12 }}{{- end }}\n"),
)
_ADMISSION = (
    ("http://169.254.170.23/v1/credentials", 1, "{{ .Values.admission.url }}"),
    ("'eu-central-1'", 1, "'{{ .Values.admission.region }}'"),
)
_MONITOR = (("namespace: hwsigner\n", 1, "namespace: {{ .Release.Namespace }}\n"),)
# Blocks: the line before, the line after, and what stands between them in the chart.
_ENROLL = ("            - --no-aws-config\n", "          env: &node\n", "enroll", 12)
_FILES = ("\ndata:\n", "---\napiVersion: apps/v1\n", "files", 2)
_WRITTEN = "{{- /* Written by packaging/helm/chart.py. Change the manifest instead. */ -}}\n"


def templates() -> Iterator[tuple[str, str]]:
    """Yield the name and the text of each template."""
    # A chart has no Namespace: Helm is told in which one it is installed.
    pods = (MANIFESTS / "pods.yaml").read_text().partition("---\n")[2]
    for before, after, name, indent in (_ENROLL, _FILES):
        start = pods.index(before) + len(before)
        value = f"{' ' * indent}{{{{- toYaml .Values.{name} | nindent {indent} }}}}\n"
        pods = pods[:start] + value + pods[pods.index(after, start) :]
    yield "pods.yaml", _WRITTEN + _replaced(pods, _PODS)
    for name, replacements in (("admission", _ADMISSION), ("monitor", _MONITOR)):
        text = _replaced((MANIFESTS / f"pods-{name}.yaml").read_text(), replacements)
        yield f"{name}.yaml", f"{{{{- if .Values.{name}.enabled }}}}\n{_WRITTEN}{text}{{{{- end }}}}\n"


def _replaced(text: str, replacements: tuple[tuple[str, int, str], ...]) -> str:
    for old, count, new in replacements:
        if text.count(old) != count:
            raise SystemExit(f"{old!r} is in the manifest {text.count(old)} times, not {count}")
        text = text.replace(old, new)
    return text


if __name__ == "__main__":
    for name, text in templates():
        (TEMPLATES / name).write_text(text)
