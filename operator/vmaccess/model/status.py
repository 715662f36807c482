"""The status of a VMAccessGrant: what the operator reports back, and the only part of the object it writes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field

from vmaccess.model.schema import LIST_TYPE, MapBy, Model

NOT_SEEN = -1
MAX_FAILURES = 20
MAX_SERVICE_ACCOUNTS = 100
MAX_MESSAGE = 1024
MAX_CONDITION_MESSAGE = 8192


def _shortened(limit: int) -> BeforeValidator:
    """Cuts a longer text: a status must not be refused because an API error in it is long."""

    def cut(value: Any) -> Any:
        return value[: limit - 1] + "…" if isinstance(value, str) and len(value) > limit else value

    return BeforeValidator(cut)


Count = Annotated[int, Field(ge=0, json_schema_extra={"format": "int32"})]
Generation = Annotated[int, Field(json_schema_extra={"format": "int64"})]
Moment = Annotated[str, Field(max_length=40, json_schema_extra={"format": "date-time"})]
Name = Annotated[str, Field(max_length=253)]
Reason = Annotated[str, Field(pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$", min_length=1, max_length=128)]


class Reported(Model):
    """A part of the status. Only the operator writes it, so the API server may drop what it does not know."""

    model_config = ConfigDict(extra="ignore")


class Condition(Reported):
    """One aspect of the grant's state, in the shape of a Kubernetes condition."""

    type: Annotated[str, Field(pattern=r"^[A-Z][A-Za-z0-9]*$", max_length=128)] = Field(
        description="What the condition is about: Ready, Active, Reconciling and Stalled, as in kstatus; others are warnings."
    )
    status: Literal["True", "False", "Unknown"] = Field(description="True, False or Unknown.")
    reason: Reason = Field(description="The cause in one CamelCase word; the troubleshooting guide has an entry for each.")
    message: Annotated[str, _shortened(MAX_CONDITION_MESSAGE), Field(max_length=MAX_CONDITION_MESSAGE)] = Field(
        description="The cause for a person: which object and field, and the cure."
    )
    last_transition_time: Moment = Field(description="When the status of this condition last changed.")
    observed_generation: Generation = Field(description="Generation of the grant that the condition is about.")


class Namespaces(Reported):
    """The selected namespaces, counted. selected = granted + pending + failed."""

    selected: Count = Field(0, description="Namespaces in which access is wanted.")
    granted: Count = Field(0, description="Namespaces in which access is in place.")
    pending: Count = Field(0, description="Namespaces that are being worked on.")
    failed: Count = Field(0, description="Namespaces in which access could not be granted; failures names the first of them.")
    revoking: Count = Field(0, description="Namespaces that are no longer selected and still hold something of the grant.")
    summary: Annotated[str, Field(max_length=32)] = Field("0/0", description="Granted and selected namespaces, such as 11/12.")


class Failure(Reported):
    """A namespace in which the grant is not what it should be."""

    namespace: Name = Field(description="Name of the namespace; empty for a ClusterRole, which is in none.")
    reason: Reason = Field(description="The cause in one CamelCase word; the troubleshooting guide has an entry for each.")
    message: Annotated[str, _shortened(MAX_MESSAGE), Field(max_length=MAX_MESSAGE)] = Field(
        description="The cause for a person: which object, and the cure."
    )


class ServiceAccountStatus(Reported):
    """A ServiceAccount that exists and belongs to the grant."""

    namespace: Name = Field(description="Namespace of the ServiceAccount.")
    name: Name = Field(description="Name of the ServiceAccount.")
    kubeconfig_expiration_time: Moment | None = Field(
        None, description="When the token in its kubeconfig expires; it is renewed long before."
    )


class RoleStatus(Reported):
    """The role as it was computed from the live base role."""

    from_: Annotated[Name | None, Field(alias="from")] = Field(None, description="ClusterRole that was trimmed.")
    base_hash: Annotated[str, Field(max_length=64)] | None = Field(
        None, description="Fingerprint of the rules of that ClusterRole when the role was computed from it."
    )
    preset: Annotated[str, Field(max_length=63)] | None = Field(
        None, description="The preset in use; Custom when keep alone says what is granted."
    )
    rules: Count | None = Field(None, description="Number of rules granted in each namespace.")
    hash: Annotated[str, Field(max_length=64)] | None = Field(
        None, description="Fingerprint of the rules; two grants with the same hash give the same rights."
    )


FailureList = Annotated[tuple[Failure, ...], Field(max_length=MAX_FAILURES, json_schema_extra={LIST_TYPE: "atomic"})]
ServiceAccountList = Annotated[
    tuple[ServiceAccountStatus, ...], Field(max_length=MAX_SERVICE_ACCOUNTS), MapBy(("namespace", "name"))
]


class Status(Reported):
    """What has been done so far. Nothing here is read back to decide what to do, but that the grant has expired."""

    observed_generation: Generation = Field(
        NOT_SEEN, description="Generation of the spec that this status is about; -1 until the operator has seen the grant."
    )
    conditions: Annotated[tuple[Condition, ...], Field(max_length=32), MapBy(("type",))] | None = Field(
        None, description="Ready, Active and, when there is something to tell, Reconciling, Stalled and warnings."
    )
    namespaces: Namespaces | None = Field(None, description="The selected namespaces, counted.")
    failures: FailureList | None = Field(
        None, description="The first 20 failing namespaces, sorted by name; the counts tell whether there are more."
    )
    service_accounts: ServiceAccountList | None = Field(None, description="ServiceAccounts that exist and belong to the grant.")
    role: RoleStatus | None = Field(None, description="The role as it was computed from the live base role.")
    expired_generation: Generation | None = Field(
        None, description="Generation of the spec that has expired: it does not give access again, whatever becomes of a clock."
    )
    next_transition_time: Moment | None = Field(
        None, description="When access begins or ends next because of notBeforeTime or expirationTime."
    )

    def dump(self) -> dict[str, Any]:
        """The status as JSON, without what is not set."""
        return self.model_dump(by_alias=True, exclude_none=True, mode="json")
