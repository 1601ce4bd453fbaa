#!/usr/bin/env python3
"""Reads the files below deploy/ as those would who get them: linters of Docker, Kubernetes, CloudFormation, Terraform,
systemd and shell, and the program itself for every configuration in them. What runs only at Amazon or Google is not run.

    python3 tests/deploy/check.py target/debug/roomcast

Needs the packages of requirements.txt in the running Python; systemd-analyze and terraform are used where they are."""

import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import hcl2
import yaml

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
TOOLS = Path(sys.executable).parent
failures = []


def run(what, *command):
    """Runs a linter; whatever it prints is a failure if it says so with its status."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    print(f"{'ok  ' if done.returncode == 0 else 'FAIL'} {what}")
    if done.returncode != 0:
        failures.append(what)
        print(textwrap.indent(done.stdout + done.stderr, "     "))


def check(what, is_so, why):
    print(f"{'ok  ' if is_so else 'FAIL'} {what}")
    if not is_so:
        failures.append(what)
        print(f"     {why}")


class Loader(yaml.SafeLoader):
    """YAML with the short forms of CloudFormation, which are only looked at here."""


Loader.add_multi_constructor("!", lambda loader, suffix, node: getattr(node, "value", None))


def between(text, first, last):
    """The here-documents of a script that begin and end with such lines, without their indentation."""
    found = re.findall(rf"^.*<<'?{first}'?\n(.*?)^\s*{last}$", text, re.DOTALL | re.MULTILINE)
    return [textwrap.dedent(part) for part in found]


def configurations():
    """Every config.toml that is in a file, by where it is."""
    kubernetes = list(yaml.safe_load_all((DEPLOY / "kubernetes/roomcast.yaml").read_text()))
    yield "the ConfigMap", next(part for part in kubernetes if part["kind"] == "ConfigMap")["data"]["config.toml"]
    for name in ["aws/roomcast.yaml", "google/node.sh"]:
        for part in between((DEPLOY / name).read_text(), "SETTINGS", "SETTINGS"):
            if "[server]" in part:
                yield name, part.replace("${PrivateNetwork}", "10.0.0.0/16")


def check_configurations(program):
    seen = 0
    for where, text in configurations():
        seen += 1
        with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
            file.write(text)
            file.flush()
            run(f"the configuration in {where}", program, "check-config", "--config", file.name)
    check("every file has its configuration", seen == 3, f"{seen} were found, not 3")


def check_unit():
    unit = (DEPLOY / "systemd/roomcast.service").read_text()
    stop = int(re.search(r"TimeoutStopSec=(\d+)", unit)[1])
    check("systemd waits longer than a drain lasts", stop > 30, f"TimeoutStopSec={stop}")
    if not shutil.which("systemd-analyze"):
        return print("     no systemd-analyze here")
    with tempfile.TemporaryDirectory() as folder:
        # The program is not where it will be.
        file = Path(folder) / "roomcast.service"
        file.write_text(unit.replace("/usr/local/bin/roomcast", "/bin/true"))
        run("the systemd unit", "systemd-analyze", "verify", file)


def check_terraform():
    with (DEPLOY / "google/main.tf").open() as file:
        parsed = hcl2.load(file)
    names = {name for variable in parsed["variable"] for name in variable}
    used = set(re.findall(r"\bvar\.(\w+)", (DEPLOY / "google/main.tf").read_text()))
    clean = {name.strip('"') for name in names}
    check("Terraform: variables that are there are used, and the other way round", clean == used, clean ^ used)
    if shutil.which("terraform"):
        run("Terraform: format", "terraform", "fmt", "-check", "-diff", DEPLOY / "google")


def check_stack():
    file = DEPLOY / "aws/roomcast.yaml"
    run("the CloudFormation stack", TOOLS / "cfn-lint", file)
    script = re.search(r"Fn::Base64: !Sub \|\n(.*?)\n\n  \w", file.read_text(), re.DOTALL)[1]
    # Two dollars and a brace that CloudFormation puts values for.
    script = re.sub(r"\$\{[\w.:]+\}", "value", textwrap.dedent(script))
    with tempfile.NamedTemporaryFile("w", suffix=".sh") as out:
        out.write(script)
        out.flush()
        run("the script of its nodes", TOOLS / "shellcheck", "--severity=warning", out.name)
    loop = between(script, "LOOP", "LOOP")
    check("its drain loop is there", len(loop) == 1 and "complete-lifecycle-action" in loop[0], loop)
    resources = yaml.load(file.read_text(), Loader)["Resources"]
    check("its group has the hook", "LifecycleHookSpecificationList" in resources["Group"]["Properties"], "no hook")


def main():
    program = Path(sys.argv[1]).resolve()
    run("the Dockerfile", TOOLS / "hadolint", DEPLOY / "docker/Dockerfile")
    run("the Kubernetes manifests", TOOLS / "kubernetes-validate", "--strict", DEPLOY / "kubernetes/roomcast.yaml")
    run("shell scripts", TOOLS / "shellcheck", "--severity=warning", DEPLOY / "google/node.sh", DEPLOY / "local-cluster")
    check_unit()
    check_terraform()
    check_stack()
    check_configurations(program)
    if failures:
        sys.exit(f"{len(failures)} of the deploy files are wrong: {', '.join(failures)}")


main()
