"""Who the caller is: one context of a kubeconfig, read as kubectl reads it, except that TLS is always verified.

The `kubernetes` package has a reader of its own, which is not used: of several files it takes the last current-context where
kubectl takes the first, it goes on as nobody when a credential plugin fails, overlooks impersonation, sends a tokenFile with its
line break, and renews OIDC tokens without verifying the provider. To import it would cost each call of our plugin 0.2 s more.
"""

from __future__ import annotations

import base64
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml

from vmaccess.cli.failed import Failed
from vmaccess.cli.plugin import run_plugin
from vmaccess.policy.kubeconfig import ClusterEntry

Json = dict[str, Any]

DEFAULT_FILE = Path("~/.kube/config")


@dataclass(frozen=True, slots=True)
class Identity:
    """What proves to the API server who asks: headers of every request, and a certificate with its key as PEM."""

    headers: tuple[tuple[str, str], ...]
    certificate: tuple[bytes, bytes] | None

    def __repr__(self) -> str:
        return "Identity(...)"  # nothing of it may get into a message


@dataclass(frozen=True, slots=True)
class Caller:
    """A context, with the files it was found in. `user` and `cluster_fields` are as they stand there."""

    context: str
    files: tuple[Path, ...]
    cluster: ClusterEntry
    cluster_fields: Json
    user: Json
    user_folder: Path


@dataclass(frozen=True, slots=True)
class _Entry:
    fields: Json
    folder: Path


