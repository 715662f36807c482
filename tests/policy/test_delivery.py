"""What is done next about a kubeconfig, whatever is found."""

from __future__ import annotations

import base64
import json
import math
from dataclasses import replace
from typing import Any

import pytest

from vmaccess.policy.children import ROTATE, GrantId
from vmaccess.policy.credentials import read_credential
from vmaccess.policy.delivery import OVERLAP, SLACK, Drop, Issue, Rest, Rewrite, Wish, delivery_step, removal_step, unwanted_step
from vmaccess.policy.kept import LIFETIME, Secret, Token, parse_token, read_secret, read_token, slots
from vmaccess.policy.kubeconfig import ClusterEntry
from vmaccess.policy.reasons import Reason
from vmaccess.policy.steps import Refused
from vmaccess.policy.times import Reading

NOW = 1_800_000_000.0
GRANT = GrantId("g", "grant-uid")
WISH = Wish(GRANT, "ns", "sa", "sa-uid", "kc", 1000.0, math.inf, ClusterEntry("kubernetes", "https://a", b"PEM"), "ns", "")
A, B = slots("kc")


def jwt(bound_to: str = "a-uid", *, issued: float = NOW, life: float = 1000.0, account_uid: str = "sa-uid") -> str:
    """A token with these claims, signed by nobody."""
    claims = {
        "iat": int(issued),
        "exp": int(issued + life),
        "kubernetes.io": {"secret": {"uid": bound_to}, "serviceaccount": {"uid": account_uid}},
    }
    return ".".join(
        base64.urlsafe_b64encode(part).decode().rstrip("=") for part in (b"{}", json.dumps(claims).encode(), b"signed")
    )


def at(seconds: float = 0.0, *, ahead: float = 0.0) -> Reading:
    """So many seconds later, by a clock that has been ahead by so many at some time."""
    return Reading(NOW + seconds, NOW + seconds, NOW + seconds + ahead)


def stored(token: str = "", *, wish: Wish = WISH, ours: bool = True) -> Secret:
    """The Secret with the kubeconfig."""
    text = wish.text(token or jwt())
    return Secret("kc", "kc-uid", 1, ours, ours, False, False, False, "sa", text, "", 0.0, math.inf)  # noqa: FBT003


def slot(
    name: str, uid: str, *, expires: float = NOW + 1000, ours: bool = True, rotation: str = "", asked: float = 1000.0
) -> Secret:
    """A Secret that a token is bound to."""
    return Secret(name, uid, 1, ours, ours, False, False, False, "sa", "", rotation, expires, asked)  # noqa: FBT003


IN_USE = slot(A, "a-uid")
DEEP = base64.urlsafe_b64encode(b"[" * 9000).decode()  # JSON that no parser follows to its end


def test_where_nothing_is_a_token_is_issued() -> None:
    assert delivery_step(WISH, None, (None, None), at()) == Issue(A, 1000.0)


def test_what_is_as_it_should_be_rests_until_four_fifths_of_its_life() -> None:
    step = delivery_step(WISH, stored(), (IN_USE, None), at(10))
    assert isinstance(step, Rest)
    assert step.seconds == 790


def test_it_is_renewed_then_with_the_other_secret_and_the_old_one_stays_until_its_end() -> None:
    assert delivery_step(WISH, stored(), (IN_USE, None), at(800)) == Issue(B, 1000.0)
    newer, other = stored(jwt("b-uid", issued=NOW + 800)), slot(B, "b-uid", expires=NOW + 1800)
    step = delivery_step(WISH, newer, (IN_USE, other), at(801))
    assert isinstance(step, Rest)
    assert step.seconds == 199
    assert delivery_step(WISH, newer, (IN_USE, other), at(1000)) == Drop(IN_USE)


@pytest.mark.parametrize(
    ("wish", "in_use"),
    [
        (replace(WISH, rotation="again"), IN_USE),
        (replace(WISH, lifetime=700.0), IN_USE),
        (replace(WISH, ends=NOW + 900), IN_USE),
        (replace(WISH, account_uid="another"), IN_USE),
        (WISH, slot(A, "a-uid", rotation="of an annotation that is gone")),
        (WISH, slot(A, "a-uid", asked=math.inf)),
    ],
    ids=["rotated", "shorter", "ends sooner", "another account", "rotated back", "unknown lifetime"],
)
def test_a_token_that_is_not_what_is_wanted_is_replaced(wish: Wish, in_use: Secret) -> None:
    step = delivery_step(wish, stored(wish=wish), (in_use, None), at(10))
    assert isinstance(step, Issue)
    assert step.slot == B
    assert step.lifetime == min(wish.lifetime, wish.ends - NOW - 10)


