"""Presets and add-ons: what each gives over the base that KubeVirt ships and what it refuses, request by request."""

from __future__ import annotations

from itertools import pairwise, product
from typing import Any, get_args

import pytest

from tests.policy.atoms import ATOMS, KV, SUB, VM, VMI, Atom, passing, role, spelled, with_short_spellings
from vmaccess.model.spec import AddOn, Preset
from vmaccess.policy.catalogue import ADD_ONS, ADDED, PRESETS, Named
from vmaccess.policy.kubevirt import VERBS, VOCABULARY, is_cluster_scoped
from vmaccess.policy.role import trim
from vmaccess.policy.rules import Rule, Rules, allows, covers, parse

LADDER: tuple[Preset, ...] = ("View", "Operate", "Edit", "Admin")
READ, WRITE, EVERY = "get list watch", "create update patch delete", " ".join(VERBS)
SNAPSHOTS = ("virtualmachinesnapshots", "virtualmachinerestores")
INSTANCETYPES = ("virtualmachineinstancetypes", "virtualmachinepreferences")
REPLICA_SETS, OLD_PRESETS = "virtualmachineinstancereplicasets", "virtualmachineinstancepresets"
MIGRATIONS = "virtualmachineinstancemigrations"
KEEPING = tuple(name for name, add_on in ADD_ONS.items() if add_on.keeps)
NAMED: dict[str, Named] = dict([*PRESETS.items(), *ADD_ONS.items()])
SCREENSHOT = f"{VMI}/vnc/screenshot"
PLAIN_VM = [{"resources": [VM], "verbs": ["get"]}]


def on(verbs: str, group: str, *resources: str) -> set[Atom]:
    """Every one of these verbs on each of these resources."""
    return set(product([group], resources, verbs.split(), [""]))


def warnings(base: Rules, **fields: Any) -> dict[str, str]:
    return {str(warning.type): warning.message for warning in trim(base, role(**fields)).warnings}


def entries(rules: Rules) -> list[dict[str, list[str]]]:
    """Rules as entries of keep or drop."""
    return [{"apiGroups": list(rule.api_groups), "resources": list(rule.resources), "verbs": list(rule.verbs)} for rule in rules]


def test_every_name_of_the_api_has_data_and_the_other_way_round() -> None:
    assert set(PRESETS) == set(get_args(Preset)) == set(LADDER)
    assert set(ADD_ONS) == set(get_args(AddOn))


@pytest.mark.parametrize("name", NAMED)
def test_each_is_described_in_a_sentence(name: str) -> None:
    sentence = NAMED[name].sentence
    assert sentence[0].isupper()
    assert sentence.endswith(".")
    assert not sentence.endswith("..")


@pytest.mark.parametrize("name", NAMED)
def test_every_right_that_is_named_is_known(name: str) -> None:
    named = NAMED[name]
    own = tuple(rule for rule in named.adds if any(group.endswith(KV) for group in rule.api_groups))
    assert covers((*VOCABULARY, *ADDED), (*named.keeps, *named.adds)) or name == "Admin"
    assert covers(VOCABULARY, own)


@pytest.mark.parametrize("add_on", ADD_ONS)
def test_an_add_on_names_no_wildcard_and_nothing_without_a_namespace(add_on: AddOn) -> None:
    rights = spelled((*ADD_ONS[add_on].keeps, *ADD_ONS[add_on].adds))
    assert rights
    assert not {atom for atom in rights if is_cluster_scoped(atom[0], atom[1])}


def test_each_preset_is_more_than_the_one_before(admin: Rules) -> None:
    given = [spelled(trim(admin, role(preset=preset)).rules) for preset in LADDER]
    assert all(less < more for less, more in pairwise(given))


