"""Delegated access to KubeVirt virtual machines."""