def test_after_a_rotation_the_old_token_goes_at_once() -> None:
    rotated = replace(WISH, rotation="again")
    new = slot(B, "b-uid", rotation="again")
    assert delivery_step(rotated, stored(jwt("b-uid")), (IN_USE, new), at(10)) == Drop(IN_USE)


def test_a_server_that_gives_longer_than_asked_is_not_asked_for_ever() -> None:
    step = delivery_step(WISH, stored(jwt(life=7200)), (slot(A, "a-uid", expires=NOW + 7200), None), at(10))
    assert isinstance(step, Rest)


def test_a_token_does_not_outlive_the_grant_and_its_last_minutes_have_no_new_one() -> None:
    ends = replace(WISH, ends=NOW + 700)
    assert delivery_step(ends, None, (None, None), at()) == Issue(A, 700.0)
    late = delivery_step(ends, None, (None, None), at(101))
    assert isinstance(late, Refused)
    assert late.reason is Reason.ENDS_TOO_SOON
    kept = delivery_step(replace(WISH, ends=NOW + 1000), stored(), (IN_USE, None), at(850))
    assert kept == Rest(150, parse_token(jwt()))  # type: ignore[arg-type]
    over = delivery_step(replace(WISH, ends=NOW + 1100), stored(), (IN_USE, None), at(1000))
    assert isinstance(over, Refused), "it is not said to be there when its time is over"


def test_the_last_renewal_comes_early_enough_to_last_until_the_end() -> None:
    wish = replace(WISH, ends=NOW + 1300)
    step = delivery_step(wish, stored(), (IN_USE, None), at(10))
    assert isinstance(step, Rest)
    assert step.seconds == 1300 - 600 - SLACK - 10
    assert delivery_step(wish, stored(), (IN_USE, None), at(1300 - 600 - SLACK)) == Issue(B, 600 + SLACK)
    last = stored(jwt("b-uid", issued=NOW + 695, life=600), wish=wish)
    rests = delivery_step(wish, last, (slot(B, "b-uid", expires=NOW + 1295, asked=600.0), None), at(696))
    assert isinstance(rests, Rest), "there is nothing to be had by another"


def test_the_last_renewal_goes_by_the_time_that_decides_whether_one_can_be_had() -> None:
    wish = replace(WISH, ends=NOW + 1300)
    step = delivery_step(wish, stored(), (IN_USE, None), at(10, ahead=60))
    assert isinstance(step, Rest)
    assert step.seconds == 1300 - 600 - SLACK - 70
    assert delivery_step(wish, stored(), (IN_USE, None), at(10 + step.seconds, ahead=60)) == Issue(B, 600 + SLACK)


def test_a_token_that_ends_with_its_grant_is_not_missed() -> None:
    step = delivery_step(replace(WISH, ends=NOW + 1000 + SLACK), stored(), (IN_USE, None), at(1002))
    assert step == Rest(SLACK - 2, parse_token(jwt()))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "bound", "expected"),
    [
        ("", (IN_USE, None), Drop(IN_USE)),
        ("nothing", (IN_USE, slot(B, "b-uid")), Drop(IN_USE)),
        (WISH.text(jwt("b-uid")), (IN_USE, None), Drop(IN_USE)),
        (WISH.text(jwt("gone")), (None, None), Issue(A, 1000.0)),
        (WISH.text("abc.def.ghi"), (None, None), Issue(A, 1000.0)),
    ],
    ids=["made and not delivered", "overwritten", "the other is in use, and gone", "both gone", "no token"],
)
def test_what_a_death_or_somebody_else_has_left_is_found(text: str, bound: tuple[Secret | None, ...], expected: object) -> None:
    found = replace(stored(), text=text) if text else None
    assert delivery_step(WISH, found, bound, at(10)) == expected


@pytest.mark.parametrize(
    "wish", [replace(WISH, ends=NOW + 900), replace(WISH, lifetime=700.0)], ids=["the grant ends sooner", "shorter"]
)
def test_a_token_that_lives_for_longer_than_is_wanted_goes_soon_after_the_next(wish: Wish) -> None:
    newer = stored(jwt("b-uid", issued=NOW + 10, life=700), wish=wish)
    bound = (IN_USE, slot(B, "b-uid", expires=NOW + 710, asked=700.0))
    step = delivery_step(wish, newer, bound, at(11))
    assert isinstance(step, Rest)
    assert step.seconds == OVERLAP - 1
    assert delivery_step(wish, newer, bound, at(10 + OVERLAP)) == Drop(IN_USE)