@pytest.mark.parametrize(
    ("least", "rights"),
    [
        pytest.param("View", on(READ, KV, VM, VMI), id="see machines"),
        pytest.param("View", on(READ, KV, REPLICA_SETS, OLD_PRESETS, MIGRATIONS), id="see replica sets, presets, migrations"),
        pytest.param("View", on(READ, "snapshot.kubevirt.io", *SNAPSHOTS, "virtualmachinesnapshotcontents"), id="see snapshots"),
        pytest.param(
            "View",
            on(READ, "clone.kubevirt.io", "virtualmachineclones")
            | on(READ, "export.kubevirt.io", "virtualmachineexports")
            | on(READ, "pool.kubevirt.io", "virtualmachinepools")
            | on(READ, "instancetype.kubevirt.io", *INSTANCETYPES),
            id="see clones, exports, pools, instancetypes",
        ),
        pytest.param("View", on("get", SUB, f"{VM}/expand-spec") | on("update", SUB, "expand-vm-spec"), id="expand"),
        pytest.param("View", on("get", SUB, f"{VMI}/guestosinfo"), id="guest operating system"),
        pytest.param("Operate", on("update", SUB, f"{VM}/start", f"{VM}/stop", f"{VM}/restart"), id="power"),
        pytest.param(
            "Operate", on("update", SUB, f"{VMI}/pause", f"{VMI}/unpause", f"{VMI}/softreboot", f"{VMI}/reset"), id="pause, reset"
        ),
        pytest.param("Operate", on("get", SUB, f"{VMI}/console"), id="console"),
        pytest.param("Operate", on("get", SUB, f"{VMI}/vnc"), id="vnc"),
        pytest.param("Edit", on("get", SUB, f"{VM}/portforward", f"{VMI}/portforward"), id="portforward"),
        pytest.param(
            "Edit",
            on("update", SUB, f"{VM}/addvolume", f"{VM}/removevolume", f"{VMI}/addvolume", f"{VMI}/removevolume"),
            id="hotplug",
        ),
        pytest.param("Edit", on(WRITE, KV, VM), id="create, change and delete VMs"),
        pytest.param("Edit", on("create delete", KV, VMI), id="create and delete VMIs"),
        pytest.param("Admin", on("update patch", KV, VMI), id="change VMIs"),
        pytest.param("Admin", on("deletecollection", KV, VM, VMI), id="deletecollection"),
        pytest.param("Admin", on("get", SUB, SCREENSHOT), id="screenshot"),
        pytest.param("Admin", on("get", SUB, f"{VMI}/userlist", f"{VMI}/filesystemlist"), id="users and mounts"),
        pytest.param("Admin", on("get", SUB, f"{VM}/objectgraph", f"{VMI}/objectgraph"), id="object graph"),
        pytest.param("Admin", on("update", SUB, f"{VM}/memorydump", f"{VM}/removememorydump"), id="memory dump"),
        pytest.param("Admin", on("get", SUB, f"{VMI}/usbredir"), id="usbredir"),
        pytest.param("Admin", on("update", SUB, f"{VMI}/freeze", f"{VMI}/unfreeze"), id="freeze"),
        pytest.param(
            "Admin",
            on("get", SUB, f"{VMI}/sev", f"{VMI}/sev/fetchcertchain", f"{VMI}/sev/querylaunchmeasurement")
            | on("update", SUB, f"{VMI}/sev", f"{VMI}/sev/setupsession", f"{VMI}/sev/injectlaunchsecret"),
            id="attestation",
        ),
        pytest.param(
            "Admin",
            on("update", SUB, f"{VM}/evacuate", f"{VM}/evacuate/cancel", f"{VMI}/evacuate", f"{VMI}/evacuate/cancel"),
            id="call off an evacuation",
        ),
        pytest.param(
            "Admin",
            on(WRITE, KV, REPLICA_SETS, OLD_PRESETS) | on(WRITE, "pool.kubevirt.io", "virtualmachinepools"),
            id="write replica sets, presets, pools",
        ),
        pytest.param("Admin", on(WRITE, "snapshot.kubevirt.io", *SNAPSHOTS), id="write snapshots"),
        pytest.param(
            "Admin",
            on(WRITE, "clone.kubevirt.io", "virtualmachineclones")
            | on(WRITE, "export.kubevirt.io", "virtualmachineexports")
            | on(WRITE, "instancetype.kubevirt.io", *INSTANCETYPES),
            id="write clones, exports, instancetypes",
        ),
        pytest.param(
            "Admin",
            on(f"{READ} {WRITE}", "backup.kubevirt.io", "virtualmachinebackups", "virtualmachinebackuptrackers"),
            id="backups",
        ),
        pytest.param(None, on("update", SUB, f"{VM}/migrate") | on(WRITE, KV, MIGRATIONS), id="migrate"),
        pytest.param(
            None,
            on("get update", SUB, f"{VMI}/vsock", f"{VMI}/backup", f"{VMI}/redefine-checkpoint"),
            id="what no default role has",
        ),
        pytest.param(
            None,
            on(EVERY, "", "secrets", "configmaps", "pods", "serviceaccounts/token", "events", "persistentvolumeclaims"),
            id="secrets and the rest of the core group",
        ),
        pytest.param(None, on(EVERY, "rbac.authorization.k8s.io", "roles", "rolebindings"), id="roles"),
        pytest.param(None, on(EVERY, "cdi.kubevirt.io", "datavolumes", "datasources"), id="data volumes"),
        pytest.param(None, on(EVERY, KV, "kubevirts", f"{VM}/status", f"{VMI}/status"), id="KubeVirt itself, status"),
        pytest.param(
            None,
            on(EVERY, "instancetype.kubevirt.io", "virtualmachineclusterinstancetypes", "virtualmachineclusterpreferences")
            | on(EVERY, "migrations.kubevirt.io", "migrationpolicies")
            | on(EVERY, "plugin.kubevirt.io", "plugins")
            | on(EVERY, SUB, "version", "guestfs"),
            id="what has no namespace",
        ),
    ],
)
def test_the_ladder(least: Preset | None, rights: set[Atom], admin: Rules) -> None:
    """`least` is the first preset that gives all of these rights; those below give none, None stands for no preset at all."""
    for preset in LADDER:
        wanted = least is not None and LADDER.index(preset) >= LADDER.index(least)
        assert passing(trim(admin, role(preset=preset)).rules, rights) == (rights if wanted else set()), preset


