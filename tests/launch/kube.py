"""As much of the API server of Kubernetes as kubectl needs, on loopback, with state; and what its controllers would do.

It refuses what the schema of JobSets does not know, so a misspelt field is an error here as it is there.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

GROUP = "jobset.x-k8s.io/v1alpha2"
KINDS = {"configmaps": "ConfigMap", "pods": "Pod", "namespaces": "Namespace", "jobsets": "JobSet"}
VERBS = ["create", "delete", "get", "list", "patch"]


def wrong(schema: dict, value: Any, path: str = "") -> list[str]:
    """What in `value` an OpenAPI schema of a CRD does not allow; unknown fields are wrong too."""
    kinds = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool}
    if schema.get("x-kubernetes-int-or-string"):
        return [] if isinstance(value, int | str) else [f"{path}: {value!r}"]
    kind = kinds.get(schema.get("type", ""), object)
    if not isinstance(value, kind):
        return [f"{path}: {value!r} is no {schema['type']}"]
    if "enum" in schema and value not in schema["enum"]:
        return [f"{path}: {value!r} not in {schema['enum']}"]
    found = []
    if isinstance(value, dict):
        found += [f"{path}.{key}: required" for key in schema.get("required", ()) if key not in value]
        properties, more = schema.get("properties", {}), schema.get("additionalProperties")
        for key, inner in value.items():
            if key in properties:
                found += wrong(properties[key], inner, f"{path}.{key}")
            elif isinstance(more, dict):
                found += wrong(more, inner, f"{path}.{key}")
            elif properties:
                found.append(f'unknown field "{path}.{key}"')
    if isinstance(value, list):
        for i, inner in enumerate(value):
            found += wrong(schema.get("items", {}), inner, f"{path}[{i}]")
    return found


def jobset_schema(crd: Path) -> dict:
    """The schema of v1alpha2 in the official definition."""
    definition = yaml.load(crd.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return {v["name"]: v["schema"]["openAPIV3Schema"] for v in definition["spec"]["versions"]}["v1alpha2"]


def moment(seconds: float | None = None) -> str:
    """A time as Kubernetes writes it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


