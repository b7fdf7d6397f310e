"""The part of the Hugging Face hub's HTTP interface that `huggingface_hub` uses to fetch a model."""

from __future__ import annotations

import hashlib
import json

from fakes.web import Site


def publish(site: Site, repo_id: str, files: dict[str, bytes]) -> str:
    """Put a repository on a site, as branch `main`; answers the commit."""
    commit = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
    siblings = [{"rfilename": name} for name in files]
    info = {"id": repo_id, "modelId": repo_id, "sha": commit, "private": False, "tags": [], "siblings": siblings}
    tree = [
        {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
        for name, data in files.items()
    ]
    site.files[f"/api/models/{repo_id}"] = json.dumps(info).encode()
    for revision in ("main", commit):
        site.files[f"/api/models/{repo_id}/revision/{revision}"] = json.dumps(info).encode()
        site.files[f"/api/models/{repo_id}/tree/{revision}"] = json.dumps(tree).encode()
        for name, data in files.items():
            path = f"/{repo_id}/resolve/{revision}/{name}"
            site.files[path] = data
            site.headers[path] = {"X-Repo-Commit": commit}
    return commit


def fetched(site: Site, repo_id: str) -> set[str]:
    """The names of the repository's files whose content was asked for."""
    prefix = f"/{repo_id}/resolve/"
    asked = [path for method, path, _ in site.requests if method == "GET" and path.startswith(prefix)]
    return {path.removeprefix(prefix).partition("/")[2] for path in asked}