def in_words(base: Rules, preset: Preset, *add_ons: AddOn) -> set[Atom]:
    """What the documentation says a preset with add-ons gives, each request decided on its own."""
    named = [ADD_ONS[name] for name in add_ons]
    kept = (*PRESETS[preset].keeps, *(rule for add_on in named for rule in add_on.keeps))
    adds = tuple(rule for add_on in named for rule in add_on.adds)
    rights = {
        atom
        for atom in ATOMS
        if ((allows(base, *atom) and allows(kept, *atom)) or allows(adds, *atom)) and not is_cluster_scoped(atom[0], atom[1])
    }
    alone = on("get", SUB, SCREENSHOT) if on("get", SUB, f"{VMI}/vnc").isdisjoint(rights) else set()
    return with_short_spellings(rights - alone)


@pytest.mark.parametrize("preset", LADDER)
def test_a_preset_gives_what_it_names_and_nothing_else(preset: Preset, admin: Rules) -> None:
    assert spelled(trim(admin, role(preset=preset)).rules) == in_words(admin, preset)


@pytest.mark.parametrize("add_on", ADD_ONS)
def test_an_add_on_gives_what_it_names_and_nothing_else(add_on: AddOn, admin: Rules) -> None:
    assert spelled(trim(admin, role(include=[add_on])).rules) == in_words(admin, "View", add_on)


# What each add-on gives over kubevirt.io:admin beside View.
BESIDE_VIEW: dict[AddOn, set[Atom]] = {
    "Attestation": on("get", SUB, f"{VMI}/sev", f"{VMI}/sev/fetchcertchain", f"{VMI}/sev/querylaunchmeasurement")
    | on("update", SUB, f"{VMI}/sev", f"{VMI}/sev/setupsession", f"{VMI}/sev/injectlaunchsecret"),
    "Backup": on(f"{READ} {WRITE}", "backup.kubevirt.io", "virtualmachinebackups", "virtualmachinebackuptrackers"),
    "Clone": on(WRITE, "clone.kubevirt.io", "virtualmachineclones"),
    "Console": on("get", SUB, f"{VMI}/console"),
    "EvacuateCancel": on("update", SUB, f"{VM}/evacuate", f"{VM}/evacuate/cancel", f"{VMI}/evacuate", f"{VMI}/evacuate/cancel"),
    "EventView": on(READ, "", "events") | on(READ, "events.k8s.io", "events"),
    "Export": on(WRITE, "export.kubevirt.io", "virtualmachineexports"),
    "Freeze": on("update", SUB, f"{VMI}/freeze", f"{VMI}/unfreeze"),
    "GuestInfo": on("get", SUB, f"{VMI}/userlist", f"{VMI}/filesystemlist"),
    "MemoryDump": on("update", SUB, f"{VM}/memorydump", f"{VM}/removememorydump"),
    "Migrate": on("update", SUB, f"{VM}/migrate") | on(WRITE, KV, MIGRATIONS),
    "NetworkView": on(READ, "k8s.cni.cncf.io", "network-attachment-definitions"),
    "ObjectGraph": on("get", SUB, f"{VM}/objectgraph", f"{VMI}/objectgraph"),
    "PortForward": on("get", SUB, f"{VM}/portforward", f"{VMI}/portforward"),
    "Power": on("update", SUB, f"{VM}/start", f"{VM}/stop", f"{VM}/restart")
    | on("update", SUB, f"{VMI}/pause", f"{VMI}/unpause", f"{VMI}/softreboot", f"{VMI}/reset"),
    "Screenshot": set(),
    "Snapshots": on(WRITE, "snapshot.kubevirt.io", *SNAPSHOTS),
    "StorageView": on(READ, "cdi.kubevirt.io", "datavolumes", "datasources", "dataimportcrons")
    | on(READ, "", "persistentvolumeclaims"),
    "Templates": on(READ, "template.kubevirt.io", "virtualmachinetemplates")
    | on("create", "subresources.template.kubevirt.io", "virtualmachinetemplates/process"),
    "USBRedirect": on("get", SUB, f"{VMI}/usbredir"),
    "VNC": on("get", SUB, f"{VMI}/vnc"),
    "VolumeHotplug": on("update", SUB, f"{VM}/addvolume", f"{VM}/removevolume", f"{VMI}/addvolume", f"{VMI}/removevolume")
    | on("get", "cdi.kubevirt.io", "datavolumes")
    | on("get", "", "persistentvolumeclaims"),
    "VSOCK": on("get", SUB, f"{VMI}/vsock"),
}


