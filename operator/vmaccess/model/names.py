"""Names, and times, as a grant spells them: patterns that admission and operator read alike, and what they mean in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

if TYPE_CHECKING:
    from collections.abc import Mapping

# The API server reads patterns as RE2, pydantic with Rust's regex crate: both end a text at `$`, but `\s` and `\S` are
# ASCII in one and Unicode in the other. So character classes are written out.
# RFC 1123, as Kubernetes spells them for namespaces, ServiceAccounts and ClusterRoles.
DNS_LABEL = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"
DNS_SUBDOMAIN = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$"
NAMESPACE_GLOB = r"^[a-z0-9*?-]+$"
LABEL_KEY = r"^([a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$"
LABEL_VALUE = r"^([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?$"
# The names RBAC itself accepts in a rule: `*`, `*/subresource`, `resource` and `resource/sub/resource`.
RULE_GROUP = r"^(\*|[a-z0-9]([a-z0-9.-]*[a-z0-9])?)?$"
RULE_RESOURCE = r"^(\*|(\*/)?[a-z0-9][a-z0-9.-]*(/[a-z0-9][a-z0-9.-]*)*)$"
RULE_VERB = r"^(\*|[a-z]+)$"
# RBAC role names are path segments: anything but `/` and `%`, and not `.` or `..` (kept out by the first character).
ROLE_NAME = r"^[A-Za-z0-9:_-][^/%\x00-\x20\x7f]*$"
# A user or group comes from an identity provider: any text without control characters and surrounding blanks.
IDENTITY_NAME = r"^[^\x00-\x20\x7f]([^\x00-\x1f\x7f]*[^\x00-\x20\x7f])?$"

# An address as a kubeconfig has it: no user, query or fragment. By https alone: a token would travel in the open.
SERVER = r"^https://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?(/[A-Za-z0-9._~/-]*)?$"
# RFC 3339. Between the years 2000 and 2999, which the API server, CEL and Python read alike.
TIME = (
    r"^2[0-9]{3}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]([.][0-9]{1,9})?"
    r"(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$"
)

IN_WORDS: Mapping[str, str] = {
    DNS_LABEL: "lower case letters, digits and '-', with a letter or digit at both ends",
    DNS_SUBDOMAIN: "lower case letters, digits, '-' and '.', with a letter or digit at both ends and on both sides of a '.'",
    NAMESPACE_GLOB: "lower case letters, digits, '-', and the wildcards '*' and '?'",
    LABEL_KEY: "a label key such as team or example.com/team, of letters, digits, '-', '_' and '.'",
    LABEL_VALUE: "letters, digits, '-', '_' and '.', with a letter or digit at both ends",
    RULE_GROUP: 'the name of an API group such as kubevirt.io, "" for the core group, or "*"',
    RULE_RESOURCE: 'a resource such as virtualmachines, a subresource such as virtualmachineinstances/vnc, or "*"',
    RULE_VERB: 'a verb in lower case letters such as get, or "*"',
    ROLE_NAME: "the name of a ClusterRole: no blanks, '/' or '%', and a letter, digit, ':', '_' or '-' first",
    TIME: "a time with its zone, such as 2027-01-31T18:00:00Z or 2027-01-31T18:00:00+01:00 (RFC 3339, years 2000 to 2999)",
    SERVER: "the address of the API server, such as https://api.example.com:6443",
    IDENTITY_NAME: "a name without control characters and without blanks at its ends",
}
"""What a pattern asks for, as the end of the sentence `use …`."""

NamespaceName = Annotated[str, Field(pattern=DNS_LABEL, min_length=1, max_length=63)]
VirtualMachineName = Annotated[str, Field(pattern=DNS_SUBDOMAIN, min_length=1, max_length=253)]
ServiceAccountName = Annotated[str, Field(pattern=DNS_SUBDOMAIN, min_length=1, max_length=253)]
NamespaceGlob = Annotated[str, Field(pattern=NAMESPACE_GLOB, min_length=1, max_length=63)]
RuleGroup = Annotated[str, Field(pattern=RULE_GROUP, max_length=253)]
RuleResource = Annotated[str, Field(pattern=RULE_RESOURCE, min_length=1, max_length=253)]
RuleVerb = Annotated[str, Field(pattern=RULE_VERB, min_length=1, max_length=63)]
LabelKey = Annotated[str, Field(pattern=LABEL_KEY, min_length=1, max_length=317)]
LabelValue = Annotated[str, Field(pattern=LABEL_VALUE, max_length=63)]
