"""The files in packaging/ for operators: alert rules, and the rotation of the audit log."""

from __future__ import annotations

import grp
import json
import os
import pwd
import re
import shutil
import subprocess
from functools import partial
from pathlib import Path

import pytest

from hwsigner._monitoring.audit import Audit
from hwsigner._monitoring.metrics import Metrics, PodMetrics, ProfileHealth
from monitoring.credentials import AuditedSet
from monitoring.test_metrics import NOW
from pages import ROOT

RULES = ROOT / "packaging" / "prometheus-rules.yml"


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed")
def test_promtool_accepts_the_rules() -> None:
    subprocess.run(["promtool", "check", "rules", RULES], check=True, capture_output=True)


WEB = "instance='a',profile='web'"
# Series of a value for each minute: good for ten minutes, then bad. The certificate lives 4000 seconds.
SERIES = {
    "up{job='hwsigner',instance='a'}": "1x10 0x60",
    f"hwsigner_profile_healthy{{{WEB}}}": "1x10 0x60",
    f"hwsigner_session_failures_total{{{WEB},cause='pin'}}": "0x10 1+1x60",
    f"hwsigner_certificate_start_timestamp_seconds{{{WEB}}}": "0x70",
    f"hwsigner_certificate_expiry_timestamp_seconds{{{WEB}}}": "4000x70",
    f"hwsigner_session_failures_total{{{WEB},cause='service',reason='AccessDeniedException'}}": "0x10 1+1x60",
    "hwsigner_pods_problem{instance='a',cause='forbidden'}": "0x10 1x60",
    "hwsigner_responses_total{instance='a',code='503'}": "0x10 2+2x60",
    "hwsigner_token_review_answered_timestamp_seconds{instance='a'}": "0+60x10 600x60",
    "hwsigner_token_review_duration_seconds_sum{instance='a'}": "0+0.1x10 3+2x60",
    "hwsigner_token_review_duration_seconds_count{instance='a'}": "0+1x70",
    "hwsigner_policy_current{instance='a'}": "1x10 0x60",
    "node_textfile_mtime_seconds{file='/var/lib/hwsigner.prom',instance='a'}": "0+60x10 600x60",
}
# By alert: the minutes when it is silent, and when it fires.
ALERTS = {
    "HwsignerDown": (14, 17),
    "HwsignerTextfileStale": (11, 14),
    "HwsignerNoSession": (14, 17),
    "HwsignerSessionFailures": (10, 20),
    "HwsignerCertificateExpiring": (52, 55),
    "HwsignerCertificateExpiresVerySoon": (58, 61),
    "HwsignerPodsWithoutCredentials": (12, 14),
    "HwsignerPodsRefused": (12, 20),
    "HwsignerTokenReviewsUnanswered": (13, 16),
    "HwsignerTokenReviewsSlow": (14, 25),
    "HwsignerPolicyOutdated": (14, 17),
    "HwsignerSessionsRefused": (10, 20),
}


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed")
def test_rules_fire_when_they_should_and_not_before(tmp_path: Path) -> None:
    def firing(alert: str) -> str:
        return f"(count(ALERTS{{alertname='{alert}',alertstate='firing'}}) > bool 0) or vector(0)"

    cases = {
        "rule_files": [str(RULES)],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": series, "values": values} for series, values in SERIES.items()],
                "promql_expr_test": [
                    {
                        "expr": firing(alert),
                        "eval_time": f"{minutes[is_firing]}m",
                        "exp_samples": [{"labels": "{}", "value": int(is_firing)}],
                    }
                    for alert, minutes in ALERTS.items()
                    for is_firing in (False, True)
                ],
            }
        ],
    }
    (tmp_path / "cases.yml").write_text(json.dumps(cases))  # JSON is YAML.
    done = subprocess.run(["promtool", "test", "rules", tmp_path / "cases.yml"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(ALERTS) == set(re.findall(r"alert: (\w+)", RULES.read_text()))


def test_rules_use_only_metrics_that_exist() -> None:
    counts = PodMetrics()
    counts.reviewed("valid", 0.1)
    more = partial(counts.lines, {b"200": 1}, ["forbidden"], ())
    metrics = Metrics("1.2", lambda: [ProfileHealth("web", "ready", NOW)], more)
    metrics.failed("web", "pin")
    metrics.succeeded("web", 1.0, (NOW, NOW))
    used = set(re.findall(r"\bhwsigner_\w+", RULES.read_text()))
    assert used
    assert used <= set(re.findall(r"^hwsigner_\w+", metrics.render(), re.MULTILINE))


@pytest.mark.skipif(not shutil.which("logrotate"), reason="logrotate is not installed")
def test_logrotate_loses_no_line_of_a_running_program(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    text = (ROOT / "packaging" / "logrotate.conf").read_text()
    user, group = pwd.getpwuid(os.geteuid()).pw_name, grp.getgrgid(os.getegid()).gr_name
    text = text.replace("/var/log/hwsigner/*.log", str(path)).replace("hwsigner hwsigner", f"{user} {group}")
    (tmp_path / "conf").write_text(text)
    audit = Audit(str(path), required=True, log=print, rate=6000)
    for who in range(3):
        audit.give("web", AuditedSet(), who, {"uid": who})
        tmp_path.chmod(0o755)
        command = ["logrotate", "--force", f"--state={tmp_path}/state", f"{tmp_path}/conf"]
        subprocess.run(command, check=True)
    audit.give("web", AuditedSet(), 3, {"uid": 3})
    texts = [
        subprocess.run(["zcat", "-f", file], capture_output=True, text=True).stdout
        for file in tmp_path.glob("audit.log*")
    ]
    assert sorted(json.loads(line)["uid"] for text in texts for line in text.splitlines()) == [0, 1, 2, 3]