@pytest.mark.parametrize("add_on", ADD_ONS)
def test_an_add_on_over_view(add_on: AddOn, admin: Rules) -> None:
    assert spelled(trim(admin, role(include=[add_on])).rules) - spelled(trim(admin, None).rules) == BESIDE_VIEW[add_on]


@pytest.mark.parametrize("name", ["kubevirt.io:admin", "kubevirt.io:edit", "kubevirt.io:view"])
def test_all_add_ons_together(name: str, roles: dict[str, Rules]) -> None:
    trimmed = trim(roles[name], role(**{"from": name}, preset="View", include=list(ADD_ONS)))
    assert spelled(trimmed.rules) == in_words(roles[name], "View", *ADD_ONS)


@pytest.mark.parametrize("add_on", KEEPING)
def test_an_add_on_never_gives_what_the_base_lacks(add_on: AddOn) -> None:
    """A poor base lacks all of it: the grant is no wider for it, and its author is told where it stands."""
    poor = parse([{"apiGroups": [KV], "resources": [VM, VMI], "verbs": ["get", "list", "watch"]}])
    trimmed = trim(poor, role(include=["EventView", add_on]))
    added = spelled((*ADD_ONS["EventView"].adds, *ADD_ONS[add_on].adds))
    assert spelled(trimmed.rules) == spelled(poor) | added
    (warning,) = trimmed.warnings
    assert warning.type == "RuleUnmatched"
    assert warning.message == f"role.include[1]: kubevirt.io:admin has nothing of {add_on}"


@pytest.mark.parametrize("add_on", [name for name in ADD_ONS if name not in KEEPING])
def test_an_add_on_that_only_adds_needs_nothing_of_the_base(add_on: AddOn) -> None:
    poor = parse([{"apiGroups": [KV], "resources": [VM], "verbs": ["get"]}])
    trimmed = trim(poor, role(include=[add_on]))
    assert spelled(trimmed.rules) == spelled(poor) | spelled(ADD_ONS[add_on].adds)
    assert trimmed.warnings == ()


def test_a_part_of_an_add_on_that_the_base_has_is_given_without_a_warning() -> None:
    base = parse([{"apiGroups": [SUB], "resources": [f"{VM}/start"], "verbs": ["update"]}])
    trimmed = trim(base, role(include=["Power"]))
    assert trimmed.rules == base
    assert trimmed.warnings == ()


def test_the_warning_names_the_base_that_was_asked_for(roles: dict[str, Rules]) -> None:
    told = warnings(roles["kubevirt.io:view"], **{"from": "kubevirt.io:view"}, include=["Console", "Migrate", "Power"])
    assert told == {
        "RuleUnmatched": "role.include[0]: kubevirt.io:view has nothing of Console; "
        "role.include[2]: kubevirt.io:view has nothing of Power"
    }