def test_a_clock_that_was_ahead_once_makes_no_token_old() -> None:
    step = delivery_step(WISH, stored(), (IN_USE, None), at(10, ahead=3600))
    assert isinstance(step, Rest)
    assert step.seconds == 790
    assert isinstance(delivery_step(replace(WISH, ends=NOW + 3700), None, (None, None), at(ahead=3600)), Refused)


def test_what_waits_to_be_deleted_is_not_in_use() -> None:
    held = replace(IN_USE, held=True)
    assert delivery_step(WISH, stored(), (held, None), at(10)) == Drop(held)
    kept = replace(stored(), held=True)
    assert delivery_step(WISH, kept, (IN_USE, None), at(10)) == Drop(kept)


def test_a_secret_that_cannot_be_changed_is_replaced() -> None:
    locked = replace(stored(), locked=True)
    assert isinstance(delivery_step(WISH, locked, (IN_USE, None), at(10)), Rest)
    assert delivery_step(WISH, locked, (IN_USE, None), at(800)) == Drop(locked)
    assert delivery_step(replace(WISH, context_namespace="x"), locked, (IN_USE, None), at(10)) == Drop(locked)


def test_a_leaked_token_goes_also_in_the_last_minutes_of_the_grant() -> None:
    leaked = replace(WISH, ends=NOW + 300, rotation="leaked")
    assert delivery_step(leaked, stored(), (IN_USE, None), at()) == Drop(IN_USE)
    assert isinstance(delivery_step(leaked, stored(), (None, None), at()), Refused)


def test_the_tokens_of_another_account_go_at_once() -> None:
    others = replace(slot(B, "b-uid"), account="another")
    assert delivery_step(WISH, stored(), (IN_USE, others), at(10)) == Drop(others)


@pytest.mark.parametrize(("issued", "expires"), [(0, 10), (10, 10), (1, 10**400), (1, 1 << 40), (True, 2.5), (float("nan"), 5)])
def test_times_that_are_made_up_make_no_token(issued: Any, expires: Any) -> None:
    claims = {"iat": issued, "exp": expires, "kubernetes.io": {"secret": {"uid": "a"}, "serviceaccount": {"uid": "b"}}}
    assert parse_token("a." + base64.urlsafe_b64encode(json.dumps(claims).encode()).decode() + ".c") is None


def test_what_is_around_the_token_is_put_right_with_the_same_token() -> None:
    moved = replace(WISH, cluster=ClusterEntry("kubernetes", "https://b", b"PEM"))
    found = stored()
    step = delivery_step(moved, found, (IN_USE, None), at(10))
    assert step == Rewrite(found, parse_token(jwt()))  # type: ignore[arg-type]
    assert "https://b" in moved.text(jwt())


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_secret_of_somebody_else_stops_everything(which: int) -> None:
    found: list[Secret | None] = [stored(), IN_USE, None]
    found[which] = replace(found[which] or slot(B, "b-uid"), ours=False)
    step = delivery_step(WISH, found[0], found[1:], at())
    assert isinstance(step, Refused)
    assert step.reason is Reason.NAME_CONFLICT


@pytest.mark.parametrize("which", [0, 2])
def test_nor_does_it_save_a_token_that_is_to_end(which: int) -> None:
    found: list[Secret | None] = [stored(), IN_USE, None]
    found[which] = replace(found[which] or slot(B, "b-uid"), ours=False, marked=False)
    assert delivery_step(replace(WISH, rotation="leaked"), found[0], found[1:], at()) == Drop(IN_USE)
    stripped = replace(IN_USE, ours=False)
    assert delivery_step(replace(WISH, rotation="leaked"), stored(), (stripped, None), at()) == Drop(stripped)


def test_what_a_rotation_ends_bears_a_mark_and_an_earlier_turn_and_is_not_the_heirs() -> None:
    assert unwanted_step("", (IN_USE, None)) is None
    assert unwanted_step("leaked", (None, IN_USE)) == Drop(IN_USE)
    assert unwanted_step("leaked", (replace(IN_USE, ours=False, marked=False), None)) is None
    assert unwanted_step("leaked", (IN_USE, None), heir="another") == Drop(IN_USE)
    assert unwanted_step("leaked", (replace(IN_USE, account="another"), None), heir="another") is None


