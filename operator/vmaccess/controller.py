"""From a change in the cluster to the writes it calls for: event → key → decision → write → status.

Level-triggered: a key says only where to look, and what is done there follows from what is observed at that moment, so it
does not matter which event came, how many were merged into one, or which were missed. The unit of work is one namespace of
one grant, so that a namespace in which writes hang or fail holds up nothing else.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Set
from contextlib import suppress

from vmaccess.cluster.api import Api, ApiError
from vmaccess.cluster.events import Events
from vmaccess.cluster.executor import DESPERATE, MAX_STEPS, PATIENCE, Executor, WriteFailed
from vmaccess.cluster.queue import OK, WorkQueue
from vmaccess.cluster.tasks import give_up
from vmaccess.cluster.world import World
from vmaccess.deciding import Decider
from vmaccess.delivery import NOTHING_OFFERED, Delivery, Offer
from vmaccess.departed import BINDINGS_FIRST, Departed
from vmaccess.keys import Key, Part
from vmaccess.ontheirway import OnTheirWay
from vmaccess.ownership import Life, Ownership
from vmaccess.policy.children import AGGREGATE_PREFIX, Child, GrantId, Kind, PresetId, Whose
from vmaccess.policy.decide import GRANTED, Decision
from vmaccess.policy.grant import Give, Grant, Leave, Take
from vmaccess.policy.kubevirt import AGGREGATING, DEFAULT_BASE
from vmaccess.policy.namespaces import Globs, Namespace, Place, place
from vmaccess.policy.reasons import Reason
from vmaccess.policy.report import failed
from vmaccess.policy.steps import Delete, Wait, Write, takes_away
from vmaccess.policy.times import Phase
from vmaccess.progress import Progress, loop_time
from vmaccess.reporting import TOLD, Reporter
from vmaccess.shared import NAMES, SharedRoles, shared_by
from vmaccess.timing import Timing

log = logging.getLogger(__name__)

OVER_GRACE = 5.0  # seconds for which all else waits at the start for the end of what is over
ASKED_AGAIN = 0.05  # seconds after which the answer that another key waits for should be there
UNUSED_SEEN = 0.5  # seconds after the end of a binding in which a shared ClusterRole is looked at: it may be the last one
LEAVERS_GONE_AT_LAST = 1.0  # the same where no change to a binding tells that it is time
LEAVERS_GONE = 0.05  # seconds after which a ClusterRole that waits for bindings is looked at again
SLICE = 100  # namespaces decided on before watches and writes get their turn


class Controller:
    """Keeps every grant as it is meant to be."""

    def __init__(self, api: Api, *, protected: Iterable[str], max_in_flight: int = 128, offer: Offer = NOTHING_OFFERED) -> None:
        self._protected = Globs(protected)
        self.queue: WorkQueue[Key] = WorkQueue(max_in_flight)
        self.world = World(api, self)
        self.events = Events(api)
        self._ownership = Ownership(api)
        self._executor = Executor(api, self.world.children)
        self.timing = Timing(api, self.world, self.wake)
        self._shared = SharedRoles(self.world, self._executor, self.queue, self.wake, self.timing)
        self._on_their_way = OnTheirWay()
        self._decider = Decider(self.world, self.queue, self._shared, self._on_their_way, self._ownership, self._protected)
        self._delivery = Delivery(api, self.world, self.queue, self._executor, self.timing, self._protected, offer)
        self._reporter = Reporter(api, self.world, self.events, self._shared, self.timing, self._delivery)
        self.departed = Departed(self.world, self._ownership, self._executor, self.queue, self.events)
        self._progress: dict[str, Progress] = {}
        self._aggregation_told = False
        self.repairs = 0
        self.started = False

    # --- what changes, and what has to be looked at because of it ---

    def wake(self, name: str) -> None:
        """Look at a grant again, whatever the reason."""
        if self.started:
            self.queue.add(Key(Part.GRANT, name), urgent=True)

    def heard_of(self, name: str, uid: str, generation: int) -> None:
        """Something was heard of a grant from elsewhere; nothing is done where the mirror has seen as much already."""
        grant = self.world.grant(name)
        if grant is None or (grant.uid, grant.generation) != (uid, generation):
            self.wake(name)

    def grant_changed(self, old: Grant | None, new: Grant | None) -> None:
        """A new spec or a deletion concerns everything; somebody else's write to the status only the status."""
        if (changed := new or old) is None:
            return
        status_only = (
            old is not None
            and new is not None
            and (old.id, old.generation, old.deletion, old.rotation) == (new.id, new.generation, new.deletion, new.rotation)
        )
        if new is None:
            self.timing.forget(changed.id.name)
        elif not status_only:  # else what is due would be taken off: the status may be the first to tell that the time has come
            self.timing.watch(new)
        if not self.started:
            return
        if status_only and new is not None:
            progress = self._progress.get(changed.id.name)
            if progress is None or progress.written != new.told:
                self.queue.add(Key(Part.STATUS, changed.id.name))
        else:
            self.wake(changed.id.name)

    def grant_ended(self, last: Grant) -> None:
        """The watch has shown the deletion; `last` is the last state there was."""
        self._ownership.ended(last)

    def namespace_changed(self, old: Namespace | None, new: Namespace | None) -> None:
        """Appeared, relabelled, terminating or gone: for every grant that reached it before or reaches it now."""
        if (changed := new or old) is None or not self.started:
            return
        name = changed.name
        if new is None:
            self.queue.forget_place(name)
        for grant in self.world.grants:
            before, after = (place(grant.limits, name, state, self._protected) for state in (old, new))
            if before is not after or after is not Place.OUTSIDE:
                self.queue.add(Key(Part.NAMESPACE, grant.id.name, name), urgent=after is Place.OUTSIDE)
            for namespace, account in grant.accounts:
                if namespace == name:
                    self.queue.add(Key(Part.ACCOUNT, grant.id.name, namespace, account))

    def cluster_role_changed(self, name: str) -> None:
        """KubeVirt was installed, upgraded or removed: for every grant that trims this ClusterRole. Or it is a shared one."""
        if not self.started:
            return
        for grant in self.world.grants:
            if grant.base == name:
                self.wake(grant.id.name)
        if name == DEFAULT_BASE:
            self._shared.check()
        if name in AGGREGATING:
            self._tell_of_aggregation()
        if (preset := NAMES.get(name)) is not None:
            self._shared.check(preset)
            for user in self._shared.users(preset):
                self.wake(user)

    def child_changed(self, old: Child | None, new: Child | None, grants: Set[str]) -> None:
        """Drift, deletion, a foreign object in our place or out of it: for every grant that it has to do with."""
        if (changed := new or old) is None or not self.started:
            return
        part, account = Part.NAMESPACE, ""
        if changed.kind is Kind.SERVICE_ACCOUNT:
            part, account = Part.ACCOUNT, changed.name
            grants |= {grant.id.name for grant in self.world.grants if (changed.namespace, account) in grant.accounts}
        elif changed.kind is Kind.CLUSTER_ROLE:
            part = Part.CLUSTER_ROLE
        elif new is None and (preset := shared_by(changed.content)) is not None:
            self.queue.add_after(Key(Part.PRESET, preset), UNUSED_SEEN)
        for name in grants:
            progress, key = self._progress.get(name), Key(part, name, changed.namespace, account)
            if progress is not None:
                if new is None and old is not None and old.whose(progress.grant.id) is Whose.OURS:
                    progress.lost[key] = loop_time()
                self.queue.add(key, urgent=self._is_urgent(progress, key))
                if part is Part.ACCOUNT and self._decider.access(progress) != progress.access:
                    self.wake(name)  # whom the bindings name has changed
                if part is not Part.CLUSTER_ROLE and self._waits_for_bindings(progress):
                    self.queue.add_after(Key(Part.CLUSTER_ROLE, name), LEAVERS_GONE, urgent=True)
            elif new is not None or not self.world.related_namespaces(name):
                self.queue.add(Key(Part.GRANT, name))

    def _is_urgent(self, progress: Progress, key: Key) -> bool:
        """Whether what somebody else did calls for taking something away, or for what all of the grant depends on."""
        if key.part is not Part.NAMESPACE:
            return True
        grant = self.world.grant(key.grant)
        if self.queue.is_working(key) or grant is None or not self._is_about(progress, grant):
            return False  # it is seen by who works on it, or the whole grant is looked at
        decision = self._decider.decide(progress, key)
        if not isinstance(decision.step, Write):
            return False
        if progress.outcome(key) == GRANTED:
            progress.drifted.add(key)
        self._begun(progress, key, decision)  # it may wait for its turn
        return takes_away(decision.step)

    @staticmethod
    def _waits_for_bindings(progress: Progress) -> bool:
        role = progress.cluster_role
        return role is not None and (role.moving or role.reason is Reason.NAME_CONFLICT)

    # --- work ---

    async def start(self) -> None:
        """Wait for the mirrors, then look at everything once: first at what has ended while nobody was there to see it."""
        await self.world.synced()
        self.started = True
        live = {grant.id.name for grant in self.world.grants if self.timing.phase(grant) is not Phase.AFTER}
        over = ({grant.id.name for grant in self.world.grants} | set(self.world.related_grants())) - live
        for name in over:
            self.wake(name)
        with suppress(TimeoutError):
            async with asyncio.timeout(OVER_GRACE):
                await self.queue.idle()
        for name in live:
            self.wake(name)
        self._shared.check()
        self._tell_of_aggregation()
        log.info("watching %d grants and %d namespaces", len(self.world.grants), len(self.world.namespaces))

    async def work(self) -> None:
        """Have done for ever what waits in the queue, as much at once as it hands out."""
        tasks: set[asyncio.Task[None]] = set()
        try:
            while True:
                task = asyncio.create_task(self._work_on(await self.queue.get()))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
        finally:
            await give_up(tasks)

    async def _work_on(self, key: Key) -> None:
        status = OK
        try:
            await self._look_at(key)
        except (WriteFailed, ApiError) as error:
            status = error.status
            delay, tries = self.queue.retry(key, at_least=error.retry_after)
            log.log(logging.WARNING if tries == 1 else logging.DEBUG, "%s: %s; again in %.1f s", key, error, delay)
        except Exception:
            delay, _ = self.queue.retry(key)
            log.exception("%s: unexpected; again in %.1f s", key, delay)
        finally:
            self.queue.done(key, status)

    async def _look_at(self, key: Key) -> None:
        if key.part is Part.PRESET:
            await self._shared.look_at(key)
            return
        grant = self.world.grant(key.grant)
        if grant is None:
            if (last := self._progress.pop(key.grant, None)) is not None:
                for namespace in last.namespaces:
                    self.queue.forget(Key(Part.NAMESPACE, key.grant, namespace))  # what has failed was something else
                self._reporter.forget(key.grant)
                self._delivery.forget(key.grant)
                self._shared.check()
            await self.departed.look_at(key)
        elif key.part is Part.GRANT:
            await self._look_at_grant(grant)
            self.queue.forget(key)
        elif (progress := self._progress.get(key.grant)) is not None and self._is_about(progress, grant):
            work = {Part.STATUS: self._report, Part.KUBECONFIG: self._deliver}.get(key.part, self._settle)
            await work(key, progress)
        else:  # whatever is to be done follows from the grant itself
            if progress is not None:
                self.wake(key.grant)  # should it not wait in the queue already
            self.queue.forget(key)
            self._delivery.doubt(key)

    async def _look_at_grant(self, grant: Grant) -> None:
        """Decide anew, for every ServiceAccount and namespace that the grant has to do with, whether there is work."""
        name, known = grant.id.name, self._progress.get(grant.id.name)
        progress = Progress.of(grant, self.world.base(grant.base), self.timing.phase(grant), known, now=loop_time())
        self._progress[name] = progress
        if known is not None and known.grant.id != grant.id:
            self._delivery.forget(name)
        if progress is not known:
            progress.before = self._decider.rules_before(progress, known)
            self._shared.check()
            if isinstance(progress.intent, Give) and isinstance(owner := progress.intent.target.owner, PresetId):
                self._shared.check(owner.preset)
        if isinstance(progress.intent, Leave):
            self.departed.tell_orphaned(grant.id)
            return
        self._plan(progress, Key(Part.CLUSTER_ROLE, name))
        if self._decider.revokes_at_once(progress):
            return  # it is looked at again when that is done
        for account in self._decider.accounts_of(progress):
            self._plan(progress, Key(Part.ACCOUNT, name, *account))
        progress.access = self._decider.access(progress)
        for count, namespace in enumerate(self._decider.namespaces_of(progress)):
            if count % SLICE == SLICE - 1:
                await asyncio.sleep(0)
            self._plan(progress, Key(Part.NAMESPACE, name, namespace))
        for account in self._decider.accounts_of(progress) | self._delivery.accounts(name):
            self._delivery.plan(progress, Key(Part.KUBECONFIG, name, *account))
        progress.planned = True
        self._tell(progress)

    def _is_about(self, progress: Progress, grant: Grant) -> bool:
        """Whether what is known of a grant is about what it asks for just now."""
        return progress.is_about(grant, self.world.base(grant.base), self.timing.phase(grant))

    def _plan(self, progress: Progress, key: Key) -> None:
        decision = self._decider.decide(progress, key)
        if isinstance(decision.step, Write):
            known = progress.outcome(key)
            failing, urgent = known is not None and known.reason is not None, takes_away(decision.step)
            alike = not urgent or (known is not None and known.reason is Reason.REVOCATION_FAILED)
            if not (failing and alike and self.queue.failures(key)):  # else its back-off goes on
                self.queue.forget(key)
                self.queue.add(key, urgent=urgent)
            if failing:
                return  # it stays failed until a try succeeds
        elif key.part is Part.CLUSTER_ROLE and isinstance(decision.step, Wait):
            self.queue.add_after(key, LEAVERS_GONE_AT_LAST, urgent=True)
        progress.note(key, decision.outcome)

    async def _deliver(self, key: Key, progress: Progress) -> None:
        """See to the kubeconfig of a ServiceAccount; one that is taken away waits for the bindings, but for none that hangs."""
        match progress.intent:
            case Take():
                goes = True
            case Give():
                goes = (key.namespace, key.account) not in progress.grant.accounts
            case _:
                goes = False
        bindings = (Key(Part.NAMESPACE, key.grant, namespace) for namespace in self._decider.bound_in(progress, key))
        if goes and not all(map(self.queue.hangs, bindings)):
            self.queue.put_off(key, BINDINGS_FIRST)
            return
        try:
            await self._delivery.look_at(progress, key)
        finally:
            self._tell(progress)

    async def _settle(self, key: Key, known: Progress) -> None:
        """Bring one namespace, or one ServiceAccount, of one grant to where it should be: one write after the other."""
        tried, drifted = 0, key in known.drifted
        while True:
            progress, grant = self._progress.get(key.grant), self.world.grant(key.grant)
            if progress is None or grant is None or not self._is_about(progress, grant):
                self.wake(key.grant)
                return
            self.queue.covered(key)
            decision = self._decider.decide(progress, key)
            if not isinstance(decision.step, Write):
                self._settled(progress, key, decision, drifted=drifted and tried > 0)
                if key.part is Part.CLUSTER_ROLE and isinstance(decision.step, Wait):
                    self.queue.add_after(key, LEAVERS_GONE_AT_LAST, urgent=True)
                return
            if tried == MAX_STEPS:
                self._failed(progress, key, decision, Reason.API_ERROR, "somebody else keeps changing what is to be written here")
                self.queue.retry(key)
                return
            drifted = drifted or progress.outcome(key) == GRANTED
            self._begun(progress, key, decision)
            if self._waits(progress, key, decision.step):
                self.queue.put_off(key, BINDINGS_FIRST)
                return
            try:
                with self._on_their_way.sent(progress, key, decision.step):
                    asked = self._ownership.asked
                    match await self._ownership.of(progress, key, decision.step):
                        case Life.ENDED:
                            self.queue.retry(key)  # the mirror is behind, and will bring the end
                            return
                        case Life.ASKED:
                            self.queue.put_off(key, ASKED_AGAIN)
                            return
                    if self._ownership.asked != asked and not self._still(progress, key, decision):
                        continue  # the world went on while that was asked
                    desperate = self.queue.failures(key) >= DESPERATE
                    await self._executor.write(decision.step, grant.id, insist=tried >= PATIENCE, desperate=desperate)
                    tried += 1
            except WriteFailed as error:
                self._failed(progress, key, decision, error.reason, error.message, final=error.final)
                raise
            except ApiError as error:
                self._failed(progress, key, decision, Reason.API_ERROR, str(error))
                raise

    def _still(self, progress: Progress, key: Key, decision: Decision) -> bool:
        """Whether a decision holds."""
        return self._progress.get(key.grant) is progress and self._decider.decide(progress, key) == decision

    def _begun(self, progress: Progress, key: Key, decision: Decision) -> None:
        """Work has begun. Should it take long, or never come to its end, the status must not go on saying that all is well."""
        if (known := progress.outcome(key)) is None or known.reason is None:
            progress.note(key, decision.outcome)
            self.queue.add_after(Key(Part.STATUS, key.grant), TOLD)

    def _failed(
        self, progress: Progress, key: Key, decision: Decision, reason: Reason, message: str, *, final: bool = False
    ) -> None:
        if reason is Reason.API_ERROR and isinstance(decision.step, Write) and takes_away(decision.step):
            reason = Reason.REVOCATION_FAILED
        known, outcome = progress.outcome(key), failed(decision.outcome, reason, message, final=final)
        progress.note(key, outcome)
        if known is None or not known.is_like(outcome):
            self._follow_up(progress, key)

    def _settled(self, progress: Progress, key: Key, decision: Decision, *, drifted: bool) -> None:
        self.queue.forget(key)
        progress.lost.pop(key, None)
        progress.drifted.discard(key)
        if drifted and decision.outcome == GRANTED:
            where = _place(key)
            log.info("%s: drift repaired: %s", key.grant, where)
            self.repairs += 1
            self.events.remark(
                progress.grant.id,
                "Normal",
                "DriftRepaired",
                f"what was changed by somebody else is as it should be again: {where}",
            )
        progress.note(key, decision.outcome)
        self._follow_up(progress, key)

    def _follow_up(self, progress: Progress, key: Key) -> None:
        if key.part is Part.ACCOUNT:
            self._delivery.plan(progress, key._replace(part=Part.KUBECONFIG))
        if key.part is Part.ACCOUNT and self._decider.access(progress) != progress.access:
            self.wake(key.grant)  # whom the bindings name has changed
        elif key.part is Part.CLUSTER_ROLE:
            self.wake(key.grant)  # what the bindings wait for has changed
        self._tell(progress)

    def _tell(self, progress: Progress) -> None:
        """Have the status written, now or when it is time."""
        key = Key(Part.STATUS, progress.grant.id.name)
        if self._progress.get(key.grant) is not progress:
            return  # it is over, and what comes after it tells by itself
        if progress.unsettled and self.queue.comes_back(key, within=TOLD):
            return
        if (wait := self._reporter.due_in(progress)) > 0:
            self.queue.add_after(key, wait)
        else:
            self.queue.add(key)

    async def _report(self, key: Key, progress: Progress) -> None:
        if (wait := self._reporter.due_in(progress)) > 0:
            self.queue.add_after(key, wait)
            return
        self.queue.covered(key)
        await self._reporter.write(progress)
        self.queue.forget(key)

    def _tell_of_aggregation(self) -> None:
        """Say once that trimming means little for people who have the rights by another way."""
        roles = [role for name in AGGREGATING if (role := self.world.cluster_role(name)) is not None and role.aggregates]
        if roles and not self._aggregation_told:
            log.warning(
                "%s: aggregated into Kubernetes' own roles: who has one of those in a namespace has KubeVirt's rights there, "
                "whatever a grant says (docs/roles.md, Aggregation)",
                ", ".join(
                    f"{role.name} into {label.removeprefix(AGGREGATE_PREFIX)}" for role in roles for label in role.aggregates
                ),
            )
        self._aggregation_told = bool(roles)

    def _waits(self, progress: Progress, key: Key, step: Write) -> bool:
        """Whether a ServiceAccount that is to go has to wait: for bindings, since its name alone, still bound, could be taken by
        somebody else, and for the Secrets with its kubeconfig.
        """
        if key.part is not Part.ACCOUNT or not isinstance(step, Delete):
            return False
        return any(self._decider.bound_in(progress, key)) or self._delivery.comes_first(progress, step.child)


def _place(key: Key) -> str:
    if key.part is Part.CLUSTER_ROLE:
        return f"ClusterRole {GrantId(key.grant, '').child_name}"
    return f"ServiceAccount {key.account} in namespace {key.namespace}" if key.account else f"namespace {key.namespace}"