# --- the screenshot, which kube-apiserver admits only together with the interactive screen


@pytest.mark.parametrize(
    ("spec", "vnc", "screenshot"),
    [
        pytest.param({"include": ["Screenshot"]}, False, False, id="Screenshot alone"),
        pytest.param({"include": ["VNC"]}, True, False, id="VNC alone"),
        pytest.param({"include": ["Screenshot", "VNC"]}, True, True, id="Screenshot with VNC"),
        pytest.param({"preset": "Operate"}, True, False, id="Operate"),
        pytest.param({"preset": "Edit"}, True, False, id="Edit"),
        pytest.param({"preset": "Operate", "include": ["Screenshot"]}, True, True, id="Operate with Screenshot"),
        pytest.param(
            {"include": ["Screenshot"], "keep": [{"resources": [f"{VMI}/vnc"], "verbs": ["get"]}]}, True, True, id="kept vnc"
        ),
        pytest.param(
            {"include": ["Screenshot", "VNC"], "drop": [{"resources": [SCREENSHOT]}]}, True, False, id="dropped screenshot"
        ),
        pytest.param({"include": ["Screenshot", "VNC"], "drop": [{"resources": [f"{VMI}/vnc"]}]}, False, False, id="dropped vnc"),
        pytest.param({"include": ["Screenshot", "VNC"], "virtualMachines": ["web-1"]}, True, True, id="of a named machine"),
    ],
)
def test_the_screen(spec: dict[str, Any], vnc: bool, screenshot: bool, admin: Rules) -> None:  # noqa: FBT001 - table columns
    trimmed = trim(admin, role(**spec))
    name = "web-1" if "virtualMachines" in spec else None
    assert allows(trimmed.rules, SUB, f"{VMI}/vnc", "get", name) is vnc
    assert allows(trimmed.rules, SUB, SCREENSHOT, "get", name) is screenshot


def test_a_screenshot_that_is_left_out_is_named(admin: Rules) -> None:
    told = warnings(admin, include=["Screenshot"])
    assert told.keys() == {"SubresourceOmitted"}
    assert SCREENSHOT in told["SubresourceOmitted"]
    assert warnings(admin, include=["Screenshot", "VNC"]) == {}
    assert warnings(admin, preset="Operate", include=["Screenshot"]) == {}


# --- drop and keep beside add-ons


@pytest.mark.parametrize("add_on", ADD_ONS)
def test_drop_wins_over_include(add_on: AddOn, admin: Rules) -> None:
    named = ADD_ONS[add_on]
    rules = trim(admin, role(include=[add_on], drop=entries((*named.keeps, *named.adds)))).rules
    assert spelled(rules) == in_words(admin, "View") - spelled((*named.keeps, *named.adds))


def test_drop_may_name_what_only_an_add_on_gives(admin: Rules) -> None:
    drop = [{"resources": ["events"], "verbs": ["watch"]}, {"resources": [f"{VM}/migrate"]}]
    trimmed = trim(admin, role(include=["EventView", "Migrate"], drop=drop))
    assert trimmed.warnings == ()
    events = {atom for atom in spelled(trimmed.rules) if atom[1] == "events"}
    assert events == set(product(("", "events.k8s.io"), ["events"], ("get", "list"), [""]))
    assert not allows(trimmed.rules, SUB, f"{VM}/migrate", "update")
    assert allows(trimmed.rules, KV, MIGRATIONS, "create")
    told = warnings(admin, drop=drop)["RuleUnmatched"]
    assert "role.drop[0].resources[0]" in told
    assert "role.drop[1].resources[0]" in told


@pytest.mark.parametrize(
    ("entry", "offered"),
    [
        pytest.param({"resources": ["events"], "verbs": ["list"]}, "include EventView", id="events"),
        pytest.param({"resources": [f"{VM}/migrate"], "verbs": ["update"]}, "include Migrate", id="migrate"),
        pytest.param({"resources": [MIGRATIONS], "verbs": ["delete"]}, "include Migrate", id="another verb"),
        pytest.param({"resources": [f"{VMI}/vsock"], "verbs": ["get"]}, "include VSOCK", id="vsock"),
        pytest.param({"resources": ["datavolumes"], "verbs": ["list"]}, "include StorageView", id="data volumes"),
        pytest.param({"resources": ["persistentvolumeclaims"], "verbs": ["watch"]}, "include StorageView", id="claims"),
        pytest.param({"resources": ["network-attachment-definitions"], "verbs": ["get"]}, "include NetworkView", id="networks"),
        pytest.param({"resources": ["virtualmachinetemplates"], "verbs": ["get"]}, "include Templates", id="templates"),
    ],
)
def test_keep_of_what_only_an_add_on_gives_offers_it(entry: dict[str, Any], offered: str, admin: Rules) -> None:
    trimmed = trim(admin, role(preset="View", keep=[*PLAIN_VM, entry]))
    assert spelled(trimmed.rules) == in_words(admin, "View")
    (warning,) = trimmed.warnings
    assert warning.type == "RuleUnmatched"
    assert warning.message.startswith("role.keep[1].resources[0]: kubevirt.io:admin ")
    assert offered in warning.message