class _Loader(yaml.SafeLoader):
    """Leaves times as they are written: written back, they must be the same text."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - as in its base
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def load(path: Path) -> Json | None:
    """The content of a kubeconfig, empty for an empty one, None where there is no file; raises Failed for anything else."""
    try:
        with path.open("rb") as file:  # not its text: an error would quote that, and with it a token
            content = yaml.load(file, _Loader)  # noqa: S506 - a SafeLoader
    except FileNotFoundError:
        return None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise Failed(f"{path} cannot be read as a kubeconfig: {_in_one_line(error)}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise Failed(f"{path} is no kubeconfig: there is no `apiVersion`, `clusters`, `users` and `contexts` in it")
    return content


def entries(content: Json, section: str) -> list[Json]:
    """The named entries of a section; raises Failed where they are none."""
    found = content.get(section) or []
    if not isinstance(found, list) or not all(isinstance(entry, dict) and isinstance(entry.get("name"), str) for entry in found):
        raise Failed(f"the kubeconfig has something else than named entries under `{section}`")
    return found


def read_caller(files: str | None, context: str | None) -> Caller:
    """The context named, else the current one, of the files named, else of KUBECONFIG, else of ~/.kube/config.

    Several files are merged as kubectl does: the first to name a thing has it. Raises Failed.
    """
    named = files or os.environ.get("KUBECONFIG") or str(DEFAULT_FILE)
    paths = (Path(os.path.expanduser(path)).absolute() for path in named.split(os.pathsep) if path)
    read = {path: content for path in paths if (content := load(path)) is not None}
    if not read:
        raise Failed(f"no usable kubeconfig: {named} does not exist; name one with --kubeconfig or KUBECONFIG")
    contents = [(content, path.parent) for path, content in read.items()]
    chosen = context or next((str(content["current-context"]) for content, _ in contents if content.get("current-context")), None)
    if chosen is None:
        raise Failed(f"no usable kubeconfig: {named} has no current-context; name one with --context")
    pair = _find(contents, "contexts", "context", chosen, named).fields
    cluster = _find(contents, "clusters", "cluster", str(pair.get("cluster")), named)
    user = _find(contents, "users", "user", str(pair["user"]), named) if pair.get("user") else _Entry({}, contents[0][1])
    if cluster.fields.get("insecure-skip-tls-verify"):
        raise Failed(
            f"the kubeconfig skips the verification of {cluster.fields.get('server')} (insecure-skip-tls-verify), so a token "
            f"could go to anybody: give the cluster its certificate-authority instead"
        )
    entry = read_cluster(str(pair["cluster"]), cluster.fields, cluster.folder)
    if not entry.server.startswith("https://"):
        raise Failed(f"the server {entry.server} is not reached by https: a token would travel in the open")
    return Caller(chosen, tuple(read), entry, cluster.fields, user.fields, user.folder)


def read_cluster(name: str, fields: Json, folder: Path) -> ClusterEntry:
    """What a cluster entry of a file in this folder says; raises Failed where its certificate-authority cannot be read."""
    return ClusterEntry(
        name=name,
        server=str(fields.get("server", "")).rstrip("/"),
        ca=_content(fields, "certificate-authority", folder),
        tls_server_name=fields.get("tls-server-name") or None,
        proxy_url=fields.get("proxy-url") or None,
    )


def identify(caller: Caller) -> Identity:
    """What identifies the caller; runs the credential plugin where there is one. Raises Failed."""
    user, folder = caller.user, caller.user_folder
    certificate = _pair(_content(user, "client-certificate", folder), _content(user, "client-key", folder))
    token = _token(user, folder)
    if token is None and user.get("exec") is not None:
        answer = run_plugin(user["exec"], folder, caller.cluster_fields, caller.cluster)
        token, certificate = answer.token, answer.certificate or certificate
    if token is not None:
        headers = [("Authorization", f"Bearer {_printable(token)}")]
    elif user.get("username") or user.get("password"):
        pair = f"{user.get('username', '')}:{user.get('password', '')}"
        headers = [("Authorization", f"Basic {base64.b64encode(pair.encode()).decode()}")]
    else:
        headers = []
    return Identity((*headers, *_impersonation(user)), certificate)


def _find(contents: list[tuple[Json, Path]], section: str, field: str, name: str, files: str) -> _Entry:
    for content, folder in contents:
        for entry in entries(content, section):
            if entry["name"] == name:
                fields = entry.get(field) or {}
                if not isinstance(fields, dict):
                    break
                return _Entry(fields, folder)
    raise Failed(f"no usable kubeconfig: {files} has no {field} {name!r}; `kubectl config get-contexts` shows what there is")


def _content(fields: Json, field: str, folder: Path) -> bytes | None:
    """What `field`-data holds, else the content of the file that `field` names, else None."""
    data, path = fields.get(f"{field}-data"), fields.get(field)
    try:
        if data:
            return base64.b64decode(re.sub(r"[\r\n]", "", data), validate=True)  # Go overlooks line breaks, and nothing else
        return (folder / path).read_bytes() if path else None
    except (OSError, ValueError, TypeError) as error:
        raise Failed(f"no usable kubeconfig: its {field} cannot be read: {_in_one_line(error)}") from error


def _pair(certificate: bytes | None, key: bytes | None) -> tuple[bytes, bytes] | None:
    if certificate and key:
        return certificate, key
    if certificate or key:
        missing = "client-key" if certificate else "client-certificate"
        raise Failed(
            f"no usable kubeconfig: the user has no {missing} for its {'client-certificate' if certificate else 'client-key'}"
        )
    return None


def _token(user: Json, folder: Path) -> str | None:
    path, provider = user.get("tokenFile"), user.get("auth-provider")
    if path:
        try:
            return (folder / str(path)).read_text().strip()
        except (OSError, ValueError, TypeError) as error:
            raise Failed(f"no usable kubeconfig: its tokenFile cannot be read: {_in_one_line(error)}") from error
    if user.get("token"):
        return str(user["token"]).strip()
    if isinstance(provider, dict):
        if provider.get("name") != "oidc" or not (provider.get("config") or {}).get("id-token"):
            raise Failed(
                f"the kubeconfig's user has the auth-provider {provider.get('name')!r}, which has no token yet or is not known "
                f"here: log in, or use a credential plugin (exec)"
            )
        return str(provider["config"]["id-token"])  # kubectl renews it; where it is over, the API server says so
    return None


def _impersonation(user: Json) -> list[tuple[str, str]]:
    """The headers of `as` and its companions. Without them the caller would act with more rights than kubectl does."""
    groups: list[str] = user.get("as-groups") or []
    extra: dict[str, list[str]] = user.get("as-user-extra") or {}
    if not (isinstance(groups, list) and isinstance(extra, dict) and all(isinstance(values, list) for values in extra.values())):
        raise Failed("no usable kubeconfig: as-groups of its user has to be a list, and as-user-extra lists by their names")
    if not user.get("as"):
        if groups or extra or user.get("as-uid"):
            raise Failed(
                "no usable kubeconfig: its user has as-uid, as-groups or as-user-extra without `as`: say whom to act as, or "
                "take them out"
            )
        return []
    return [
        ("Impersonate-User", _printable(str(user["as"]))),
        *([("Impersonate-Uid", _printable(str(user["as-uid"])))] if user.get("as-uid") else []),
        *(("Impersonate-Group", _printable(str(group))) for group in groups),
        *(
            (f"Impersonate-Extra-{quote(key, safe='')}", _printable(str(value)))
            for key, values in extra.items()
            for value in values
        ),
    ]


def _printable(value: str) -> str:
    """A value that may stand in a header. What may not must not get into a message either."""
    if not re.fullmatch(r"[!-~]([ -~]*[!-~])?", value):
        raise Failed("no usable kubeconfig: a token or a name to act as is empty, or has line breaks or letters outside of ASCII")
    return value


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split())
