"""Everything in docker/ that cannot be run here is at least what its tool's schema or linter asks for.

Started with the Python of requirements.lock beside this file, from the root of the repository. Ends with
`N passed, N failed`.
"""

import copy
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml
from cloudcoil.models.keda import v1alpha1 as keda
from compose_spec import ComposeSpecification

TOOLS = Path(sys.executable).parent
DIGEST = re.compile(r"^[\w./-]+:[\w.-]+@sha256:[0-9a-f]{64}$")
OURS = re.compile(r"^finegrain-[a-z-]+:\d+\.\d+\.\d+$")


def main() -> int:
    passed = failed = 0
    for name, problems in checks():
        passed, failed = passed + (not problems), failed + bool(problems)
        for problem in problems:
            print(f"{name}: {problem}")
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


def checks() -> Iterator[tuple[str, list[str]]]:
    for path in sorted(Path("docker").glob("*.Dockerfile")):
        yield f"{path}, hadolint", program("hadolint", "--no-color", str(path))
        yield f"{path}, bases", unpinned_bases(path)
    for path in sorted(Path("docker/scripts").glob("*.sh")):
        yield f"{path}, shellcheck", program("shellcheck", "--color=never", str(path))
        yield f"{path}, executable", [] if path.stat().st_mode & 0o111 else ["may not be executed"]
    compose = Path("docker/compose.yaml")
    yield f"{compose}, schema", compose_problems(compose)
    for name, service in yaml.safe_load(compose.read_text())["services"].items():
        yield f"{compose}, {name}", service_problems(name, service)
    for path in sorted(Path("docker/kubernetes").glob("*.yaml")):
        for resource in yaml.safe_load_all(path.read_text()):
            name = f"{path}, {resource['kind']} {resource['metadata']['name']}"
            yield f"{name}, schema", schema_problems(resource)
            yield f"{name}, rights", pod_problems(resource)


def program(name: str, *arguments: str) -> list[str]:
    done = subprocess.run([TOOLS / name, *arguments], check=False, capture_output=True, text=True)
    return [] if done.returncode == 0 else [done.stdout + done.stderr]


def unpinned_bases(path: Path) -> list[str]:
    bases = re.findall(r"^FROM (\S+)", path.read_text(), re.MULTILINE)
    return [f"{base} has no tag with a digest" for base in bases if not DIGEST.match(base)] or (
        [] if bases else ["has no base"]
    )


def compose_problems(path: Path) -> list[str]:
    text = yaml.safe_load(path.read_text())
    if problems := model_problems(ComposeSpecification, {k: v for k, v in text.items() if not k.startswith("x-")}):
        return problems
    made = set(re.findall(r"\bkeep (?:\"url-\$process\"|([\w-]+))", Path("docker/scripts/make-secrets.sh").read_text()))
    made = {name for name in made if name} | {"url-api", "url-worker", "url-runner"}
    declared, used = set(text["secrets"]), {n for s in text["services"].values() for n in s.get("secrets", [])}
    return [
        f"the secrets {what} differ from those that are declared: {sorted(names ^ declared)}"
        for what, names in (("of make-secrets.sh", made), ("of the services", used))
        if names != declared
    ]


def service_problems(name: str, service: dict) -> list[str]:
    problems = []
    if not (DIGEST.match(service["image"]) or OURS.match(service["image"])):
        problems.append("its image is neither pinned by digest nor ours")
    if not service.get("read_only") or service.get("cap_drop") != ["ALL"]:
        problems.append("its root can be written, or it keeps capabilities")
    if "no-new-privileges:true" not in service.get("security_opt", []):
        problems.append("it may gain privileges")
    if not OURS.match(service["image"]) and service.get("user", "0").startswith("0"):
        problems.append("it runs as root")
    if "healthcheck" not in service and name not in ("api", "runner"):  # those have their image's
        problems.append("nobody asks whether it is healthy")
    for variable, value in (service.get("environment") or {}).items():
        if re.search(r"KEY|PASSWORD|DATABASE", variable) and not str(value).startswith("/run/secrets/"):
            problems.append(f"{variable} is no file of a secret")
    return problems


def schema_problems(resource: dict) -> list[str]:
    if not resource["apiVersion"].startswith("keda.sh/"):
        return kubernetes_problems(resource)
    known = copy.deepcopy(resource)
    if resource["kind"] != "ScaledJob":
        return model_problems(getattr(keda, resource["kind"]), known)
    for container in known["spec"]["jobTargetRef"]["template"]["spec"]["containers"]:
        del container["resources"]  # these models take no quantity such as "4"; the Job below is asked about it
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": resource["metadata"]}
    return model_problems(keda.ScaledJob, known) + kubernetes_problems(job | {"spec": resource["spec"]["jobTargetRef"]})


def kubernetes_problems(resource: dict) -> list[str]:
    try:
        kubernetes_validate.validate(resource, "1.33", strict=True)
    except kubernetes_validate.ValidationError as error:
        return [error.message]
    return []


def model_problems(model: type, given: dict) -> list[str]:
    """What a model of pydantic refuses, and what it would pass over in silence."""
    try:
        kept = model.model_validate(given).model_dump(mode="json", by_alias=True, exclude_unset=True)
    except ValueError as error:
        return [str(error)]
    return [f"nobody knows {name}" for name in passed_over(given, kept)]


def passed_over(given: Any, kept: Any, name: str = "") -> Iterator[str]:
    if isinstance(given, dict) and isinstance(kept, dict):
        for key, value in given.items():
            if key in kept:
                yield from passed_over(value, kept[key], f"{name}.{key}")
            else:
                yield f"{name}.{key}"
    elif isinstance(given, list) and isinstance(kept, list):
        for index, pair in enumerate(zip(given, kept, strict=False)):
            yield from passed_over(*pair, f"{name}.{index}")


def pod_problems(resource: dict) -> list[str]:
    """What the namespace asks for (Pod Security, restricted), and a limit of memory."""
    spec = resource.get("spec", {})
    template = spec.get("jobTargetRef", spec).get("template")
    if template is None:
        return []
    pod, problems = template["spec"], []
    if pod["securityContext"].get("runAsNonRoot") is not True or "seccompProfile" not in pod["securityContext"]:
        problems.append("the pod may run as root, or without seccomp")
    for container in pod["containers"]:
        rights = container["securityContext"]
        if rights["allowPrivilegeEscalation"] or not rights["readOnlyRootFilesystem"]:
            problems.append(f"{container['name']} may gain privileges or write to its root")
        if rights["capabilities"] != {"drop": ["ALL"]}:
            problems.append(f"{container['name']} keeps capabilities")
        if "memory" not in container["resources"].get("limits", {}):
            problems.append(f"{container['name']} has no limit of memory")
    return problems


sys.exit(main())