def test_an_add_on_that_is_included_is_not_offered(admin: Rules) -> None:
    keep = [{"resources": ["events"], "verbs": ["list"]}]
    told = warnings(admin, preset="View", keep=keep, include=["EventView"])
    assert "include EventView" not in told.get("RuleUnmatched", "")


def test_nothing_is_offered_for_what_no_add_on_gives(admin: Rules) -> None:
    told = warnings(admin, keep=[*PLAIN_VM, {"resources": [f"{VMI}/backup"], "verbs": ["update"]}])
    assert "include" not in told["RuleUnmatched"]


# --- who reaches the Secrets of the namespace

CREATING = ("create", "update", "patch")
REACHING = {
    (KV, VM): CREATING,
    (KV, VMI): CREATING,
    (KV, REPLICA_SETS): CREATING,
    ("pool.kubevirt.io", "virtualmachinepools"): CREATING,
    ("snapshot.kubevirt.io", "virtualmachinerestores"): ("create",),
    ("clone.kubevirt.io", "virtualmachineclones"): ("create",),
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(("group", "kind"), REACHING)
def test_whoever_makes_machines_reaches_secrets(group: str, kind: str, verb: str, admin: Rules) -> None:
    told = warnings(admin, keep=[{"apiGroups": [group], "resources": [kind], "verbs": [verb]}])
    assert told.keys() == ({"SecretsReachable"} if verb in REACHING[group, kind] else set())
    if told:
        assert f"{verb} on {kind}" in told["SecretsReachable"]


@pytest.mark.parametrize(
    ("spec", "reaches"),
    [
        *(pytest.param({"preset": preset}, preset in ("Edit", "Admin"), id=preset) for preset in LADDER),
        *(pytest.param({"include": [add_on]}, add_on in ("Snapshots", "Clone"), id=f"View with {add_on}") for add_on in ADD_ONS),
        pytest.param({"preset": "Edit", "drop": [{"verbs": list(CREATING)}]}, False, id="Edit without the verbs"),
        pytest.param({"preset": "Edit", "drop": [{"resources": [VM]}]}, True, id="Edit, and VMI create is left"),
        pytest.param({"preset": "Edit", "drop": [{"resources": [VM, VMI]}]}, False, id="Edit without the kinds"),
        pytest.param(
            {"preset": "Edit", "drop": [{"resources": [VM, VMI], "verbs": ["create"]}], "virtualMachines": ["web-1"]},
            True,
            id="change a named machine",
        ),
        pytest.param(
            {"keep": [{"resources": [VM], "verbs": ["get", "create"]}], "virtualMachines": ["web-1"]},
            False,
            id="create is left out for named machines",
        ),
        pytest.param({"keep": [{"resources": [VM, "*/status"], "verbs": ["get"]}]}, False, id="status"),
        pytest.param({"keep": [{"resources": ["*"], "verbs": ["patch"]}]}, True, id="any resource"),
        pytest.param({"keep": [{"resources": [VM], "verbs": ["*"]}]}, True, id="any verb"),
    ],
)
def test_secrets_follow_the_rules_not_the_name(spec: dict[str, Any], reaches: bool, admin: Rules) -> None:  # noqa: FBT001
    trimmed = trim(admin, role(**spec))
    names = spec.get("virtualMachines", [""])
    rights = [(group, kind, verb, name) for (group, kind), verbs in REACHING.items() for verb, name in product(verbs, names)]
    assert bool(passing(trimmed.rules, rights)) is reaches
    assert ("SecretsReachable" in {warning.type for warning in trimmed.warnings}) is reaches


@pytest.mark.parametrize(
    "wild",
    [
        pytest.param(Rule(("*",), ("*",), ("*",)), id="everything"),
        pytest.param(Rule(("*",), (VM,), ("patch",)), id="any group"),
        pytest.param(Rule((KV,), ("*",), ("create",)), id="any resource"),
        pytest.param(Rule((KV,), (VMI,), ("*",), ("web-1",)), id="any verb, one name"),
    ],
)
def test_secrets_behind_a_wildcard_of_the_base(wild: Rule) -> None:
    assert "SecretsReachable" in warnings((wild,), preset="Admin")
    assert "SecretsReachable" not in warnings((wild, Rule((KV,), (VM,), ("get",))), preset="View")


# --- a drop that an older virt-api does not see

ALL = [{"resources": ["*"], "verbs": ["*"]}]


@pytest.mark.parametrize(
    ("spec", "short"),
    [
        pytest.param({"keep": ALL, "drop": [{"resources": [SCREENSHOT]}]}, f"{VMI}/vnc", id="the screenshot"),
        pytest.param({"keep": ALL, "drop": [{"resources": ["*/vnc/screenshot"]}]}, "vnc", id="of any resource"),
        pytest.param({"keep": ALL, "drop": [{"apiGroups": [SUB], "resources": [SCREENSHOT]}]}, f"{VMI}/vnc", id="with its group"),
        pytest.param({"keep": ALL, "drop": [{"resources": [SCREENSHOT], "verbs": ["get"]}]}, f"{VMI}/vnc", id="with its verb"),
        pytest.param(
            {"keep": ALL, "drop": [{"resources": [f"{VMI}/sev/setupsession"]}]}, f"{VMI}/sev", id="one of two with this verb"
        ),
        pytest.param(
            {"keep": ALL, "drop": [{"resources": [f"{VMI}/sev/fetchcertchain"]}]}, f"{VMI}/sev", id="one of two that read"
        ),
        pytest.param({"preset": "Operate", "drop": [{"resources": [SCREENSHOT]}]}, f"{VMI}/vnc", id="Operate"),
        pytest.param(
            {"preset": "Operate", "drop": [{"resources": [SCREENSHOT]}], "virtualMachines": ["web-1"]},
            f"{VMI}/vnc",
            id="of a named machine",
        ),
        pytest.param({"include": ["VNC"], "drop": [{"resources": [SCREENSHOT]}]}, f"{VMI}/vnc", id="an add-on"),
        pytest.param({"drop": [{"resources": [SCREENSHOT]}]}, None, id="View has no vnc"),
        pytest.param({"keep": ALL, "drop": [{"resources": [f"{VMI}/vnc"]}]}, None, id="vnc as well, by its name"),
        pytest.param(
            {"keep": ALL, "drop": [{"resources": [SCREENSHOT]}, {"resources": ["*/vnc"]}]}, None, id="vnc as well, elsewhere"
        ),
        pytest.param({"keep": ALL, "drop": [{"resources": [f"{VMI}/sev"]}]}, None, id="sev as a whole"),
        pytest.param(
            {"keep": ALL, "drop": [{"resources": [f"{VMI}/sev/setupsession", f"{VMI}/sev/injectlaunchsecret"]}]},
            None,
            id="all with this verb",
        ),
        pytest.param({"keep": ALL, "drop": [{"resources": [f"{VM}/evacuate/cancel"]}]}, None, id="all there is below evacuate"),
        pytest.param(
            {"include": ["Attestation"], "drop": [{"resources": [f"{VMI}/sev/setupsession"]}]}, f"{VMI}/sev", id="Attestation"
        ),
        pytest.param(
            {
                "keep": [{"resources": [VM, f"{VMI}/sev/fetchcertchain"], "verbs": ["get"]}],
                "drop": [{"resources": [f"{VMI}/sev/setupsession"]}],
            },
            None,
            id="the short spelling has another verb",
        ),
    ],
)
def test_a_drop_in_vain(spec: dict[str, Any], short: str | None, admin: Rules) -> None:
    """KubeVirt before v1.6.6, v1.7.4, v1.8.3 and v1.9.0 reads the short spelling alone."""
    told = warnings(admin, **spec).get("DropIneffective")
    assert (told is None) is (short is None)
    if told is not None and short is not None:
        assert told.startswith("role.drop[0]: ")
        assert f"{short} as well" in told
        assert "v1.9.0" in told
