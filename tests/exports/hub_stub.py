"""A server with the part of the hub's API that an export needs, on this machine."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml
from huggingface_hub.repocard import REGEX_YAML_BLOCK
from huggingface_hub.utils import validate_repo_id

TOKEN = "hf_" + "a" * 34
LARGE = (".safetensors", ".onnx", ".pt2")
SHA = "0" * 40


@dataclass
class Hub:
    """What is on the hub.

    Attributes:
        address: Of the server.
        user: Whose token it is.
        orgs: Organisations of the user.
        role: What the token may do.
        repos: Files by repository.
        private: Repositories that are private.
        refuse: Status of the answer to a request, by the part of its path.
        large: Files stored apart, by hash.
        asked: The requests.
    """

    address: str = ""
    user: str = "me"
    orgs: tuple[str, ...] = ("lab",)
    role: str = "write"
    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: set[str] = field(default_factory=set)
    refuse: dict[str, int] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def commit(self, repo: str, lines: bytes) -> None:
        """Apply a commit to a repository."""
        files = self.repos[repo]
        for line in lines.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.large[value["oid"]]
            elif entry["key"] == "deletedFile":
                del files[value["path"]]


def card_errors(content: str) -> list[str]:
    """What the hub does not take in the metadata of a card, as far as it is known here."""
    found = REGEX_YAML_BLOCK.search(content)
    metadata = yaml.safe_load(found[2]) if found else None
    if not isinstance(metadata, dict):
        return ["no metadata"]
    for name in ("license", "library_name", "pipeline_tag"):
        if not isinstance(metadata.get(name, ""), str):
            return [f"{name} must be a string"]
    for name in [metadata.get("base_model"), *metadata.get("datasets", [])]:
        if name is not None:
            validate_repo_id(name)
    for model in metadata.get("model-index", []):
        for result in model["results"]:
            if not (result["task"]["type"] and result["dataset"]["type"] and result["dataset"]["name"]):
                return ["model-index: type and name are required"]
    return []


@contextmanager
def running(hub: Hub) -> Iterator[Hub]:
    """Serve a hub."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def answer(self, content: Any = None, status: int = 200, **headers: str) -> None:
            body = content if isinstance(content, bytes) else json.dumps(content or {}).encode()
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = unquote(urlsplit(self.path).path)
            hub.asked.append(f"{self.command} {path}")
            status = next((status for part, status in hub.refuse.items() if part in path), None)
            if status is not None:
                return self.answer(status=status)
            if self.command == "PUT":
                hub.large[path.rpartition("/")[2]] = body
                return self.answer()
            if path != "/api/validate-yaml" and self.headers.get("Authorization") != f"Bearer {TOKEN}":
                return self.answer(status=401)
            if path == "/api/whoami-v2":
                auth = {"type": "access_token", "accessToken": {"role": hub.role}}
                return self.answer({"name": hub.user, "orgs": [{"name": each} for each in hub.orgs], "auth": auth})
            if path == "/api/validate-yaml":
                errors = card_errors(json.loads(body)["content"])
                return self.answer(
                    {"errors": [{"message": each} for each in errors], "warnings": []}, 400 if errors else 200
                )
            if path == "/api/repos/create":
                return self.create(json.loads(body))
            return self.of_repo(path, body)

        def create(self, asked: dict[str, Any]) -> None:
            repo = f"{asked.get('organization') or hub.user}/{asked['name']}"
            if repo.partition("/")[0] not in (hub.user, *hub.orgs):
                return self.answer(status=403)
            status = 409 if repo in hub.repos else 200
            hub.repos.setdefault(repo, {".gitattributes": b""})
            if status == 200 and (asked.get("private") or asked.get("visibility") == "private"):
                hub.private.add(repo)
            return self.answer({"url": f"{hub.address}/{repo}"}, status)

        def of_repo(self, path: str, body: bytes) -> None:
            if path.endswith(".git/info/lfs/objects/batch"):
                objects = [
                    {**each, "actions": {"upload": {"href": f"{hub.address}/lfs/{each['oid']}"}}}
                    for each in json.loads(body)["objects"]
                ]
                return self.answer({"transfer": "basic", "objects": objects})
            parts = path.removeprefix("/api/models").strip("/").split("/")
            repo, rest = "/".join(parts[:2]), parts[2:]
            if repo not in hub.repos:
                return self.answer(status=404, X_Error_Code="RepoNotFound")
            files = hub.repos[repo]
            if rest[:1] == ["preupload"]:
                modes = [
                    {"path": each["path"], "uploadMode": mode, "shouldIgnore": False}
                    for each in json.loads(body)["files"]
                    for mode in ["lfs" if each["path"].endswith(LARGE) else "regular"]
                ]
                return self.answer({"files": modes})
            if rest[:1] == ["commit"]:
                hub.commit(repo, body)
                return self.answer(
                    {"commitUrl": f"{hub.address}/{repo}/commit/{SHA}", "commitOid": SHA, "success": True}
                )
            if rest[:1] == ["tree"]:
                return self.answer([{"type": "file", "path": k, "size": len(v), "oid": SHA} for k, v in files.items()])
            if rest[:1] == ["resolve"]:
                name = "/".join(rest[2:])
                if name not in files:
                    return self.answer(status=404, X_Error_Code="EntryNotFound")
                return self.answer(files[name], ETag=f'"{abs(hash(files[name]))}"', X_Repo_Commit=SHA)
            siblings = [{"rfilename": name} for name in files]
            return self.answer(
                {"id": repo, "sha": SHA, "private": repo in hub.private, "siblings": siblings, "tags": []}
            )

        do_GET = do_HEAD = do_POST = do_PUT = handle_any

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join(60)
