"""The rule algebra against the API server's own answers: what a Role lets pass, and what its holder may hand on.

Everything else about access rests on `allows` and `covers`: they are Kubernetes' authorizer and escalation check in Python.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import product

import pytest

from tests.access.helpers import binding
from tests.policy.atoms import ATOMS, KV, SUB, VM, VMI, Atom, role
from tests.stage import RBAC, Json, Stage, Who
from vmaccess.model.spec import Role
from vmaccess.policy.catalogue import ADD_ONS, PRESETS
from vmaccess.policy.entries import InvalidRole
from vmaccess.policy.role import trim
from vmaccess.policy.rules import Rules, allows, covers, parse, render

AT_ONCE = 8
SAMPLE = 20  # questions of each answer about one Role

A, B = "a.example.com", "b.example.com"
# Every place has a name that no rule mentions, so that a wildcard is more than all that is named.
REQUESTS: list[Atom] = list(
    product(
        ("", A, B, "other.example.com"),
        ("r", "q", "other", "r/s", "q/s", "other/s", "r/s/t", "other/s/t", "r/other"),
        ("get", "list", "update", "create", "other"),
        ("", "n1", "n2", "other"),
    )
)


def raw(resources: str, verbs: str = "get", names: str = "", groups: str = A) -> Json:
    """One rule as the API takes it; `core` is the core group."""
    named = {"resourceNames": names.split()} if names else {}
    api_groups = ["" if group == "core" else group for group in groups.split()]
    return {"apiGroups": api_groups, "resources": resources.split(), "verbs": verbs.split(), **named}


URLS: Json = {"nonResourceURLs": ["*"], "verbs": ["*"]}
CREATE_ROLES = raw("roles", "create", groups="rbac.authorization.k8s.io")


@contextmanager
def holder(stage: Stage, *rules: Json, kind: str = "Role") -> Iterator[tuple[Who, str, Rules]]:
    """A user who holds these rules in a namespace, and may create Roles there: the user, the namespace, the rules as served."""
    name, namespace = stage.unique(), stage.namespace()
    path = f"{RBAC}/clusterroles" if kind == "ClusterRole" else stage.path("roles", namespace)
    stored = stage.request("POST", path, {"metadata": {"name": name}, "rules": [*rules, CREATE_ROLES]})
    try:
        user = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name}
        stage.request("POST", stage.path("rolebindings", namespace), binding(name, [user], f"{kind}/{name}"))
        who = Who(name)  # without groups: everybody who is authenticated has some rights of KubeVirt
        stage.until(lambda: stage.can(who, "create", "rbac.authorization.k8s.io/roles", namespace), "the role to be in force")
        yield who, namespace, parse(stored["rules"])
    finally:
        if kind == "ClusterRole":
            stage.request("DELETE", f"{path}/{name}")


def lets_pass(rules: Rules, request: Atom) -> bool:
    group, resource, verb, name = request
    return allows(rules, group, resource, verb, name or None)


def questions(rules: Rules, requests: Iterable[Atom], rng: random.Random) -> list[Atom]:
    """Some requests that the rules let pass, and as many that they do not."""
    asked: dict[bool, list[Atom]] = {True: [], False: []}
    for request in requests:
        asked[lets_pass(rules, request)].append(request)
    return [request for group in asked.values() for request in rng.sample(group, min(SAMPLE, len(group)))]


def assert_same_answers(stage: Stage, who: Who, namespace: str, rules: Rules, asked: list[Atom]) -> None:
    """Asks the API server each of these, many at a time."""

    def answer(request: Atom) -> bool:
        group, resource, verb, name = request
        return stage.can(who, verb, f"{group}/{resource}", namespace, name=name)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        answers = dict(zip(asked, pool.map(answer, asked), strict=True))
    assert {request: allowed for request, allowed in answers.items() if allowed != lets_pass(rules, request)} == {}


# --- allows


@pytest.mark.parametrize(
    "rules",
    [
        pytest.param([raw("*", "*", groups="*")], id="everything"),
        pytest.param([raw("r r/s", "get list"), raw("q", "update", groups=B)], id="nothing but names"),
        pytest.param([raw("r", "get", groups="core")], id="the core group"),
        pytest.param([raw("r", "get", groups="*")], id="any group"),
        pytest.param([raw("*", "get")], id="any resource, and its subresources"),
        pytest.param([raw("r", "*")], id="any verb"),
        pytest.param([raw("*/s", "get")], id="a subresource of any resource"),
        pytest.param([raw("*/s/t", "get"), raw("r/s/t", "update")], id="a nested subresource"),
        pytest.param([raw("r/* r/s/*", "*", groups="*")], id="there is no resource/*"),
        pytest.param([raw("r", "get list create", "n1")], id="one name"),
        pytest.param([raw("*", "*", "n1 n2", groups="*")], id="two names, anything else"),
        pytest.param([raw("r", "get", "n1"), raw("r", "get update", "n2"), raw("r", "list")], id="names beside none"),
        pytest.param([raw("*/s", "*", "n1"), raw("r", "get")], id="names of a subresource"),
        pytest.param([raw("r", "get"), raw("r", "get update"), raw("r q", "update", groups=f"{A} {B}")], id="overlapping rules"),
        pytest.param([raw("r * */s", "list", groups=f"{A} * core")], id="wildcards beside names"),
    ],
)
def test_a_role_lets_pass_what_allows_says(bare_stage: Stage, rules: list[Json]) -> None:
    with holder(bare_stage, *rules) as (who, namespace, held):
        assert_same_answers(bare_stage, who, namespace, held, questions(held, REQUESTS, random.Random(1)))


@pytest.mark.parametrize(
    "rules",
    [
        pytest.param([URLS], id="nonResourceURLs alone"),
        pytest.param([URLS, raw("r", "get list"), raw("*/s", "*", "n1")], id="nonResourceURLs beside rules"),
        pytest.param([raw("*", "*", groups="*")], id="everything, in one namespace"),
    ],
)
def test_a_bound_cluster_role_lets_pass_what_allows_says(bare_stage: Stage, rules: list[Json]) -> None:
    elsewhere = bare_stage.namespace()
    with holder(bare_stage, *rules, kind="ClusterRole") as (who, namespace, held):
        asked = questions(held, REQUESTS, random.Random(2))
        assert_same_answers(bare_stage, who, namespace, held, asked)
        assert_same_answers(bare_stage, who, elsewhere, (), asked)


def some(rng: random.Random, values: str, most: int = 3) -> str:
    words = values.split()
    return " ".join(rng.sample(words, rng.randint(1, min(most, len(words)))))


def random_rules(rng: random.Random) -> list[Json]:
    """One to four rules that like to overlap."""
    return [
        raw(
            some(rng, "r q r/s q/s r/s/t * */s */s/t"),
            some(rng, "get list update create *"),
            some(rng, "n1 n2") if rng.random() < 0.4 else "",
            some(rng, f"core {A} {B} *", 2),
        )
        for _ in range(rng.randint(1, 4))
    ]


@pytest.mark.parametrize("seed", range(8))
def test_a_random_role_lets_pass_what_allows_says(bare_stage: Stage, seed: int) -> None:
    rng = random.Random(seed)
    with holder(bare_stage, *random_rules(rng)) as (who, namespace, held):
        assert_same_answers(bare_stage, who, namespace, held, questions(held, REQUESTS, rng))


# --- what comes out of a trim

MACHINES = ("web-1", "web-2")
ALL = [{"resources": ["*"], "verbs": ["*"]}]
SPECS: dict[str, Role] = {str(preset): role(preset=preset) for preset in PRESETS} | {
    "all add-ons": role(include=list(ADD_ONS)),
    "named machines": role(preset="Operate", include=["Attestation", "EvacuateCancel"], virtualMachines=MACHINES),
    "keep and drop": role(keep=ALL, drop=[{"verbs": ["delete"]}, {"resources": [f"{VMI}/vnc", "*/portforward"]}]),
    "cluster-admin": role(**{"from": "cluster-admin"}, preset="Operate"),
    "cluster-admin, less": role(**{"from": "cluster-admin"}, keep=ALL, drop=[{"resources": [f"{VMI}/sev/setupsession"]}]),
    "cluster-admin, machines": role(**{"from": "cluster-admin"}, preset="Admin", virtualMachines=MACHINES),
}


def base_of(stage: Stage, spec: Role) -> Rules:
    return parse(stage.request("GET", f"{RBAC}/clusterroles/{spec.from_ or 'kubevirt.io:admin'}")["rules"])


def assert_granted_as_trimmed(stage: Stage, spec: Role, rng: random.Random) -> None:
    """The trimmed rules are accepted as they are, and let pass what they say, never what the base and the add-ons do not."""
    rules = trim(base_of(stage, spec), spec).rules
    named = [(group, resource, verb, name) for group, resource, verb, _ in ATOMS for name in ("", *MACHINES)]
    with holder(stage, *render(rules)) as (who, namespace, held):
        assert held == (*rules, *parse([CREATE_ROLES]))
        assert_same_answers(stage, who, namespace, rules, questions(rules, named, rng))


@pytest.mark.parametrize("spec", SPECS)
def test_a_trimmed_role_lets_pass_what_allows_says(bare_stage: Stage, spec: str) -> None:
    assert_granted_as_trimmed(bare_stage, SPECS[spec], random.Random(3))


def random_role(rng: random.Random) -> Role:
    """A valid role that leaves something."""
    kinds = [VM, VMI, "virtualmachinesnapshots", f"{VM}/start", f"{VMI}/console", f"{VMI}/vnc", f"{VMI}/sev", "*/portforward"]
    verbs = [["*"], ["get", "update"], ["get", "list", "create"]]
    drop = [{"resources": rng.sample(kinds, 2)}, {"verbs": [rng.choice(["delete", "watch", "patch"])]}]
    fields = {
        "preset": rng.choice(list(PRESETS)),
        "keep": [{"resources": rng.sample(kinds, 4), "verbs": rng.choice(verbs)}],
        "drop": rng.sample(drop, 1),
        "include": rng.sample(list(ADD_ONS), 3),
        "virtualMachines": rng.sample(MACHINES, 1),
    }
    return role(**{field: value for field, value in fields.items() if rng.random() < 0.6})


@pytest.mark.parametrize("seed", range(8))
def test_a_random_trim_lets_pass_what_allows_says(bare_stage: Stage, seed: int) -> None:
    rng = random.Random(seed)
    while True:
        spec = random_role(rng)
        try:
            left = trim(base_of(bare_stage, spec), spec).rules
        except InvalidRole:
            continue
        if left:
            break
    assert_granted_as_trimmed(bare_stage, spec, rng)


@pytest.mark.parametrize("name", ["kubevirt.io:admin", "kubevirt.io:edit", "kubevirt.io:view", "cluster-admin"])
def test_a_shipped_role_lets_pass_what_allows_says(bare_stage: Stage, name: str) -> None:
    """Bound as it is, cluster-scoped resources and nested subresources included."""
    rng, namespace, user = random.Random(4), bare_stage.namespace(), bare_stage.unique()
    rules = base_of(bare_stage, role(**{"from": name}))
    subject = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}
    bare_stage.request("POST", bare_stage.path("rolebindings", namespace), binding("b", [subject], f"ClusterRole/{name}"))
    who = Who(user)
    bare_stage.until(lambda: bare_stage.can(who, "get", f"{KV}/{VM}", namespace), "the binding to be in force")
    assert_same_answers(bare_stage, who, namespace, rules, questions(rules, ATOMS, rng))


# --- covers


def may_hand_on(stage: Stage, who: Who, namespace: str, rules: list[Json]) -> bool:
    """Whether the API server lets a holder create a Role of these rules; nothing is stored."""
    status, answer = stage.cluster.request(
        "POST",
        f"{stage.path('roles', namespace)}?dryRun=All",
        {"metadata": {"name": "handed-on"}, "rules": rules},
        headers={"Impersonate-User": who.user},
    )
    assert status == 201 or "attempting to grant RBAC permissions not currently held" in answer["message"], answer
    return bool(status == 201)


def assert_same_escalations(stage: Stage, owner: list[Json], wanted: Iterable[list[Json]]) -> set[bool]:
    """Compares what may be handed on with `covers`; returns the answers that occurred."""
    with holder(stage, *owner) as (who, namespace, held), ThreadPoolExecutor(AT_ONCE) as pool:
        each = list(wanted)
        answers = list(pool.map(lambda rules: may_hand_on(stage, who, namespace, rules), each))
        expected = [covers(held, parse(rules)) for rules in each]
        assert [pair for pair in zip(each, answers, strict=True) if pair[1] != covers(held, parse(pair[0]))] == []
    return set(expected)


@pytest.mark.parametrize(
    ("owner", "covered", "not_covered"),
    [
        pytest.param([raw("*", "*", groups="*")], [raw("*", "*", groups="*"), raw("r/s/t", "other", "n1")], [], id="everything"),
        pytest.param(
            [raw("r", "*")], [raw("r", "*"), raw("r", "get list other")], [raw("r/s"), raw("q"), raw("*")], id="any verb"
        ),
        pytest.param(
            [raw("r", "get list")],
            [raw("r", "list"), raw("r", "get list", "n1")],
            [raw("r", "*"), raw("r", "get update")],
            id="verbs",
        ),
        pytest.param(
            [raw("*", "get")], [raw("*"), raw("*/s"), raw("r/s/t q")], [raw("*", "list"), raw("*", groups="*")], id="any resource"
        ),
        pytest.param(
            [raw("*/s")],
            [raw("r/s q/s"), raw("*/s"), raw("r/s", names="n1")],
            [raw("r/s/t"), raw("*/s/t"), raw("s"), raw("*")],
            id="*/s",
        ),
        pytest.param([raw("*/s/t")], [raw("r/s/t"), raw("*/s/t")], [raw("r/s"), raw("*/s"), raw("r/t")], id="*/s/t"),
        pytest.param([raw("r/s")], [raw("r/s")], [raw("*/s"), raw("r"), raw("r/s/t"), raw("r/*")], id="a subresource"),
        pytest.param([raw("r/*")], [raw("r/*")], [raw("r/s"), raw("r")], id="resource/* is a name"),
        pytest.param(
            [raw("r", groups="*")], [raw("r", groups=f"{A} {B} core"), raw("r", groups="*")], [raw("q", groups=B)], id="any group"
        ),
        pytest.param(
            [raw("r", groups=f"{A} {B}")], [raw("r", groups=B)], [raw("r", groups="*"), raw("r", groups="core")], id="two groups"
        ),
        pytest.param(
            [raw("r", "get", "n1 n2")],
            [raw("r", "get", "n1"), raw("r", "get", "n2 n1")],
            [raw("r"), raw("r", "get", "n1 other"), raw("r", "list", "n1"), raw("*", "get", "n1")],
            id="names",
        ),
        pytest.param(
            [raw("r", "get", "n1"), raw("r", "get", "n2"), raw("q", "list")],
            [raw("r", "get", "n1 n2")],
            [raw("r q", "get list", "n1"), raw("r")],
            id="names in several rules",
        ),
        pytest.param(
            [raw("r", "get"), raw("r", "list", groups=B), raw("q", "get list", groups=f"{A} {B}")],
            [raw("r q"), raw("q", "get list"), raw("r q", "list", groups=B)],
            [raw("r", "get list", groups=f"{A} {B}"), raw("r", "*")],
            id="put together from several rules",
        ),
        pytest.param(
            [raw("*", "get", "n1", groups="*")], [raw("*/s", "get", "n1", groups="*")], [raw("r"), raw("*")], id="anything named"
        ),
        pytest.param(
            [raw(f"{VMI}/sev/setupsession {VMI}/vnc", "update get", groups=SUB)],
            [raw(f"{VMI}/sev/setupsession", "update", "web-1", groups=SUB)],
            [raw(f"{VMI}/sev", "update", groups=SUB), raw(f"{VMI}/vnc/screenshot", groups=SUB)],
            id="spellings are names",
        ),
    ],
)
def test_a_holder_hands_on_what_covers_says(
    bare_stage: Stage, owner: list[Json], covered: list[Json], not_covered: list[Json]
) -> None:
    held = parse(owner)
    assert all(covers(held, parse([rule])) for rule in covered)
    assert not any(covers(held, parse([rule])) for rule in not_covered)
    together = [covered, [*covered, *not_covered]]
    assert_same_escalations(bare_stage, owner, [*([rule] for rule in (*covered, *not_covered)), *together])


def narrower(rng: random.Random, rule: Json) -> Json:
    """A part of a rule, most of the time one that it covers."""
    part = {field: rng.sample(values, rng.randint(1, len(values))) for field, values in rule.items()}
    for field, named in (("apiGroups", A), ("resources", "r/s"), ("verbs", "list")):
        if part[field] == ["*"] and rng.random() < 0.5:
            part[field] = [named]
    if rng.random() < 0.4:
        part["resourceNames"] = rule.get("resourceNames", ["n1"])
    return part


@pytest.mark.parametrize("seed", range(6))
def test_a_holder_of_random_rules_hands_on_what_covers_says(bare_stage: Stage, seed: int) -> None:
    rng = random.Random(seed)
    owner = random_rules(rng)
    parts = [[narrower(rng, rule) for rule in rng.sample(owner, rng.randint(1, len(owner)))] for _ in range(6)]
    others = [random_rules(rng) for _ in range(4)]
    assert assert_same_escalations(bare_stage, owner, [owner, *parts, *others]) >= {True}


@pytest.mark.parametrize("spec", ["View", "Operate", "Edit", "Admin", "named machines"])
def test_a_holder_of_the_base_hands_on_a_trimmed_role(bare_stage: Stage, spec: str) -> None:
    """With the short spellings on top, which no base has: that is all that the operator needs to hold."""
    base = bare_stage.request("GET", f"{RBAC}/clusterroles/kubevirt.io:admin")["rules"]
    short = [raw(f"{VMI}/sev", "get update", groups=SUB), raw(f"{VM}/evacuate {VMI}/evacuate", "update", groups=SUB)]
    rules = render(trim(parse(base), SPECS[spec]).rules)
    with holder(bare_stage, *base, *short) as (who, namespace, _):
        assert may_hand_on(bare_stage, who, namespace, rules)
    with holder(bare_stage, *base) as (who, namespace, held):
        assert may_hand_on(bare_stage, who, namespace, rules) is covers(held, parse(rules))
