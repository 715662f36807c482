"""The VMAccessGrant as a person writes it, and the CRD generated from it."""