def test_who_has_the_name_now_keeps_what_is_his() -> None:
    his = replace(IN_USE, account="another")
    assert removal_step(stored(), (his, None), heir="another") == Drop(stored(), unchanged=True)
    assert removal_step(None, (his, slot(B, "b-uid")), heir="another") == Drop(slot(B, "b-uid"))
    assert removal_step(None, (his, None), heir="another") is None


def test_the_end_of_it_begins_with_what_tokens_die_by_and_leaves_what_is_not_ours() -> None:
    other = slot(B, "b-uid", ours=False)
    assert removal_step(stored(), (IN_USE, other)) == Drop(IN_USE)
    assert removal_step(stored(), (None, other)) == Drop(stored(), unchanged=True)
    stripped = replace(stored(ours=False), marked=True)
    assert removal_step(stripped, (None, other)) == Drop(stripped, unchanged=True), "whoever strips one mark saves no token"
    assert removal_step(stored(ours=False), (None, other)) is None
    assert removal_step(None, (None, None)) is None


@pytest.mark.parametrize(
    "value",
    [
        "",
        "a",
        "a.b",
        "a.b.c",
        "a.e30.c",
        f"a.{DEEP}.c",
        "a.W10.c",
        "a.bnVsbA.c",
        "ü.ü.ü",
    ],
)
def test_what_is_no_token_is_none(value: str) -> None:
    assert parse_token(value) is None


def test_a_token_that_is_bound_to_nothing_is_none() -> None:
    claims = {"iat": 1, "exp": 2, "kubernetes.io": {"serviceaccount": {"uid": "x"}}}
    assert parse_token("a." + base64.urlsafe_b64encode(json.dumps(claims).encode()).decode() + ".c") is None


def test_names_stay_names_for_whom_reads_the_kubeconfig() -> None:
    """kubectl reads YAML by other rules than PyYAML writes it."""
    text = replace(WISH, grant=GrantId("1e5", "u"), context_namespace="n").text(jwt())
    assert "current-context: '1e5'" in text
    assert "namespace: 'n'" in text


def test_a_kubeconfig_gives_its_token_back() -> None:
    token = read_token(WISH.text(jwt()))
    assert token == Token(jwt(), "a-uid", "sa-uid", NOW, NOW + 1000)
    assert read_token("users:\n- user:\n    token: " + "x" * 100_000) is None


def raw(body: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    """A Secret as the API server would answer."""
    return body | {"metadata": body["metadata"] | {"uid": "u", "resourceVersion": "7", "namespace": "ns"} | metadata}


def test_what_is_written_is_read_back() -> None:
    read = read_secret(raw(WISH.body(jwt())), GRANT)
    assert (read.ours, read.text) == (True, WISH.text(jwt()))
    body = replace(WISH, rotation="r").slot_body(B, "1a2b3c4d", 700.0, NOW)
    bound = read_secret(raw(body), GRANT)
    assert (bound.ours, bound.expires, bound.asked, bound.rotation, bound.text) == (True, NOW + 700, 700.0, "r", "")
    told = read_credential(raw(body))
    assert (told.account, told.route, told.secret) == ("sa", "operator", B)
    assert told.id == "1a2b3c4d"


@pytest.mark.parametrize("missing", ["labels", "ownerReferences"])
def test_one_mark_alone_makes_a_secret_nobodys_and_is_seen(missing: str) -> None:
    body = WISH.slot_body(A, "1a2b3c4d", 700.0, NOW)
    read = read_secret(raw(body, **{missing: None}), GRANT)
    assert (read.ours, read.marked) == (False, True)
    assert not read_secret(raw(body, labels=None, ownerReferences=None), GRANT).marked
    assert not read_secret(raw(body), GrantId("g", "another")).ours


@pytest.mark.parametrize("notes", [{}, {LIFETIME: "x", ROTATE: "", "vmaccess.dev/expires": "x"}, {LIFETIME: "9" * 400}])
def test_notes_of_somebody_else_are_no_error(notes: dict[str, str]) -> None:
    body = raw(WISH.slot_body(A, "1a2b3c4d", 700.0, NOW), annotations=notes) | {"data": {"kubeconfig": "%"}}
    read = read_secret(body, GRANT)
    assert (read.expires, read.text) == (0.0, "")
    assert read.asked == math.inf
