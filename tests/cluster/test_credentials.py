"""The operator's token goes to the API server alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from vmaccess import settings
from vmaccess.cluster.credentials import NoCredentials, load


@pytest.mark.parametrize(
    ("cluster", "says"),
    [
        ({"server": "https://127.0.0.1:1", "insecure-skip-tls-verify": True}, "insecure-skip-tls-verify"),
        ({"server": "http://127.0.0.1:1"}, "unencrypted"),
        ({"server": "https://127.0.0.1:1"}, None),
    ],
    ids=["not verified", "not encrypted", "as it should be"],
)
async def test_the_token_is_not_sent_to_whoever_answers(tmp_path: Path, cluster: dict[str, object], says: str | None) -> None:
    kubeconfig = {
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": {"token": "secret"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    (path := tmp_path / "kubeconfig").write_text(yaml.safe_dump(kubeconfig))
    told = settings.read(["--kubeconfig", str(path)])
    if says is None:
        assert (await load(told)).host == cluster["server"]
        return
    with pytest.raises(NoCredentials, match=says):
        await load(told)
