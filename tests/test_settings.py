"""Every option, as a flag and as a variable, and what is said of a bad one."""

from __future__ import annotations

import pytest

from vmaccess import settings


def test_a_flag_wins_over_its_variable() -> None:
    environ = {"VMACCESS_LOG_LEVEL": "debug", "VMACCESS_MAX_IN_FLIGHT": "7", "VMACCESS_PROTECTED_NAMESPACES": "a-*, b"}
    found = settings.read(["--log-level=error"], environ)
    assert (found.log_level, found.max_in_flight, found.protected_namespaces) == ("error", 7, ("a-*", "b"))
    assert found.protected == ("vmaccess-system", "a-*", "b")


def test_probes_are_served_to_others_in_a_pod_only() -> None:
    outside, inside = settings.read([], {}), settings.read([], {"KUBERNETES_SERVICE_HOST": "10.0.0.1"})
    assert (outside.health_host, outside.health_port) == ("127.0.0.1", 0)
    assert (inside.health_host, inside.health_port) == ("0.0.0.0", 8080)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("log-level", "wran"),
        ("log-format", "jsn"),
        ("max-in-flight", "0"),
        ("max-in-flight", "many"),
        ("health-port", "70000"),
        ("namespace", "Foo_"),
        ("protected-namespaces", "kube-* openshift-*"),
        ("protected-namespaces", "Kube_*"),
    ],
)
@pytest.mark.parametrize("how", ["flag", "variable"])
def test_a_bad_value_ends_with_2_and_names_the_option(
    option: str, value: str, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [f"--{option}={value}"] if how == "flag" else []
    environ = {} if how == "flag" else {f"VMACCESS_{option.upper().replace('-', '_')}": value}
    with pytest.raises(SystemExit) as ended:
        settings.read(arguments, environ)
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert f"--{option}" in said
    assert value.split(maxsplit=1)[0] in said
