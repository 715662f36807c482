"""How large a run is: the figures that docs speak of are of FULL, CI runs QUICK."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Scale:
    """Sizes of all scenarios. Durations are in seconds."""

    namespaces: int = 1000
    """Of the one grant in `create` and `changes`."""
    grants: int = 200
    each: int = 50
    """Namespaces of each of those grants in `many`, `hot`, `refuse` and `hang`."""
    standing: int = 5000
    """Namespaces of the grant in `flip`, `restart` and `priority`: twice as many children."""
    deleted: int = 500
    endings: int = 30
    """Grants that expire in `expiry`, one after the other; as many as `namespaces` then do in one second."""
    bystanders: int = 20
    """Namespaces of a grant from which access is taken in `priority`."""
    converge: tuple[int, ...] = (10, 30, 100, 300, 1000, 3000, 5000)
    in_flight: tuple[int, ...] = (64, 128, 256)
    """Requests that the bare client has in flight in `create`; the best level counts."""
    rounds: int = 3
    """Of `create` at each level, of which the median counts, and of `restart`, of which the best one does."""
    head_start: float = 1.0
    idle: float = 10.0
    churn: float = 120.0
    patience: float = 900.0
    """What takes longer will not come."""

    def scaled(self, factor: float) -> Scale:
        """The same with so many times the namespaces and grants; nothing becomes less than a handful."""

        def times(size: int) -> int:
            return max(5, round(size * factor))

        return replace(
            self,
            namespaces=times(self.namespaces),
            grants=times(self.grants),
            each=times(self.each),
            standing=times(self.standing),
            deleted=times(self.deleted),
            bystanders=times(self.bystanders),
            converge=tuple(sorted({times(size) for size in self.converge})),
        )


FULL = Scale()
QUICK = Scale(
    namespaces=100,
    grants=20,
    each=5,
    standing=100,
    deleted=100,
    endings=5,
    bystanders=5,
    converge=(10, 30, 100),
    in_flight=(128,),
    rounds=1,
    head_start=0.1,
    idle=3.0,
    churn=10.0,
    patience=120.0,
)
