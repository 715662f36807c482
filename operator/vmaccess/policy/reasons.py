"""The vocabulary of the status: every condition type and every reason, in one place, so that the docs can be held to it."""

from __future__ import annotations

from enum import StrEnum


class ConditionType(StrEnum):
    """Condition types. The abnormal ones are absent when all is well."""

    READY = "Ready"
    ACTIVE = "Active"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"


class Warned(StrEnum):
    """Condition types that warn: the access is as asked, and its author should know something about it."""

    RULE_UNMATCHED = "RuleUnmatched"
    SUBRESOURCE_OMITTED = "SubresourceOmitted"
    NOT_RESTRICTABLE = "NotRestrictableByName"
    DROP_INEFFECTIVE = "DropIneffective"
    BASE_CHANGED = "BaseRoleChanged"
    SECRETS_REACHABLE = "SecretsReachable"
    SERVICE_ACCOUNT_EXPOSED = "ServiceAccountExposed"
    EVERY_NAMESPACE = "EveryNamespaceSelected"
    EXPIRES_SOON = "ExpiresSoon"
    CLOCK_SKEWED = "ClockSkewed"


class Reason(StrEnum):
    """Reasons of conditions and of entries under `status.failures`."""

    GRANTED = "Granted"
    PROGRESSING = "Progressing"
    SUSPENDED = "Suspended"
    NOT_STARTED = "NotStarted"
    EXPIRED = "Expired"
    DELETED = "Deleted"
    NO_NAMESPACES = "NoNamespaces"
    NOTHING_GRANTED = "NothingGranted"

    INVALID_SPEC = "InvalidSpec"
    ROLE_EMPTY = "RoleEmpty"
    NAME_CONFLICT = "NameConflict"
    PROTECTED_NAMESPACE = "ProtectedNamespace"
    ESCALATION = "Escalation"
    KUBECONFIG_FORBIDDEN = "KubeconfigForbidden"
    SERVER_UNKNOWN = "ServerUnknown"
    ENDS_TOO_SOON = "EndsTooSoon"

    REVOCATION_FAILED = "RevocationFailed"
    BASE_ROLE_NOT_FOUND = "BaseRoleNotFound"
    NAMESPACE_NOT_FOUND = "NamespaceNotFound"
    NAME_HELD = "NameHeld"
    API_ERROR = "APIError"


# What only a person can cure, the gravest first; everything else that fails may pass by itself.
STALLING = (
    Reason.INVALID_SPEC,
    Reason.ROLE_EMPTY,
    Reason.ESCALATION,
    Reason.NAME_CONFLICT,
    Reason.PROTECTED_NAMESPACE,
    Reason.KUBECONFIG_FORBIDDEN,
    Reason.SERVER_UNKNOWN,
    Reason.ENDS_TOO_SOON,
)