class Cluster:
    """Objects by (kind in plural, name), the log of each pod as (time, line), and every request that came."""

    def __init__(self, schema: dict | None = None, *, has_jobset: bool = True) -> None:
        self.schema, self.has_jobset = schema, has_jobset
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        self.logs: dict[str, list[tuple[float, str]]] = {}
        self.requests: list[tuple[str, str]] = []
        self.refuse: Callable[[str, str], tuple[int, str] | None] = lambda method, path: None
        self.lock = threading.RLock()
        cluster = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                with cluster.lock:
                    code, found = cluster.handle(self.command, self.path, body)
                data = found.encode() if isinstance(found, str) else json.dumps(found).encode()
                self.send_response(code)
                self.send_header(
                    "Content-Type", "text/plain" if isinstance(found, str) else "application/json"
                )
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PATCH = do_DELETE = answer

            def log_message(self, *_: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    # ---- requests

    def handle(self, method: str, target: str, body: bytes) -> tuple[int, Any]:
        url = urlsplit(target)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        self.requests.append((method, target))
        refused = self.refuse(method, url.path)
        if refused is not None:
            return refused[0], status(refused[0], refused[1])
        if url.path in ("/api", "/apis", "/version", "/api/v1", f"/apis/{GROUP}") or url.path.startswith(
            "/openapi"
        ):
            return self.discovery(url.path)
        match = re.fullmatch(
            rf"/(?:api/v1|apis/{re.escape(GROUP)})/namespaces/([^/]+)/([^/]+)(?:/([^/]+))?(?:/(log))?",
            url.path,
        )
        if match is None or match[2] not in KINDS:
            return 404, status(404, "the server could not find the requested resource")
        kind, name = match[2], match[3]
        if match[4]:
            return self.log(name, query)
        if method == "PATCH":
            return self.apply(kind, name, body, dry="dryRun" in query)
        if name is None:
            found = self.select(kind, query.get("labelSelector", ""))
            version = GROUP if kind == "jobsets" else "v1"
            return 200, {"kind": f"{KINDS[kind]}List", "apiVersion": version, "metadata": {}, "items": found}
        if (kind, name) not in self.objects:
            return 404, status(404, f'{kind} "{name}" not found')
        if method == "DELETE":
            return 200, self.delete(kind, name)
        return 200, self.objects[kind, name]

    def discovery(self, path: str) -> tuple[int, Any]:
        if path == "/version":
            return 200, {"major": "1", "minor": "33", "gitVersion": "v1.33.0"}
        if path == "/api":
            return 200, {"kind": "APIVersions", "versions": ["v1"]}
        if path == "/apis":
            version = {"groupVersion": GROUP, "version": "v1alpha2"}
            group = {"name": GROUP.partition("/")[0], "versions": [version], "preferredVersion": version}
            groups = [group] if self.has_jobset else []
            return 200, {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
        if path == "/openapi/v3":
            paths = {p: {"serverRelativeURL": f"/openapi/v3/{p}"} for p in ("api/v1", f"apis/{GROUP}")}
            return 200, {"paths": paths}
        if path.startswith("/openapi/v3/"):
            return 200, openapi(path.removeprefix("/openapi/v3/"))
        if path.startswith("/openapi"):
            return 404, status(404, "the server could not find the requested resource")
        names = ["jobsets"] if path != "/api/v1" else ["configmaps", "pods", "namespaces"]
        resources = [
            {
                "name": name,
                "singularName": KINDS[name].lower(),
                "namespaced": name != "namespaces",
                "kind": KINDS[name],
                "verbs": VERBS,
            }
            for name in names
        ]
        if path == "/api/v1":
            resources.append(
                {"name": "pods/log", "singularName": "", "namespaced": True, "kind": "Pod", "verbs": ["get"]}
            )
        version = "v1" if path == "/api/v1" else GROUP
        return 200, {
            "kind": "APIResourceList",
            "apiVersion": "v1",
            "groupVersion": version,
            "resources": resources,
        }

    def apply(self, kind: str, name: str, body: bytes, *, dry: bool) -> tuple[int, Any]:
        """Server-side apply: what is there is changed, what is not is made."""
        sent = yaml.safe_load(body)
        if kind == "jobsets" and self.schema is not None:
            found = wrong(self.schema, sent)
            if found:
                return 400, status(400, f"strict decoding error: {', '.join(found)}")
        before = self.objects.get((kind, name))
        made = {"creationTimestamp": moment(), "uid": f"{kind}-{name}", "namespace": "default"}
        stored = {**(before or {}), **sent, "metadata": made | sent["metadata"]}
        if not dry:
            self.objects[kind, name] = stored
        return (200 if before else 201), stored

    def delete(self, kind: str, name: str) -> dict[str, Any]:
        found = self.objects[kind, name]
        if kind == "jobsets":
            del self.objects[kind, name]
            for pod in self.select("pods", f"lmx-attempt={name}"):
                pod["metadata"]["deletionTimestamp"] = moment()
        elif kind == "pods":
            found["metadata"]["deletionTimestamp"] = moment()
        else:
            del self.objects[kind, name]
        return status(200, "deleted") | {"status": "Success"}

    def select(self, kind: str, selector: str) -> list[dict[str, Any]]:
        """The objects whose labels fit `a=b,c!=d`."""
        fits = []
        for part in filter(None, selector.split(",")):
            key, differs, value = re.fullmatch(r"([^!=]+)(!?)==?(.*)", part).groups()  # type: ignore[union-attr]
            fits.append((key, bool(differs), value))
        found = []
        for (own, _), item in self.objects.items():
            labels = item["metadata"].get("labels", {})
            if own == kind and all((labels.get(key) != value) == differs for key, differs, value in fits):
                found.append(item)
        return found

    def log(self, pod: str, query: dict[str, str]) -> tuple[int, Any]:
        if pod not in self.logs:
            return 400, status(400, f'container "lmx" in pod "{pod}" is waiting to start: ContainerCreating')
        since = time.time() - float(query["sinceSeconds"]) if "sinceSeconds" in query else 0.0
        lines = [(at, line) for at, line in self.logs[pod] if at >= since]
        return 200, "".join(f"{nanoseconds(at)} {line}\n" for at, line in lines)

    # ---- what controllers and kubelets do

    def pods(self, jobset: str, *, restart: int = 0) -> list[str]:
        """Makes the pods of a JobSet, in place of those that were there; their names in order."""
        spec = self.objects["jobsets", jobset]["spec"]["replicatedJobs"][0]
        job = spec["template"]["spec"]
        with self.lock:
            for pod in self.select("pods", f"lmx-attempt={jobset}"):
                del self.objects["pods", pod["metadata"]["name"]]
            names = []
            for slice_ in range(spec["replicas"]):
                for index in range(job["completions"]):
                    name = f"{jobset}-slice-{slice_}-{index}-{restart:05d}"
                    labels = {
                        **job["template"]["metadata"]["labels"],
                        "jobset.sigs.k8s.io/job-index": str(slice_),
                        "jobset.sigs.k8s.io/restart-attempt": str(restart),
                        "batch.kubernetes.io/job-completion-index": str(index),
                    }
                    metadata = {"name": name, "namespace": "default", "labels": labels, "annotations": labels}
                    pod = {
                        "apiVersion": "v1",
                        "kind": "Pod",
                        "metadata": metadata,
                        "spec": job["template"]["spec"],
                    }
                    self.objects["pods", name] = pod | {"status": {"phase": "Pending"}}
                    names.append(name)
            return names

    def runs(self, pod: str, *lines: str) -> None:
        """The pod runs, and logs."""
        with self.lock:
            self.objects["pods", pod]["status"] = {
                "phase": "Running",
                "containerStatuses": [container(running={})],
            }
            self.says(pod, *lines)

    def says(self, pod: str, *lines: str) -> None:
        """The pod logs."""
        with self.lock:
            self.logs.setdefault(pod, []).extend((time.time(), line) for line in lines)

    def ends(self, pod: str, code: int, told: str = "", *, disrupted: bool = False) -> None:
        """The pod ends."""
        state = {"exitCode": code, "finishedAt": moment(), "message": told}
        conditions = [{"type": "DisruptionTarget", "status": "True"}] if disrupted else []
        with self.lock:
            self.objects["pods", pod]["status"] = {
                "phase": "Failed" if code else "Succeeded",
                "conditions": conditions,
                "containerStatuses": [container(terminated=state)],
            }

    def finish(self, jobset: str, kind: str, message: str = "") -> None:
        """The JobSet is Completed or Failed."""
        condition = {"type": kind, "status": "True", "message": message, "lastTransitionTime": moment()}
        with self.lock:
            self.objects["jobsets", jobset]["status"] = {"conditions": [condition], "terminalState": kind}

    def remove(self, pod: str) -> None:
        """The pod is gone."""
        with self.lock:
            self.objects.pop(("pods", pod), None)

    def close(self) -> None:
        """Ends the server."""
        self.server.shutdown()
        self.server.server_close()

    def kubeconfig(self, path: Path) -> None:
        """A configuration of kubectl that leads here."""
        address = f"http://127.0.0.1:{self.server.server_address[1]}"
        tree = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "here",
            "clusters": [{"name": "here", "cluster": {"server": address}}],
            "users": [{"name": "me", "user": {}}],
            "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
        }
        path.write_text(json.dumps(tree))


def container(**state: Any) -> dict[str, Any]:
    """A container's status."""
    return {"name": "lmx", "state": state}


def nanoseconds(at: float) -> str:
    """A time as a log has it: zeros at the end are left out."""
    part = f"{at % 1:.9f}"[2:].rstrip("0")
    return f"{moment(at)[:-1]}{'.' if part else ''}{part}Z"


def status(code: int, message: str) -> dict[str, Any]:
    """An error as the API server tells it."""
    reasons = {400: "BadRequest", 401: "Unauthorized", 403: "Forbidden", 404: "NotFound"}
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reasons.get(code, "InternalError"),
        "code": code,
    }


def openapi(group: str) -> dict[str, Any]:
    """What kubectl wants to know before it sends something: whether the server itself checks fields."""
    kinds = ["JobSet"] if group != "api/v1" else ["ConfigMap", "Namespace"]
    name, _, version = GROUP.partition("/") if group != "api/v1" else ("", "", "v1")
    parameters = [
        {"name": n, "in": "query", "schema": {"type": "string"}} for n in ("fieldValidation", "dryRun")
    ]
    paths = {
        f"/{group}/namespaces/{{namespace}}/{kind.lower()}s/{{name}}": {
            "patch": {
                "parameters": parameters,
                "responses": {},
                "x-kubernetes-group-version-kind": {"group": name, "version": version, "kind": kind},
            }
        }
        for kind in kinds
    }
    return {"openapi": "3.0.0", "info": {"title": "Kubernetes", "version": "v1.33.0"}, "paths": paths}
